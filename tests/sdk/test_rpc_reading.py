"""Whatever a node answers, reading it gives a typed value or a ProtocolError."""

import json
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from quorate import ProtocolError, RpcError
from quorate import rpc_protocol as rpc
from quorate.chain.codec import encode
from quorate.chain.receipt import RoundOutcome
from quorate.chain.transaction import TaskStatus
from quorate.rpc_reading import Response, read_problem, read_round_receipt
from quorate.rpc_types import HexBytes, Task

from node.views import to_object
from tests.chain.samples import SPEC, make_hash, make_receipts

CALLS = [
    rpc.get_status(),
    rpc.get_genesis(),
    rpc.get_block(None),
    rpc.get_commit(3),
    rpc.get_validators(3),
    rpc.get_transaction(bytes(32)),
    rpc.submit(b"", None),
    rpc.submit_batch([(b"", None)]),
    rpc.get_account(bytes(20)),
    rpc.get_tasks(),
    rpc.get_task("x"),
    rpc.get_participants("x"),
    rpc.get_training_round("x", None),
    rpc.get_proof("x", None),
    rpc.get_weights("x", 100, None),
]
NAMES = [
    "task_id", "hash", "height", "training_round", "status", "receipt", "updates", "leaf", "proof",
    "index", "total", "siblings", "spec_msgpack", "weights_root", "base_weights_root", "results",
    "tasks", "participants", "outcome", "code", "detail", "nonce", "balance", "validators",
]  # fmt: skip
HEX = st.binary(max_size=40).map(bytes.hex) | st.just("ab" * 32)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | HEX
    | st.integers(-(2**70), 2**70).map(str),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=8)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.request.path)
@given(
    body=st.binary(max_size=100) | JSON.map(lambda plain: json.dumps(plain).encode()),
    headers=st.dictionaries(
        st.sampled_from(["quorate-weights-root", "quorate-height", "quorate-training-round"]),
        HEX | st.text(max_size=5),
    ),
    status=st.sampled_from([200, 202, 204, 301, 400, 404, 503]),
)
def test_any_answer_is_read_or_refused(
    call: rpc.Call[object], body: bytes, headers: dict[str, str], status: int
) -> None:
    refused: RpcError | ProtocolError | None = None
    try:
        rpc.read_response(call, Response(status, headers, body))
    except (RpcError, ProtocolError) as error:
        refused = error
    assert isinstance(refused, RpcError) == (status >= 400)
    if isinstance(refused, ProtocolError):
        assert call.request.path in str(refused)


def make_task_answer(**changes: object) -> bytes:
    plain = {
        "task_id": "01" * 32,
        "name": "digits",
        "authority": "02" * 20,
        "status": "open",
        "training_round": str(2**60),
        "weights_root": "03" * 32,
        "optimizer_root": "04" * 32,
        "spec_msgpack": encode(SPEC).hex(),
        "participants": 3,
    }
    return msgspec.json.encode(plain | changes)


def read_task(**changes: object) -> Task:
    return rpc.read_response(rpc.get_task("x"), Response(200, {}, make_task_answer(**changes)))


@pytest.mark.parametrize(
    ("status", "expected"),
    [("open", TaskStatus.OPEN), ("PAUSED", TaskStatus.PAUSED), (2, TaskStatus.COMPLETED)],
)
def test_a_status_is_a_name_or_a_number(status: object, expected: TaskStatus) -> None:
    task = read_task(status=status)
    assert task.status is expected
    assert task.training_round == 2**60
    assert task.spec == SPEC


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "half-open"},
        {"status": 9},
        {"task_id": "zz"},
        {"task_id": 5},
        {"spec_msgpack": "00"},
        {"spec_msgpack": encode(SPEC).hex() + "00"},
        {"training_round": "1.5"},
        {"name": None},
    ],
    ids=range(8),
)
def test_a_task_that_is_none_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ProtocolError, match="answered nonsense"):
        read_task(**changes)


def test_receipts_of_answers_and_events_are_read_alike() -> None:
    plain = {
        "task_id": "01" * 32,
        "training_round": "5",
        "outcome": 3,
        "base_weights_root": "02" * 32,
        "weights_root": "02" * 32,
        "set_root": "",
        "updates": [],
        "saturated": "0",
        "clamped": 0,
        "evaluation_count": 0,
        "evaluations": [],
        "height": "77",
    }
    receipt = read_round_receipt(plain)
    assert receipt.outcome is RoundOutcome.VOID
    assert (receipt.training_round, receipt.set_root) == (5, b"")
    wrongs: list[tuple[str, object]] = [
        ("outcome", "won"),
        ("outcome", 9),
        ("updates", [1]),
        ("updates", 7),
        ("task_id", None),
        ("task_id", "01"),
        ("saturated", "-1"),
        ("seed", "zz"),
        ("rule", []),
        ("absences", [{"participant": "01" * 20, "reason": "bored"}]),
    ]
    for name, wrong in wrongs:
        with pytest.raises(ProtocolError, match="not the receipt"):
            read_round_receipt(plain | {name: wrong})


@pytest.mark.parametrize("change", [{}, {"rule": None, "absences": ()}])
def test_every_field_of_a_receipt_comes_back(change: dict[str, object]) -> None:
    (receipt,) = make_receipts().rounds
    receipt = replace(receipt, **change)
    plain = msgspec.json.decode(msgspec.json.encode(to_object(receipt)))
    assert read_round_receipt(plain) == receipt


def test_a_problem_is_read_with_its_hint() -> None:
    body = msgspec.json.encode({"code": "mempool_full", "detail": "x" * 9000, "extra": 1})
    error = read_problem(Response(503, {"retry-after": "3"}, body))
    assert (error.status, error.code, error.retry_after_s) == (503, "mempool_full", 3.0)
    assert len(error.detail) == 2000


@pytest.mark.parametrize(
    ("key", "path"),
    [
        (b"\x01" * 32, "/v1/tasks/" + "01" * 32),
        ("digits", "/v1/tasks/digits"),
        ("a:b/c d?e#f", "/v1/tasks/a%3Ab%2Fc%20d%3Fe%23f"),
    ],
)
def test_task_keys_become_paths(key: bytes | str, path: str) -> None:
    assert rpc.get_task(key).request.path == path


def test_hex_bytes_read_as_hexadecimal() -> None:
    value = HexBytes(make_hash("x"))
    assert str(value) == value.hex() == f"{value}"
    assert repr(value) == f"HexBytes({value.hex()})"
    assert value == make_hash("x")
    assert hash(value) == hash(make_hash("x"))


def test_calls_are_distinct() -> None:
    reads: list[Callable[..., object]] = [call.read for call in CALLS]
    assert len(reads) == len({call.request.path for call in CALLS})
