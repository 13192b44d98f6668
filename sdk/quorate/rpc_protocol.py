"""The RPC without I/O: requests as values, and answers from bytes to types.

Owns the paths, parameters and forms of every request, and which reader its answer goes through:
what does not fit is a `ProtocolError`. Never sends anything; the clients do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from urllib.parse import quote

from quorate.chain.block import Block, Header
from quorate.chain.codec import decode, encode
from quorate.chain.content import CHUNK_BYTES
from quorate.chain.errors import DecodeError
from quorate.chain.genesis import GENESIS_BYTES_MAX, Genesis, decode_genesis
from quorate.chain.merkle import MerkleProof
from quorate.chain.parameters import BLOCK_BYTES_MAX
from quorate.chain.validators import Validator, ValidatorSet
from quorate.chain.vote import Commit
from quorate.chain.weights import ModelLeaf
from quorate.errors import ProtocolError
from quorate.rpc_reading import (
    Response,
    read_json,
    read_list,
    read_page,
    read_problem,
    read_proof,
    read_round,
    read_rows,
    read_task,
)
from quorate.rpc_types import (
    Account,
    Page,
    ParticipantInfo,
    Rows,
    Status,
    Submitted,
    Task,
    TaskSummary,
    TrainingRound,
    TransactionInfo,
)

T = TypeVar("T")

ANSWER_BYTES_MAX = 32 << 20
"""No answer but a genesis document or weights is larger."""
BATCH_MAX = 1000
MESSAGE_PACK = "application/msgpack"

TaskKey = bytes | str | Task
"""A task: its id as bytes or hexadecimal text, its name, or itself."""


@dataclass(frozen=True)
class Request:
    """An HTTP request; every one may be sent again without harm."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    bytes_max: int = ANSWER_BYTES_MAX
    """The most bytes a sound answer has; reading stops there."""


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request, and how its successful answer is read."""

    request: Request
    read: Callable[[Response], T]


def read_response(call: Call[T], response: Response) -> T:
    """Return what a response says.

    Raises
    ------
    RpcError
        If the node refused the request.
    ProtocolError
        If the answer is none that a sound node gives.
    """
    if response.status >= 400:
        raise read_problem(response)
    if response.status >= 300:
        raise ProtocolError(f"{call.request.path} answered with HTTP {response.status}")
    try:
        return call.read(response)
    except (ValueError, TypeError, KeyError, DecodeError, ProtocolError, RecursionError) as error:
        raise ProtocolError(f"{call.request.path} answered nonsense: {error}") from error


def get_at_height(height: int | None) -> tuple[tuple[str, str], ...]:
    """Return the query for a height; without one, for the latest."""
    return () if height is None else (("height", str(height)),)


def _from_row(start: int) -> tuple[tuple[str, str], ...]:
    return (("start", str(start)),) if start else ()


def get_task_path(task: TaskKey) -> str:
    """Return the path of everything about a task."""
    match task:
        case Task():
            key = task.task_id.hex()
        case bytes():
            key = task.hex()
        case _:
            key = task
    return f"/v1/tasks/{quote(key, safe='')}"


def get_health() -> Call[bool]:
    """Ask whether the node answers."""
    return Call(Request("GET", "/health"), lambda _response: True)


def get_status() -> Call[Status]:
    """Ask who the node is and what it has decided."""
    return Call(Request("GET", "/status"), read_json(Status))


def get_genesis() -> Call[Genesis]:
    """Ask for the genesis document."""
    return Call(
        Request("GET", "/genesis", bytes_max=GENESIS_BYTES_MAX),
        lambda response: decode_genesis(response.content),
    )


def _in_message_pack(
    path: str, height: int | None, read: Callable[[bytes], T], bytes_max: int
) -> Call[T]:
    request = Request("GET", path, get_at_height(height), {"Accept": MESSAGE_PACK}, None, bytes_max)
    return Call(request, lambda response: read(response.content))


def get_block(height: int | None) -> Call[Block]:
    """Ask for a block; the latest without a height."""
    return _in_message_pack(
        "/block", height, lambda raw: decode(Block, raw, BLOCK_BYTES_MAX), BLOCK_BYTES_MAX
    )


def get_commit(height: int | None) -> Call[tuple[Header, Commit]]:
    """Ask for a block's header and the commit that proves it."""
    return _in_message_pack(
        "/commit",
        height,
        lambda raw: decode(tuple[Header, Commit], raw, ANSWER_BYTES_MAX),
        ANSWER_BYTES_MAX,
    )


