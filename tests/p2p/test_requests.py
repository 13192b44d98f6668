"""Requests over wires in memory: faults of either side, limits, pacing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from p2p import requests as requests_module
from p2p.frames import (
    FrameReader,
    Kind,
    build_answer,
    build_frame,
    build_refusal,
    build_request,
    read_answer_id,
    read_request,
)
from p2p.network import (
    FRAME_BYTES_MAX,
    REQUEST_BYTES_MAX,
    REQUESTS_OUTSTANDING_MAX,
    REQUESTS_SERVED_MAX,
    PeerGone,
    PeerId,
    RequestRejected,
    RequestTimedOut,
    RequestTooLarge,
)
from p2p.pacing import PIECE_BYTES, Pacer
from p2p.requests import ANSWERS_HELD_PER_PEER_MAX, Answerer, Asker
from p2p.scoring import PENALTY_MALFORMED, PENALTY_OVERLONG, PENALTY_UNSOLICITED
from p2p.wire import Wire, WireClosed
from tests.p2p.conftest import Recorder, until
from tests.p2p.wires import ONE, OTHER, MemoryWire, wire_pair

Fault = tuple[PeerId, int, str]


class Asking:
    """An asker whose streams end here."""

    def __init__(self) -> None:
        self.far: list[MemoryWire] = []
        self.faults: list[Fault] = []
        self.fails = 0
        self.asker = Asker(OTHER, self.open_wire, lambda *fault: self.faults.append(fault))

    async def open_wire(self) -> Wire:
        await trio.lowlevel.checkpoint()
        if self.fails:
            self.fails -= 1
            raise WireClosed("cannot open")
        near, far = wire_pair()
        self.far.append(far)
        return near

    async def ask(self, body: bytes = b"q", limit: int = 100, timeout_s: float = 5) -> bytes:
        return await self.asker.request(body, response_bytes_max=limit, timeout_s=timeout_s)


@asynccontextmanager
async def open_asker() -> AsyncIterator[Asking]:
    asking = Asking()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asking.asker.run)
        yield asking
        nursery.cancel_scope.cancel()


async def receive(wire: MemoryWire, n_frames: int) -> list[tuple[int, bytes]]:
    reader, frames = FrameReader(), []
    with trio.fail_after(5):
        while len(frames) < n_frames:
            frames += reader.feed(await wire.read(1 << 20))
    return frames


async def test_answers_find_their_questions_in_any_order() -> None:
    async with open_asker() as asking:
        answers: dict[bytes, bytes] = {}

        async def ask(body: bytes) -> None:
            answers[body] = await asking.ask(body)

        async with trio.open_nursery() as nursery:
            for body in (b"a", b"b", b"c"):
                nursery.start_soon(ask, body)
            await until(lambda: bool(asking.far))
            questions = await receive(asking.far[0], 3)
            for kind, body in reversed(questions):
                assert kind == Kind.REQUEST
                assert read_request(body)[1] == 100
                await asking.far[0].write(build_answer(read_request(body)[0], b"to " + body[8:]))
        assert answers == {b"a": b"to a", b"b": b"to b", b"c": b"to c"}
        assert asking.faults == []


@pytest.mark.parametrize(
    ("raw", "penalty"),
    [
        (build_answer(12345, b"nobody asked"), PENALTY_UNSOLICITED),
        (build_refusal(12345, "nobody asked"), PENALTY_UNSOLICITED),
        (build_frame(Kind.HEARTBEAT, bytes(8)), PENALTY_MALFORMED),
        (build_frame(Kind.ANSWER, b"x"), PENALTY_MALFORMED),
        ((FRAME_BYTES_MAX).to_bytes(4, "big") + b"\x09", PENALTY_MALFORMED),
    ],
)
async def test_what_nobody_asked_for_is_scored_down(raw: bytes, penalty: int) -> None:
    async with open_asker() as asking:
        with pytest.raises(RequestTimedOut):
            await asking.ask(timeout_s=0.05)
        await asking.far[0].write(raw)
        await until(lambda: bool(asking.faults))
        assert [(peer, points) for peer, points, _ in asking.faults] == [(OTHER, penalty)]


async def test_a_late_answer_is_no_fault_but_a_second_one_is() -> None:
    async with open_asker() as asking:
        with pytest.raises(RequestTimedOut):
            await asking.ask(timeout_s=0.05)
        [(_, body)] = await receive(asking.far[0], 1)
        answer = build_answer(read_request(body)[0], b"late")
        await asking.far[0].write(answer)
        await trio.testing.wait_all_tasks_blocked()
        assert asking.faults == []
        await asking.far[0].write(answer)
        await until(lambda: len(asking.faults) == 1)


async def test_an_overlong_answer_is_a_fault() -> None:
    async with open_asker() as asking, trio.open_nursery() as nursery:

        async def answer() -> None:
            await until(lambda: bool(asking.far))
            [(_, body)] = await receive(asking.far[0], 1)
            await asking.far[0].write(build_answer(read_request(body)[0], bytes(101)))

        nursery.start_soon(answer)
        with pytest.raises(RequestTooLarge):
            await asking.ask(limit=100)
        assert [points for _, points, _ in asking.faults] == [PENALTY_OVERLONG]


async def test_abandoned_requests_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests_module, "ABANDONED_MAX", 5)
    async with open_asker() as asking:
        for _ in range(9):
            with pytest.raises(RequestTimedOut):
                await asking.ask(timeout_s=0.01)
        assert len(asking.asker._abandoned) == 5


async def test_a_broken_stream_fails_what_waits_and_is_opened_again() -> None:
    async with open_asker() as asking, trio.open_nursery() as nursery:

        async def break_stream() -> None:
            await until(lambda: bool(asking.far))
            await asking.far[0].reset()

        nursery.start_soon(break_stream)
        with pytest.raises(PeerGone):
            await asking.ask()
        asking.fails = 1
        with pytest.raises(PeerGone, match="cannot open"):
            await asking.ask()
        with pytest.raises(RequestTimedOut):
            await asking.ask(timeout_s=0.05)
        assert len(asking.far) == 2


async def test_requests_end_with_the_link() -> None:
    async with trio.open_nursery() as outer:
        failed: list[PeerGone] = []
        async with open_asker() as asking:

            async def ask() -> None:
                try:
                    await asking.ask(timeout_s=60)
                except PeerGone as error:
                    failed.append(error)

            outer.start_soon(ask)
            await until(lambda: bool(asking.far))
        with pytest.raises(PeerGone):
            await asking.ask()
    assert len(failed) == 1


class Answering:
    """An answerer, and the asking end of its stream."""

    def __init__(self, bytes_per_s: int) -> None:
        self.node = Recorder()
        self.faults: list[Fault] = []
        self.near, self.far = wire_pair()
        self.answerer = Answerer(
            self.far,
            self.node,
            Pacer(bytes_per_s),
            trio.CapacityLimiter(32),
            lambda *fault: self.faults.append(fault),
        )


@asynccontextmanager
async def open_answerer(bytes_per_s: int = 10**9) -> AsyncIterator[Answering]:
    answering = Answering(bytes_per_s)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answering.answerer.run)
        yield answering
        nursery.cancel_scope.cancel()


async def test_a_question_is_answered_refused_or_too_much() -> None:
    async with open_answerer() as answering:
        for index, body in enumerate((b"echo x", b"what", b"large 101")):
            await answering.near.write(build_request(index, 100, body))
        frames = {read_answer_id(b): (k, b[4:]) for k, b in await receive(answering.near, 3)}
        assert frames[0] == (Kind.ANSWER, b"x")
        assert frames[1] == (Kind.REFUSAL, b"no such thing here")
        assert frames[2] == (Kind.TOO_LARGE, b"")
        assert (ONE, b"echo x") in answering.node.requests


async def test_a_large_answer_leaves_in_pieces_within_the_budget() -> None:
    async with open_answerer(bytes_per_s=2_000_000) as answering:
        started = trio.current_time()
        await answering.near.write(build_request(1, 500_000, b"large 500000"))
        [(kind, body)] = await receive(answering.near, 1)
        assert (kind, len(body)) == (Kind.ANSWER, 500_004)
        assert trio.current_time() - started > 0.15
        assert max(map(len, answering.far.writes)) <= PIECE_BYTES


async def test_answers_in_memory_are_bounded() -> None:
    async with open_answerer() as answering:
        for index in range(REQUESTS_SERVED_MAX):
            await answering.near.write(build_request(index, 100, b"sleep 30"))
        await trio.testing.wait_all_tasks_blocked()
        assert len(answering.node.requests) == ANSWERS_HELD_PER_PEER_MAX


async def test_too_many_questions_are_refused_and_a_flood_ends_the_stream() -> None:
    async with open_answerer() as answering:
        for index in range(REQUESTS_SERVED_MAX + 1):
            await answering.near.write(build_request(index, 100, b"sleep 30"))
        [(kind, body)] = await receive(answering.near, 1)
        assert kind == Kind.REFUSAL
        assert read_answer_id(body) == REQUESTS_SERVED_MAX
        assert answering.faults == []
        answering.far.stuck = trio.Event()
        flood = b"".join(build_request(i, 100, b"x") for i in range(2 * REQUESTS_SERVED_MAX))
        await answering.near.write(flood)
        await until(answering.answerer.ended.is_set)
        assert [points for _, points, _ in answering.faults] == [PENALTY_MALFORMED]


@pytest.mark.parametrize(
    "raw",
    [
        build_answer(1, b"x"),
        build_frame(Kind.REQUEST, b"short"),
        (REQUEST_BYTES_MAX + 100).to_bytes(4, "big") + b"\x08",
        b"\xff" * 50,
    ],
)
async def test_a_malformed_question_ends_the_stream(raw: bytes) -> None:
    async with open_answerer() as answering:
        await answering.near.write(raw)
        await until(answering.answerer.ended.is_set)
        assert [points for _, points, _ in answering.faults] == [PENALTY_MALFORMED]


async def test_asker_and_answerer_agree_on_their_limits() -> None:
    assert REQUESTS_OUTSTANDING_MAX <= REQUESTS_SERVED_MAX
    near, far = wire_pair()
    faults: list[Fault] = []

    async def open_wire() -> Wire:
        await trio.lowlevel.checkpoint()
        return near

    asker = Asker(OTHER, open_wire, lambda *fault: faults.append(fault))
    answerer = Answerer(
        far, Recorder(), Pacer(10**9), trio.CapacityLimiter(32), lambda *fault: faults.append(fault)
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asker.run)
        nursery.start_soon(answerer.run)
        answer = await asker.request(b"large 1000000", response_bytes_max=2**40, timeout_s=5)
        assert answer == bytes(1_000_000)
        longest = b"echo " + b"x" * (REQUEST_BYTES_MAX - 5)
        assert len(await asker.request(longest, response_bytes_max=10**6, timeout_s=5)) > 65000
        with pytest.raises(RequestRejected):
            await asker.request(b"", response_bytes_max=10, timeout_s=5)
        nursery.cancel_scope.cancel()
    assert faults == []
