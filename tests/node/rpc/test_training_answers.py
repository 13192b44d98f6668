"""Answers about tasks: rounds open and over, weights, and proofs that hold against headers."""

from contextlib import aclosing
from pathlib import Path

import numpy as np
import trio
from msgspec import structs
from quorate import AsyncClient
from quorate.chain.codec import encode
from quorate.chain.content import compute_chunk_hashes, compute_content_hash
from quorate.chain.ids import Hash
from quorate.chain.merkle import MerkleProof, compute_root_of_hashes, is_proof_valid
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.round_policy import RoundMode
from quorate.chain.task import BelowMinimum, TensorSpec
from quorate.chain.weights import ModelLeaf
from quorate.rpc_reading import read_round_receipt

from node.rpc.round_index import RoundIndex
from tests.node.cluster import USERS, make_genesis
from tests.node.rpc.serving import (
    INITIAL,
    Served,
    assert_problem,
    make_payload,
    make_rpc_config,
    make_spec,
    make_task,
    make_update,
    open_rpc,
    open_task,
    poll,
)

ALICE, BOB, CAROL = USERS[:3]


async def train(served: Served, task_id: bytes, value: int = 5) -> None:
    """Submit one update, which ends the training round, and wait until it has ended."""
    await served.send(BOB, *make_update(served, task_id, make_payload(value)))


def get_weights(served: Served, task_id: bytes) -> bytes:
    task = served.services.executor.state.get_task(Hash(task_id))
    assert task is not None
    stored = served.services.storage.payloads.get(task.weights_root)
    assert stored is not None
    return stored


async def verify_proof(served: Served, task_id: bytes, height: int | None = None) -> ModelLeaf:
    shown = await served.get(
        f"/v1/tasks/{task_id.hex()}/proof", **({} if height is None else {"height": height})
    )
    leaf = ModelLeaf(
        *(
            Hash(bytes.fromhex(shown["leaf"][name]))
            for name in ("task_id", "weights_root", "optimizer_root")
        )
    )
    proof = MerkleProof(
        int(shown["proof"]["index"]),
        int(shown["proof"]["total"]),
        tuple(Hash(bytes.fromhex(each)) for each in shown["proof"]["siblings"]),
    )
    header = (await served.get("/block", height=shown["height"]))["header"]
    assert is_proof_valid(proof, Hash(bytes.fromhex(header["model_root"])), encode(leaf))
    assert height is None or shown["height"] == str(height)
    return leaf


async def test_a_task_by_id_and_by_name(served: Served) -> None:
    spec = make_spec("clinic/liver:v1")
    task_id = (await open_task(served, ALICE, BOB, spec=spec)).hex()
    by_id = await served.get(f"/v1/tasks/{task_id}")
    by_name = await served.client.get("/v1/tasks/clinic%2Fliver:v1")
    assert by_name.json() == by_id
    assert by_id["name"] == spec.name
    assert by_id["status"] == "open"
    assert by_id["authority"] == ALICE.address.hex()
    assert by_id["training_round"] == "0"
    assert by_id["weights_root"] == compute_content_hash(INITIAL).hex()
    assert by_id["dimension"] == 6
    assert by_id["participants"] == 1
    assert by_id["rule"]["stages"] == ["mean"]
    assert by_id["codec"] == "dense_int16"
    assert by_id["spec_msgpack"] == encode(spec).hex()
    assert by_id["best"] is None
    listed = await served.get("/v1/tasks")
    assert listed["total"] == 1
    assert [task["task_id"] for task in listed["tasks"]] == [task_id]
    assert (await served.get("/v1/tasks", start=1))["tasks"] == []
    participants = await served.get(f"/v1/tasks/{task_id}/participants")
    (participant,) = participants["participants"]
    assert participant["address"] == BOB.address.hex()
    assert participant["has_update"] is False
    assert participants["total"] == 1


async def test_an_open_round_and_its_updates(served: Served) -> None:
    spec = make_spec(updates_min=2, updates_max=2)
    task_id = await open_task(served, ALICE, BOB, CAROL, spec=spec)
    path = f"/v1/tasks/{task_id.hex()}/rounds"
    empty = await served.get(f"{path}/current")
    assert (empty["status"], empty["updates"]) == ("open", [])
    body, payload = make_update(served, task_id, make_payload())
    await served.send(BOB, body, payload)
    current = await served.get(f"{path}/current")
    assert current == await served.get(f"{path}/0")
    assert current["updates"] == [
        {
            "participant": BOB.address.hex(),
            "payload_hash": body.payload_hash.hex(),
            "example_count": body.example_count,
            "staleness": 0,
        }
    ]
    assert (current["participants"], current["awaited"]) == (2, 2)
    assert int(current["deadline_ms"]) == int(current["opened_time_ms"]) + 600_000
    assert current["base_weights_root"] == compute_content_hash(INITIAL).hex()
    assert_problem(await served.client.get(f"{path}/1"), 404, "not_found")
    for odd in ("-1", "one", "9" * 30, "%C2%B2"):
        assert_problem(await served.client.get(f"{path}/{odd}"), 400, "malformed")


