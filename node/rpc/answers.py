"""The shapes of the RPC's answers, and how they are written.

Owns one type per answer, from which the OpenAPI document is made, and the choice between JSON and
MessagePack. 64-bit integers are decimal text and byte strings lowercase hexadecimal, as in
`node.views`. Never fills an answer in: the handlers do.
"""

from collections.abc import Mapping
from typing import Annotated, Final

import msgspec
from litestar import Request, Response
from litestar.datastructures import State
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import PathParameter, QueryParameter
from msgspec import Struct
from quorate.chain.errors import ErrorCode
from quorate.chain.ids import INT64_MAX

from node.rpc.problems import HTTP_STATUS, PROBLEM_JSON, UNSUPPORTED_STATUS

JSON: Final = "application/json"
MESSAGE_PACK: Final = "application/msgpack"
OCTET_STREAM: Final = "application/octet-stream"
EVENT_STREAM: Final = "text/event-stream"

REFUSED_ANYWHERE: Final[Mapping[int, ErrorCode]] = {
    400: ErrorCode.MALFORMED,
    403: ErrorCode.NOT_AUTHORIZED,
    413: ErrorCode.TOO_LARGE,
    500: ErrorCode.INTERNAL,
    503: ErrorCode.NOT_AVAILABLE,
}
"""What any request may be refused with: by the door, for its parameters, for the node's state."""

View = dict[str, object]
"""A wire type as `node.views` shows it."""

AnyRequest = Request[object, object, State]

HeightQuery = Annotated[
    int | None, QueryParameter(ge=0, le=INT64_MAX, description="The latest by default.")
]
StartQuery = Annotated[
    int, QueryParameter(ge=0, le=INT64_MAX, description="How many to leave out.")
]
LimitQuery = Annotated[
    int, QueryParameter(ge=1, le=1000, description="The most that are returned.")
]
TaskPath = Annotated[str, PathParameter(description="The task's id in hexadecimal, or its name.")]


class Problem(Struct):
    """Why a request was refused (RFC 9457); `code` is stable."""

    type: str
    title: str
    status: int
    code: str
    detail: str


class Health(Struct):
    """The node answers."""


class Ready(Struct):
    """The node is linked, level and advancing."""

    ready: bool


class OwnValidator(Struct):
    """The node's own vote."""

    address: str
    power: int


class MempoolSize(Struct):
    """What waits for a block."""

    transactions: int
    bytes: int


class ConsensusStep(Struct):
    """Where the node stands in deciding the next block."""

    height: str
    round: int
    step: str


class Status(Struct):
    """Who the node is and what it has decided."""

    chain_id: str
    genesis_hash: str
    version: str
    moniker: str
    peer_id: str
    listen_addresses: tuple[str, ...]
    validator: OwnValidator | None
    height: str
    earliest_height: str
    block_hash: str
    block_time_ms: str
    state_root: str
    model_root: str
    catching_up: bool
    peer_count: int
    mempool: MempoolSize
    consensus: ConsensusStep


class Peer(Struct):
    """A linked peer."""

    peer_id: str
    address: str
    outbound: bool
    score: int
    latency_ms: float | None
    connected_s: float
    bytes_sent: str
    bytes_received: str


class NetInfo(Struct):
    """The node's links."""

    peer_id: str
    listening: tuple[str, ...]
    peers: list[Peer]


class Block(Struct):
    """A decided block."""

    block_id: View
    header: View
    transactions: list[str]
    evidence: list[View]
    last_commit: View | None


class SignedHeader(Struct):
    """A header and the commit that proves it."""

    header: View
    commit: View


class Validators(Struct):
    """The validators of a height."""

    height: str
    validators: list[View]
    total_power: str


class Payload(Struct):
    """Where a payload stands: the chunks of 1 MiB that are missing, and who has told of it."""

    payload_hash: str
    size: str
    is_complete: bool
    missing: list[int]
    announced_power: str = "0"
    total_power: str = "0"


class Transaction(Struct, omit_defaults=True):
    """Where a transaction is; pending ones have hash and status, and where a large payload is."""

    hash: str
    status: str
    height: str | None = None
    index: int | None = None
    transaction: View | None = None
    is_success: bool | None = None
    payload: Payload | None = None


class Submitted(Struct):
    """A transaction that was taken, now or before."""

    hash: str
    status: str


class BatchResult(Struct, omit_defaults=True, gc=False):
    """What became of a transaction of a batch: a status if it was taken, or else why not."""

    hash: str
    status: str | None = None
    code: str | None = None
    detail: str | None = None


class BatchResults(Struct):
    """What became of each transaction of a batch, in its order."""

    results: list[BatchResult]


class Account(Struct):
    """An account; `pending_nonce` is the nonce that its next transaction must have."""

    address: str
    nonce: str
    balance: str
    pending_nonce: str


