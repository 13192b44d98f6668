"""What is wrong with a request is said with a stable code, and nothing of it is kept."""

import base64
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from msgspec.structs import replace
from quorate.chain.codec import encode
from quorate.chain.transaction import (
    RegisterParticipant,
    Transaction,
    Transfer,
    sign_transaction,
)

from node.config import MempoolSection, RpcSection
from tests.node.cluster import CHAIN_ID, USERS, sign
from tests.node.rpc.serving import (
    JSON,
    MESSAGE_PACK,
    Served,
    assert_problem,
    make_payload,
    make_rpc_config,
    make_spec,
    make_task,
    make_update,
    open_rpc,
    open_task,
    read_stored,
)

ALICE, BOB, CAROL = USERS[:3]
TRANSFER = Transfer(BOB.address, 1)
POSTS = ("/v1/transactions", "/v1/transactions/batch")


MALFORMED_MESSAGE_PACK = [
    b"",
    b"\xc1",
    b"\x92\xc4",
    b"not a message",
    encode((1, 2)),
    encode((b"x",)),
    encode((b"x", None, None)),
    encode([[b"x"]]),
    encode({}.get("x")),
    b"\x81\xa1a\x01",
    b"\xdd\xff\xff\xff\xff",
    b"\x91" * 5_000,
]


@pytest.mark.parametrize("path", POSTS)
async def test_malformed_message_pack(served: Served, path: str) -> None:
    before = read_stored(served)
    for body in MALFORMED_MESSAGE_PACK:
        response = await served.client.post(path, content=body, headers=MESSAGE_PACK)
        problem = assert_problem(response, 400, "malformed")
        assert "MessagePack" in problem["detail"], body
    assert read_stored(served) == before


MALFORMED_JSON = [
    b"",
    b"{",
    b"[]",
    b"{}",
    b'{"transaction": 1}',
    b'{"transaction": "***"}',
    b'{"transaction": "AAAA", "payloads": null}',
    b'{"transaction": "\xff"}',
    b"[" * 100_000,
]


async def test_malformed_json(served: Served) -> None:
    before = read_stored(served)
    for body in MALFORMED_JSON:
        response = await served.client.post("/v1/transactions", content=body, headers=JSON)
        problem = assert_problem(response, 400, "malformed")
        assert "JSON" in problem["detail"], body
    assert read_stored(served) == before


WRONG_CONTENT_TYPES = [
    ("/v1/transactions", "text/plain"),
    ("/v1/transactions", ""),
    ("/v1/transactions", "application/x-www-form-urlencoded"),
    ("/v1/transactions", "multipart/form-data; boundary=x"),
    ("/v1/transactions/batch", "application/json"),
    ("/v1/transactions/batch", "text/plain"),
]


async def test_wrong_content_type(served: Served) -> None:
    body = encode((sign(ALICE, 0, TRANSFER), None))
    for path, kind in WRONG_CONTENT_TYPES:
        response = await served.client.post(path, content=body, headers={"content-type": kind})
        assert_problem(response, 415, "malformed")
    assert served.services.mempool.count == 0


async def test_unknown_paths_and_methods(served: Served) -> None:
    assert_problem(await served.client.get("/nothing/here"), 404, "not_found")
    assert_problem(await served.client.post("/status"), 405, "malformed")
    response = await served.client.delete("/v1/transactions")
    assert_problem(response, 405, "malformed")
    assert "POST" in response.headers["allow"]


BAD_PARAMETERS: list[tuple[str, dict[str, str]]] = [
    ("/block", {"height": "-1"}),
    ("/block", {"height": "one"}),
    ("/block", {"height": str(2**64)}),
    ("/commit", {"height": "1.5"}),
    ("/tx", {}),
    ("/tx", {"hash": "zz"}),
    ("/tx", {"hash": "00" * 31}),
    ("/v1/accounts/00", {}),
    ("/v1/accounts/" + "g" * 40, {}),
    ("/v1/tasks", {"limit": "0"}),
    ("/v1/tasks", {"limit": "1001"}),
    ("/v1/events", {"types": "nothing"}),
    ("/v1/events", {"transaction": "00"}),
]


async def test_parameters_that_do_not_fit(served: Served) -> None:
    for path, parameters in BAD_PARAMETERS:
        assert_problem(await served.client.get(path, params=parameters), 400, "malformed")


