"""Transactions: everything a party can ask of the chain.

Owns the bodies, the signed envelope, its hash and its signature. Never judges whether a
transaction is allowed: the ledger does. A new body takes the next free tag of its group; tags are
never reused, and a node refuses by name what it does not know.

Tags: 1-9 accounts and membership, 10-19 tasks, 20-29 training, 30-39 parameters. Staking (40-49),
contracts (50-59) and governance (60-69) have their place reserved.
"""

from enum import IntEnum, IntFlag
from hashlib import sha256
from typing import Annotated

from msgspec import Meta, Struct

from quorate.chain.codec import decode, encode
from quorate.chain.errors import DecodeError, ErrorCode, TransactionError
from quorate.chain.ids import (
    Address,
    ChainId,
    Hash,
    Int64,
    Name,
    Uint32,
    Uint64,
    WireAddress,
    WireHash,
    WirePublicKey,
    WireSignature,
    compute_address,
)
from quorate.chain.keys import Domain, PrivateKey, is_signature_valid
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.task import TaskSpec, UpdateCodec
from quorate.chain.weights import WEIGHT_BYTES

TRANSACTION_VERSION = 1
TRANSACTION_BYTES_MAX = 65_536
PAYLOAD_BYTES_MAX = 2**32
METRICS_MAX = 16
APPROVALS_MAX = 1024


class Role(IntFlag):
    """What a member of a permissioned chain may do."""

    VALIDATOR = 1
    DATA_PROVIDER = 2
    MODEL_USER = 4
    AUDITOR = 8
    ADMINISTRATOR = 16


ROLES_ALL = 31


class TaskStatus(IntEnum):
    """Whether a task takes updates."""

    OPEN = 0
    PAUSED = 1
    COMPLETED = 2


