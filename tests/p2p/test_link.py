"""A link over a wire in memory: order, coalescing, faults of the peer, ends."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from p2p import link as link_module
from p2p.frames import (
    FrameReader,
    Hello,
    Kind,
    build_addresses,
    build_echo,
    build_frame,
    build_heartbeat,
    build_message,
    build_text,
)
from p2p.link import Link
from p2p.network import FRAME_BYTES_MAX, STATUS_BYTES_MAX, Priority
from p2p.outbox import CONTROL_FRAMES_MAX
from p2p.pacing import PIECE_BYTES, Pacer
from tests.p2p.conftest import Recorder, until
from tests.p2p.wires import OTHER, MemoryWire, wire_pair

HELLO = Hello(1, "c", bytes(32), 1, bytes(16), "")


@dataclass
class Case:
    """A link, the node above it, and the peer's end of its wire."""

    link: Link
    wire: MemoryWire
    far: MemoryWire
    node: Recorder
    faults: list[str] = field(default_factory=list)
    addresses: list[tuple[str, ...] | None] = field(default_factory=list)
    ended: trio.Event = field(default_factory=trio.Event)

    async def receive(self, n_frames: int) -> list[tuple[int, bytes]]:
        reader, frames = FrameReader(), []
        with trio.fail_after(5):
            while len(frames) < n_frames:
                frames += reader.feed(await self.far.read(1 << 20))
        return frames


@asynccontextmanager
async def open_link(
    *, is_shared: bool = False, bytes_per_s: int = 10**9, run: bool = True
) -> AsyncIterator[Case]:
    near, far = wire_pair()
    node = Recorder()
    faults: list[str] = []
    addresses: list[tuple[str, ...] | None] = []
    link = Link(
        near,
        HELLO,
        outbound=True,
        handler=node,
        pacer=Pacer(bytes_per_s),
        on_fault=lambda _peer, reason: faults.append(reason),
        on_addresses=lambda _link, told: addresses.append(told),
    )
    case = Case(link, near, far, node, faults, addresses)

    async def run_link() -> None:
        await link.run(lambda _link: is_shared)
        case.ended.set()

    async with trio.open_nursery() as nursery:
        if run:
            nursery.start_soon(run_link)
        yield case
        link.end()


async def test_many_messages_leave_in_few_writes() -> None:
    async with open_link() as case:
        frame = build_message(Priority.MEMPOOL, bytes(200))
        for _ in range(1000):
            assert case.link.send(Priority.MEMPOOL, frame)
        assert len(await case.receive(1000)) == 1000
        assert len(case.wire.writes) == pytest.approx(1000 * len(frame) / PIECE_BYTES, abs=2)
        assert max(map(len, case.wire.writes)) <= PIECE_BYTES


async def test_a_vote_passes_bulk_that_waits_for_its_budget() -> None:
    async with open_link(bytes_per_s=500_000) as case:
        for _ in range(10):
            case.link.send(Priority.BULK, build_message(Priority.BULK, bytes(50_000)))
        await until(lambda: len(case.wire.writes) == 1)
        case.link.send(Priority.CONSENSUS, build_message(Priority.CONSENSUS, b"vote"))
        kinds = [kind - Kind.MESSAGE for kind, _ in await case.receive(11)]
        assert kinds.index(Priority.CONSENSUS) <= 2


async def test_a_slow_peer_loses_its_link() -> None:
    async with open_link() as case:
        case.wire.stuck = trio.Event()
        frame = build_message(Priority.CONSENSUS, b"x")
        with trio.fail_after(5):
            while case.link.send(Priority.CONSENSUS, frame):
                await trio.lowlevel.checkpoint()
        # The write is stuck; the connection is closed under it.
        with trio.fail_after(10):
            await case.ended.wait()
        assert case.wire.closed_by_force


@pytest.mark.parametrize(
    "raw",
    [
        bytes(5),
        (FRAME_BYTES_MAX).to_bytes(4, "big") + b"\x10",
        b"\xff" * 100,
        build_frame(99),
        build_frame(Kind.HELLO),
        build_frame(Kind.REQUEST, bytes(8)),
        build_frame(Kind.HEARTBEAT, b"short"),
        build_frame(Kind.ECHO),
        build_heartbeat(1, bytes(STATUS_BYTES_MAX + 1)),
        build_frame(Kind.ADDRESSES, b"\xc1"),
    ],
    ids=range(10),
)
async def test_a_malformed_frame_is_reported_and_ends_the_link(raw: bytes) -> None:
    async with open_link() as case:
        await case.far.write(build_message(Priority.MEMPOOL, b"good"))
        await until(lambda: case.node.bodies() == [b"good"])
        await case.far.write(raw)
        with trio.fail_after(10):
            await case.ended.wait()
        assert len(case.faults) == 1
        assert case.node.messages == [(OTHER, Priority.MEMPOOL, b"good")]
        assert case.wire.closed_by_force


