"""Uploads of large payloads: in chunks, several at a time, from where an earlier attempt ended.

Owns the conversation with one's own node, as a script for both clients. The node is told the
hashes of all chunks first, so it verifies each as it comes, and says which it lacks; so a crash
of either costs the chunks that were on their way. Never holds more of a payload in memory than
these.
"""

from collections import deque
from functools import partial
from typing import Final

from quorate.chain.content import get_chunk_size
from quorate.chain.errors import ErrorCode
from quorate.chain.ids import Hash
from quorate.chain.keys import PrivateKey
from quorate.chain.transaction import Body, SubmitUpdate
from quorate.errors import ConnectionFailedError, ProtocolError, RpcError
from quorate.payload_source import PayloadSource
from quorate.procedures import send_body
from quorate.progress import OnProgress, TransferCount, ignore_progress
from quorate.rpc_types import PayloadInfo, Submitted
from quorate.script import (
    Endpoint,
    Script,
    Sleep,
    compute_backoff_s,
    perform,
    run_function,
    run_together,
)
from quorate.transfer_protocol import begin_upload, put_chunk

RIDES_ALONG_BYTES_MAX: Final = 64 << 10
"""A payload up to this size goes to the node in one request with its transaction."""
CHUNKS_AT_ONCE: Final = 4
"""Chunks of one upload that are on their way at a time."""
ATTEMPTS_MAX: Final = 8
"""How often in a row the node may be gone, or have dropped the upload, without a chunk done; and
how often in all it may lack chunks that it has taken."""
SENDS_MAX: Final = 3
"""How often a payload is uploaded for one transaction."""


def upload_payload(
    endpoint: Endpoint,
    source: PayloadSource,
    *,
    task_id: bytes | None = None,
    on_progress: OnProgress = ignore_progress,
) -> Script[PayloadInfo]:
    """Upload a payload, as far as the node does not have it yet.

    It is the node's own business how long it waits for a transaction that names the payload;
    without one it drops it again.

    Parameters
    ----------
    endpoint : Endpoint
    source : PayloadSource
    task_id : bytes, 32, optional
        The task that it is an update for, so that one that does not fit is refused at once.
    on_progress : callable

    Raises
    ------
    RpcError
        If the node refuses it: it is too large, there is no room, a chunk is not what its hash
        says.
    ProtocolError
        If the node answers for another payload, or forgets again and again what it has taken.
    ConnectionFailedError
        If the node stays away. Uploading again goes on where this ended.
    """
    yield from run_function(lambda: source.chunk_hashes)
    count: TransferCount | None = None
    attempt = losses = 0
    while True:
        try:
            info = yield from perform(endpoint, begin_upload(source, task_id))
            if Hash(info.payload_hash) != source.content_hash or info.size != source.size:
                raise ProtocolError("the node answered for another payload than the one uploaded")
            done = source.size - _get_missing_size(info)
            if count is None:
                count = TransferCount("upload", done, source.size, on_progress)
            elif done != count.bytes_done:
                losses += done < count.bytes_done
                if losses >= ATTEMPTS_MAX:
                    raise ProtocolError("the node lacks chunks that it has taken, time and again")
                count.set(done)
            if info.is_complete:
                return info
            chunks = deque(info.missing)
            workers = min(CHUNKS_AT_ONCE, len(chunks))
            yield from run_together(
                [_carry(endpoint, source, chunks, count) for _ in range(workers)]
            )
        except (ConnectionFailedError, RpcError) as error:
            # A node that was never reached, or a real refusal.
            if count is None or (isinstance(error, RpcError) and error.code != ErrorCode.NOT_FOUND):
                raise
            attempt = attempt + 1 if count.take_unchanged() else 0
            if attempt >= ATTEMPTS_MAX:
                raise
            yield Sleep(compute_backoff_s(attempt))


def _carry(
    endpoint: Endpoint, source: PayloadSource, chunks: deque[int], count: TransferCount
) -> Script[None]:
    """Upload chunks until none is left."""
    while True:
        try:
            index = chunks.popleft()
        except IndexError:
            return
        chunk = yield from run_function(partial(source.read, index))
        yield from perform(endpoint, put_chunk(source.content_hash, index, chunk))
        count.add(len(chunk))


def _get_missing_size(info: PayloadInfo) -> int:
    return sum(get_chunk_size(info.size, index) for index in info.missing)


def send_with_payload(
    endpoint: Endpoint,
    key: PrivateKey,
    body: Body,
    source: PayloadSource,
    on_progress: OnProgress = ignore_progress,
) -> Script[Submitted]:
    """Sign and submit a transaction that names a payload; a large payload is uploaded first.

    Raises
    ------
    RpcError
        If the node refuses one of them.
    ConnectionFailedError
        If the node stays away. Sending again goes on where this ended.
    """
    if source.size <= RIDES_ALONG_BYTES_MAX:
        return (yield from send_body(endpoint, key, body, source.read_all()))
    task_id = body.task_id if isinstance(body, SubmitUpdate) else None
    attempt = 0
    while True:
        yield from upload_payload(endpoint, source, task_id=task_id, on_progress=on_progress)
        try:
            return (yield from send_body(endpoint, key, body))
        except RpcError as error:
            # A node that was restarted in between may have dropped what nothing named yet.
            attempt += 1
            if error.code != ErrorCode.PAYLOAD_MISSING or attempt >= SENDS_MAX:
                raise
