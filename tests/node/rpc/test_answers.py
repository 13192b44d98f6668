"""Answers about the node, blocks, transactions and accounts, for people and for programs."""

import base64
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from quorate.chain.block import Block, Header, compute_block_id
from quorate.chain.codec import decode, encode
from quorate.chain.genesis import Admission, GenesisMember, decode_genesis
from quorate.chain.ids import Height
from quorate.chain.transaction import Role, Transfer, compute_transaction_hash
from quorate.chain.validators import Validator, ValidatorSet
from quorate.chain.vote import Commit, verify_commit

from node.config import RpcSection
from node.rpc.listening import SurfaceListenError
from node.rpc.server import serve_rpc
from p2p.network import PeerId
from tests.node.cluster import BALANCE, CHAIN_ID, USERS, make_genesis, make_key, sign
from tests.node.rpc.serving import MESSAGE_PACK, Served, assert_problem, make_rpc_config, open_rpc

ALICE, BOB = USERS[:2]
MIB = 1 << 20
ACCEPT = {"accept": "application/msgpack"}


async def test_health_and_status(served: Served) -> None:
    await served.wait_for_height(2)
    assert await served.get("/health") == {}
    status = await served.get("/status")
    position = served.services.executor.position
    assert status["chain_id"] == CHAIN_ID
    assert status["genesis_hash"] == served.cluster.genesis.hash.hex()
    assert status["height"] == str(position.height)
    assert position.block_id is not None
    assert status["block_hash"] == position.block_id.hash.hex()
    assert status["state_root"] == position.state_root.hex()
    assert status["model_root"] == position.model_root.hex()
    assert status["earliest_height"] == "1"
    assert status["validator"] == {"address": make_key(1).address.hex(), "power": 10}
    assert status["catching_up"] is False
    assert status["peer_count"] == 0
    assert status["mempool"] == {"transactions": 0, "bytes": 0}
    assert int(status["consensus"]["height"]) >= position.height
    assert status["consensus"]["step"] in {"propose", "prevote", "precommit", "decided"}
    assert status["peer_id"] == served.services.network.peer_id
    assert status["moniker"] == "quorate-node"
    assert "block 1, app 1" in status["version"]


