"""Downloads of weights, of the latest block or of an earlier one: all of them, or one chunk.

Owns the form of a download, and what is told to whom asks for weights that are gone. Never
verifies: the reader does, chunk by chunk, against the list of their hashes and a proof.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Final

import trio
from litestar import Response, get
from litestar.params import QueryParameter
from quorate.chain.content import CHUNK_BYTES, count_chunks
from quorate.chain.errors import ErrorCode, PendingError
from quorate.chain.ids import INT64_MAX, Hash
from quorate.chain.weights import WEIGHT_BYTES

from aggregation import PayloadBytes
from node.execution.sliced_payloads import SlicedPayloads
from node.rpc import answers
from node.rpc.answers import OCTET_STREAM, HeightQuery, TaskPath, answer, document
from node.rpc.blocks import make_missing
from node.rpc.context import Node, RpcContext
from node.rpc.problems import Refusal
from node.rpc.streaming import PieceByPiece, SendPiece
from node.rpc.tasks import find_task, make_too_early

ChunkQuery = Annotated[
    int | None,
    QueryParameter(ge=0, le=INT64_MAX, description="One chunk of 1 MiB, counted from zero."),
]


@dataclass(frozen=True, slots=True)
class _Found:
    """The weights that a request means: since which block, and which they are."""

    task_id: Hash
    height: int
    training_round: int
    root: Hash
    size: int
    is_latest: bool


@get(
    "/v1/tasks/{task:str}/weights",
    responses=document(
        "Little-endian int32.",
        bytes,
        ErrorCode.UNKNOWN_TASK,
        ErrorCode.NOT_FOUND,
        media_type=OCTET_STREAM,
    ),
)
async def get_weights(
    node: Node, task: TaskPath, chunk: ChunkQuery = None, height: HeightQuery = None
) -> Response[bytes]:
    """Download the finalized weights of a task as of a block, by default the latest.

    The headers say which they are: Quorate-Weights-Root, since which block and for which training
    round (Quorate-Height, Quorate-Training-Round). Weights of earlier rounds are kept for a while
    (weights_retain in the node's settings); a refusal names the lowest height that is left.
    """
    found = _find(node, task, height)
    data = await _open(node, found, height)
    headers = {
        "quorate-weights-root": found.root.hex(),
        "quorate-height": str(found.height),
        "quorate-training-round": str(found.training_round),
        "cache-control": "no-cache",
    }
    if chunk is not None:
        start = chunk * CHUNK_BYTES
        if start >= data.size:
            count = count_chunks(data.size)
            raise Refusal(
                ErrorCode.NOT_FOUND, f"The weights have {count} chunks, from 0 to {count - 1}."
            )
        piece = await _read(data, start)
        return Response(piece, media_type=OCTET_STREAM, headers=headers)
    if data.size <= CHUNK_BYTES:
        return Response(await _read(data, 0), media_type=OCTET_STREAM, headers=headers)

    async def produce(send_piece: SendPiece) -> None:
        for start in range(0, data.size, CHUNK_BYTES):
            await send_piece(await _read(data, start))

    return PieceByPiece(produce, OCTET_STREAM, {**headers, "content-length": str(data.size)}, None)


@get(
    "/v1/tasks/{task:str}/weights/chunks",
    responses=document(
        "The hashes of the chunks.",
        answers.WeightsChunks,
        ErrorCode.UNKNOWN_TASK,
        ErrorCode.NOT_FOUND,
    ),
)
async def list_weights_chunks(
    node: Node, task: TaskPath, height: HeightQuery = None
) -> Response[bytes]:
    """List the hashes of the chunks of a task's weights as of a block, by default the latest.

    Their RFC 6962 root is the weights' root, so that each chunk can be verified by itself.
    """
    found = _find(node, task, height)
    # Reads the weights if the list that was kept with them is lost.
    hashes = await trio.to_thread.run_sync(
        node.services.storage.payloads.get_chunk_hashes, found.root
    )
    if hashes is None:
        raise await _make_absent(node, found, height)
    return answer(
        answers.WeightsChunks(
            found.root.hex(),
            str(found.height),
            str(found.training_round),
            str(found.size),
            [each.hex() for each in hashes],
        )
    )


def _find(node: RpcContext, task: str, height: int | None) -> _Found:
    """Return which weights a task has at a height.

    Raises
    ------
    Refusal
        If there is no such task, or the height is not known here.
    """
    view = find_task(node, task)
    record = view.record
    at = node.services.storage.chain.height if height is None else height
    # Not the record's own height: a frozen buffer changes the weights of a task whose next
    # training round has been open for some blocks.
    place = node.models.get_place(at, view.task_id)
    if place is None:
        if at < record.created_height:
            raise make_too_early(view, at)
        raise make_missing(node, at)
    return _Found(
        view.task_id,
        place.height,
        place.training_round,
        place.weights_root,
        WEIGHT_BYTES * record.dimension,
        is_latest=place.weights_root == record.weights_root,
    )


async def _open(node: RpcContext, found: _Found, height: int | None) -> PayloadBytes:
    """Return the bytes of weights, to be read by slices.

    Raises
    ------
    Refusal
        If they are not here; for the latest, at the moment.
    """
    # Not through a map: a file that is damaged while it is read would end the node.
    payloads = SlicedPayloads(node.services.storage.payloads, verify=False)
    with suppress(PendingError):  # Dropped this very moment.
        data = payloads.open_memmap(found.root)
        if data is not None:
            return data
    raise await _make_absent(node, found, height)


async def _make_absent(node: RpcContext, found: _Found, height: int | None) -> Refusal:
    """Return what a client is told of weights that are not here."""
    if found.is_latest:
        return Refusal(
            ErrorCode.NOT_AVAILABLE,
            "This node does not have the weights at the moment: ask again, or another node.",
        )
    earliest = await node.models.find_earliest(found.task_id, node.services.storage.payloads.has)
    way_out = (
        "ask another node"
        if earliest is None
        else f"the lowest height whose weights it has is {earliest}; ask for that, or another node"
    )
    return Refusal(
        ErrorCode.NOT_FOUND,
        f"This node has not kept the task's weights of height {height} (weights_retain in its "
        f"settings): {way_out}.",
    )


async def _read(data: PayloadBytes, start: int) -> bytes:
    """Return a chunk; large weights lie on the disk, which may keep a reader waiting."""

    def read() -> bytes:
        return data[start : start + CHUNK_BYTES].tobytes()

    return read() if data.size <= CHUNK_BYTES else await trio.to_thread.run_sync(read)


HANDLERS: Final = (get_weights, list_weights_chunks)
