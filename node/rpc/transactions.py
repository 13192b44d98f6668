"""Submitting transactions and asking for them and for the accounts that send them.

Owns how a submission looks on the wire, one or a thousand. Never judges a transaction: the mempool
does, and its answer is passed on as it is.
"""

from hashlib import sha256
from typing import Annotated, Final

import msgspec
from litestar import Response, get, post
from litestar.params import PathParameter, QueryParameter
from msgspec import Meta, Struct
from quorate.chain.errors import ErrorCode, StorageError, TransactionError
from quorate.chain.ids import ADDRESS_BYTES, HASH_BYTES, Address, Hash
from quorate.chain.receipt import BlockReceipts
from quorate.chain.transaction import Role, SignedTransaction
from quorate.uploads import RIDES_ALONG_BYTES_MAX

from ledger.queries import get_members as list_members
from node.mempool.door import SubmitOutcome
from node.mempool.mempool import SUBMISSIONS_MAX
from node.rpc import answers
from node.rpc.answers import (
    JSON,
    MESSAGE_PACK,
    AnyRequest,
    answer,
    document,
    is_message_pack_accepted,
)
from node.rpc.blocks import decode_block, load_block
from node.rpc.context import Node
from node.rpc.hexadecimal import read_hex
from node.rpc.payload_states import find_payload
from node.rpc.problems import HTTP_STATUS, UNSUPPORTED_STATUS, Refusal
from node.views import to_object

_REFUSALS: Final = tuple(code for code in HTTP_STATUS if code is not ErrorCode.NOT_FOUND)
"""A transaction may be refused for anything but being unknown."""

Submission = tuple[bytes, bytes | None]
"""A signed transaction, and the payload that it names, if any."""


class SubmissionDocument(Struct, forbid_unknown_fields=True):
    """A submission in JSON; byte strings in base64."""

    transaction: bytes
    payload: bytes | None = None


_submission_decoder = msgspec.msgpack.Decoder(tuple[bytes, bytes | None])
_document_decoder = msgspec.json.Decoder(SubmissionDocument)
_batch_decoder = msgspec.msgpack.Decoder(
    Annotated[list[Submission], Meta(max_length=SUBMISSIONS_MAX)]
)
_transaction_decoder = msgspec.msgpack.Decoder(SignedTransaction)
_receipts_decoder = msgspec.msgpack.Decoder(BlockReceipts)


@post(
    "/v1/transactions",
    status_code=202,
    responses=document(
        "The transaction waits for a block.",
        answers.Submitted,
        *_REFUSALS,
        status=202,
        is_body_typed=True,
    ),
)
async def submit(request: AnyRequest, node: Node) -> Response[bytes]:
    """Submit a signed transaction, with its payload if it names one.

    MessagePack: an array of the transaction's bytes and the payload's bytes or nil. JSON: an
    object with both in base64. The same bytes again are answered with 200 and where they are.
    """
    body = await request.body()
    raw, payload = _read_submission(get_media_type(request), body)
    outcome = await node.services.mempool.submit_local(raw, payload)
    node.services.uploads.notice_submission()
    submitted = answers.Submitted(outcome.hash.hex(), outcome.status)
    return answer(submitted, 202 if outcome.is_new else 200)


@post(
    "/v1/transactions/batch",
    status_code=200,
    responses=document("What became of each, in order.", answers.BatchResults, is_body_typed=True),
)
async def submit_batch(request: AnyRequest, node: Node) -> Response[bytes]:
    """Submit up to a thousand transactions, each taken or refused by itself.

    MessagePack alone: an array of pairs as for one. The answer is MessagePack if that is accepted.
    """
    if get_media_type(request) != MESSAGE_PACK:
        raise make_unsupported(MESSAGE_PACK)
    try:
        batch = _batch_decoder.decode(await request.body())
    except (ValueError, RecursionError) as error:
        raise make_malformed(
            error, f"MessagePack of at most {SUBMISSIONS_MAX} pairs [transaction, payload or nil]"
        ) from error
    outcomes = await node.services.mempool.submit_local_many(batch)
    node.services.uploads.notice_submission()
    if is_message_pack_accepted(request):
        packed = [_pack(raw, each) for (raw, _), each in zip(batch, outcomes, strict=True)]
        return Response(msgspec.msgpack.encode({"results": packed}), media_type=MESSAGE_PACK)
    results = [_show(raw, each) for (raw, _), each in zip(batch, outcomes, strict=True)]
    return answer(answers.BatchResults(results))