async def test_finalized_rounds_and_weights(served: Served) -> None:
    task_id = await open_task(served, ALICE, BOB)
    path = f"/v1/tasks/{task_id.hex()}"
    roots = []
    for value in (5, 7):
        await train(served, task_id, value)
        response = await served.client.get(f"{path}/weights")
        assert response.content == get_weights(served, task_id)
        assert response.headers["content-type"] == "application/octet-stream"
        root = response.headers["quorate-weights-root"]
        assert compute_content_hash(response.content).hex() == root
        assert root not in roots
        roots.append(root)
    assert response.headers["quorate-training-round"] == "2"
    for number, root in enumerate(roots):
        ended = await served.get(f"{path}/rounds/{number}")
        assert ended["status"] == "finalized"
        receipt = ended["receipt"]
        assert receipt["weights_root"] == root
        assert receipt["training_round"] == str(number)
        assert receipt["outcome"] == "finalized"
        assert [update["participant"] for update in receipt["updates"]] == [BOB.address.hex()]
        assert isinstance(receipt["updates"][0]["score"], str)
    assert ended["height"] == response.headers["quorate-height"]
    one = await served.client.get(f"{path}/weights", params={"chunk": 0})
    assert one.content == response.content
    assert one.headers["quorate-weights-root"] == roots[1]
    assert_problem(
        await served.client.get(f"{path}/weights", params={"chunk": 1}), 404, "not_found"
    )
    expected = np.frombuffer(INITIAL, "<i4") + (5 + 7) * 16
    assert np.array_equal(np.frombuffer(response.content, "<i4"), expected)


async def test_ended_rounds_are_found_in_the_store(served: Served) -> None:
    """As after a restart: nothing was told, everything is read backwards."""
    task_id = Hash(await open_task(served, ALICE, BOB))
    for value in (1, 2, 3):
        await train(served, task_id, value)
    index = RoundIndex(served.services.storage.chain)
    for number in (1, 0, 2):
        found = await index.find(task_id, number)
        assert found is not None
        height, receipt = found
        shown = await served.get(f"/v1/tasks/{task_id.hex()}/rounds/{number}")
        assert shown["height"] == str(height)
        assert shown["receipt"]["weights_root"] == receipt.weights_root.hex()
    assert await index.find(task_id, 3) is None


async def test_a_void_round(served: Served) -> None:
    spec = make_spec(updates_min=2, updates_max=3, deadline_ms=150, below_minimum=BelowMinimum.VOID)
    task_id = await open_task(served, ALICE, BOB, CAROL, spec=spec)
    await served.send(BOB, *make_update(served, task_id, make_payload()))
    state = served.services.executor.state

    def has_ended() -> bool:
        task = state.get_task(Hash(task_id))
        return task is not None and task.training_round > 0

    await poll(has_ended)
    ended = await served.get(f"/v1/tasks/{task_id.hex()}/rounds/0")
    assert ended["status"] == "void"
    assert ended["receipt"]["outcome"] == "void"


async def test_proofs_at_the_latest_and_at_past_heights(served: Served) -> None:
    task_id = await open_task(served, ALICE, BOB)
    other = await open_task(served, ALICE, spec=make_spec("other"))
    before = served.services.executor.position.height
    first = await verify_proof(served, task_id, before)
    await train(served, task_id)
    await served.wait_for_height(before + 4)
    latest = await verify_proof(served, task_id)
    assert latest.weights_root != first.weights_root
    assert await verify_proof(served, task_id, before) == first
    for height in range(before, before + 4):
        await verify_proof(served, other, height)
    for height in (0, 10**6):
        problem = assert_problem(
            await served.client.get(f"/v1/tasks/{task_id.hex()}/proof", params={"height": height}),
            404,
            "not_found",
        )
        assert "it has those from 1 to" in problem["detail"]
    created = (await served.get(f"/v1/tasks/{other.hex()}"))["created_height"]
    for what in ("proof", "weights"):
        path = f"/v1/tasks/{other.hex()}/{what}"
        early = await served.client.get(path, params={"height": int(created) - 1})
        problem = assert_problem(early, 404, "not_found")
        assert problem["detail"] == (
            f"The task was not there yet at height {int(created) - 1}: it was created at height "
            f"{created}."
        )
        (await served.client.get(path, params={"height": int(created)})).raise_for_status()


