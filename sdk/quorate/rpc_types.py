"""What a node answers, typed.

Owns the types of the RPC's answers that are not the chain's own types. Never parses: the
functions of `quorate.rpc_protocol` do. Integers beyond 53 bits and byte strings travel as text;
here they are integers and bytes.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

from msgspec import Struct, field

from quorate.chain.genesis import Genesis
from quorate.chain.ids import Hash
from quorate.chain.receipt import RoundReceipt
from quorate.chain.task import TaskSpec
from quorate.chain.transaction import TaskStatus

T = TypeVar("T")


class HexBytes(bytes):
    """Bytes that read as hexadecimal, in print and in JSON."""

    def __str__(self) -> str:
        return self.hex()

    def __repr__(self) -> str:
        return f"HexBytes({self.hex()})"


class ValidatorInfo(Struct, frozen=True):
    """The node's own vote."""

    address: HexBytes
    power: int


class MempoolInfo(Struct, frozen=True):
    """What waits for a block."""

    transactions: int = 0
    bytes: int = 0


class ConsensusInfo(Struct, frozen=True):
    """Where the node stands in deciding the next block."""

    height: int = 0
    round: int = 0
    step: str = ""


class Status(Struct, frozen=True):
    """The answer to `/status`: who the node is and what it has decided.

    Attributes
    ----------
    height, block_hash, block_time_ms, state_root, model_root
        Of the latest decided block.
    earliest_height : int
        The lowest block the node still has.
    catching_up : bool
        Whether it knows of higher blocks than its own.
    validator : ValidatorInfo or None
        Its vote, if it has one.
    """

    chain_id: str
    genesis_hash: HexBytes
    height: int
    block_hash: HexBytes
    state_root: HexBytes
    model_root: HexBytes
    block_time_ms: int = 0
    earliest_height: int = 0
    catching_up: bool = False
    version: str = ""
    moniker: str = ""
    peer_id: str = ""
    listen_addresses: tuple[str, ...] = ()
    validator: ValidatorInfo | None = None
    peer_count: int = 0
    mempool: MempoolInfo = field(default_factory=MempoolInfo)
    consensus: ConsensusInfo = field(default_factory=ConsensusInfo)


class Account(Struct, frozen=True):
    """An account; one that the chain has never seen is all zeros.

    `pending_nonce` is the nonce the next transaction must have: it counts those that wait.
    """

    address: HexBytes
    nonce: int
    balance: int
    pending_nonce: int


class Submitted(Struct, frozen=True):
    """What became of a submission.

    `status` is "pending" or "decided"; or "refused", and then `code` and `detail` say why.
    """

    hash: HexBytes
    status: str = "refused"
    code: str | None = None
    detail: str | None = None

    @property
    def is_accepted(self) -> bool:
        """Whether the node has taken the transaction."""
        return self.code is None


class PayloadInfo(Struct, frozen=True):
    """Where a payload stands at a node.

    Attributes
    ----------
    payload_hash : bytes, 32
        Its content address.
    size : int
        Its bytes.
    is_complete : bool
        Whether the node has all of it.
    missing : tuple of int
        The chunks of 1 MiB that the node does not have.
    announced_power, total_power : int
        The power of the validators that have told of having all of it, and of all of them. An
        update whose payload is large enters a block once it is more than two thirds.
    """

    payload_hash: HexBytes
    size: int
    is_complete: bool
    missing: tuple[int, ...] = ()
    announced_power: int = 0
    total_power: int = 0


class TransactionInfo(Struct, frozen=True):
    """Where a transaction is: "pending", or "decided" at a height.

    Of a pending one with a large payload, `payload` tells what it waits for.
    """

    hash: HexBytes
    status: str = "decided"
    height: int | None = None
    index: int | None = None
    is_success: bool | None = None
    payload: PayloadInfo | None = None

    @property
    def is_decided(self) -> bool:
        """Whether it is in a decided block."""
        return self.status == "decided"


class ChunkList(Struct, frozen=True):
    """The chunks of weights, as a node says; they prove something together with root and size.

    Attributes
    ----------
    weights_root : bytes, 32
    height, training_round : int
        Since when they are a task's weights.
    size : int
        Their bytes.
    chunk_hashes : tuple of bytes, 32
    """

    weights_root: HexBytes
    height: int
    training_round: int
    size: int
    chunk_hashes: tuple[HexBytes, ...]


