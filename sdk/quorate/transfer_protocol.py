"""The RPC of large payloads without I/O: uploads and downloads in chunks, as requests and answers.

Owns the paths and forms of these requests, and the checks of their answers' form. Never verifies a
chunk: uploads and downloads do, against what they know already.
"""

from typing import Final

from quorate.chain.codec import encode
from quorate.chain.content import CHUNK_BYTES, count_chunks
from quorate.chain.ids import HASH_BYTES
from quorate.payload_source import PayloadSource
from quorate.rpc_protocol import (
    MESSAGE_PACK,
    Call,
    Request,
    TaskKey,
    get_at_height,
    get_task_path,
)
from quorate.rpc_reading import Response, read_json, read_page
from quorate.rpc_types import ChunkList, Page, PayloadInfo

_UPLOADS: Final = "/v1/payloads"
_LIST_BYTES_MAX: Final = 1 << 20
"""The hashes of 4096 chunks, those of the largest payload, in hexadecimal with all around them."""


def begin_upload(source: PayloadSource, task_id: bytes | None) -> Call[PayloadInfo]:
    """Announce a payload to one's own node, or ask where an upload of it stands.

    Parameters
    ----------
    source : PayloadSource
    task_id : bytes, 32, optional
        The task that it is an update for, so that one that does not fit is refused at once.
    """
    content = encode((source.size, source.chunk_hashes, task_id))
    request = Request("POST", _UPLOADS, headers={"Content-Type": MESSAGE_PACK}, content=content)
    return Call(request, _read_payload)


def get_payload(payload_hash: bytes) -> Call[PayloadInfo]:
    """Ask where a payload stands: which chunks are missing, and who has told of having it."""
    return Call(Request("GET", f"{_UPLOADS}/{payload_hash.hex()}"), _read_payload)


def put_chunk(payload_hash: bytes, index: int, chunk: bytes) -> Call[None]:
    """Hand over a chunk; the same again is no error."""
    request = Request(
        "PUT",
        f"{_UPLOADS}/{payload_hash.hex()}/chunks/{index}",
        headers={"Content-Type": "application/octet-stream"},
        content=chunk,
    )
    return Call(request, lambda _response: None)


def get_weights_chunks(task: TaskKey, height: int | None) -> Call[ChunkList]:
    """Ask for the chunk hashes of a task's weights at a height, by default the latest."""
    request = Request(
        "GET",
        get_task_path(task) + "/weights/chunks",
        get_at_height(height),
        bytes_max=_LIST_BYTES_MAX,
    )
    return Call(request, _read_chunk_list)


def get_weights_chunk(task: TaskKey, height: int | None, index: int) -> Call[Page[bytes]]:
    """Ask for one chunk of a task's weights at a height, by default the latest."""
    query = (*get_at_height(height), ("chunk", str(index)))
    request = Request("GET", get_task_path(task) + "/weights", query, bytes_max=CHUNK_BYTES)
    return Call(request, read_page)


def _read_payload(response: Response) -> PayloadInfo:
    info = read_json(PayloadInfo)(response)
    _check_hash(info.payload_hash)
    count = count_chunks(info.size)
    if not all(0 <= index < count for index in info.missing):
        raise ValueError("a chunk that does not exist is missing")
    if bool(info.missing) is info.is_complete:
        raise ValueError("what is complete lacks nothing")
    return info


def _read_chunk_list(response: Response) -> ChunkList:
    listed = read_json(ChunkList)(response)
    for each in (listed.weights_root, *listed.chunk_hashes):
        _check_hash(each)
    return listed


def _check_hash(value: bytes) -> None:
    if len(value) != HASH_BYTES:
        raise ValueError(f"a hash has {HASH_BYTES} bytes")