async def test_weights_that_are_not_here(served: Served) -> None:
    task_id = await open_task(served, ALICE)
    task = served.services.executor.state.get_task(Hash(task_id))
    assert task is not None
    served.services.storage.payloads.delete(task.weights_root)
    response = await served.client.get(f"/v1/tasks/{task_id.hex()}/weights")
    assert_problem(response, 503, "not_available")
    assert response.headers["retry-after"] == "1"


async def test_large_weights_come_in_pieces(tmp_path: Path) -> None:
    async with open_rpc(tmp_path) as served:
        dimension = 700_000  # 2.7 chunks
        data = np.arange(dimension, dtype="<i4").tobytes()
        spec = structs.replace(
            make_spec(),
            tensors=(TensorSpec("w", (dimension,), 16, 12),),
            initial_weights_root=compute_content_hash(data),
        )
        task_id = bytes.fromhex(await served.send(ALICE, make_task(spec), data))
        path = f"/v1/tasks/{task_id.hex()}/weights"
        whole = await served.client.get(path)
        assert whole.content == data
        assert whole.headers["content-length"] == str(len(data))
        pieces = [
            (await served.client.get(path, params={"chunk": chunk})).content for chunk in range(3)
        ]
        assert [len(piece) for piece in pieces[:2]] == [1 << 20, 1 << 20]
        assert b"".join(pieces) == data
        assert_problem(await served.client.get(path, params={"chunk": 3}), 404, "not_found")
        listed = await served.get(f"{path}/chunks")
        assert listed["size"] == str(len(data))
        hashes = tuple(Hash(bytes.fromhex(each)) for each in listed["chunk_hashes"])
        assert hashes == compute_chunk_hashes(data)
        assert listed["weights_root"] == compute_root_of_hashes(hashes).hex()


async def test_weights_and_proofs_of_every_kept_height(served: Served) -> None:
    task_id = await open_task(served, ALICE, BOB)
    created = served.services.executor.position.height
    path = f"/v1/tasks/{task_id.hex()}"
    kept = {}
    for value in (5, 7, 9):
        await train(served, task_id, value)
        ended = served.services.executor.position.height
        await served.wait_for_height(ended + 2)
        kept[ended + 1] = get_weights(served, task_id)
    for height, data in kept.items():
        response = await served.client.get(f"{path}/weights", params={"height": height})
        assert response.content == data
        assert int(response.headers["quorate-height"]) <= height
        leaf = await verify_proof(served, task_id, height)
        assert leaf.weights_root == compute_content_hash(data)
        listed = await served.get(f"{path}/weights/chunks", height=height)
        assert listed["weights_root"] == leaf.weights_root.hex()
    first = await served.client.get(f"{path}/weights", params={"height": created})
    assert first.content == INITIAL
    assert first.headers["quorate-training-round"] == "0"
    for wrong in (0, 1, 10**9):
        response = await served.client.get(f"{path}/weights", params={"height": wrong})
        assert_problem(response, 404, "not_found")


async def test_a_buffer_that_was_frozen_changes_the_weights_later_than_the_training_round(
    tmp_path: Path,
) -> None:
    """What is said to be the weights of a height stays so when the task goes on."""
    genesis = make_genesis(1, parameters=ConsensusParameters(aggregation_cost_block_max=0))
    async with open_rpc(tmp_path, genesis=genesis) as served:
        spec = make_spec(mode=RoundMode.ASYNCHRONOUS, staleness_max=4)
        task_id = await open_task(served, ALICE, BOB, spec=spec)
        created = served.services.executor.position.height
        path = f"/v1/tasks/{task_id.hex()}/weights"
        said: dict[str, str] = {}
        for value in (5, 7, 9):
            before = get_weights(served, task_id)
            await train(served, task_id, value)
            await poll(lambda before=before: get_weights(served, task_id) != before)
            await served.wait_for_height(served.services.executor.position.height + 1)
            for query in ({}, {"height": served.services.executor.position.height}):
                headers = (await served.client.get(path, params=query)).headers
                root = said.setdefault(headers["quorate-height"], headers["quorate-weights-root"])
                assert root == headers["quorate-weights-root"]
        last = served.services.executor.position.height
        assert len(said) == 3
        for height in range(created, last + 1):
            leaf = await verify_proof(served, task_id, height)
            response = await served.client.get(path, params={"height": height})
            assert compute_content_hash(response.content) == leaf.weights_root
            listed = await served.get(f"{path}/chunks", height=height)
            assert listed["weights_root"] == leaf.weights_root.hex()
        for since, root in said.items():
            leaf = await verify_proof(served, task_id, int(since))
            assert leaf.weights_root.hex() == root