async def test_heights_and_transactions_that_are_not_here(served: Served) -> None:
    await served.wait_for_height(1)
    for path in ("/block", "/commit", "/validators"):
        problem = assert_problem(
            await served.client.get(path, params={"height": 10**9}), 404, "not_found"
        )
        assert "from 1 to" in problem["detail"]
    assert_problem(await served.client.get("/tx", params={"hash": "00" * 32}), 404, "not_found")
    assert_problem(await served.client.get("/v1/tasks/nothing"), 404, "unknown_task")
    unknown = await served.client.get(f"/v1/tasks/{'00' * 32}/proof")
    problem = assert_problem(unknown, 404, "unknown_task")
    # Who asks may read either: a program, or a person at the command line.
    assert problem["detail"].endswith(": /v1/tasks and `quorate task list` list them.")


def forge(raw: bytes) -> bytes:
    return raw[:-1] + bytes([raw[-1] ^ 1])


def make_foreign() -> bytes:
    foreign = Transaction(1, "elsewhere", ALICE.public_key, 0, 0, TRANSFER)
    return sign_transaction(ALICE, foreign)


def make_long() -> bytes:
    return encode((b"x" * 70_000, b""))


Case = tuple[Callable[[], bytes], bytes | None, int, str]
CASES: dict[str, Case] = {
    "wrong chain id": (make_foreign, None, 400, "wrong_chain_id"),
    "bad signature": (lambda: forge(sign(ALICE, 0, TRANSFER)), None, 400, "bad_signature"),
    "nonce too high": (lambda: sign(ALICE, 7, TRANSFER), None, 409, "wrong_nonce"),
    "nonce far too high": (lambda: sign(ALICE, 10**6, TRANSFER), None, 409, "wrong_nonce"),
    "unknown task": (
        lambda: sign(ALICE, 0, RegisterParticipant(bytes(32))),
        None,
        404,
        "unknown_task",
    ),
    "no coins": (
        lambda: sign(ALICE, 0, Transfer(BOB.address, 10**12)),
        None,
        422,
        "insufficient_balance",
    ),
    "not a transaction": (lambda: b"rubbish", None, 400, "malformed"),
    "not canonical": (lambda: sign(ALICE, 0, TRANSFER) + b"\0", None, 400, "malformed"),
    "over-long transaction": (make_long, None, 413, "too_large"),
    "payload without need": (lambda: sign(ALICE, 0, TRANSFER), b"x", 422, "payload_mismatch"),
    "payload with another hash": (
        lambda: sign(ALICE, 0, make_task(make_spec())),
        bytes(24),
        422,
        "payload_mismatch",
    ),
    "payload with another size": (
        lambda: sign(ALICE, 0, make_task(make_spec())),
        bytes(23),
        422,
        "payload_mismatch",
    ),
    "payload left out": (
        lambda: sign(ALICE, 0, make_task(make_spec())),
        None,
        422,
        "payload_missing",
    ),
}


async def test_refused_transactions(served: Served) -> None:
    before = read_stored(served)
    for name, (make, payload, status, code) in CASES.items():
        raw = make()
        problem = assert_problem(await served.submit(raw, payload), status, code)
        document = {
            "transaction": base64.b64encode(raw).decode(),
            "payload": None if payload is None else base64.b64encode(payload).decode(),
        }
        in_json = await served.client.post("/v1/transactions", json=document)
        assert assert_problem(in_json, status, code) == problem, name
        response = await served.client.post(
            "/v1/transactions/batch", content=encode([(raw, payload)]), headers=MESSAGE_PACK
        )
        assert response.status_code == 200
        (result,) = response.json()["results"]
        assert (result["code"], result["detail"]) == (code, problem["detail"])
        assert read_stored(served) == before, name


async def test_a_nonce_that_was_used(served: Served) -> None:
    await served.send(ALICE, TRANSFER)
    problem = assert_problem(
        await served.submit(sign(ALICE, 0, Transfer(BOB.address, 2))), 409, "wrong_nonce"
    )
    assert "next one, 1" in problem["detail"]


async def make_bad_update(
    served: Served, task_id: bytes, payload: bytes, key: Any = BOB, **changes: Any
) -> tuple[bytes, bytes]:
    body, data = make_update(served, task_id, payload, **changes)
    return sign(key, served.services.mempool.pending_nonce(key.address), body), data


def with_lowest_value() -> bytes:
    values = np.full(6, 1, dtype="<i2")
    values[3] = -32768
    return values.tobytes()


