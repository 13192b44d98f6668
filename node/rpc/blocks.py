"""Requests about decided blocks: contents, commits, validators.

Owns these answers, as JSON for people and as canonical bytes for programs. Never verifies: what is
stored has been.
"""

from typing import Final

import msgspec
from litestar import Response, get
from quorate.chain.block import Block
from quorate.chain.codec import encode
from quorate.chain.errors import DecodeError, ErrorCode, StorageError
from quorate.chain.evidence import DuplicateVoteEvidence
from quorate.chain.vote import Commit

from node.execution.chain_position import POSITION_DOCUMENT, ChainPosition, decode_position
from node.rpc import answers
from node.rpc.answers import (
    AnyRequest,
    HeightQuery,
    answer_either,
    document,
    is_message_pack_accepted,
)
from node.rpc.context import Node, RpcContext
from node.rpc.problems import Refusal
from node.views import to_object

# These read what this node has written itself: no need to check that it is canonical.
_block_decoder = msgspec.msgpack.Decoder(Block)
_commit_decoder = msgspec.msgpack.Decoder(Commit)
_evidence_decoder = msgspec.msgpack.Decoder(DuplicateVoteEvidence)


@get("/block", responses=document("The block of a height.", answers.Block, ErrorCode.NOT_FOUND))
async def get_block(request: AnyRequest, node: Node, height: HeightQuery = None) -> Response[bytes]:
    """Return a decided block; its canonical bytes if MessagePack is accepted."""
    at = resolve_height(node, height)
    raw = load_block(node, at)
    if is_message_pack_accepted(request):
        return Response(raw, media_type=answers.MESSAGE_PACK)
    block = decode_block(raw)
    commit = _load_commit(node, at)
    return answers.answer(
        answers.Block(
            to_object(commit.block_id),
            to_object(block.header),
            [transaction.hex() for transaction in block.transactions],
            [to_object(_evidence_decoder.decode(evidence)) for evidence in block.evidence],
            None if block.last_commit is None else to_object(block.last_commit),
        )
    )


@get(
    "/commit",
    responses=document("A header and its proof.", answers.SignedHeader, ErrorCode.NOT_FOUND),
)
async def get_commit(
    request: AnyRequest, node: Node, height: HeightQuery = None
) -> Response[bytes]:
    """Return the header of a height and the commit that proves it, in JSON or MessagePack."""
    at = resolve_height(node, height)
    header = decode_block(load_block(node, at)).header
    commit = _load_commit(node, at)
    view = answers.SignedHeader(to_object(header), to_object(commit))
    return answer_either(request, view, encode((header, commit)))


@get(
    "/validators",
    responses=document("The validators of a height.", answers.Validators, ErrorCode.NOT_FOUND),
)
async def get_validators(
    request: AnyRequest, node: Node, height: HeightQuery = None
) -> Response[bytes]:
    """Return the validators of a height with their places in rotation, in JSON or MessagePack."""
    at = resolve_height(node, height)
    validators = load_stored_position(node, at).last_validators
    view = answers.Validators(
        str(at),
        [
            {"address": validator.address.hex(), **to_object(validator)}
            for validator in validators.validators
        ],
        str(validators.total_power),
    )
    return answer_either(request, view, encode(validators.validators))


def resolve_height(node: RpcContext, height: int | None) -> int:
    """Return the height that is asked for.

    Raises
    ------
    Refusal
        If this node does not have it.
    """
    chain = node.services.storage.chain
    at = chain.height if height is None else height
    if not 0 < chain.base <= at <= chain.height:
        raise make_missing(node, at)
    return at


def load_stored_position(node: RpcContext, height: int) -> ChainPosition:
    """Return where the chain stood after a stored block, without that block's commit.

    Raises
    ------
    Refusal
        If this node does not have it.
    StorageError
        If it cannot be read.
    """
    raw = node.services.storage.chain.load_document(POSITION_DOCUMENT, height)
    if raw is None:
        raise make_missing(node, height)
    try:
        return decode_position(raw, None)
    except DecodeError as error:
        raise StorageError(f"The record of height {height} cannot be read: {error}") from error


def make_missing(node: RpcContext, height: int) -> Refusal:
    """Return what a client is told of a height that this node does not have."""
    chain = node.services.storage.chain
    if not chain.height:
        return Refusal(ErrorCode.NOT_FOUND, "No block is decided yet: ask again in a moment.")
    return Refusal(
        ErrorCode.NOT_FOUND,
        f"This node has no block of height {height}: it has those from {chain.base} to "
        f"{chain.height}.",
    )


def load_block(node: RpcContext, height: int) -> bytes:
    """Return the stored bytes of a block.

    Raises
    ------
    Refusal
        If this node does not have it.
    """
    raw = node.services.storage.chain.load_block(height)
    if raw is None:
        raise make_missing(node, height)
    return raw


def decode_block(raw: bytes) -> Block:
    """Return a stored block.

    Raises
    ------
    StorageError
        If it cannot be read.
    """
    try:
        return _block_decoder.decode(raw)
    except (ValueError, RecursionError) as error:
        raise StorageError(f"A stored block cannot be read: {error}") from error


def _load_commit(node: RpcContext, height: int) -> Commit:
    raw = node.services.storage.chain.load_commit(height)
    if raw is None:
        raise make_missing(node, height)
    try:
        return _commit_decoder.decode(raw)
    except (ValueError, RecursionError) as error:
        raise StorageError(f"A stored commit cannot be read: {error}") from error


HANDLERS: Final = (get_block, get_commit, get_validators)