class TaskSummary(Struct, frozen=True):
    """A line in the list of tasks."""

    task_id: HexBytes
    name: str
    training_round: int


@dataclass(frozen=True)
class Task:
    """A task: what it is, and how far its training is.

    Attributes
    ----------
    spec : TaskSpec
        Fixed at its creation.
    authority : bytes, 20
        Who may change it.
    training_round : int
        The round that is open now.
    weights_root, optimizer_root : bytes, 32
        Of the latest finalized weights.
    participants : int
        How many are registered.
    """

    task_id: Hash
    name: str
    authority: HexBytes
    status: TaskStatus
    training_round: int
    weights_root: Hash
    optimizer_root: Hash
    participants: int
    spec: TaskSpec


class ParticipantInfo(Struct, frozen=True):
    """A registered participant.

    Attributes
    ----------
    address : bytes, 20
    registered_height : int
    has_update : bool
        Whether the open training round has an update of it.
    is_awaited : bool
        Whether that round waits for it until its deadline; not for who was silent for long.
    active_round : int
        The training round in which it registered or last sent an update.
    """

    address: HexBytes
    registered_height: int = 0
    has_update: bool = False
    is_awaited: bool = True
    active_round: int = 0


class UpdateInfo(Struct, frozen=True):
    """An update in a training round that has not ended; see `UpdateReceipt` for the fields."""

    participant: HexBytes
    payload_hash: HexBytes
    example_count: int = 0
    staleness: int = 0


@dataclass(frozen=True)
class TrainingRound:
    """A training round.

    Attributes
    ----------
    status : str
        "open", "frozen" (closed, the aggregate is being computed), "finalized" or "void".
    base_weights_root : bytes, 32
        What its updates are differences to.
    opened_time_ms, deadline_ms : int
        In block time; 0 once it is over.
    updates : tuple of UpdateInfo
        What is in so far.
    height : int or None
        Where it ended.
    receipt : RoundReceipt or None
        How it ended: who was counted, who was not and why, and the weights that followed.
    participants, awaited, extensions : int
        How many participants the task has, how many of them the round waits for until its
        deadline, and how often that has been moved; 0 once it is over.
    """

    training_round: int
    status: str
    base_weights_root: Hash
    opened_time_ms: int = 0
    deadline_ms: int = 0
    updates: tuple[UpdateInfo, ...] = ()
    height: int | None = None
    receipt: RoundReceipt | None = None
    participants: int = 0
    awaited: int = 0
    extensions: int = 0

    @property
    def is_over(self) -> bool:
        """Whether its outcome is decided: finalized or void."""
        return self.receipt is not None and self.status not in ("open", "frozen")


@dataclass(frozen=True)
class Weights:
    """Weights as a node serves them; not verified.

    Attributes
    ----------
    data : bytes, 4 * d
        Little-endian int32 fixed point; its Merkle root is `root`, that much has been checked.
    root : bytes, 32
    height, training_round : int
        Since when they are the latest, as the node says.
    """

    data: bytes
    root: Hash
    height: int
    training_round: int


@dataclass(frozen=True)
class Event:
    """Something that happened on the chain.

    Attributes
    ----------
    id : str
        Its sequence number at this node, from which a subscription resumes.
    type : str
        "block", "training_round", "transaction" or "round".
    data : dict
        As the node sends it; 64-bit integers and bytes are text.
    """

    id: str
    type: str
    data: dict[str, object]


@dataclass(frozen=True)
class Rows(Generic[T]):
    """A page of a list, and how many rows the whole list has."""

    rows: tuple[T, ...]
    total: int


@dataclass(frozen=True)
class Page(Generic[T]):
    """One chunk of a download, with what the node says it belongs to."""

    data: T
    root: Hash
    height: int
    training_round: int


__all__ = [
    "Account",
    "ChunkList",
    "ConsensusInfo",
    "Event",
    "Genesis",
    "HexBytes",
    "MempoolInfo",
    "ParticipantInfo",
    "PayloadInfo",
    "Status",
    "Submitted",
    "Task",
    "TaskSummary",
    "TrainingRound",
    "TransactionInfo",
    "UpdateInfo",
    "ValidatorInfo",
    "Weights",
]