async def test_refused_updates(served: Served) -> None:
    task_id = await open_task(served, ALICE, BOB)
    good = make_payload()
    cases: list[tuple[tuple[bytes, bytes], int, str]] = [
        (await make_bad_update(served, task_id, make_payload(5, 5)), 422, "wrong_shape"),
        (await make_bad_update(served, task_id, with_lowest_value()), 422, "value_out_of_range"),
        (
            await make_bad_update(served, task_id, good, base_weights_root=bytes(32)),
            422,
            "stale_weights",
        ),
        (
            await make_bad_update(served, task_id, good, training_round=3),
            422,
            "wrong_training_round",
        ),
        (await make_bad_update(served, task_id, good, key=CAROL), 422, "not_admitted"),
        (
            await make_bad_update(served, task_id, good, payload_hash=bytes(32)),
            422,
            "payload_mismatch",
        ),
        (
            (sign(BOB, 1, replace(make_update(served, task_id, good)[0], task_id=bytes(32))), good),
            404,
            "unknown_task",
        ),
    ]
    before = read_stored(served)
    for (raw, payload), status, code in cases:
        problem = assert_problem(await served.submit(raw, payload), status, code)
        assert len(problem["detail"]) > 20
    assert read_stored(served) == before


async def test_an_unknown_codec_is_not_read(served: Served) -> None:
    task_id = await open_task(served, ALICE, BOB)
    body, payload = make_update(served, task_id, make_payload())
    plain = msgpack.unpackb(
        encode(Transaction(1, CHAIN_ID, BOB.public_key, 1, 0, body)), use_list=True
    )
    plain[5][4] = 99
    raw = msgpack.packb([plain, bytes(64)], use_bin_type=True)
    problem = assert_problem(await served.submit(raw, payload), 400, "malformed")
    assert "99" in problem["detail"]


async def test_a_second_update_in_one_training_round(served: Served) -> None:
    spec = make_spec(updates_min=2, updates_max=2)
    task_id = await open_task(served, ALICE, BOB, CAROL, spec=spec)
    await served.send(BOB, *make_update(served, task_id, make_payload(1)))
    before = read_stored(served)
    raw, payload = await make_bad_update(served, task_id, make_payload(2))
    assert_problem(await served.submit(raw, payload), 409, "duplicate_update")
    assert read_stored(served) == before


async def test_a_full_mempool_says_when_to_try_again(tmp_path: Path) -> None:
    config = make_rpc_config(
        mempool=MempoolSection(transactions_max=2, per_sender_max=2), create_empty_blocks=False
    )
    async with open_rpc(tmp_path, config) as served:
        await served.cluster.stop(served.member)  # Nobody empties the mempool.
        for nonce in range(2):
            response = await served.submit(sign(ALICE, nonce, TRANSFER))
            assert response.status_code == 202
        before = read_stored(served)
        response = await served.submit(sign(BOB, 0, TRANSFER))
        assert_problem(response, 503, "mempool_full")
        assert int(response.headers["retry-after"]) >= 1
        assert read_stored(served) == before


async def test_a_sender_over_its_quota_says_when_to_try_again(tmp_path: Path) -> None:
    config = make_rpc_config(
        mempool=MempoolSection(transactions_max=9, per_sender_max=1), create_empty_blocks=False
    )
    async with open_rpc(tmp_path, config) as served:
        await served.cluster.stop(served.member)
        assert (await served.submit(sign(ALICE, 0, TRANSFER))).status_code == 202
        response = await served.submit(sign(ALICE, 1, TRANSFER))
        assert_problem(response, 429, "quota_exceeded")
        assert int(response.headers["retry-after"]) >= 1


async def test_a_batch_over_its_limit(served: Served) -> None:
    for count in (1001, 2_000_000):
        body = b"\xdd" + count.to_bytes(4, "big") + b"\x92\xc4\x00\xc0" * count
        response = await served.client.post(POSTS[1], content=body, headers=MESSAGE_PACK)
        problem = assert_problem(response, 400, "malformed")
        assert "1000" in problem["detail"]
    assert served.services.mempool.count == 0


async def test_a_batch_takes_what_is_good(served: Served) -> None:
    batch = [
        (sign(ALICE, 0, TRANSFER), None),
        (forge(sign(ALICE, 1, TRANSFER)), None),
        (b"rubbish", b"payload"),
        (sign(ALICE, 1, TRANSFER), None),
        (sign(ALICE, 0, TRANSFER), None),
    ]
    response = await served.client.post(POSTS[1], content=encode(batch), headers=MESSAGE_PACK)
    results = response.json()["results"]
    assert [result.get("code", result.get("status")) for result in results] == [
        "pending",
        "bad_signature",
        "malformed",
        "pending",
        "pending",
    ]
    packed = await served.client.post(
        POSTS[1],
        content=encode(batch),
        headers=MESSAGE_PACK | {"accept": "application/msgpack"},
    )
    assert packed.headers["content-type"] == "application/msgpack"
    again = msgpack.unpackb(packed.content)["results"]
    assert [result["hash"].hex() for result in again] == [result["hash"] for result in results]
    assert again[1]["code"] == "bad_signature"
    assert again[0]["status"] in {"pending", "decided"}