class Metric(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A named measurement, scaled to an integer with 16 fraction bits."""

    name: Name
    value: Int64


Metrics = Annotated[tuple[Metric, ...], Meta(max_length=METRICS_MAX)]
PayloadSize = Annotated[int, Meta(ge=1, le=PAYLOAD_BYTES_MAX)]


class Transfer(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=1):
    """Move coins from the sender to another account."""

    to: WireAddress
    amount: Uint64


class AdmitMember(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=2):
    """Admit a key to a permissioned chain, for an organization, by one of its administrators."""

    public_key: WirePublicKey
    organization: Name
    roles: Annotated[int, Meta(ge=1, le=ROLES_ALL)]


class RevokeMember(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=3):
    """Take a member's roles away; by an administrator of its organization."""

    member: WireAddress


class RegisterParticipant(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=10):
    """Register the sender as a participant of a task."""

    task_id: WireHash


class RevokeParticipant(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=11):
    """End a registration: one's own, or, as the task's authority, anybody's."""

    task_id: WireHash
    participant: WireAddress


class CreateTask(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=12):
    """Create a task; the sender becomes its authority. The initial weights travel as a payload."""

    spec: TaskSpec

    @property
    def payload_hash(self) -> Hash:
        """The content address of the initial weights."""
        return self.spec.initial_weights_root

    @property
    def payload_size(self) -> int:
        """The bytes of the initial weights; unbounded until the specification was checked."""
        return WEIGHT_BYTES * self.spec.dimension


class ChangeTaskStatus(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=13):
    """Pause, resume or complete a task; by its authority."""

    task_id: WireHash
    status: TaskStatus


class SubmitUpdate(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=20):
    """A model update of a registered participant; the bytes travel as a payload."""

    task_id: WireHash
    training_round: Uint64
    base_weights_root: WireHash
    codec: UpdateCodec
    payload_hash: WireHash
    payload_size: PayloadSize
    example_count: Uint32
    metrics: Metrics = ()


class SubmitEvaluation(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=21):
    """A measurement of finalized weights on data that stays with the sender."""

    task_id: WireHash
    training_round: Uint64
    weights_root: WireHash
    loss: Int64
    example_count: Uint32
    metrics: Metrics = ()


class FinalizeTrainingRound(
    Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=22
):
    """Carry the result of a frozen training round; by the block's proposer alone."""

    task_id: WireHash
    training_round: Uint64


class Approval(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A validator's signature under a change of parameters."""

    validator: WireAddress
    signature: WireSignature


class ChangeParameters(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag=30):
    """New consensus parameters, approved by validators with more than two thirds of the power.

    `replaces` is the root of the parameters in force, and `sequence` how often they have been
    changed before, so that an approval serves only once, even when old parameters return.
    """

    parameters: ConsensusParameters
    replaces: WireHash
    sequence: Uint64
    approvals: Annotated[tuple[Approval, ...], Meta(min_length=1, max_length=APPROVALS_MAX)]


Body = (
    Transfer
    | AdmitMember
    | RevokeMember
    | RegisterParticipant
    | RevokeParticipant
    | CreateTask
    | ChangeTaskStatus
    | SubmitUpdate
    | SubmitEvaluation
    | FinalizeTrainingRound
    | ChangeParameters
)


# Nodes hold tens of thousands of these. What is frozen cannot be part of a cycle, so the garbage
# collector need not look at them.
class Transaction(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, gc=False):
    """What is signed: who asks, for which chain, in which order, at what fee, for what."""

    version: Annotated[int, Meta(ge=TRANSACTION_VERSION, le=TRANSACTION_VERSION)]
    chain_id: ChainId
    sender: WirePublicKey
    nonce: Uint64
    fee: Uint64
    body: Body


class SignedTransaction(Struct, array_like=True, frozen=True, forbid_unknown_fields=True, gc=False):
    """A transaction and its sender's signature; its bytes are what blocks carry."""

    transaction: Transaction
    signature: WireSignature

    @property
    def sender(self) -> Address:
        """The address of the signer."""
        return compute_address(self.transaction.sender)


def sign_transaction(key: PrivateKey, transaction: Transaction) -> bytes:
    """Return the canonical bytes of `transaction` signed by `key`.

    Raises
    ------
    ValueError
        If the key is not the sender's.
    """
    if key.public_key != transaction.sender:
        raise ValueError("a transaction is signed by its sender's key")
    signature = key.sign(Domain.TRANSACTION, encode(transaction))
    return encode(SignedTransaction(transaction, signature))


def compute_transaction_hash(raw: bytes) -> Hash:
    """Return the hash a transaction is known by: SHA-256 of its signed bytes."""
    return Hash(sha256(raw).digest())


def decode_transaction(raw: bytes) -> SignedTransaction:
    """Decode a signed transaction, not yet checking its signature.

    Raises
    ------
    TransactionError
        `too_large` or `malformed`.
    """
    if len(raw) > TRANSACTION_BYTES_MAX:
        raise TransactionError(
            ErrorCode.TOO_LARGE,
            f"The transaction has {len(raw)} bytes, the limit is {TRANSACTION_BYTES_MAX}: "
            "send large data as a payload.",
        )
    try:
        return decode(SignedTransaction, raw, TRANSACTION_BYTES_MAX)
    except DecodeError as error:
        raise TransactionError(
            ErrorCode.MALFORMED,
            f"The transaction cannot be decoded ({error}): build it with the SDK of this version.",
        ) from error


def is_transaction_signature_valid(signed: SignedTransaction) -> bool:
    """Tell whether the sender signed exactly this transaction."""
    return is_signature_valid(
        signed.transaction.sender,
        Domain.TRANSACTION,
        encode(signed.transaction),
        signed.signature,
    )


def compute_approval_bytes(chain_id: str, change: ChangeParameters) -> bytes:
    """Return what a validator signs (domain `parameters`) to approve `change`."""
    return encode((chain_id, change.parameters, change.replaces, change.sequence))
