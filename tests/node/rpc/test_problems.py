"""Problem documents: every code has its status, and nothing of the node's inside gets out."""

import httpx
import msgspec
import pytest
from litestar.exceptions import ClientException, MethodNotAllowedException, NotFoundException
from quorate.chain.errors import (
    ErrorCode,
    InvariantError,
    StorageError,
    TransactionError,
)
from quorate.rpc_reading import Response, read_problem

from node.errors import SubscriptionRefused
from node.rpc.problems import HTTP_STATUS, Refusal, make_refusal

NOT_THE_CLIENTS_FAULT = {
    ErrorCode.MEMPOOL_FULL: 503,
    ErrorCode.NOT_AVAILABLE: 503,
    ErrorCode.INTERNAL: 500,
}


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_code_has_a_status(code: ErrorCode) -> None:
    status = HTTP_STATUS[code]
    if code in NOT_THE_CLIENTS_FAULT:
        assert status == NOT_THE_CLIENTS_FAULT[code]
    else:
        assert 400 <= status < 500


def test_the_table_is_the_contract() -> None:
    assert set(HTTP_STATUS) == set(ErrorCode)
    expected = {
        400: {"malformed", "bad_signature", "wrong_chain_id"},
        404: {"not_found", "unknown_task", "unknown_account"},
        409: {"wrong_nonce", "replaced", "duplicate_update", "already_exists"},
        413: {"too_large"},
        429: {"quota_exceeded"},
        500: {"internal"},
        503: {"mempool_full", "not_available"},
    }
    for status, codes in expected.items():
        assert {str(code) for code, found in HTTP_STATUS.items() if found == status} == codes


@pytest.mark.parametrize("code", list(ErrorCode))
def test_a_problem_says_what_the_client_reads(code: ErrorCode) -> None:
    refusal = make_refusal(TransactionError(code, "Do it otherwise."))
    error = read_problem(Response(refusal.status, refusal.headers, refusal.body))
    assert (error.status, error.code, error.detail) == (
        HTTP_STATUS[code],
        code,
        "Do it otherwise.",
    )
    is_temporary = code in {
        ErrorCode.MEMPOOL_FULL,
        ErrorCode.QUOTA_EXCEEDED,
        ErrorCode.NOT_AVAILABLE,
    }
    assert error.retry_after_s == (1.0 if is_temporary else None)
    assert msgspec.json.decode(refusal.body)["title"] == httpx.codes.get_reason_phrase(
        refusal.status
    ) or refusal.status in {413, 422}


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (StorageError("/secret/path is full"), 503, "not_available"),
        (InvariantError("secret"), 500, "internal"),
        (ZeroDivisionError("secret"), 500, "internal"),
        (SubscriptionRefused("All are taken."), 503, "not_available"),
        (NotFoundException(), 404, "not_found"),
        (MethodNotAllowedException(), 405, "malformed"),
        (ClientException("what"), 400, "malformed"),
        (Refusal(ErrorCode.MALFORMED, "No.", 415), 415, "malformed"),
    ],
)
def test_errors_of_all_kinds_become_problems(error: Exception, status: int, code: str) -> None:
    refusal = make_refusal(error)
    assert (refusal.status, str(refusal.code)) == (status, code)
    assert b"secret" not in refusal.body