async def test_weights_that_are_not_kept_name_the_lowest_height_that_is(served: Served) -> None:
    task_id = await open_task(served, ALICE, BOB)
    heights = []
    for value in (5, 7, 9):
        await train(served, task_id, value)
        shown = await served.get(f"/v1/tasks/{task_id.hex()}/rounds/{len(heights)}")
        heights.append(int(shown["height"]))
    path = f"/v1/tasks/{task_id.hex()}/weights"
    lost = await served.get(f"{path}/chunks", height=heights[0])
    served.services.storage.payloads.delete(bytes.fromhex(lost["weights_root"]))
    for height in (heights[0], heights[1] - 1):
        response = await served.client.get(path, params={"height": height})
        problem = assert_problem(response, 404, "not_found")
        assert f"the lowest height whose weights it has is {heights[1]};" in problem["detail"]
    assert (await served.client.get(path, params={"height": heights[1]})).status_code == 200


async def test_the_sdk_trains_and_verifies_over_the_rpc(tmp_path: Path) -> None:
    """The client library against the real server: every kind of answer that it reads."""
    async with (
        open_rpc(tmp_path, make_rpc_config()) as served,
        AsyncClient(served.url) as client,
    ):
        spec = make_spec("sdk")
        submitted = await client.create_task(ALICE, spec, INITIAL)
        await client.wait_for_transaction(submitted.hash)
        registered = await client.register(BOB, "sdk")
        info = await client.wait_for_transaction(registered.hash)
        assert info.is_decided
        task = await client.task("sdk")
        assert task.spec == spec
        assert task.participants == 1
        await train(served, task.task_id)
        assert (await client.training_round("sdk")).training_round == 1
        ended = await client.training_round("sdk", 0)
        assert ended.is_over
        assert ended.receipt is not None
        weights = await client.weights("sdk")
        assert weights.root == ended.receipt.weights_root
        verified = await client.get_verified_weights("sdk", trusted=served.cluster.genesis)
        assert verified.data == weights.data
        status = await client.status()
        assert status.chain_id == served.cluster.genesis.chain_id
        assert status.validator is not None
        assert [each.name for each in await client.tasks()] == ["sdk"]
        assert [each.address for each in await client.participants("sdk")] == [BOB.address]
        account = await client.account(BOB.address)
        assert account.nonce == account.pending_nonce == 2
        results = await client.submit_many([(b"rubbish", None)])
        assert results[0].code == "malformed"
        with trio.fail_after(10):
            async with aclosing(client.events(["block"])) as events:
                event = await anext(events)
        assert event.type == "block"


async def test_a_receipt_tells_of_everybody(served: Served) -> None:
    spec = make_spec(updates_min=1, updates_max=2, deadline_ms=300, silent_rounds_max=1)
    task_id = await open_task(served, ALICE, ALICE, BOB, CAROL, spec=spec)
    path = f"/v1/tasks/{task_id.hex()}"
    for number in range(3):
        body, payload = make_update(served, task_id, make_payload(number + 1))
        await served.send(BOB, body, payload)
        ended = await served.get(f"{path}/rounds/{number}")
        for _ in range(200):
            if "receipt" in ended:
                break
            await trio.sleep(0.02)
            ended = await served.get(f"{path}/rounds/{number}")
        receipt = ended["receipt"]
        (update,) = receipt["updates"]
        assert (update["participant"], update["factor"]) == (BOB.address.hex(), 65_536)
        assert (receipt["cause"], receipt["score_name"]) == (
            ("everyone" if number == 2 else "deadline"),
            "leave_one_out",
        )
        assert receipt["rule"]["stages"] == ["mean"]
        reason = "excused" if number == 2 else "silent"
        assert {a["participant"]: a["reason"] for a in receipt["absences"]} == {
            key.address.hex(): reason for key in (ALICE, CAROL)
        }
        assert read_round_receipt(receipt).absence_count == 2
    rows = (await served.get(f"{path}/participants"))["participants"]
    assert {row["address"]: (row["is_awaited"], row["active_round"]) for row in rows} == {
        ALICE.address.hex(): (False, "0"),
        BOB.address.hex(): (True, "2"),
        CAROL.address.hex(): (False, "0"),
    }