@get(
    "/tx", responses=document("Where the transaction is.", answers.Transaction, ErrorCode.NOT_FOUND)
)
async def get_transaction(
    node: Node,
    transaction_hash: Annotated[
        str, QueryParameter(name="hash", description="The transaction's hash in hexadecimal.")
    ],
) -> Response[bytes]:
    """Tell whether a transaction is pending or decided, and where.

    Of a pending one with a large payload, how much voting power has told of having that: a block
    takes it once that is more than two thirds.
    """
    wanted = Hash(read_hex(transaction_hash, HASH_BYTES, "a transaction's hash"))
    chain = node.services.storage.chain
    place = chain.find_transaction(wanted)
    if place is None:
        pending = node.services.mempool.get(wanted)
        if pending is None:
            raise Refusal(
                ErrorCode.NOT_FOUND,
                "This node knows no transaction of this hash: submit it, or ask another node.",
            )
        payload = None
        if pending.payload_hash is not None and pending.payload_size > RIDES_ALONG_BYTES_MAX:
            payload = await find_payload(node, pending.payload_hash)
        return answer(answers.Transaction(wanted.hex(), "pending", payload=payload))
    height, index = place
    raw_receipts = chain.load_receipts(height)
    block = decode_block(load_block(node, height))
    try:
        receipts = _receipts_decoder.decode(raw_receipts or b"")
        signed = _transaction_decoder.decode(block.transactions[index])
        is_success = receipts.transactions[index].is_success
    except (ValueError, IndexError, RecursionError) as error:
        raise StorageError(f"Height {height} is stored incompletely: {error}") from error
    return answer(
        answers.Transaction(
            wanted.hex(), "decided", str(height), index, to_object(signed), is_success
        )
    )


@get("/v1/accounts/{address:str}", responses=document("The account.", answers.Account))
async def get_account(
    node: Node,
    address: Annotated[str, PathParameter(description="The account's address in hexadecimal.")],
) -> Response[bytes]:
    """Return an account; one that the chain has never seen is all zeros."""
    wanted = Address(read_hex(address, ADDRESS_BYTES, "an address"))
    account = node.services.executor.state.get_account(wanted)
    return answer(
        answers.Account(
            wanted.hex(),
            str(account.nonce),
            str(account.balance),
            str(node.services.mempool.pending_nonce(wanted)),
        )
    )


@get("/v1/members", responses=document("The members.", answers.Members))
async def get_members(node: Node) -> Response[bytes]:
    """List the members of a permissioned chain; of another one there are none."""
    members = [
        answers.Member(
            member.address.hex(),
            member.record.public_key.hex(),
            member.record.organization,
            [str(role.name).lower() for role in Role if role & member.record.roles],
            str(member.record.admitted_height),
        )
        for member in list_members(node.services.executor.state)
    ]
    return answer(answers.Members(members))


def make_unsupported(*media_types: str) -> Refusal:
    """Return what a client is told whose body is of another kind than the route takes."""
    return Refusal(
        ErrorCode.MALFORMED,
        f"The body's Content-Type is not one that this path takes: send {' or '.join(media_types)}"
        " and say so.",
        UNSUPPORTED_STATUS,
    )


def make_malformed(error: Exception, expected: str) -> Refusal:
    """Return what a client is told whose body cannot be read."""
    return Refusal(ErrorCode.MALFORMED, f"The body is not {expected} ({error}): correct it.")


def get_media_type(request: AnyRequest) -> str:
    """Return what a request says its body is, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _read_submission(media_type: str, body: bytes) -> Submission:
    """Return the submission in a body.

    Raises
    ------
    Refusal
        If it is of another kind, or cannot be read.
    """
    match media_type:
        case "application/msgpack":
            try:
                return _submission_decoder.decode(body)
            except (ValueError, RecursionError) as error:
                raise make_malformed(
                    error, "MessagePack of the pair [transaction, payload or nil]"
                ) from error
        case "application/json":
            try:
                submitted = _document_decoder.decode(body)
            except (ValueError, RecursionError) as error:
                raise make_malformed(
                    error, "JSON with transaction and payload in base64"
                ) from error
            return submitted.transaction, submitted.payload
        case _:
            raise make_unsupported(MESSAGE_PACK, JSON)


def _show(raw: bytes, outcome: SubmitOutcome | TransactionError) -> answers.BatchResult:
    if isinstance(outcome, TransactionError):
        digest = sha256(raw).hexdigest()
        return answers.BatchResult(digest, code=outcome.code, detail=outcome.message)
    return answers.BatchResult(outcome.hash.hex(), outcome.status)


def _pack(raw: bytes, outcome: SubmitOutcome | TransactionError) -> dict[str, str | bytes]:
    if isinstance(outcome, TransactionError):
        digest = sha256(raw).digest()
        return {"hash": digest, "code": outcome.code.value, "detail": outcome.message}
    return {"hash": outcome.hash, "status": outcome.status.value}


HANDLERS: Final = (submit, submit_batch, get_transaction, get_account, get_members)
