"""Downloads of weights: all of them, or one chunk.

Owns the form of a download. Never verifies: the reader does, chunk by chunk if it likes.
"""

from typing import Annotated, Final

import numpy as np
import trio
from litestar import Response, get
from litestar.params import QueryParameter
from numpy.typing import NDArray
from quorate.chain.content import CHUNK_BYTES, count_chunks
from quorate.chain.errors import ErrorCode
from quorate.chain.ids import INT64_MAX

from ledger.queries import TaskView
from node.rpc.answers import OCTET_STREAM, TaskPath, document
from node.rpc.context import Node, RpcContext
from node.rpc.problems import Refusal
from node.rpc.streaming import PieceByPiece, SendPiece
from node.rpc.tasks import find_task

ChunkQuery = Annotated[
    int | None,
    QueryParameter(ge=0, le=INT64_MAX, description="One chunk of 1 MiB, counted from zero."),
]


@get(
    "/v1/tasks/{task:str}/weights",
    responses=document("Little-endian int32.", bytes, media_type=OCTET_STREAM),
)
async def get_weights(node: Node, task: TaskPath, chunk: ChunkQuery = None) -> Response[bytes]:
    """Download the latest finalized weights of a task.

    The headers say which they are: Quorate-Weights-Root, since which block and for which training
    round (Quorate-Height, Quorate-Training-Round).
    """
    found = find_task(node, task)
    data = _open(node, found)
    headers = {
        "quorate-weights-root": found.record.weights_root.hex(),
        "quorate-height": str(found.record.opened_height),
        "quorate-training-round": str(found.record.training_round),
        "cache-control": "no-cache",
    }
    if chunk is not None:
        start = chunk * CHUNK_BYTES
        if start >= len(data):
            count = count_chunks(len(data))
            raise Refusal(
                ErrorCode.NOT_FOUND, f"The weights have {count} chunks, from 0 to {count - 1}."
            )
        piece = await _read(data, start)
        return Response(piece, media_type=OCTET_STREAM, headers=headers)
    if len(data) <= CHUNK_BYTES:
        return Response(await _read(data, 0), media_type=OCTET_STREAM, headers=headers)

    async def produce(send_piece: SendPiece) -> None:
        for start in range(0, len(data), CHUNK_BYTES):
            await send_piece(await _read(data, start))

    return PieceByPiece(produce, OCTET_STREAM, {**headers, "content-length": str(len(data))}, None)


def _open(node: RpcContext, task: TaskView) -> NDArray[np.uint8]:
    data = node.services.storage.payloads.open_memmap(task.record.weights_root, verify=False)
    if data is None:
        raise Refusal(
            ErrorCode.NOT_AVAILABLE,
            "This node does not have the weights at the moment: ask again, or another node.",
        )
    return data


async def _read(data: NDArray[np.uint8], start: int) -> bytes:
    """Return a chunk; large weights lie on the disk, which may keep a reader waiting."""
    piece = data[start : start + CHUNK_BYTES]
    if len(data) <= CHUNK_BYTES:
        return piece.tobytes()
    return await trio.to_thread.run_sync(piece.tobytes)


HANDLERS: Final = (get_weights,)
