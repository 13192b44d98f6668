"""Server-sent events: what comes, in which form, how a client resumes, and how it ends."""

from pathlib import Path

import pytest
import trio
from quorate.chain.transaction import Transfer, compute_transaction_hash

from node.config import RpcSection
from node.events import EventType
from node.rpc.events import read_hashes
from node.rpc.problems import Refusal
from tests.node.cluster import USERS, sign
from tests.node.rpc.serving import (
    Served,
    assert_problem,
    make_payload,
    make_rpc_config,
    make_update,
    open_rpc,
    open_task,
    poll,
    subscribe,
)

ALICE, BOB = USERS[:2]


async def test_blocks_come_as_they_are_decided(served: Served) -> None:
    async with subscribe(served, "?types=block") as stream:
        events = [await stream.next() for _ in range(3)]
    heights = [int(str(event.data["height"])) for event in events]
    assert heights == list(range(heights[0], heights[0] + 3))
    assert all(event.type == "block" for event in events)
    chain = served.services.storage.chain
    for event, height in zip(events, heights, strict=True):
        stored = chain.load_block_hash(height)
        assert stored is not None
        assert event.data["hash"] == stored.hex()
        assert set(event.data) >= {"height", "hash", "time_ms", "transactions", "model_root"}
    ids = [int(event.id) for event in events]
    assert ids == sorted(set(ids))


async def test_a_training_round_is_told_with_its_receipt(served: Served) -> None:
    task_id = await open_task(served, ALICE, BOB)
    async with subscribe(served, "?types=training_round") as stream:
        await served.send(BOB, *make_update(served, task_id, make_payload()))
        event = await stream.next()
    assert event.type == "training_round"
    assert event.data["task_id"] == task_id.hex()
    ended = await served.get(f"/v1/tasks/{task_id.hex()}/rounds/0")
    assert event.data == {"height": ended["height"], **ended["receipt"]}


async def test_a_followed_transaction_alone_is_told(served: Served) -> None:
    raw = sign(ALICE, 0, Transfer(BOB.address, 1))
    wanted = compute_transaction_hash(raw).hex()
    async with subscribe(served, f"?transaction={wanted}&transaction={'00' * 32}") as stream:
        await served.submit(raw)
        event = await stream.next()
        assert event.type == "transaction"
        assert event.data["hash"] == wanted
        assert event.data["status"] == "decided"
        assert event.id
    async with subscribe(served, f"?transaction={wanted}") as stream:
        again = await stream.next()  # Decided before anybody asked.
        assert (again.data, again.id) == (event.data, "")


async def test_a_client_resumes_behind_the_last_event_it_saw(served: Served) -> None:
    async with subscribe(served, "?types=block") as stream:
        first = await stream.next()
        second = await stream.next()
    await served.wait_for_height(int(str(second.data["height"])) + 3)
    async with subscribe(served, "?types=block", first.id) as stream:
        again = [await stream.next() for _ in range(3)]
    assert again[0] == second
    assert [int(str(event.data["height"])) for event in again] == [
        int(str(second.data["height"])) + each for each in range(3)
    ]
    assert b"not kept" not in stream.raw


@pytest.mark.parametrize("last_event_id", ["1", "9" * 30])
async def test_a_number_of_another_start_gets_what_is_kept(
    served: Served, last_event_id: str
) -> None:
    await served.wait_for_height(2)
    async with subscribe(served, "?types=block", last_event_id) as stream:
        event = await stream.next()
    assert event.data["height"] == "1"
    assert b": events in between are not kept" in stream.raw


async def test_a_number_that_is_none_is_ignored(served: Served) -> None:
    async with subscribe(served, "?types=block", "abc") as stream:
        await stream.next()
    assert b"not kept" not in stream.raw


async def test_silence_is_filled_with_comments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.rpc.events.HEARTBEAT_S", 0.05)
    config = make_rpc_config(create_empty_blocks=False)
    async with open_rpc(tmp_path, config) as served, subscribe(served, "?types=round") as stream:
        with trio.fail_after(5):
            while stream.raw.count(b": nothing new\n\n") < 3:
                await stream.read()


async def test_a_slow_client_is_closed(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be as slow as its queue is long, and no slower; the node goes on."""
    monkeypatch.setattr("node.rpc.listening.WRITE_S_MAX", 0.5)
    bus = served.services.events
    before = len(bus)
    stream = await trio.open_tcp_stream("127.0.0.1", served.port)
    async with stream:
        await stream.send_all(
            b"GET /v1/events?types=round HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        )
        await poll(lambda: len(bus) == before + 1)
        filler = "x" * 10_000
        for number in range(3_000):
            bus.publish(EventType.ROUND, {"height": str(number), "round": 1, "filler": filler})
        await poll(lambda: len(bus) == before)
        with trio.fail_after(10):
            try:
                while await stream.receive_some():
                    pass
            except trio.BrokenResourceError:
                pass
    height = served.services.executor.position.height
    await served.wait_for_height(height + 1)


async def test_a_client_that_leaves_frees_its_place(served: Served) -> None:
    bus = served.services.events
    before = len(bus)
    async with subscribe(served, "?types=round"):
        await poll(lambda: len(bus) == before + 1)
    await poll(lambda: len(bus) == before)


async def test_only_so_many_subscriptions(tmp_path: Path) -> None:
    config = make_rpc_config(RpcSection(listen="127.0.0.1:0", subscriptions_max=2))
    async with open_rpc(tmp_path, config) as served:
        bus = served.services.events
        bus._subscriptions_max = 2  # One is the server's own.
        await poll(lambda: len(bus) == 1)
        async with subscribe(served, "?types=round"):
            await poll(lambda: len(bus) == 2)
            response = await served.client.get("/v1/events")
            problem = assert_problem(response, 503, "not_available")
            assert "subscriptions" in problem["detail"]
            assert response.headers["retry-after"] == "1"


async def test_only_so_many_transactions(served: Served) -> None:
    query = "&".join(f"transaction={number:064x}" for number in range(200))
    async with subscribe(served, f"?{query}"):
        pass
    with pytest.raises(Refusal, match="at most 1024"):
        read_hashes([f"{number:064x}" for number in range(1025)])
