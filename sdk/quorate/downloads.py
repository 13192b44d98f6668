"""Downloads of weights, into files or memory: proven, in chunks, several at a time.

Owns the conversation, as a script for both clients. First a commit proves the root of the weights;
then a list of chunk hashes proves itself against that root; then every chunk is verified by itself
before it is written, so it does not matter who sends it, nor in which order, nor what was in the
file before. Into a file, it never holds more in memory than the chunks that are on their way.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

from quorate.chain.content import are_chunk_hashes_valid, get_chunk_size
from quorate.chain.errors import QuorateError
from quorate.chain.genesis import Genesis
from quorate.chain.ids import Hash
from quorate.chain.validators import ValidatorSet
from quorate.chain.weights import WEIGHT_BYTES
from quorate.errors import (
    ConnectionFailedError,
    ProtocolError,
    RpcError,
    VerificationError,
    VerificationStep,
)
from quorate.procedures import get_chain, get_task, get_weights_proof
from quorate.progress import OnProgress, TransferCount, ignore_progress
from quorate.rpc_protocol import TaskKey
from quorate.rpc_types import ChunkList, Task
from quorate.script import Endpoint, Script, perform, run_function, run_together
from quorate.transfer_protocol import get_weights_chunk, get_weights_chunks
from quorate.verification import VerifiedWeights, WeightsProof, verify_leaf
from quorate.weights_file import PartialBytes, PartialFile, StoredWeights, is_file_whole

CHUNKS_AT_ONCE_PER_NODE: Final = 4
CHUNKS_AT_ONCE_MAX: Final = 16
"""Chunks of one download that are on their way at a time."""

_SOURCE_FAILED = (ConnectionFailedError, RpcError, ProtocolError, VerificationError)


OnLeftOut: TypeAlias = Callable[[str, QuorateError], object]
"""Is told a node's address, and why nothing more is taken from it."""


def ignore_left_out(_url: str, _reason: QuorateError) -> None:
    """Do not tell anybody."""


class Node(Protocol):
    """A client of a node, of either kind."""

    endpoint: Endpoint


N = TypeVar("N", bound=Node)


@dataclass(frozen=True)
class DownloadOptions(Generic[N]):
    """What a download may be told beyond the task and the file.

    Attributes
    ----------
    height : int or None
        The weights as of this block; the latest by default.
    trusted : Genesis or ValidatorSet or None
        Whom the proof is verified against; the genesis document of the node itself by default,
        which then has to be one's own.
    commit_from : client or None
        Another node to ask for the commit.
    others : sequence of clients
        Nodes to take chunks from beside the first.
    on_progress : callable
    on_left_out : callable
        Told once of each node that chunks are not taken from any more, and why; from any thread.
    timeout_s : float
        How long the node that is asked for the commit may be behind.
    """

    height: int | None = None
    trusted: Genesis | ValidatorSet | None = None
    commit_from: N | None = None
    others: Sequence[N] = ()
    on_progress: OnProgress = ignore_progress
    on_left_out: OnLeftOut = ignore_left_out
    timeout_s: float = 30.0

    @property
    def nodes(self) -> tuple[N, ...]:
        """All nodes that may be asked beside the first."""
        return (*self.others, *(() if self.commit_from is None else (self.commit_from,)))


def download_weights(
    endpoint: Endpoint, task: TaskKey, path: Path, options: DownloadOptions[N]
) -> Script[StoredWeights]:
    """Download weights into a file and verify them against the chain.

    Raises
    ------
    VerificationError
        If they are not proven.
    RpcError
        If no node has them any more; the message names the lowest height that it has.
    ConnectionFailedError
        If all nodes stay away. Downloading again goes on where this ended.
    OSError
        If the file cannot be written.
    """
    found = yield from get_task(endpoint, task)
    trusted = options.trusted
    if trusted is None:
        trusted = yield from get_chain(endpoint)
    source = endpoint if options.commit_from is None else options.commit_from.endpoint
    proof = yield from _get_proof(
        endpoint, source, found, options.height, trusted, options.timeout_s
    )
    endpoints = dict.fromkeys((endpoint, *(other.endpoint for other in options.others)))
    sources = [_Source(each, options.on_left_out) for each in endpoints]
    size = WEIGHT_BYTES * found.spec.dimension
    listed = yield from _get_chunks(sources, found.task_id, size, proof)
    kept = size
    if not (yield from run_function(lambda: is_file_whole(path, size, listed.chunk_hashes))):
        with PartialFile(path, size, listed.chunk_hashes) as file:
            download = _Download(found.task_id, listed, sources, file)
            kept = yield from download.run(options.on_progress)
            yield from run_function(file.finish)
    return StoredWeights(
        path,
        found.spec,
        found.task_id,
        proof.leaf.weights_root,
        proof.header.chain_id,
        proof.header.height,
        proof.header.time_ms,
        proof.header.hash,
        kept,
    )


