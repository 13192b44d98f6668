"""Uploads over the RPC: verified, resumed, bounded, dropped, and named by a transaction."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import trio
import trio.testing
from msgspec import structs
from quorate import AsyncClient, Progress, RpcError, WaitTimeoutError
from quorate.chain.codec import encode
from quorate.chain.content import compute_chunk_hashes, compute_content_hash
from quorate.chain.ids import Hash
from quorate.chain.task import TaskSpec, TensorSpec
from quorate.chain.transaction import ChangeTaskStatus, RegisterParticipant, TaskStatus
from quorate.submissions import UpdateDraft

from node.config import MempoolSection
from node.mempool.large import NothingToWaitFor
from node.uploads import UPLOADS_MAX
from tests.node.cluster import USERS, sign
from tests.node.rpc.serving import (
    JSON,
    MESSAGE_PACK,
    Served,
    assert_problem,
    make_rpc_config,
    make_spec,
    make_task,
    make_update,
    open_rpc,
    poll,
)

ALICE, BOB, CAROL = USERS[:3]
CHUNK = 1 << 20
DIMENSION = 1_100_000
"""Updates of two chunks and a bit."""


def make_data(seed: int, size: int = 2 * DIMENSION) -> bytes:
    values = np.random.default_rng(seed).integers(-2000, 2000, size // 2, np.int16)
    return values.astype("<i2").tobytes()


DATA = make_data(1)
HASH = compute_content_hash(DATA)
CHUNKS = [DATA[start : start + CHUNK] for start in range(0, len(DATA), CHUNK)]


def make_large_spec(**policy: Any) -> tuple[TaskSpec, bytes]:
    weights = bytes(4 * DIMENSION)
    spec = structs.replace(
        make_spec(**policy),
        tensors=(TensorSpec("w", (DIMENSION,), 16, 12),),
        initial_weights_root=compute_content_hash(weights),
    )
    return spec, weights


async def begin(
    served: Served, data: bytes = DATA, task: bytes | None = None, **changes: Any
) -> httpx.Response:
    size = changes.get("size", len(data))
    hashes = changes.get("hashes", compute_chunk_hashes(data))
    return await served.client.post(
        "/v1/payloads", content=encode((size, hashes, task)), headers=MESSAGE_PACK
    )


async def put(
    served: Served, index: int, chunk: bytes, payload_hash: bytes = HASH
) -> httpx.Response:
    return await served.client.put(
        f"/v1/payloads/{payload_hash.hex()}/chunks/{index}", content=chunk
    )


async def upload(served: Served, data: bytes = DATA) -> bytes:
    assert (await begin(served, data)).status_code == 200
    payload_hash = compute_content_hash(data)
    for index in range(-(-len(data) // CHUNK)):
        chunk = data[index * CHUNK : (index + 1) * CHUNK]
        assert (await put(served, index, chunk, payload_hash)).status_code == 200
    return payload_hash


@asynccontextmanager
async def open_large_task(folder: Path, **policy: Any) -> AsyncIterator[tuple[Served, bytes]]:
    """Serve a node with a task whose updates are large, and BOB registered."""
    async with open_rpc(folder) as served:
        spec, weights = make_large_spec(**policy)
        await upload(served, weights)
        task_id = bytes.fromhex(await served.send(ALICE, make_task(spec)))
        await served.send(BOB, RegisterParticipant(Hash(task_id)))
        yield served, task_id


async def test_a_payload_is_uploaded_and_then_named(tmp_path: Path) -> None:
    async with open_large_task(tmp_path) as (served, task_id):
        begun = (await begin(served, task=task_id)).json()
        assert begun == {
            "payload_hash": HASH.hex(),
            "size": str(len(DATA)),
            "is_complete": False,
            "missing": [0, 1, 2],
            "announced_power": "0",
            "total_power": "10",
        }
        # In any order; the same again changes nothing.
        for index in (2, 0, 0):
            assert (await put(served, index, CHUNKS[index])).json() == {
                "payload_hash": HASH.hex(),
                "index": index,
            }
        shown = await served.get(f"/v1/payloads/{HASH.hex()}")
        assert (shown["missing"], shown["is_complete"]) == ([1], False)
        assert not served.services.storage.payloads.has(HASH)
        assert (await put(served, 1, CHUNKS[1])).status_code == 200
        assert served.services.storage.payloads.get(HASH) == DATA
        shown = await served.get(f"/v1/payloads/{HASH.hex()}")
        assert (shown["missing"], shown["is_complete"]) == ([], True)
        assert (await begin(served)).json()["is_complete"] is True
        assert (await put(served, 0, CHUNKS[0])).status_code == 200
        body, _ = make_update(served, task_id, DATA)
        await served.send(BOB, body)
        ended = await served.get(f"/v1/tasks/{task_id.hex()}/rounds/0")
        assert ended["receipt"]["updates"][0]["payload_hash"] == HASH.hex()


class NothingYet(NothingToWaitFor):
    """No block may name anything large."""

    def is_announced(self, _payload_hash: Hash, /) -> bool:
        return False


async def test_a_pending_update_tells_what_it_waits_for(tmp_path: Path) -> None:
    """The proposer is kept from seeing what its own node has counted."""
    async with open_large_task(tmp_path) as (served, task_id):
        await upload(served)
        body, _ = make_update(served, task_id, DATA)
        announcements = served.services.announcements
        served.services.mempool.large.announced = NothingYet()
        raw = sign(BOB, served.services.mempool.pending_nonce(BOB.address), body)
        submitted = await served.submit(raw)
        assert submitted.status_code == 202
        await poll(lambda: announcements.get_power(HASH) > 0)
        shown = await served.get("/tx", hash=submitted.json()["hash"])
        payload = {
            "payload_hash": HASH.hex(),
            "size": str(len(DATA)),
            "is_complete": True,
            "missing": [],
            "announced_power": "10",
            "total_power": "10",
        }
        assert shown == {"hash": shown["hash"], "status": "pending", "payload": payload}
        assert await served.get(f"/v1/payloads/{HASH.hex()}") == payload
        async with AsyncClient(served.url) as client:
            info = await client.transaction(bytes.fromhex(shown["hash"]))
            assert info.payload == await client.payload(HASH)
            with pytest.raises(WaitTimeoutError, match="10 of 10 of the voting power"):
                await client.wait_for_transaction(bytes.fromhex(shown["hash"]), timeout_s=0.2)


async def test_a_transaction_before_its_payload_is_refused(tmp_path: Path) -> None:
    async with open_large_task(tmp_path) as (served, task_id):
        await begin(served)
        await put(served, 0, CHUNKS[0])
        body, _ = make_update(served, task_id, DATA)
        with pytest.raises(AssertionError, match="payload_missing"):
            await served.send(BOB, body)


async def test_json_does_as_well(served: Served) -> None:
    document = {
        "size": len(DATA),
        "chunk_hashes": [each.hex() for each in compute_chunk_hashes(DATA)],
    }
    begun = await served.client.post("/v1/payloads", json=document)
    assert begun.json()["payload_hash"] == HASH.hex()
    for changes in ({"size": 0}, {"size": "x"}, {"chunk_hashes": ["zz"]}, {"more": 1}):
        refused = await served.client.post("/v1/payloads", json=document | changes)
        assert_problem(refused, 400, "malformed")
    spaced = {"chunk_hashes": [" ".join(["ab"] * 32)]}
    assert_problem(
        await served.client.post("/v1/payloads", json=document | spaced), 400, "malformed"
    )
    other = await served.client.post("/v1/payloads", content=b"x")
    assert_problem(other, 415, "malformed")


async def test_a_corrupted_chunk_costs_itself_alone(served: Served) -> None:
    await begin(served)
    await put(served, 0, CHUNKS[0])
    for wrong in (CHUNKS[1][:-1] + b"\xff", CHUNKS[0], CHUNKS[1][:-1], b"", CHUNKS[2]):
        problem = assert_problem(await put(served, 1, wrong), 422, "payload_mismatch")
        assert problem["detail"]
    assert (await served.get(f"/v1/payloads/{HASH.hex()}"))["missing"] == [1, 2]
    for index in (1, 2):
        assert (await put(served, index, CHUNKS[index])).status_code == 200
    assert served.services.storage.payloads.get(HASH) == DATA


async def test_chunks_that_do_not_exist(served: Served) -> None:
    await begin(served)
    problem = assert_problem(await put(served, 3, b"x"), 404, "not_found")
    assert "3 chunks, from 0 to 2" in problem["detail"]
    assert_problem(await put(served, 10**30, b"x"), 404, "not_found")
    for odd in ("-1", "x", "1.5", "%00"):
        response = await served.client.put(f"/v1/payloads/{HASH.hex()}/chunks/{odd}", content=b"x")
        assert response.status_code == 404
    too_long = await put(served, 0, bytes(CHUNK + 1))
    assert_problem(too_long, 413, "too_large")
    assert (await served.get(f"/v1/payloads/{HASH.hex()}"))["missing"] == [0, 1, 2]


async def test_unknown_uploads(served: Served) -> None:
    assert_problem(await put(served, 0, CHUNKS[0]), 404, "not_found")
    assert_problem(await served.client.get(f"/v1/payloads/{HASH.hex()}"), 404, "not_found")
    for name in ("ab", "zz" * 32, "%2F"):
        assert_problem(await served.client.get(f"/v1/payloads/{name}"), 400, "malformed")
        response = await served.client.put(f"/v1/payloads/{name}/chunks/0", content=b"x")
        assert_problem(response, 400, "malformed")


async def test_hashes_that_do_not_fit_the_size(served: Served) -> None:
    hashes = compute_chunk_hashes(DATA)
    changes: dict[str, Any]
    for changes in ({"hashes": hashes[:-1]}, {"hashes": ()}, {"size": len(DATA) + CHUNK}):
        assert_problem(await begin(served, **changes), 422, "payload_mismatch")
    for changes in ({"size": 0}, {"size": -1}, {"size": 2**40}, {"hashes": (b"short",)}):
        assert_problem(await begin(served, **changes), 400, "malformed")
    assert served.services.storage.payloads.bytes_total == 0


async def test_an_update_that_cannot_fit_is_refused_before_its_first_byte(tmp_path: Path) -> None:
    async with open_large_task(tmp_path) as (served, task_id):
        before = served.services.storage.payloads.bytes_total
        longer = assert_problem(await begin(served, DATA + b"xx", task_id), 413, "too_large")
        assert str(len(DATA)) in longer["detail"]
        assert_problem(await begin(served, DATA[:-2], task_id), 422, "wrong_shape")
        assert_problem(await begin(served, DATA, bytes(32)), 404, "unknown_task")
        await served.send(ALICE, ChangeTaskStatus(Hash(task_id), TaskStatus.PAUSED))
        assert_problem(await begin(served, DATA, task_id), 422, "task_not_open")
        assert served.services.storage.payloads.bytes_total == before


async def test_one_payload_has_a_limit(tmp_path: Path) -> None:
    mempool = MempoolSection(payload_bytes_max=2 * CHUNK)
    async with open_rpc(tmp_path, make_rpc_config(mempool=mempool)) as served:
        problem = assert_problem(await begin(served), 413, "too_large")
        assert str(2 * CHUNK) in problem["detail"]
        assert (await begin(served, bytes(2 * CHUNK))).status_code == 200


async def test_so_many_uploads_are_open_at_a_time(served: Served) -> None:
    payloads = [bytes([number]) * 100_000 for number in range(UPLOADS_MAX + 1)]
    for data in payloads[:-1]:
        assert (await begin(served, data)).status_code == 200
    refused = await begin(served, payloads[-1])
    assert_problem(refused, 429, "quota_exceeded")
    assert refused.headers["retry-after"] == "1"
    # Those that have begun go on.
    assert (await begin(served, payloads[0])).status_code == 200
    await put(served, 0, payloads[0], compute_content_hash(payloads[0]))
    assert (await begin(served, payloads[-1])).status_code == 200


async def test_no_room_is_told(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served.services.storage.payloads, "_total_bytes_max", 3 * CHUNK)
    assert (await begin(served)).status_code == 200
    refused = await begin(served, make_data(2))
    assert_problem(refused, 503, "mempool_full")
    assert refused.headers["retry-after"] == "1"


async def test_the_same_payload_from_several_at_a_time(served: Served) -> None:
    statuses = []

    async def carry(order: list[int]) -> None:
        assert (await begin(served)).status_code == 200
        for index in order:
            response = await put(served, index, CHUNKS[index])
            statuses.append(response.status_code)

    async with trio.open_nursery() as nursery:
        for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 2, 1]):
            nursery.start_soon(carry, order)
    assert statuses == [200] * 12
    assert served.services.storage.payloads.get(HASH) == DATA
    assert served.services.uploads.open_count == 0


async def test_a_restart_keeps_what_has_arrived(tmp_path: Path) -> None:
    async with open_rpc(tmp_path) as served:
        await begin(served)
        await put(served, 1, CHUNKS[1])
        served.scope.cancel()
        await served.cluster.stop(served.member)
        await served.cluster.start(served.member)
        uploads = served.member.running.services.uploads
        state = await uploads.get(HASH)
        assert state is not None
        assert state.missing == (0, 2)
        for index in state.missing:
            await uploads.put_chunk(HASH, index, CHUNKS[index])
        assert served.member.payloads.get(HASH) == DATA
        # Whole, but named by nothing yet: kept over a restart, too.
        await served.cluster.stop(served.member)
        await served.cluster.start(served.member)
        assert served.member.payloads.get(HASH) == DATA


@pytest.mark.parametrize("seed", range(2))
async def test_garbage_is_never_the_nodes_fault(served: Served, seed: int) -> None:
    generator = random.Random(seed)
    valid = encode((len(DATA), compute_chunk_hashes(DATA), None))
    await begin(served)
    for _ in range(80):
        raw = bytearray(valid)
        for _ in range(generator.randrange(6)):
            raw[generator.randrange(len(raw))] = generator.randrange(256)
        body = generator.choice(
            [bytes(raw), bytes(raw[: generator.randrange(len(raw))]), generator.randbytes(200)]
        )
        headers = generator.choice([MESSAGE_PACK, JSON, {}])
        first = await served.client.post("/v1/payloads", content=body, headers=headers)
        index = generator.choice([0, 1, 2, 3, 2**63])
        second = await put(served, index, generator.randbytes(generator.choice([0, 1, 1000])))
        for response in (first, second):
            assert response.status_code < 500, response.text
            if response.status_code >= 400:
                assert response.json()["code"]
    assert (await served.get(f"/v1/payloads/{HASH.hex()}"))["missing"] == [0, 1, 2]


async def test_the_sdk_uploads_trains_and_downloads_large_models(tmp_path: Path) -> None:
    """The client library against the real server, both ways."""
    async with open_rpc(tmp_path) as served, AsyncClient(served.url) as client:
        spec, weights = make_large_spec()
        path = tmp_path / "initial.bin"
        path.write_bytes(weights)
        created = await client.create_task(ALICE, spec, path)
        await client.wait_for_transaction(created.hash)
        registered = await client.register(BOB, created.hash)
        await client.wait_for_transaction(registered.hash)
        task = await client.task(created.hash)
        height = (await client.status()).height
        shown: list[Progress] = []
        draft = UpdateDraft(task.training_round, task.weights_root, np.frombuffer(DATA, "<i2"))
        submitted = await client.submit_update(BOB, task, draft, progress=shown.append)
        await client.wait_for_transaction(submitted.hash)
        assert shown[-1].fraction == 1
        assert (await client.payload(HASH)).is_complete
        genesis = served.cluster.genesis
        stored = await client.download_weights(task, tmp_path / "w", trusted=genesis)
        expected = np.frombuffer(DATA, "<i2").astype(np.int32) << 4
        np.testing.assert_array_equal(stored.vector, expected)
        first = await client.download_weights(task, tmp_path / "w", height=height, trusted=genesis)
        assert first.vector.tobytes() == weights
        with pytest.raises(RpcError, match="too_large"):
            await client.upload(DATA + b"xx", task_id=task.task_id)