async def test_heartbeats_carry_status_and_are_echoed() -> None:
    async with open_link() as case:
        await case.far.write(build_heartbeat(41, b"theirs"))
        assert await case.receive(1) == [(Kind.ECHO, (41).to_bytes(8, "big"))]
        assert case.node.statuses == [(OTHER, b"theirs")]
        # An echo of anything but our last heartbeat says nothing about the way.
        await case.far.write(build_echo(7))
        case.link.beat(8, build_heartbeat(8, b"ours"), trio.current_time())
        await case.far.write(build_echo(9))
        await case.receive(1)
        assert case.link.latency_ms is None
        await case.far.write(build_echo(8))
        await until(lambda: case.link.latency_ms is not None)
        assert case.link.latency_ms is not None
        assert case.link.latency_ms < 5000


async def test_a_peer_that_asks_and_never_reads_loses_its_link() -> None:
    async with open_link() as case:
        case.wire.stuck = trio.Event()
        flood = b"".join(build_heartbeat(i, b"") for i in range(3 * CONTROL_FRAMES_MAX))
        await case.far.write(flood)
        with trio.fail_after(10):
            await case.ended.wait()
        assert len(case.node.statuses) <= 2 * CONTROL_FRAMES_MAX


async def test_addresses_are_handed_up() -> None:
    async with open_link() as case:
        await case.far.write(build_frame(Kind.ASK_ADDRESSES) + build_addresses(("/a",)))
        await until(lambda: case.addresses == [None, ("/a",)])


@pytest.mark.parametrize("kind", [Kind.GOODBYE, Kind.REFUSED])
async def test_a_goodbye_ends_the_link_without_blame(kind: Kind) -> None:
    async with open_link() as case:
        await case.far.write(
            build_message(Priority.MEMPOOL, b"last")
            + build_text(kind, "bye")
            + build_message(Priority.MEMPOOL, b"too late")
        )
        with trio.fail_after(10):
            await case.ended.wait()
        assert case.faults == []
        assert case.node.bodies() == [b"last"]


async def test_an_orderly_end_sends_what_waits_and_says_goodbye() -> None:
    async with open_link() as case:
        case.link.send(Priority.CONSENSUS, build_message(Priority.CONSENSUS, b"last"))
        case.link.end("the node stops")
        frames = await case.receive(2)
        assert (Kind.MESSAGE + Priority.CONSENSUS, b"last") in frames
        assert (Kind.GOODBYE, b"the node stops") in frames
        with trio.fail_after(10):
            await case.ended.wait()


async def test_an_orderly_end_does_not_wait_for_a_stuck_peer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_module, "GOODBYE_S", 0.1)
    async with open_link() as case:
        case.wire.stuck = trio.Event()
        case.link.send(Priority.CONSENSUS, build_message(Priority.CONSENSUS, b"x"))
        await trio.testing.wait_all_tasks_blocked()
        case.link.end("the node stops")
        with trio.fail_after(10):
            await case.ended.wait()


async def test_a_shared_connection_is_left_open() -> None:
    async with open_link(is_shared=True) as case:
        case.link.end()
        await case.ended.wait()
        assert case.wire.is_closed
        assert not case.wire.closed_by_force


async def test_the_peers_death_ends_the_link() -> None:
    async with open_link() as case:
        await case.far.reset()
        with trio.fail_after(10):
            await case.ended.wait()
        assert case.faults == []


async def test_what_the_node_raises_comes_out() -> None:
    def fail(_body: bytes) -> None:
        raise ZeroDivisionError

    async with open_link(run=False) as case:
        case.node.on_body = fail
        await case.far.write(build_message(Priority.BULK, b"x"))
        with pytest.raises(ExceptionGroup) as caught, trio.fail_after(10):
            await case.link.run(lambda _link: False)
        assert caught.group_contains(ZeroDivisionError)
        assert case.wire.closed_by_force


async def test_no_write_is_ever_cancelled() -> None:
    async with open_link(run=False) as case:
        case.wire.stuck = trio.Event()
        case.link.send(Priority.CONSENSUS, build_message(Priority.CONSENSUS, b"x"))
        with trio.move_on_after(0.05):
            await case.link.run(lambda _link: False)
        assert case.wire.closed_by_force
        assert case.wire.n_writes_cancelled == 0