def get_verified_weights(
    endpoint: Endpoint,
    source: Endpoint,
    task: TaskKey,
    trusted: Genesis | ValidatorSet,
    timeout_s: float,
) -> Script[VerifiedWeights]:
    """Return the latest finalized weights of one node, in memory, proven by another's commit.

    Raises
    ------
    VerificationError
        If they are not proven.
    RpcError, ConnectionFailedError
        If a node refuses, or stays away.
    """
    found = yield from get_task(endpoint, task)
    proof = yield from _get_proof(endpoint, source, found, None, trusted, timeout_s)
    sources = [_Source(endpoint)]
    size = WEIGHT_BYTES * found.spec.dimension
    listed = yield from _get_chunks(sources, found.task_id, size, proof)
    arriving = PartialBytes(size, listed.chunk_hashes)
    yield from _Download(found.task_id, listed, sources, arriving).run(ignore_progress)
    return VerifiedWeights(
        (yield from run_function(arriving.join)),
        found.task_id,
        proof.leaf.weights_root,
        proof.header.chain_id,
        proof.header.height,
        proof.header.time_ms,
        proof.header.hash,
    )


def _get_proof(
    endpoint: Endpoint,
    source: Endpoint,
    task: Task,
    height: int | None,
    trusted: Genesis | ValidatorSet,
    timeout_s: float,
) -> Script[WeightsProof]:
    """Return the proof of a task's weights at a height, verified."""
    proof = yield from get_weights_proof(endpoint, source, task, height, timeout_s)
    if proof.leaf.task_id != task.task_id:
        raise VerificationError(
            VerificationStep.TASK,
            f"the proof is for task {proof.leaf.task_id.hex()}, not {task.task_id.hex()}",
        )
    verify_leaf(proof, trusted)
    return proof


@dataclass(eq=False)
class _Source:
    """A node that chunks are taken from, until it fails."""

    endpoint: Endpoint
    on_left_out: OnLeftOut = ignore_left_out
    failure: QuorateError | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, reason: QuorateError) -> None:
        """Take nothing from it any more; the first reason is told. For any thread."""
        with self._lock:
            if self.failure is not None:
                return
            self.failure = reason
        self.on_left_out(self.endpoint.url, reason)


def _get_chunks(
    sources: Sequence[_Source], task_id: Hash, size: int, proof: WeightsProof
) -> Script[ChunkList]:
    """Return the chunk hashes that prove themselves against the root; from whoever has them."""
    root = proof.leaf.weights_root
    for source in sources:
        try:
            listed = yield from perform(
                source.endpoint, get_weights_chunks(task_id, proof.header.height)
            )
            hashes = tuple(Hash(each) for each in listed.chunk_hashes)
            if are_chunk_hashes_valid(root, size, hashes):
                return listed
            source.fail(
                VerificationError(
                    VerificationStep.WEIGHTS,
                    f"the chunks that the node lists are not those of the root {root.hex()}",
                )
            )
        except _SOURCE_FAILED as error:
            source.fail(error)
    raise _get_failure(sources)


@dataclass
class _Download:
    """One download, once everything about it is known but the bytes."""

    task_id: Hash
    listed: ChunkList
    sources: Sequence[_Source]
    file: PartialFile | PartialBytes
    _chunks: deque[int] = field(default_factory=deque)

    def run(self, on_progress: OnProgress) -> Script[int]:
        """Fetch what is missing; the result is how many bytes were there already."""
        missing = yield from run_function(self.file.find_missing)
        self._chunks.extend(missing)
        kept = self.file.size - sum(get_chunk_size(self.file.size, index) for index in missing)
        count = TransferCount("download", kept, self.file.size, on_progress)
        while self._chunks:
            workers = self._make_workers(count)
            if not workers:
                raise _get_failure(self.sources)
            yield from run_together(workers)
        return kept

    def _make_workers(self, count: TransferCount) -> list[Script[None]]:
        usable = [source for source in self.sources if source.failure is None]
        workers = min(CHUNKS_AT_ONCE_PER_NODE * len(usable), CHUNKS_AT_ONCE_MAX, len(self._chunks))
        return [self._fetch(usable[number % len(usable)], count) for number in range(workers)]

    def _fetch(self, source: _Source, count: TransferCount) -> Script[None]:
        """Fetch chunks from a node until none is left, or the node fails."""
        while source.failure is None:
            try:
                index = self._chunks.popleft()
            except IndexError:
                return
            try:
                count.add((yield from self._fetch_one(source, index)))
            except _SOURCE_FAILED as error:
                source.fail(error)
                self._chunks.append(index)

    def _fetch_one(self, source: _Source, index: int) -> Script[int]:
        # The height since when these are the weights: every node that is not far behind has it.
        call = get_weights_chunk(self.task_id, self.listed.height, index)
        page = yield from perform(source.endpoint, call)
        if not (yield from run_function(partial(self.file.write, index, page.data))):
            raise VerificationError(
                VerificationStep.WEIGHTS,
                f"chunk {index} that {source.endpoint.url} sent has not the hash that it must have",
            )
        return len(page.data)


def _get_failure(sources: Sequence[_Source]) -> QuorateError:
    """Return why no node is left: the first one's reason."""
    failures = (source.failure for source in sources if source.failure is not None)
    return next(failures, ConnectionFailedError("No node was given to download from."))
