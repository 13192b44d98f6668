"""Uploads of payloads in chunks, and where a payload stands.

Owns how an upload looks on the wire. Never keeps a payload and never judges one: the node's door
for uploads does, and the mempool, when a transaction names it.
"""

from typing import Annotated, Final

import msgspec
from litestar import Response, get, post, put
from litestar.params import PathParameter
from msgspec import Meta, Struct
from quorate.chain.content import CHUNK_BYTES, count_chunks
from quorate.chain.errors import ErrorCode, TransactionError
from quorate.chain.ids import HASH_BYTES, Hash, WireHash
from quorate.chain.transaction import PAYLOAD_BYTES_MAX, TaskStatus

from node.rpc import answers
from node.rpc.answers import JSON, MESSAGE_PACK, AnyRequest, answer, document
from node.rpc.context import Node, RpcContext
from node.rpc.hexadecimal import read_hex
from node.rpc.payload_states import find_payload, show_payload
from node.rpc.problems import Refusal
from node.rpc.tasks import find_task
from node.rpc.transactions import get_media_type, make_malformed, make_unsupported

CHUNKS_MAX: Final = count_chunks(PAYLOAD_BYTES_MAX)

_Size = Annotated[int, Meta(ge=1, le=PAYLOAD_BYTES_MAX)]
_HexHash = Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{64}\Z")]
_Hashes = Annotated[tuple[WireHash, ...], Meta(max_length=CHUNKS_MAX)]
Beginning = tuple[int, tuple[Hash, ...], Hash | None]
"""The size of a payload, the hashes of its chunks, and the task that it is an update for."""


class UploadDocument(Struct, forbid_unknown_fields=True):
    """The beginning of an upload in JSON; byte strings in hexadecimal."""

    size: _Size
    chunk_hashes: Annotated[tuple[_HexHash, ...], Meta(max_length=CHUNKS_MAX)]
    task: _HexHash | None = None


PayloadPath = Annotated[
    str, PathParameter(description="The payload's content address in hexadecimal.")
]

_beginning_decoder = msgspec.msgpack.Decoder(tuple[_Size, _Hashes, WireHash | None])
_document_decoder = msgspec.json.Decoder(UploadDocument)


@post(
    "/v1/payloads",
    status_code=200,
    responses=document(
        "Which chunks are missing.",
        answers.Payload,
        ErrorCode.UNKNOWN_TASK,
        ErrorCode.WRONG_SHAPE,
        ErrorCode.TASK_NOT_OPEN,
        ErrorCode.PAYLOAD_MISMATCH,
        ErrorCode.QUOTA_EXCEEDED,
        ErrorCode.MEMPOOL_FULL,
        is_body_typed=True,
    ),
)
async def begin_upload(request: AnyRequest, node: Node) -> Response[bytes]:
    """Begin the upload of a payload, or go on with one: the answer says which chunks are missing.

    MessagePack: an array of the size, an array of the RFC 6962 hashes of the chunks of 1 MiB, and
    the id of the task that it is an update for, or nil. JSON: an object with size, chunk_hashes in
    hexadecimal and task. Then each missing chunk is put, and the transaction submitted alone.
    """
    size, chunk_hashes, task_id = _read_beginning(request, await request.body())
    if task_id is not None:
        _check_size(node, task_id, size)
    state = await node.services.uploads.begin(size, chunk_hashes)
    return answer(show_payload(node, state))


@get(
    "/v1/payloads/{payload:str}",
    responses=document("Where it stands.", answers.Payload, ErrorCode.NOT_FOUND),
)
async def get_payload(node: Node, payload: PayloadPath) -> Response[bytes]:
    """Tell which chunks of a payload are here, and how much voting power has told of having it.

    A block takes a transaction whose payload is larger than 64 KiB once validators with more than
    two thirds of the power have told so.
    """
    payload_hash = Hash(read_hex(payload, HASH_BYTES, "a payload's hash"))
    found = await find_payload(node, payload_hash)
    if found is None:
        raise Refusal(
            ErrorCode.NOT_FOUND,
            "This node has nothing of a payload with this hash: upload it, or ask another node.",
        )
    return answer(found)


@put(
    "/v1/payloads/{payload:str}/chunks/{index:int}",
    status_code=200,
    responses=document(
        "The chunk is here.",
        answers.Chunk,
        ErrorCode.NOT_FOUND,
        ErrorCode.PAYLOAD_MISMATCH,
        ErrorCode.MEMPOOL_FULL,
    ),
)
async def put_chunk(
    request: AnyRequest,
    node: Node,
    payload: PayloadPath,
    index: Annotated[int, PathParameter(description="Which chunk, counted from zero.")],
) -> Response[bytes]:
    """Put a chunk of a payload whose upload has begun: 1 MiB as it is, the last one shorter.

    It is verified against its hash. The same chunk again changes nothing. With the answer to the
    last one the payload is durable; it is dropped when no transaction names it for ten minutes.
    """
    payload_hash = Hash(read_hex(payload, HASH_BYTES, "a payload's hash"))
    chunk = await request.body()
    if len(chunk) > CHUNK_BYTES:
        raise Refusal(
            ErrorCode.TOO_LARGE, f"A chunk has at most {CHUNK_BYTES} bytes, not {len(chunk)}."
        )
    await node.services.uploads.put_chunk(payload_hash, index, chunk)
    return answer(answers.Chunk(payload_hash.hex(), index))


def _check_size(node: RpcContext, task_id: Hash, size: int) -> None:
    """Raise unless an update of so many bytes can be one of the task.

    Raises
    ------
    Refusal, TransactionError
    """
    found = find_task(node, task_id.hex())
    if found.record.status is not TaskStatus.OPEN:
        raise TransactionError(
            ErrorCode.TASK_NOT_OPEN,
            f"The task is {found.record.status.name.lower()} and takes no updates.",
        )
    layout = found.spec.update_layout
    if size != layout.size:
        raise TransactionError(
            ErrorCode.TOO_LARGE if size > layout.size else ErrorCode.WRONG_SHAPE,
            f"The payload has {size} bytes; an update of this task ({layout.codec.name.lower()}) "
            f"takes {layout.size}.",
        )


def _read_beginning(request: AnyRequest, body: bytes) -> Beginning:
    """Return the size, the chunk hashes and the task in a body.

    Raises
    ------
    Refusal
        If it is of another kind, or cannot be read.
    """
    try:
        match get_media_type(request):
            case "application/msgpack":
                size, hashes, task_id = _beginning_decoder.decode(body)
                return size, hashes, task_id
            case "application/json":
                read = _document_decoder.decode(body)
                task = None if read.task is None else Hash(bytes.fromhex(read.task))
                return read.size, tuple(Hash(bytes.fromhex(h)) for h in read.chunk_hashes), task
            case _:
                raise make_unsupported(MESSAGE_PACK, JSON)
    except (ValueError, RecursionError) as error:
        raise make_malformed(
            error, "the size of a payload, the hashes of its chunks and a task or nothing"
        ) from error


HANDLERS: Final = (begin_upload, get_payload, put_chunk)
