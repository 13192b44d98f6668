"""The SDK's own errors: branches of the chain's error tree.

::

    QuorateError
    ├── RpcError               the request's fault: the node refused it, with a stable code
    ├── ConnectionFailedError  nobody's fault: no node answered, after all retries
    ├── ProtocolError          the node's fault: an answer that no sound node gives
    ├── VerificationError      the node's fault: weights that the chain does not confirm
    ├── WaitTimeoutError       nobody's fault: what was waited for has not happened yet
    ├── TaskClosedError        nobody's fault: the task is paused or completed
    ├── EncodingError          the caller's fault: arrays that do not fit the task
    └── KeyFileError           the caller's fault: a key file that is missing, open or damaged

Owns the classes. Never decides what to do about an error: its catcher does.
"""

from enum import StrEnum

from quorate.chain.errors import ErrorCode, QuorateError


class RpcError(QuorateError):
    """A request that the node refused.

    Parameters
    ----------
    status : int
        The HTTP status.
    code : str
        The stable code; one of `quorate.chain.errors.ErrorCode` unless the node is newer.
    detail : str
        What is wrong and what to do about it.
    retry_after_s : float, optional
        When the node asks to try again.

    Examples
    --------
    >>> str(RpcError(409, ErrorCode.WRONG_NONCE, "The next nonce is 4."))
    'The next nonce is 4. [wrong_nonce, HTTP 409]'
    """

    def __init__(
        self, status: int, code: str, detail: str, retry_after_s: float | None = None
    ) -> None:
        super().__init__(status, code, detail, retry_after_s)
        self.status = status
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.detail} [{self.code}, HTTP {self.status}]"


class ConnectionFailedError(QuorateError):
    """No answer: the node is down, unreachable, or too slow for the timeout."""


class ProtocolError(QuorateError):
    """An answer that contradicts the RPC's contract, or is larger than it can be."""


class VerificationStep(StrEnum):
    """The links of the chain of proof, from the weights to whom one trusts."""

    WEIGHTS = "weights"
    TASK = "task"
    PROOF = "proof"
    HEADER = "header"
    VALIDATORS = "validators"
    COMMIT = "commit"


class VerificationError(QuorateError):
    """Weights that are not proven: do not use them.

    Parameters
    ----------
    step : VerificationStep
        The link of the proof that failed.
    message : str
        How.
    """

    def __init__(self, step: VerificationStep, message: str) -> None:
        super().__init__(step, message)
        self.step = step
        self.message = message

    def __str__(self) -> str:
        return f"The weights are not verified: {self.message} [step {self.step}]"


class WaitTimeoutError(QuorateError):
    """What was waited for did not happen in the time given; it may still happen."""


class TaskClosedError(QuorateError):
    """The task takes no updates: it is paused or completed."""


class EncodingError(QuorateError, ValueError):
    """Arrays that do not fit the task: another number, shape or type, or not finite."""


class KeyFileError(QuorateError):
    """A key file that cannot be used; the message says the way out."""


__all__ = [
    "ConnectionFailedError",
    "EncodingError",
    "ErrorCode",
    "KeyFileError",
    "ProtocolError",
    "QuorateError",
    "RpcError",
    "TaskClosedError",
    "VerificationError",
    "VerificationStep",
    "WaitTimeoutError",
]
