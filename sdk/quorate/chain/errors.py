"""The error tree of Quorate: whose fault it was, and what follows.

::

    QuorateError
    ├── DecodeError          a sender's fault: the message is dropped, the peer's score lowered
    ├── SignatureError       a sender's fault: likewise
    ├── CommitError          a sender's fault: a commit that proves nothing
    ├── TransactionError     the submitter's fault: an RPC answer with a stable code
    ├── BlockError           the proposer's fault: a nil prevote, logged with the reason
    ├── PendingError         nobody's fault: something is still on its way, no verdict yet
    ├── StorageError         the machine's fault: the node stops, the message says the way out
    └── InvariantError       our fault: the node stops

Owns the classes and the codes. Never decides what to do about an error: its catcher does.
"""

from collections.abc import Mapping
from enum import StrEnum


class QuorateError(Exception):
    """Base of every error that Quorate raises on purpose."""


class DecodeError(QuorateError):
    """Bytes that are not the canonical encoding of what was expected."""


class SignatureError(QuorateError):
    """A signature that does not belong to its message and key."""


class CommitError(QuorateError):
    """A commit that does not prove its block: wrong height, block, signatures or power."""


class ErrorCode(StrEnum):
    """Stable codes of refused transactions and requests; clients may match on them."""

    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    WRONG_CHAIN_ID = "wrong_chain_id"
    WRONG_NONCE = "wrong_nonce"
    REPLACED = "replaced"
    BAD_SIGNATURE = "bad_signature"
    FEE_TOO_LOW = "fee_too_low"
    INSUFFICIENT_BALANCE = "insufficient_balance"
    NOT_ADMITTED = "not_admitted"
    NOT_AUTHORIZED = "not_authorized"
    ALREADY_EXISTS = "already_exists"
    UNKNOWN_ACCOUNT = "unknown_account"
    UNKNOWN_TASK = "unknown_task"
    TASK_NOT_OPEN = "task_not_open"
    INVALID_TASK = "invalid_task"
    WRONG_TRAINING_ROUND = "wrong_training_round"
    STALE_WEIGHTS = "stale_weights"
    DUPLICATE_UPDATE = "duplicate_update"
    ROUND_FULL = "round_full"
    WRONG_CODEC = "wrong_codec"
    WRONG_SHAPE = "wrong_shape"
    VALUE_OUT_OF_RANGE = "value_out_of_range"
    PAYLOAD_MISMATCH = "payload_mismatch"
    PAYLOAD_MISSING = "payload_missing"
    UNKNOWN_WEIGHTS = "unknown_weights"
    INVALID_PARAMETERS = "invalid_parameters"
    INSUFFICIENT_APPROVAL = "insufficient_approval"
    QUOTA_EXCEEDED = "quota_exceeded"
    MEMPOOL_FULL = "mempool_full"
    NOT_FOUND = "not_found"
    NOT_AVAILABLE = "not_available"
    INTERNAL = "internal"


class TransactionError(QuorateError):
    """A transaction that may not enter a block, with a stable code and a way out.

    Parameters
    ----------
    code : ErrorCode
        What is wrong, for programs.
    message : str
        What is wrong and what to do about it, for people; one or two sentences.
    """

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]"


class BlockError(QuorateError):
    """A proposed block that an honest proposer would not have made."""


class PendingError(QuorateError):
    """Something needed for a verdict is not here yet: a payload, or an aggregate at work.

    Parameters
    ----------
    message : str
        What is being waited for.
    missing_payloads : tuple of bytes, 32
        The payload hashes that are not at hand, possibly empty.
    payload_sizes : mapping of bytes to int, optional
        The sizes of these payloads that signed transactions say.
    """

    def __init__(
        self,
        message: str,
        missing_payloads: tuple[bytes, ...] = (),
        payload_sizes: Mapping[bytes, int] | None = None,
    ) -> None:
        super().__init__(message)
        self.missing_payloads = missing_payloads
        self.payload_sizes = {} if payload_sizes is None else payload_sizes


class StorageError(QuorateError):
    """The disk or what is on it failed; the message says the way out."""


class InvariantError(QuorateError):
    """Something that cannot happen did: a defect of this program. The node stops."""
