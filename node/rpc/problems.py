"""What a client is told when a request is refused: problem documents (RFC 9457) with stable codes.

Owns the table from codes to HTTP statuses and the form of a problem. Never tells a client what is
inside the node: that goes to the log.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import msgspec
import structlog
from litestar import Request, Response
from litestar.datastructures import State
from litestar.exceptions import HTTPException, ValidationException
from quorate.chain.errors import ErrorCode, QuorateError, StorageError, TransactionError

from node.errors import SubscriptionRefused

PROBLEM_JSON: Final = "application/problem+json"

UNSUPPORTED_STATUS: Final = 415
"""The status of a refusal (`malformed`) for a body's Content-Type."""

RETRY_AFTER_S: Final = 1
"""What a client is told to wait when the node has no room at the moment."""

HTTP_STATUS: Final[Mapping[ErrorCode, int]] = {
    ErrorCode.MALFORMED: 400,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.WRONG_CHAIN_ID: 400,
    ErrorCode.WRONG_NONCE: 409,
    ErrorCode.REPLACED: 409,
    ErrorCode.BAD_SIGNATURE: 400,
    ErrorCode.FEE_TOO_LOW: 422,
    ErrorCode.INSUFFICIENT_BALANCE: 422,
    ErrorCode.NOT_ADMITTED: 422,
    ErrorCode.NOT_AUTHORIZED: 422,
    ErrorCode.ALREADY_EXISTS: 409,
    ErrorCode.UNKNOWN_ACCOUNT: 404,
    ErrorCode.UNKNOWN_TASK: 404,
    ErrorCode.TASK_NOT_OPEN: 422,
    ErrorCode.INVALID_TASK: 422,
    ErrorCode.WRONG_TRAINING_ROUND: 422,
    ErrorCode.STALE_WEIGHTS: 422,
    ErrorCode.DUPLICATE_UPDATE: 409,
    ErrorCode.ROUND_FULL: 422,
    ErrorCode.WRONG_CODEC: 422,
    ErrorCode.WRONG_SHAPE: 422,
    ErrorCode.VALUE_OUT_OF_RANGE: 422,
    ErrorCode.PAYLOAD_MISMATCH: 422,
    ErrorCode.PAYLOAD_MISSING: 422,
    ErrorCode.UNKNOWN_WEIGHTS: 422,
    ErrorCode.INVALID_PARAMETERS: 422,
    ErrorCode.INSUFFICIENT_APPROVAL: 422,
    ErrorCode.QUOTA_EXCEEDED: 429,
    ErrorCode.MEMPOOL_FULL: 503,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.NOT_AVAILABLE: 503,
    ErrorCode.INTERNAL: 500,
}
"""The HTTP status of each code, wherever it comes from."""

_RETRIED: Final = frozenset(
    {ErrorCode.MEMPOOL_FULL, ErrorCode.QUOTA_EXCEEDED, ErrorCode.NOT_AVAILABLE}
)

_CODE_BY_STATUS: Final[Mapping[int, ErrorCode]] = {
    404: ErrorCode.NOT_FOUND,
    413: ErrorCode.TOO_LARGE,
    429: ErrorCode.QUOTA_EXCEEDED,
    503: ErrorCode.NOT_AVAILABLE,
}

_log = structlog.get_logger("rpc")


class Refusal(QuorateError):  # noqa: N818 - it is the answer, too.
    """A request that is not answered as asked, with what the client is told.

    Parameters
    ----------
    code : ErrorCode
        What is wrong, for programs.
    detail : str
        What is wrong and what to do about it, for people.
    status : int, optional
        The HTTP status, where the code's own is not the fitting one.
    """

    def __init__(self, code: ErrorCode, detail: str, status: int | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.status = HTTP_STATUS[code] if status is None else status

    @property
    def body(self) -> bytes:
        """The problem document."""
        return msgspec.json.encode(
            {
                "type": f"urn:quorate:problem:{self.code}",
                "title": HTTPStatus(self.status).phrase,
                "status": self.status,
                "code": self.code,
                "detail": self.detail,
            }
        )

    @property
    def headers(self) -> dict[str, str]:
        """What the answer carries beside its type and length."""
        return {"retry-after": str(RETRY_AFTER_S)} if self.code in _RETRIED else {}


def make_refusal(error: Exception) -> Refusal:
    """Return what a client is told of an error; what is the node's own fault is logged here."""
    match error:
        case Refusal():
            return error
        case TransactionError():
            return Refusal(error.code, error.message)
        case SubscriptionRefused():
            return Refusal(ErrorCode.NOT_AVAILABLE, str(error))
        case ValidationException():
            return Refusal(ErrorCode.MALFORMED, _describe_invalid(error))
        case HTTPException() if error.status_code < 500:
            return _translate(error)
        case StorageError():
            _log.error("request_failed", reason=str(error))
            return Refusal(
                ErrorCode.NOT_AVAILABLE,
                "The node cannot use its storage at the moment: ask another node; its log says "
                "what is the matter.",
            )
        case _:
            _log.error("request_failed", exc_info=error)
            return Refusal(
                ErrorCode.INTERNAL,
                "The node failed to answer, which is a defect of it: its log says more.",
            )


def answer_error(
    request: Request[object, object, State],  # noqa: ARG001 - the framework's signature.
    error: Exception,
) -> Response[bytes]:
    """Answer a request whose handler raised."""
    refusal = make_refusal(error)
    headers = refusal.headers
    if isinstance(error, HTTPException) and error.headers:
        headers |= {name.lower(): value for name, value in error.headers.items()}
    return Response(
        refusal.body, status_code=refusal.status, media_type=PROBLEM_JSON, headers=headers
    )


def _translate(error: HTTPException) -> Refusal:
    status = error.status_code
    code = _CODE_BY_STATUS.get(status, ErrorCode.MALFORMED)
    match status:
        case 404:
            detail = "There is nothing under this path: see /openapi.json for what there is."
        case 405:
            detail = "This path does not take this method: see /openapi.json for those it takes."
        case _:
            detail = f"The request is not one that this node understands: {error.detail}"
    return Refusal(code, detail, status)


def _describe_invalid(error: ValidationException) -> str:
    """Name the parameters that do not fit, not the framework's view of them."""
    found = [
        f"{item.get('key', 'a parameter')}: {item.get('message', 'not valid')}"
        for item in (error.extra if isinstance(error.extra, list) else [])
        if isinstance(item, dict)
    ]
    reasons = "; ".join(found) or error.detail
    return f"A parameter of the request is not valid ({reasons}): correct it."