# --- fuzz ----------------------------------------------------------------------------------------


def mutate(generator: random.Random, valid: bytes) -> bytes:
    changed = bytearray(valid)
    for _ in range(generator.randint(1, 4)):
        match generator.randrange(4):
            case 0 if changed:
                changed[generator.randrange(len(changed))] = generator.randrange(256)
            case 1 if changed:
                del changed[generator.randrange(len(changed)) :]
            case 2:
                position = generator.randrange(len(changed) + 1)
                changed[position:position] = generator.randbytes(generator.randint(1, 8))
            case _:
                changed += generator.randbytes(3)
    return bytes(changed)


def make_garbage(generator: random.Random, valid: list[bytes]) -> bytes:
    match generator.randrange(4):
        case 0:
            return generator.randbytes(generator.randint(0, 300))
        case 1:
            leaf = generator.choice([None, -1, 2**64 - 1, 1.5, "text", b"bytes", True, {}, []])
            depth = generator.randint(0, 6)
            for _ in range(depth):
                leaf = [leaf] * generator.randint(0, 3)
            return bytes(msgpack.packb(leaf))
        case _:
            return mutate(generator, generator.choice(valid))


@pytest.mark.parametrize("seed", range(4))
async def test_garbage_is_never_the_nodes_fault(served: Served, seed: int) -> None:
    generator = random.Random(seed)
    raw = sign(CAROL, 0, TRANSFER)
    update = sign(CAROL, 0, make_task(make_spec()))
    document = b'{"transaction":"' + base64.b64encode(raw) + b'","payload":null}'
    valid = [encode((raw, None)), encode([(raw, None)] * 3), encode((update, b"x")), document]
    kinds = ["application/msgpack", "application/json", "text/plain", ""]
    answered = 0
    for _ in range(150):
        response = await served.client.post(
            generator.choice(POSTS),
            content=make_garbage(generator, valid),
            headers={"content-type": generator.choices(kinds, [6, 3, 1, 1])[0]},
        )
        answered += 1
        assert response.status_code < 500, response.text
        if response.status_code >= 400:
            assert response.headers["content-type"] == "application/problem+json"
            assert response.json()["code"]
    assert answered == 150
    assert (await served.get("/health")) == {}


@pytest.mark.parametrize("seed", range(2))
async def test_odd_paths_and_queries_are_never_the_nodes_fault(served: Served, seed: int) -> None:
    generator = random.Random(seed)
    paths = [
        "/block", "/commit", "/validators", "/tx", "/v1/tasks", "/v1/events", "/v1/accounts/",
        "/v1/tasks/x/rounds/", "/v1/tasks/x/weights", "/v1/tasks/x/proof", "/openapi.json/",
    ]  # fmt: skip
    names = ["height", "hash", "types", "transaction", "start", "limit", "chunk"]
    for _ in range(120):
        path = generator.choice(paths) + "".join(
            generator.choice(["%00", "%ff", "..", "//", "%2F", "a", "%F0%9F%A6%86", "9" * 30])
            for _ in range(generator.randrange(4))
        )
        value = generator.choice(["", "-1", "9" * 40, "%00", "%FF", "nan", "[]", "0x1"])
        url = f"{path}?{generator.choice(names)}={value}"
        async with served.client.stream("GET", url) as response:
            assert response.status_code < 500 or response.status_code == 503, url


async def test_an_over_long_body_is_not_read(tmp_path: Path) -> None:
    config = make_rpc_config(RpcSection(listen="127.0.0.1:0", body_bytes_max=1 << 20))
    async with open_rpc(tmp_path, config) as served:
        response = await served.client.post(
            POSTS[0], content=bytes((1 << 20) + 1), headers=MESSAGE_PACK
        )
        problem = assert_problem(response, 413, "too_large")
        assert str(1 << 20) in problem["detail"]
        fits = await served.client.post(POSTS[0], content=bytes(1 << 20), headers=MESSAGE_PACK)
        assert fits.status_code == 400

        async def chunks() -> Any:
            for _ in range(64):
                yield bytes(1 << 16)

        response = await served.client.post(POSTS[1], content=chunks(), headers=MESSAGE_PACK)
        assert_problem(response, 413, "too_large")
        assert served.services.mempool.count == 0
