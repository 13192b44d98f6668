"""The RPC's answers: from bytes to types.

Owns the checks on every answer: what a node sends is a claim until it is read here. A reader
raises ValueError, TypeError or KeyError on what does not fit. Never sends or asks for anything.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from msgspec import Struct

from quorate.chain.codec import decode, encode
from quorate.chain.errors import QuorateError
from quorate.chain.ids import Hash
from quorate.chain.known_types import convert_plain, decode_json
from quorate.chain.merkle import MerkleProof
from quorate.chain.receipt import RECEIPTS_BYTES_MAX, RoundReceipt
from quorate.chain.task import TaskSpec
from quorate.chain.transaction import TRANSACTION_BYTES_MAX, TaskStatus
from quorate.chain.weights import ModelLeaf
from quorate.errors import ProtocolError, RpcError
from quorate.rpc_types import HexBytes, Page, Rows, Task, TrainingRound, UpdateInfo
from quorate.view_reading import read_view

T = TypeVar("T")

_LEAF_BYTES_MAX = 1024
_PROOF_BYTES_MAX = 4096


@dataclass(frozen=True)
class Response:
    """An HTTP response; the names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class _Problem(Struct):
    code: str = "internal"
    detail: str = ""
    title: str = ""


def read_problem(response: Response) -> RpcError:
    """Read why a request was refused; never fails."""
    retry_after = response.headers.get("retry-after", "")
    retry_after_s = float(retry_after) if retry_after.isdecimal() else None
    try:
        problem = decode_json(response.content, _Problem)
    except (ValueError, RecursionError):  # A proxy in between, perhaps.
        problem = _Problem()
    detail = problem.detail or problem.title or "The node gives no reason."
    return RpcError(response.status, problem.code, detail[:2000], retry_after_s)


class _Total(Struct):
    total: int | None = None


def _convert_hex(kind: type, value: object) -> object:
    if kind is HexBytes and isinstance(value, str):
        return HexBytes(bytes.fromhex(value))
    if kind is object:  # What is read later, or by somebody else.
        return value
    raise TypeError(f"not {kind.__name__}: {value!r:.80}")


def _convert(plain: object, kind: type[T]) -> T:
    # Not strict, because 64-bit integers are decimal text.
    return convert_plain(plain, kind, is_strict=False, read_other=_convert_hex)


def read_json(kind: type[T]) -> Callable[[Response], T]:
    """Return a reader of a JSON object."""
    return lambda response: _convert(msgspec.json.decode(response.content), kind)


def read_list(kind: type[T], name: str) -> Callable[[Response], tuple[T, ...]]:
    """Return a reader of an object that holds a list under a name."""

    def read(response: Response) -> tuple[T, ...]:
        rows = msgspec.json.decode(response.content)[name]
        if not isinstance(rows, list):
            raise TypeError(f"{name} is no list")
        return tuple(_convert(row, kind) for row in rows)

    return read


def read_rows(kind: type[T], name: str) -> Callable[[Response], Rows[T]]:
    """Return a reader of a page of a list."""
    read_page_rows = read_list(kind, name)

    def read(response: Response) -> Rows[T]:
        rows = read_page_rows(response)
        total = _convert(msgspec.json.decode(response.content), _Total).total
        return Rows(rows, len(rows) if total is None else total)

    return read


def _read_status(value: str | int) -> TaskStatus:
    if isinstance(value, int) or value.isdecimal():
        return TaskStatus(int(value))
    return TaskStatus[value.upper()]


class _TaskAnswer(Struct):
    task_id: HexBytes
    name: str
    authority: HexBytes
    status: str | int
    training_round: int
    weights_root: HexBytes
    optimizer_root: HexBytes
    spec_msgpack: HexBytes
    participants: int = 0


def read_task(response: Response) -> Task:
    """Read a task."""
    answer = _convert(msgspec.json.decode(response.content), _TaskAnswer)
    return Task(
        Hash(answer.task_id),
        answer.name,
        answer.authority,
        _read_status(answer.status),
        answer.training_round,
        Hash(answer.weights_root),
        Hash(answer.optimizer_root),
        answer.participants,
        decode(TaskSpec, bytes(answer.spec_msgpack), TRANSACTION_BYTES_MAX),
    )


def read_round_receipt(plain: object) -> RoundReceipt:
    """Return the receipt in an answer or in the data of a `training_round` event.

    Raises
    ------
    ProtocolError
        If it is none.
    """
    try:
        return read_view(RoundReceipt, plain, RECEIPTS_BYTES_MAX)
    except (ValueError, TypeError, KeyError, QuorateError) as error:
        raise ProtocolError(f"not the receipt of a training round: {error}") from error


class _RoundAnswer(Struct):
    training_round: int | None = None
    status: str = "open"
    opened_time_ms: int = 0
    deadline_ms: int = 0
    updates: tuple[UpdateInfo, ...] = ()
    base_weights_root: HexBytes = HexBytes()
    participants: int = 0
    awaited: int = 0
    extensions: int = 0
    height: int | None = None
    receipt: dict[str, object] | None = None


def read_round(response: Response) -> TrainingRound:
    """Read a training round."""
    answer = _convert(msgspec.json.decode(response.content), _RoundAnswer)
    receipt = None if answer.receipt is None else read_round_receipt(answer.receipt)
    number = receipt.training_round if receipt is not None else answer.training_round
    if number is None or (receipt is None and len(answer.base_weights_root) != 32):
        raise TypeError("a training round has a number and a base")
    return TrainingRound(
        number,
        answer.status,
        Hash(answer.base_weights_root) if receipt is None else receipt.base_weights_root,
        answer.opened_time_ms,
        answer.deadline_ms,
        answer.updates,
        answer.height,
        receipt,
        answer.participants,
        answer.awaited,
        answer.extensions,
    )


class _ProofAnswer(Struct):
    height: int
    leaf: dict[str, HexBytes]
    proof: "_PathAnswer"


class _PathAnswer(Struct):
    index: int
    total: int
    siblings: tuple[HexBytes, ...]


def read_proof(response: Response) -> tuple[int, ModelLeaf, MerkleProof]:
    """Read a height, a leaf and the leaf's proof."""
    answer = _convert(msgspec.json.decode(response.content), _ProofAnswer)
    leaf = ModelLeaf(
        *(Hash(answer.leaf[name]) for name in ("task_id", "weights_root", "optimizer_root"))
    )
    siblings = tuple(Hash(sibling) for sibling in answer.proof.siblings)
    proof = MerkleProof(answer.proof.index, answer.proof.total, siblings)
    # Out and in again: the codec knows the bounds of every field.
    return (
        answer.height,
        decode(ModelLeaf, encode(leaf), _LEAF_BYTES_MAX),
        decode(MerkleProof, encode(proof), _PROOF_BYTES_MAX),
    )


def read_page(response: Response) -> Page[bytes]:
    """Read weights, or a chunk of them."""
    headers = response.headers
    root = bytes.fromhex(headers["quorate-weights-root"])
    if len(root) != 32:
        raise ValueError("a root has 32 bytes")
    return Page(
        response.content,
        Hash(root),
        int(headers["quorate-height"]),
        int(headers["quorate-training-round"]),
    )