class Member(Struct):
    """A member of a permissioned chain."""

    address: str
    public_key: str
    organization: str
    roles: list[str]
    admitted_height: str


class Members(Struct):
    """The members of a permissioned chain."""

    members: list[Member]


class Parameters(Struct):
    """The consensus parameters of the next height; `root` and `change_count` for a change."""

    parameters: View
    root: str
    change_count: str


class Mempool(Struct):
    """The mempool, and what it has refused since the start by code."""

    transactions: int
    bytes: int
    ready: int
    held: int
    transactions_max: int
    bytes_max: int
    refused: dict[str, int]


class TaskSummary(Struct):
    """A task in the list."""

    task_id: str
    name: str
    status: str
    training_round: str
    weights_root: str
    dimension: int
    participants: int


class Tasks(Struct):
    """Tasks in the order of their ids; `total` counts those left out, too."""

    tasks: list[TaskSummary]
    total: int


class Task(Struct):
    """A task: what it is and where its training stands; `spec_msgpack` is the canonical spec."""

    task_id: str
    name: str
    authority: str
    status: str
    training_round: str
    rounds_finalized: str
    weights_root: str
    optimizer_root: str
    dimension: int
    tensors: list[View]
    rule: View
    optimizer: View
    policy: View
    codec: str
    participants: int
    best: View | None
    created_height: str
    spec_msgpack: str


class Participant(Struct):
    """A registered participant.

    `has_update` and `is_awaited` tell about the open training round, `active_round` when the
    participant registered or last sent an update.
    """

    address: str
    registered_height: str
    has_update: bool
    is_awaited: bool
    active_round: str


class Participants(Struct):
    """Participants in the order of their registration; `total` counts those left out, too."""

    participants: list[Participant]
    total: int


class RoundUpdate(Struct):
    """An update in a training round that has not ended."""

    participant: str
    payload_hash: str
    example_count: int
    staleness: int


class TrainingRound(Struct, omit_defaults=True):
    """A training round: open or frozen with its updates, or over with its receipt."""

    training_round: str
    status: str
    opened_time_ms: str | None = None
    deadline_ms: str | None = None
    base_weights_root: str | None = None
    updates: list[RoundUpdate] | None = None
    evaluations: int | None = None
    participants: int | None = None
    awaited: int | None = None
    extensions: int | None = None
    height: str | None = None
    receipt: View | None = None


class Proof(Struct):
    """A task's leaf and the proof that the header of that height commits to it."""

    height: str
    leaf: View
    proof: View


class Chunk(Struct):
    """A chunk of a payload that is here."""

    payload_hash: str
    index: int


class WeightsChunks(Struct):
    """The chunks of a task's weights: since which block they are its weights, and their hashes."""

    weights_root: str
    height: str
    training_round: str
    size: str
    chunk_hashes: list[str]


def answer(value: Struct, status: int = 200) -> Response[bytes]:
    """Answer in JSON."""
    return Response(msgspec.json.encode(value), media_type=JSON, status_code=status)


def answer_either(request: AnyRequest, view: Struct, canonical: bytes) -> Response[bytes]:
    """Answer in the form that the client accepts: canonical bytes in MessagePack, or JSON."""
    if is_message_pack_accepted(request):
        return Response(canonical, media_type=MESSAGE_PACK)
    return answer(view)


def is_message_pack_accepted(request: AnyRequest) -> bool:
    """Tell whether a request's Accept header names MessagePack."""
    return MESSAGE_PACK in request.headers.get("accept", "")


def document(
    about: str,
    kind: type[object],
    *refusals: ErrorCode,
    status: int = 200,
    media_type: str = JSON,
    is_body_typed: bool = False,
) -> Mapping[int, ResponseSpec]:
    """Return what the OpenAPI document says of a handler's answers.

    Parameters
    ----------
    about : str
    kind : type
        What it answers with.
    *refusals : ErrorCode
        What it refuses with, beside that with which every request may be refused.
    status : int
    media_type : str
    is_body_typed : bool
        Whether it refuses bodies of another Content-Type.
    """
    codes: dict[int, list[ErrorCode]] = {each: [code] for each, code in REFUSED_ANYWHERE.items()}
    if is_body_typed:
        codes[UNSUPPORTED_STATUS] = [ErrorCode.MALFORMED]
    for code in refusals:
        told = codes.setdefault(HTTP_STATUS[code], [])
        if code not in told:
            told.append(code)
    described = {
        each: ResponseSpec(
            Problem,
            generate_examples=False,
            description=f"Refused: {', '.join(codes[each])}.",
            media_type=PROBLEM_JSON,
        )
        for each in sorted(codes)
    }
    answered = ResponseSpec(kind, generate_examples=False, description=about, media_type=media_type)
    return {status: answered, **described}