def get_validators(height: int | None) -> Call[ValidatorSet]:
    """Ask for the validators of a height, with their places in the rotation."""
    return _in_message_pack(
        "/validators",
        height,
        lambda raw: ValidatorSet(decode(tuple[Validator, ...], raw, ANSWER_BYTES_MAX)),
        ANSWER_BYTES_MAX,
    )


def get_transaction(transaction_hash: bytes) -> Call[TransactionInfo]:
    """Ask where a transaction is."""
    return Call(
        Request("GET", "/tx", (("hash", transaction_hash.hex()),)), read_json(TransactionInfo)
    )


def submit(raw: bytes, payload: bytes | None) -> Call[Submitted]:
    """Hand over a signed transaction, with the bytes it refers to by hash, if any."""
    content = encode((raw, payload))
    request = Request(
        "POST", "/v1/transactions", headers={"Content-Type": MESSAGE_PACK}, content=content
    )
    return Call(request, read_json(Submitted))


def submit_batch(batch: Sequence[tuple[bytes, bytes | None]]) -> Call[tuple[Submitted, ...]]:
    """Hand over up to a thousand transactions, each accepted or refused by itself."""

    def read(response: Response) -> tuple[Submitted, ...]:
        results = read_list(Submitted, "results")(response)
        if len(results) != len(batch):
            raise ValueError(f"{len(results)} results for {len(batch)} transactions")
        return results

    request = Request(
        "POST",
        "/v1/transactions/batch",
        headers={"Content-Type": MESSAGE_PACK},
        content=encode(list(batch)),
    )
    return Call(request, read)


def get_account(address: bytes) -> Call[Account]:
    """Ask for an account's nonces and balance."""
    return Call(Request("GET", f"/v1/accounts/{address.hex()}"), read_json(Account))


def get_tasks(start: int = 0) -> Call[Rows[TaskSummary]]:
    """Ask for a page of the tasks."""
    return Call(Request("GET", "/v1/tasks", _from_row(start)), read_rows(TaskSummary, "tasks"))


def get_task(task: TaskKey) -> Call[Task]:
    """Ask for a task."""
    return Call(Request("GET", get_task_path(task)), read_task)


def get_participants(task: TaskKey, start: int = 0) -> Call[Rows[ParticipantInfo]]:
    """Ask for a page of those who are registered for a task."""
    return Call(
        Request("GET", get_task_path(task) + "/participants", _from_row(start)),
        read_rows(ParticipantInfo, "participants"),
    )


def get_training_round(task: TaskKey, number: int | None) -> Call[TrainingRound]:
    """Ask for a training round; the open one without a number."""
    name = "current" if number is None else str(number)
    return Call(Request("GET", f"{get_task_path(task)}/rounds/{name}"), read_round)


def get_weights(task: TaskKey, bytes_max: int, chunk: int | None) -> Call[Page[bytes]]:
    """Ask for the latest finalized weights, or one chunk of them."""
    query = () if chunk is None else (("chunk", str(chunk)),)
    bytes_max = bytes_max if chunk is None else min(bytes_max, CHUNK_BYTES)
    return Call(
        Request("GET", get_task_path(task) + "/weights", query, bytes_max=bytes_max), read_page
    )


def get_proof(task: TaskKey, height: int | None) -> Call[tuple[int, ModelLeaf, MerkleProof]]:
    """Ask for a height, what the chain says of a task there, and the proof of it."""
    return Call(Request("GET", get_task_path(task) + "/proof", get_at_height(height)), read_proof)


def get_events(
    types: Sequence[str], transactions: Sequence[bytes], last_event_id: str | None
) -> Request:
    """Return the request for a stream of events; what comes back is read line by line."""
    query = [("types", ",".join(types))] if types else []
    query += [("transaction", transaction.hex()) for transaction in transactions]
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
    if last_event_id is not None:
        headers["Last-Event-ID"] = last_event_id
    return Request("GET", "/v1/events", tuple(query), headers)
