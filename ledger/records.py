"""The records of the state, each with a version, in the canonical codec.

Owns their types and how they are encoded and decoded. Never decides what may be in one.
"""

from typing import Annotated, TypeVar

import msgpack
from msgspec import Meta, Struct
from quorate.chain.codec import encode
from quorate.chain.errors import StorageError
from quorate.chain.ids import (
    Int64,
    Name,
    Uint32,
    Uint64,
    WireAddress,
    WireHash,
    WirePublicKey,
)
from quorate.chain.known_types import convert_plain
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.receipt import ABSENCES_MAX, Absence, SealCause
from quorate.chain.round_policy import SILENT_ROUNDS_MAX
from quorate.chain.task import TaskSpec, UpdateCodec, UpdateLayout
from quorate.chain.transaction import ROLES_ALL, Metrics, TaskStatus

from ledger.keys import Prefix

RECORD_VERSION = 1
"""The version of every kind of record so far; it is a record's first element, its tag."""

Roles = Annotated[int, Meta(ge=1, le=ROLES_ALL)]

NO_TIME = -1
"""In place of a time: there is none."""
NO_TRAINING_ROUND = -1
WITHDRAWALS_LISTED_MAX = 64
"""The most withdrawn updates that a training round remembers by participant."""


class Record(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The base of all records."""


class ChainRecord(Record, frozen=True, tag=RECORD_VERSION):
    """Where the chain stands.

    `next_due_time_ms` is the block time at which the ledger needs a block, or `NO_TIME`.
    """

    height: Uint64
    time_ms: Uint64
    next_due_time_ms: Int64


class ParametersRecord(Record, frozen=True, tag=RECORD_VERSION):
    """The consensus parameters of the next height, and how often they have been changed."""

    parameters: ConsensusParameters
    change_count: Uint64


class AccountRecord(Record, frozen=True, tag=RECORD_VERSION):
    """An account: the nonce its next transaction carries, and its coins."""

    nonce: Uint64
    balance: Uint64


class MemberRecord(Record, frozen=True, tag=RECORD_VERSION):
    """A member of a permissioned chain; `roles` is a sum of `Role` values."""

    public_key: WirePublicKey
    organization: Name
    roles: Roles
    admitted_height: Uint64


class FrozenRound(Record, frozen=True):
    """A training round whose set is fixed and whose aggregate is being computed.

    `seed` is that of the block that sealed it; see `sealed_sets.compute_seed`.
    """

    training_round: Uint64
    update_count: Uint32
    set_root: WireHash
    height: Uint64
    seed: WireHash


class BestWeights(Record, frozen=True):
    """The finalized weights with the lowest median loss so far.

    `training_round` is the one in which they were the base weights and were evaluated.
    """

    training_round: Uint64
    weights_root: WireHash
    loss: Int64


class TaskRecord(Record, frozen=True, tag=RECORD_VERSION):
    """The changing part of a task, and its open training round.

    Attributes
    ----------
    dimension : int
        The number of parameters d, kept because counting those of many tensors takes its time.
    weights_root, optimizer_root : bytes, 32
        Content addresses, as the model root has them. The state's is `EMPTY_ROOT` until a training
        round is finalized, and then only where neither rule nor optimizer keeps anything.
    opened_height, opened_time_ms : int
        The block in which the training round opened.
    first_update_height : int
        The block that brought the first update of the training round, or 0.
    deadline_time_ms : int
        The block time from which the training round seals with its minimum.
    update_count, evaluation_count, registered_count : int
        How many slots of each are in use: slots 0 to count - 1.
    recent_roots : tuple of bytes, 32
        The roots an update may still be based on beside `weights_root`, oldest first; the last of
        them is one finalized training round older than `weights_root`.
    frozen : FrozenRound or None
        Set while the aggregate of a sealed set is being computed. In a synchronous task it is the
        open training round's, which takes no updates then; in an asynchronous one that of the
        round before.
    extension_count : int
        How often the training round has been extended.
    activity : tuple of int
        How many participants were last active, that is have registered or sent an update, so many
        training rounds ago: 0 first. Empty if the task's policy excuses nobody.
    withdrawn : tuple of Absence
        Who took an update out of the training round and has not come back; at most
        `WITHDRAWALS_LISTED_MAX` of `withdrawn_count`, which still counts those beyond if they do.
    """

    authority: WireAddress
    name: Name
    dimension: Uint32
    status: TaskStatus
    created_height: Uint64
    weights_root: WireHash
    optimizer_root: WireHash
    training_round: Uint64
    rounds_finalized: Uint64
    opened_height: Uint64
    opened_time_ms: Uint64
    first_update_height: Uint64
    deadline_time_ms: Uint64
    update_count: Uint32
    evaluation_count: Uint32
    registered_count: Uint32
    recent_roots: tuple[WireHash, ...]
    frozen: FrozenRound | None
    best: BestWeights | None
    extension_count: Uint32 = 0
    activity: Annotated[tuple[Uint32, ...], Meta(max_length=SILENT_ROUNDS_MAX + 1)] = ()
    withdrawn_count: Uint32 = 0
    withdrawn: Annotated[tuple[Absence, ...], Meta(max_length=WITHDRAWALS_LISTED_MAX)] = ()

    @property
    def is_sealed(self) -> bool:
        """Whether the open training round itself is frozen and takes no updates."""
        return self.frozen is not None and self.frozen.training_round == self.training_round

    @property
    def evaluated_round(self) -> int:
        """The training round that evaluations of the current weights go into the receipt of."""
        return self.training_round if self.frozen is None else self.frozen.training_round


def get_update_layout(task: TaskRecord, spec: TaskSpec) -> UpdateLayout:
    """Return how a task's updates are laid out, without adding up its many tensors."""
    return UpdateLayout(spec.codec, task.dimension, spec.top_k)


class TaskSpecRecord(Record, frozen=True, tag=RECORD_VERSION):
    """A task's specification."""

    spec: TaskSpec


class TaskNameRecord(Record, frozen=True, tag=RECORD_VERSION):
    """The task that a name belongs to."""

    task_id: WireHash


class RegistrationRecord(Record, frozen=True, tag=RECORD_VERSION):
    """A participant's registration for a task.

    `counted_round` is the last training round in which it has an update, or -1, and
    `update_slot` the place of that update. `active_round` is the one in which it registered or last
    sent an update.
    """

    slot: Uint32
    height: Uint64
    counted_round: Int64
    update_slot: Uint32
    active_round: Uint64


class ParticipantRecord(Record, frozen=True, tag=RECORD_VERSION):
    """Who holds a slot among a task's participants."""

    participant: WireAddress


class UpdateRecord(Record, frozen=True, tag=RECORD_VERSION):
    """An update of a training round that has not ended.

    `base_version` is the number of training rounds that had been finalized when its base weights
    were the task's.
    """

    participant: WireAddress
    payload_hash: WireHash
    payload_size: Uint64
    codec: UpdateCodec
    example_count: Uint32
    height: Uint64
    base_version: Uint64


class SealRecord(Record, frozen=True, tag=RECORD_VERSION):
    """What the receipt of a frozen training round will say of how it was sealed."""

    cause: SealCause
    registered_count: Uint32
    awaited_count: Uint32
    extension_count: Uint32
    absence_count: Uint32
    absences: Annotated[tuple[Absence, ...], Meta(max_length=ABSENCES_MAX)]


class UsageRecord(Record, frozen=True, tag=RECORD_VERSION):
    """What an account takes of the chain's room; see `quotas`."""

    registration_count: Uint32
    task_count: Uint32
    update_bytes: Uint64


class EvaluationRecord(Record, frozen=True, tag=RECORD_VERSION):
    """An evaluation of the current weights."""

    evaluator: WireAddress
    loss: Int64
    example_count: Uint32
    metrics: Metrics


class EvaluatorRecord(Record, frozen=True, tag=RECORD_VERSION):
    """The last training round in which somebody evaluated a task's weights."""

    training_round: Uint64


class ProposerRecord(Record, frozen=True, tag=RECORD_VERSION):
    """The height of a validator's last block."""

    height: Uint64


class OffenceRecord(Record, frozen=True, tag=RECORD_VERSION):
    """Evidence that has been recorded; punishment follows with staking."""

    evidence_hash: WireHash
    height: Uint64


RECORD_TYPES: dict[int, type[Record]] = {
    Prefix.CHAIN: ChainRecord,
    Prefix.PARAMETERS: ParametersRecord,
    Prefix.ACCOUNT: AccountRecord,
    Prefix.MEMBER: MemberRecord,
    Prefix.TASK: TaskRecord,
    Prefix.TASK_SPEC: TaskSpecRecord,
    Prefix.TASK_NAME: TaskNameRecord,
    Prefix.REGISTRATION: RegistrationRecord,
    Prefix.PARTICIPANT: ParticipantRecord,
    Prefix.UPDATE: UpdateRecord,
    Prefix.SEAL: SealRecord,
    Prefix.USAGE: UsageRecord,
    Prefix.EVALUATION: EvaluationRecord,
    Prefix.EVALUATOR: EvaluatorRecord,
    Prefix.PROPOSER: ProposerRecord,
    Prefix.OFFENCE: OffenceRecord,
}

R = TypeVar("R", bound=Record)

_pack_account = msgpack.Packer(use_bin_type=True).pack


def encode_record(record: Record) -> bytes:
    """Return the canonical bytes of a record."""
    if type(record) is AccountRecord:
        # Accounts are most of what a block writes; these are the same bytes, made directly.
        packed: bytes = _pack_account((RECORD_VERSION, record.nonce, record.balance))
        return packed
    return encode(record)


def decode_record(key: bytes, raw: bytes) -> Record:
    """Return the record that this node's own store holds under `key`.

    Raises
    ------
    StorageError
        If the record is not of a kind and version this program knows.
    """
    kind = RECORD_TYPES.get(key[0]) if key else None
    if kind is None:
        raise StorageError(
            f"The state has a record of unknown kind {key[:1].hex()}: start the version of the"
            " node that wrote it, or a newer one."
        )
    try:
        unpacked = msgpack.unpackb(raw)
        return convert_plain(unpacked, kind)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        # msgspec's and msgpack's own errors are ValueErrors.
        raise StorageError(
            f"A {kind.__name__} of the state cannot be read ({error}): start the version of the"
            " node that wrote it, or restore the data folder."
        ) from error