async def test_a_node_alone_is_ready_while_its_chain_advances(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    await served.wait_for_height(1)
    assert await served.get("/ready") == {"ready": True}
    await served.cluster.stop(served.member)
    await trio.sleep(0.1)
    assert await served.get("/ready") == {"ready": True}
    monkeypatch.setattr("node.rpc.status.STALL_ROUNDS", 0)
    monkeypatch.setattr("node.rpc.status.STALL_S_MIN", 0)
    problem = assert_problem(await served.client.get("/ready"), 503, "not_available")
    assert "no block has come" in problem["detail"]


async def test_a_node_that_is_behind_is_not_ready(served: Served) -> None:
    await served.wait_for_height(1)
    await served.cluster.stop(served.member)  # Or it would ask this peer, and be disappointed.
    served.services.catch_up.on_status(PeerId("somebody"), Height(10**6), Height(1))
    problem = assert_problem(await served.client.get("/ready"), 503, "not_available")
    assert "of 1000000" in problem["detail"]
    assert (await served.get("/status"))["catching_up"] is True


async def test_a_node_without_links_is_not_ready(tmp_path: Path) -> None:
    async with open_rpc(tmp_path, genesis=make_genesis(4)) as served:
        problem = assert_problem(await served.client.get("/ready"), 503, "not_available")
        assert "no link" in problem["detail"]
        problem = assert_problem(await served.client.get("/block"), 404, "not_found")
        assert "No block is decided yet" in problem["detail"]
        assert (await served.get("/status"))["block_hash"] == ""


async def test_a_chain_that_makes_no_empty_blocks_is_ready_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.rpc.status.STALL_ROUNDS", 0)
    monkeypatch.setattr("node.rpc.status.STALL_S_MIN", -1)
    async with open_rpc(tmp_path, make_rpc_config(create_empty_blocks=False)) as served:
        assert await served.get("/ready") == {"ready": True}


async def test_the_genesis_document(served: Served) -> None:
    response = await served.client.get("/genesis")
    assert response.headers["content-type"] == "application/json"
    assert decode_genesis(response.content) == served.cluster.genesis


async def test_a_block_as_object_and_as_bytes(served: Served) -> None:
    transaction_hash = await served.send(ALICE, Transfer(BOB.address, 3))
    info = await served.get("/tx", hash=transaction_hash)
    height = info["height"]
    shown = await served.get("/block", height=height)
    response = await served.client.get("/block", params={"height": height}, headers=ACCEPT)
    assert response.headers["content-type"] == "application/msgpack"
    block = decode(Block, response.content, MIB)
    assert shown["block_id"]["hash"] == block.header.hash.hex()
    assert shown["block_id"]["hash"] == compute_block_id(block, response.content).hash.hex()
    assert shown["header"]["height"] == height
    assert shown["header"]["state_root"] == block.header.state_root.hex()
    assert shown["transactions"] == [raw.hex() for raw in block.transactions]
    assert shown["evidence"] == []
    assert shown["last_commit"]["height"] == str(int(height) - 1)
    assert (await served.get("/block", height=1))["last_commit"] is None


async def test_a_commit_proves_its_header(served: Served) -> None:
    await served.wait_for_height(2)
    for height in (1, 2):
        response = await served.client.get("/commit", params={"height": height}, headers=ACCEPT)
        header, commit = decode(tuple[Header, Commit], response.content, MIB)
        assert response.content == encode((header, commit))
        raw = await served.client.get("/validators", params={"height": height}, headers=ACCEPT)
        validators = ValidatorSet(decode(tuple[Validator, ...], raw.content, MIB))
        assert validators.root == header.validators_root
        verify_commit(CHAIN_ID, validators, height, header.hash, commit)
        shown = await served.get("/commit", height=height)
        assert shown["header"]["height"] == shown["commit"]["height"] == str(height)
        listed = await served.get("/validators", height=height)
        assert listed["total_power"] == "10"
        assert [each["address"] for each in listed["validators"]] == [
            validator.address.hex() for validator in validators.validators
        ]


async def test_the_latest_is_the_default(served: Served) -> None:
    await served.wait_for_height(3)
    for path, read in (
        ("/block", lambda answer: answer["header"]["height"]),
        ("/commit", lambda answer: answer["header"]["height"]),
        ("/validators", lambda answer: answer["height"]),
    ):
        assert int(read(await served.get(path))) >= 3


async def test_the_way_of_a_transaction(tmp_path: Path) -> None:
    config = make_rpc_config(create_empty_blocks=False)
    async with open_rpc(tmp_path, config) as served:
        raw = sign(ALICE, 0, Transfer(BOB.address, 3))
        transaction_hash = compute_transaction_hash(raw).hex()
        await served.cluster.stop(served.member)
        first = await served.submit(raw)
        assert (first.status_code, first.json()) == (
            202,
            {"hash": transaction_hash, "status": "pending"},
        )
        again = await served.submit(raw)
        assert (again.status_code, again.json()) == (200, first.json())
        assert await served.get("/tx", hash=transaction_hash) == first.json()
        account = await served.get(f"/v1/accounts/{ALICE.address.hex()}")
        assert (account["nonce"], account["pending_nonce"]) == ("0", "1")
        mempool = await served.get("/v1/mempool")
        assert (mempool["transactions"], mempool["ready"]) == (1, 1)


async def test_a_decided_transaction(served: Served) -> None:
    raw = sign(ALICE, 0, Transfer(BOB.address, 3))
    transaction_hash = await served.send(ALICE, Transfer(BOB.address, 3))
    found = await served.get("/tx", hash=transaction_hash)
    assert found["status"] == "decided"
    assert found["index"] == 0
    assert found["is_success"] is True
    assert found["transaction"]["transaction"]["body"] == {
        "type": "transfer",
        "to": BOB.address.hex(),
        "amount": "3",
    }
    again = await served.submit(raw)
    assert (again.status_code, again.json()["status"]) == (200, "decided")
    account = await served.get(f"/v1/accounts/{BOB.address.hex()}")
    assert account == {
        "address": BOB.address.hex(),
        "nonce": "0",
        "balance": str(BALANCE + 3),
        "pending_nonce": "0",
    }


async def test_an_account_that_nobody_has_seen(served: Served) -> None:
    address = "ab" * 20
    assert await served.get(f"/v1/accounts/{address}") == {
        "address": address,
        "nonce": "0",
        "balance": "0",
        "pending_nonce": "0",
    }


async def test_links_parameters_and_members(served: Served) -> None:
    info = await served.get("/net_info")
    assert info["peers"] == []
    assert info["listening"] == list(served.services.network.listen_addresses)
    parameters = await served.get("/v1/parameters")
    record = served.services.executor.state.get_parameters_record()
    assert parameters["root"] == record.parameters.root.hex()
    assert parameters["parameters"]["block_bytes_max"] == record.parameters.block_bytes_max
    assert parameters["change_count"] == "0"
    assert await served.get("/v1/members") == {"members": []}


async def test_the_members_of_a_permissioned_chain(tmp_path: Path) -> None:
    member = GenesisMember(ALICE.public_key, "hospital", Role.ADMINISTRATOR | Role.AUDITOR)
    genesis = make_genesis(1, admission=Admission.PERMISSIONED, accounts=(), members=(member,))
    async with open_rpc(tmp_path, genesis=genesis) as served:
        (shown,) = (await served.get("/v1/members"))["members"]
        assert shown["address"] == ALICE.address.hex()
        assert shown["organization"] == "hospital"
        assert shown["roles"] == ["auditor", "administrator"]


async def test_peers_of_a_linked_node(tmp_path: Path) -> None:
    async with open_rpc(tmp_path) as served:
        follower = served.cluster.add(None)
        await served.cluster.start(follower)
        await served.cluster.wait_for_height(2)
        (peer,) = (await served.get("/net_info"))["peers"]
        assert peer["peer_id"] == follower.running.services.network.peer_id
        assert peer["score"] == 100


async def test_the_openapi_document_names_every_route(served: Served) -> None:
    document = await served.get("/openapi.json")
    paths = document["paths"]
    expected = {
        "/health", "/ready", "/status", "/net_info", "/genesis", "/block", "/commit",
        "/validators", "/tx", "/v1/transactions", "/v1/transactions/batch",
        "/v1/accounts/{address}", "/v1/members", "/v1/parameters", "/v1/mempool", "/v1/tasks",
        "/v1/tasks/{task}", "/v1/tasks/{task}/participants", "/v1/tasks/{task}/rounds/{number}",
        "/v1/tasks/{task}/weights", "/v1/tasks/{task}/weights/chunks", "/v1/tasks/{task}/proof",
        "/v1/events", "/v1/payloads", "/v1/payloads/{payload}",
        "/v1/payloads/{payload}/chunks/{index}",
    }  # fmt: skip
    assert set(paths) == expected
    for path, methods in paths.items():
        for operation in methods.values():
            assert operation["description"], path
            refused = {int(s): r for s, r in operation["responses"].items() if int(s) >= 400}
            assert {400, 403, 413, 500, 503} <= set(refused), path
            for response in refused.values():
                ((media_type, content),) = response["content"].items()
                assert media_type == "application/problem+json"
                assert content["schema"]["$ref"].endswith("Problem")
    assert (
        "duplicate_update" in paths["/v1/transactions"]["post"]["responses"]["409"]["description"]
    )
    (height,) = paths["/block"]["get"]["parameters"]
    assert (height["name"], height["in"], height["required"]) == ("height", "query", False)


async def test_storage_that_fails_is_no_traceback(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    await served.wait_for_height(1)
    monkeypatch.setattr(
        "store.chain_store.ChainStore.load_block", lambda _store, _height: b"\xc1 damaged"
    )
    assert_problem(await served.client.get("/block"), 503, "not_available")
    monkeypatch.setattr("node.rpc.status.to_object", lambda _value: 1 // 0)
    problem = assert_problem(await served.client.get("/v1/parameters"), 500, "internal")
    assert "division" not in problem["detail"]


async def test_a_port_in_use_is_one_sentence(served: Served) -> None:
    config = make_rpc_config(RpcSection(listen=served.url.removeprefix("http://")))
    with pytest.raises(SurfaceListenError, match=r"cannot listen on 127\.0\.0\.1:\d+ \(.*in use\)"):
        await serve_rpc(replace(served.services, config=config))


async def test_a_json_submission(served: Served) -> None:
    raw = sign(ALICE, 0, Transfer(BOB.address, 1))
    response = await served.client.post(
        "/v1/transactions", json={"transaction": base64.b64encode(raw).decode()}
    )
    assert response.status_code == 202
    await served.wait_for(response.json()["hash"])


async def test_a_charset_beside_the_media_type_does_no_harm(served: Served) -> None:
    raw = sign(ALICE, 0, Transfer(BOB.address, 1))
    response = await served.client.post(
        "/v1/transactions",
        content=encode((raw, None)),
        headers={"content-type": MESSAGE_PACK["content-type"].upper() + "; charset=binary"},
    )
    assert response.status_code == 202
