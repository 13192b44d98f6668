"""Both clients over real sockets: streams, timeouts, several participants at once."""

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, closing
from itertools import islice

import numpy as np
import pytest
import trio
from quorate import (
    AsyncClient,
    AsyncParticipant,
    Client,
    ConnectionFailedError,
    Participant,
    ProtocolError,
    RoundInfo,
    RpcError,
    VerificationError,
    WaitTimeoutError,
)
from quorate.fixed_point import Array
from quorate.rpc_protocol import get_events
from quorate.rpc_types import Event
from quorate.script import Feed, OpenFeed, ReadFeed
from quorate.submissions import Measurement, UpdateDraft

from tests.sdk.conftest import AUTHORITY, PARTICIPANTS, create_task, make_draft
from tests.sdk.fake_node import GENESIS, FakeNode, problem
from tests.sdk.http_server import NodeServer, serve

Runner = Callable[[Callable[[], Awaitable[None]]], None]


def run_asyncio(main: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await main()

    asyncio.run(whole())


@pytest.fixture(params=[run_asyncio, trio.run], ids=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Runner:
    runner: Runner = request.param
    return runner


@pytest.fixture
def server(node: FakeNode) -> Iterator[NodeServer]:
    with serve(node) as server:
        yield server


def fit(weights: list[Array], _info: RoundInfo) -> list[Array]:
    return [weights[0] + np.float32(0.25), weights[1]]  # type: ignore[operator]


# --- the synchronous client ----------------------------------------------------------------------


def test_participants_train_together(server: NodeServer, node: FakeNode) -> None:
    with Client(server.url) as client:
        task_id = create_task(client, updates=3)
    outcomes: dict[int, list[int]] = {}

    def take_part(number: int) -> None:
        with Client(server.url, genesis=GENESIS) as client:
            participant = Participant(
                client, PARTICIPANTS[number], "digits", fit, trusted=GENESIS, round_timeout_s=20
            )
            results = participant.run(4)
        outcomes[number] = [result.training_round for result in results if result.is_counted]

    threads = [threading.Thread(target=take_part, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == {0: [0, 1, 2, 3], 1: [0, 1, 2, 3], 2: [0, 1, 2, 3]}
    assert node.tasks[task_id].training_round == 4
    assert len(server.streams_opened) == 3  # One stream each, for all rounds.


def test_events_go_on_through_lost_streams(server: NodeServer, node: FakeNode) -> None:
    server.cut_after = 2
    for _ in range(6):
        node.decide([])
    with Client(server.url) as client:
        with closing(client.events(["block"])) as events:
            seen = list(islice(events, 7))
        assert [event.data["height"] for event in seen] == [str(h) for h in range(1, 8)]
        assert [event.id for event in seen] == [str(i) for i in range(1, 8)]
        assert server.streams_opened == ["", "2", "4", "6"]
        with closing(client.events(last_event_id="5")) as events:
            assert next(events).data["height"] == "6"


def test_a_silent_stream_is_opened_anew(server: NodeServer, node: FakeNode) -> None:
    with Client(server.url) as client:
        feed = Feed(client.endpoint, ("training_round",), silence_s=0.05)

        def read() -> Iterator[object]:
            for _ in range(2):
                yield OpenFeed(feed)
                assert (yield ReadFeed(feed)) is None  # Nothing happens.
            node.events.append(("training_round", {"height": 9}))
            yield OpenFeed(feed)
            return (yield ReadFeed(feed))

        event = client.run(read())  # type: ignore[arg-type]
    assert isinstance(event, Event)
    assert event.data == {"height": "9"}
    assert len(server.streams_opened) == 3


def test_comments_alone_are_silence(server: NodeServer) -> None:
    server.heartbeat = b": nothing new\n\n"
    with Client(server.url) as client:
        feed = Feed(client.endpoint, ("training_round",), silence_s=0.05)

        def read() -> Iterator[object]:
            yield OpenFeed(feed)
            return (yield ReadFeed(feed))

        assert client.run(read()) is None  # type: ignore[arg-type]


def test_a_round_that_does_not_end_is_given_up_in_time(server: NodeServer) -> None:
    server.heartbeat = b": nothing new\n\n"
    with Client(server.url) as client:
        create_task(client, updates=2)
        participant = Participant(client, PARTICIPANTS[0], "digits", fit, round_timeout_s=0.2)
        started = time.monotonic()
        with pytest.raises(WaitTimeoutError, match="has not ended within"):
            participant.train_round()
        participant.close()
    assert time.monotonic() - started < 5


def test_a_refused_subscription_is_told(client: Client, node: FakeNode) -> None:
    node.intercept = lambda *_: problem(429, "quota_exceeded", "Too many subscriptions.")
    with pytest.raises(RpcError, match="Too many subscriptions"):
        next(client.events())
    node.intercept = lambda *_: (204, {}, b"")
    with pytest.raises(ProtocolError, match="not a stream"):
        next(client.events())


def test_the_request_for_events() -> None:
    request = get_events(["block", "round"], [b"\x01", b"\x02"], "7")
    assert request.query == (("types", "block,round"), ("transaction", "01"), ("transaction", "02"))
    assert request.headers["Last-Event-ID"] == "7"
    assert "Last-Event-ID" not in get_events([], [], None).headers


def test_a_port_where_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with (
            Client(url, retries=1) as client,
            pytest.raises(ConnectionFailedError, match="is the node running"),
        ):
            client.status()


def test_a_node_that_never_answers() -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        with (
            Client(url, timeout_s=0.05, retries=1) as client,
            pytest.raises(ConnectionFailedError, match="No answer from"),
        ):
            client.status()


def test_proxies_of_the_environment_are_left_aside(
    server: NodeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with Client(server.url + "/") as client:
        assert client.health()


# --- the asynchronous client ---------------------------------------------------------------------


def test_the_asynchronous_client_does_all_the_same(
    server: NodeServer, node: FakeNode, run: Runner
) -> None:
    draft = make_draft(updates=1)
    key = PARTICIPANTS[0]

    async def main() -> None:
        async with AsyncClient(server.url) as client, AsyncClient(server.url) as other:
            assert await client.health()
            created = await client.create_task(AUTHORITY, draft.spec, draft.weights)
            info = await client.wait_for_transaction(created.hash)
            waited: list[float] = []
            with pytest.raises(WaitTimeoutError):
                await client.wait_for_transaction(bytes(32), 0.1, waiting=waited.append)
            assert waited[0] < waited[-1] < 5
            assert info.height == (await client.status()).height == 2
            assert (await client.genesis()) == GENESIS
            assert (await client.block(2)).header == (await client.commit(2))[0]
            assert (await client.validators()) == GENESIS.validator_set
            assert (await client.transaction(created.hash)).is_decided
            (summary,) = await client.tasks()
            task = await client.task(summary.name)
            await client.register(key, task)
            assert [p.address for p in await client.participants(task)] == [key.address]
            data = bytes(2 * task.spec.dimension)
            await client.submit_update(key, task, UpdateDraft(0, task.weights_root, data))
            assert (await client.training_round(task, 0)).is_over
            assert (await client.proof(task))[1].task_id == task.task_id
            assert (await client.weights(task)).data == draft.weights
            await client.submit_evaluation(key, task, Measurement(1, task.weights_root, 0.5))
            verified = await client.get_verified_weights(task, GENESIS, commit_from=other)
            assert verified.data == draft.weights
            nonce = (await client.account(key.address)).pending_nonce
            assert nonce == 3
            sent = await client.transfer(key, key.address, 1)
            raw = node.blocks[-1][0].transactions[0]
            assert (await client.submit(raw)).hash == sent.hash
            assert (await client.submit_many([(raw, None)]))[0].is_accepted

    run(main)


def test_asynchronous_events_and_their_end(server: NodeServer, node: FakeNode, run: Runner) -> None:
    server.cut_after = 2
    for _ in range(4):
        node.decide([])

    async def main() -> None:
        seen = []
        async with (
            AsyncClient(server.url) as client,
            aclosing(client.events(["block"])) as events,  # type: ignore[type-var]
        ):
            async for event in events:
                seen.append(event.data["height"])
                if len(seen) == 5:
                    break
        assert seen == ["1", "2", "3", "4", "5"]

    run(main)


def test_asynchronous_participants_take_turns(
    server: NodeServer, node: FakeNode, run: Runner
) -> None:
    with Client(server.url) as client:
        task_id = create_task(client, updates=1)

    async def main() -> None:
        async with AsyncClient(server.url) as client:
            participant = AsyncParticipant(
                client, PARTICIPANTS[0], "digits", fit, trusted=GENESIS, commit_from=client
            )
            results = await participant.run(2)
        assert [result.training_round for result in results] == [0, 1]
        assert all(result.is_counted for result in results)

    run(main)
    assert node.tasks[task_id].training_round == 2


def test_asynchronous_errors_are_the_same(server: NodeServer, node: FakeNode, run: Runner) -> None:
    with Client(server.url) as client:
        task_id = create_task(client)

    async def main() -> None:
        async with AsyncClient(server.url, retries=1) as client:
            with pytest.raises(RpcError, match="unknown_task"):
                await client.task("none")
            node.tasks[task_id].weights = bytes(72)
            with pytest.raises(VerificationError, match="are not those of the root"):
                await client.get_verified_weights(task_id, GENESIS)
            node.intercept = lambda *_: (200, {}, bytes(33 << 20))
            with pytest.raises(ProtocolError, match="more than"):
                await client.status()
            node.intercept = lambda *_: problem(404, "not_found")
            with pytest.raises(RpcError, match="not_found"):
                async with aclosing(client.events()) as events:  # type: ignore[type-var]
                    await anext(events)
        server.shutdown()
        server.server_close()
        async with AsyncClient(server.url, retries=1, timeout_s=0.5) as client:
            with pytest.raises(ConnectionFailedError):
                await client.status()

    run(main)


def test_cancelling_a_wait_leaves_nothing_behind(server: NodeServer) -> None:
    async def main() -> None:
        async with AsyncClient(server.url) as client:
            with trio.move_on_after(0.1) as scope:
                async with aclosing(client.events(["training_round"])) as events:
                    await anext(events)
            assert scope.cancelled_caught
            assert await client.health()

    trio.run(main)
