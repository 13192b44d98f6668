"""One payload on its way here: its chunk hashes, then its chunks, from several peers at once.

Owns the requests for one payload and what each peer did about them. Never keeps bytes whose hash
differs from the one asked for, and never a payload of many chunks in memory: each chunk is verified
and written where it belongs when it arrives, so that a restart goes on from there.

A wrong chunk costs that chunk, and its sender points. That holds when the payload's size is known
from a signed transaction; without it, a list of chunk hashes may be one of inner nodes, which no
chunk ever fits, and then the list is what is not believed again.

Whoever signs a transaction may lie about the size, too: nobody is blamed for what an honest peer
says of a payload of another size, and of several sizes that were signed any one may turn out right.
"""

from collections import Counter, deque
from dataclasses import dataclass, field
from functools import partial as bind
from typing import Final

import structlog
import trio
from quorate.chain.codec import decode
from quorate.chain.content import (
    CHUNK_BYTES,
    are_chunk_hashes_valid,
    compute_chunk_hash,
    compute_content_hash,
    count_chunks,
    get_chunk_size,
)
from quorate.chain.errors import DecodeError
from quorate.chain.ids import Hash

from node.exchange.messages import (
    ChunkHashesAnswer,
    GetChunk,
    GetChunkHashes,
    encode_message,
)
from p2p.network import (
    RESPONSE_BYTES_MAX,
    Network,
    PeerId,
    RequestFailed,
    RequestTimedOut,
    RequestTooLarge,
)
from store.errors import PayloadAbandoned, PayloadMismatch, PayloadRefused
from store.partial_payload import PartialPayload
from store.payload_contract import Payloads

CHUNKS_PER_PULL_MAX: Final = 6
"""Chunks of one payload that are asked for at a time."""
CHUNKS_PER_PEER_MAX: Final = 3
"""Of these, those asked of one peer."""
REQUEST_TIMEOUT_S: Final = 5.0
"""How long an answer may take, and for its bytes as long as at the slowest rate beside it."""
SLOWEST_BYTES_PER_S: Final = 64 * 1024
LIST_BYTES: Final = 64 * 1024
"""What a list of chunk hashes is counted as: that of a payload of 2 GiB."""
DISTRUST_S: Final = 60.0
"""How long a peer that did not answer is asked after all others, for other payloads too."""
DISTRUSTED_MAX: Final = 1_024
"""Such peers; of more, the first are forgotten."""
RETRY_DELAY_S: Final = 0.2
ATTEMPTS_MAX: Final = 50
"""Rounds of asking all peers that bring nothing, before a payload is given up."""
THREAD_BYTES_MIN: Final = 128 * 1024
"""A chunk of this size or more is verified and written in a thread."""
WRONG_PAYLOAD_PENALTY: Final = 20

_log = structlog.get_logger("payloads")


@dataclass(slots=True)
class PullFigures:
    """What all pulls together have done since the start.

    Attributes
    ----------
    chunks, bytes : int
        Chunks that arrived and had their hash, and their bytes.
    wrong : int
        Chunks that had another.
    """

    chunks: int = 0
    bytes: int = 0
    wrong: int = 0


@dataclass(frozen=True, slots=True)
class PullParts:
    """What all pulls share.

    Attributes
    ----------
    network, payloads
        Where chunks come from and go.
    bytes_max : int
        The most bytes of a payload whose size nobody signed.
    slots : CapacityLimiter
        Bounds the chunks in memory.
    threads : CapacityLimiter
        Bounds the threads that verify and write.
    load : Counter
        Chunks that each peer has been asked for and has not sent.
    figures : PullFigures
    distrusted : dict
        Until when, in trio's time, a peer that did not answer is asked last.
    """

    network: Network
    payloads: Payloads
    bytes_max: int
    slots: trio.CapacityLimiter
    threads: trio.CapacityLimiter
    load: Counter[PeerId]
    figures: PullFigures
    distrusted: dict[PeerId, float]

    def distrust(self, peer: PeerId) -> None:
        """Ask a peer after all others for a while."""
        self.distrusted.pop(peer, None)
        self.distrusted[peer] = trio.current_time() + DISTRUST_S
        if len(self.distrusted) > DISTRUSTED_MAX:
            del self.distrusted[next(iter(self.distrusted))]

    def is_distrusted(self, peer: PeerId) -> bool:
        """Tell whether a peer has failed to answer lately."""
        return self.distrusted.get(peer, 0.0) > trio.current_time()


@dataclass(slots=True)
class PayloadPull:
    """The pull of one payload.

    Attributes
    ----------
    parts : PullParts
    payload_hash : bytes, 32
    sizes : list of int
        As signed transactions say, which may contradict each other; empty if unknown. More may come
        while it is pulled.
    holders : list of PeerId
        Peers that should have it, asked first.
    """

    parts: PullParts
    payload_hash: Hash
    sizes: list[int] = field(default_factory=list)
    holders: list[PeerId] = field(default_factory=list)
    attempts: int = 0
    size: int = 0
    _silent: set[PeerId] = field(default_factory=set)
    _lacking: set[PeerId] = field(default_factory=set)
    _misfits: set[PeerId] = field(default_factory=set)
    _sizes_tried: int = 0
    _own_load: Counter[PeerId] = field(default_factory=Counter)
    _list_source: PeerId | None = None

    async def run(self) -> bool:
        """Pull until the payload is stored; False if it was given up.

        Raises
        ------
        StorageError
            The node cannot store it, nor anything else.
        """
        payloads = self.parts.payloads
        while self.attempts < ATTEMPTS_MAX and not payloads.has(self.payload_hash):
            self._lacking.clear()
            try:
                is_stored = await self._try_all()
            except PayloadAbandoned:
                is_stored = False
            except PayloadRefused as error:
                # What others send must not stop the node. Whoever needs it asks again, so that the
                # node goes on by itself once there is room.
                _log.error("payload_not_stored", payload=self.payload_hash.hex(), reason=str(error))
                return False
            if is_stored:
                return True
            self.attempts += 1
            await trio.sleep(RETRY_DELAY_S)
        if payloads.has(self.payload_hash):
            return True
        _log.warning("payload_not_found", payload=self.payload_hash.hex(), asked=self.attempts)
        begun = payloads.get_partial(self.payload_hash)
        if begun is not None:
            await trio.to_thread.run_sync(_give_up, begun, limiter=self.parts.threads)
        return False

    async def _try_all(self) -> bool:
        """Ask every peer that may help once; tell whether the payload is stored."""
        if self.sizes:
            # Of several, a peer that has the payload tells the right one with its list.
            self.size = self.sizes[0] if len(self.sizes) == 1 else 0
        if len(self.sizes) != self._sizes_tried:
            self._sizes_tried = len(self.sizes)
            self._misfits.clear()
        if 0 < self.size <= CHUNK_BYTES:
            return await self._pull_small()
        partial = self.parts.payloads.get_partial(self.payload_hash)
        if partial is None or (self.sizes and partial.size not in self.sizes):
            begun = await self._begin()
            if begun is None:
                return 0 < self.size <= CHUNK_BYTES and await self._pull_small()
            partial = begun
        # After a restart this reads what is here already.
        missing = await trio.to_thread.run_sync(partial.missing, limiter=self.parts.threads)
        if missing:
            left = await self._pull_chunks(partial, missing)
            if len(left) < len(missing):
                self.attempts = 0
            if left:
                return False
        await trio.to_thread.run_sync(partial.finish, limiter=self.parts.threads)
        return True

    async def _pull_small(self) -> bool:
        """Pull a payload of one chunk, which needs no list."""
        while self.size and (peer := self._choose()) is not None:
            data = await self._ask(peer, GetChunk(self.payload_hash, 0), self.size)
            if data is None:
                continue
            is_it = compute_content_hash(data) == self.payload_hash
            if is_it and len(data) != self.size and self.sizes:
                # The peer has sent the payload itself: the signed size is wrong.
                self._misfits.add(peer)
                continue
            if len(data) != self.size or not is_it:
                self.parts.figures.wrong += 1
                if not self._doubt(peer, "payload with another hash"):
                    return False
                continue
            self._count(len(data))
            put = self.parts.payloads.put_expected
            if len(data) < THREAD_BYTES_MIN:
                # Durable with the vote, or with the block, for which it is here.
                put(self.payload_hash, data, sync=False)
            else:
                await trio.to_thread.run_sync(put, self.payload_hash, data)
            return True
        return False

    async def _begin(self) -> PartialPayload | None:
        """Learn the chunk hashes from a peer; None if nobody tells, or one chunk needs no list."""
        while (peer := self._choose()) is not None:
            raw = await self._ask(peer, GetChunkHashes(self.payload_hash), RESPONSE_BYTES_MAX)
            if raw is None:
                continue
            try:
                answer = decode(ChunkHashesAnswer, raw, RESPONSE_BYTES_MAX)
            except DecodeError as error:
                self._blame(peer, str(error))
                continue
            if (
                answer.size < 1
                or (answer.size > self.parts.bytes_max and answer.size not in self.sizes)
                or not are_chunk_hashes_valid(self.payload_hash, answer.size, answer.chunk_hashes)
            ):
                self._blame(peer, "chunk hashes of something else")
                continue
            if self.sizes and answer.size not in self.sizes:
                self._misfits.add(peer)
                continue
            self.size, self._list_source = answer.size, peer
            if count_chunks(answer.size) == 1:
                return None
            begin = bind(self.parts.payloads.begin, is_size_sure=bool(self.sizes))
            return await trio.to_thread.run_sync(
                begin,
                self.payload_hash,
                answer.size,
                answer.chunk_hashes,
                limiter=self.parts.threads,
            )
        return None

    async def _pull_chunks(
        self, partial: PartialPayload, missing: tuple[int, ...]
    ) -> tuple[int, ...]:
        """Ask for chunks, several at a time; return those still missing."""
        queue = deque(missing)
        async with trio.open_nursery() as nursery:
            for _ in range(min(CHUNKS_PER_PULL_MAX, len(missing))):
                nursery.start_soon(self._pull_queued, partial, queue)
        # Another thread may be making it durable, and holds it for so long.
        return await trio.to_thread.run_sync(partial.missing, limiter=self.parts.threads)

    async def _pull_queued(self, partial: PartialPayload, queue: deque[int]) -> None:
        while queue:
            async with self.parts.slots:
                peer = self._choose()
                if peer is None or not queue:
                    return
                index = queue.popleft()
                try:
                    is_here = await self._pull_chunk(partial, index, peer)
                except PayloadAbandoned:
                    queue.clear()
                    return
                if not is_here:
                    queue.append(index)

    async def _pull_chunk(self, partial: PartialPayload, index: int, peer: PeerId) -> bool:
        """Ask one peer for one chunk; tell whether it is here now.

        Raises
        ------
        PayloadAbandoned
            What had arrived was dropped.
        """
        length = get_chunk_size(partial.size, index)
        data = await self._ask(peer, GetChunk(self.payload_hash, index), length)
        if data is None:
            return False
        try:
            if length < THREAD_BYTES_MIN:
                partial.write(index, data)
            else:
                await trio.to_thread.run_sync(
                    partial.write, index, data, limiter=self.parts.threads
                )
        except PayloadMismatch as error:
            if self.sizes and compute_chunk_hash(data) == partial.chunk_hashes[index]:
                # It is that chunk, of another length: the signed size is wrong.
                self._misfits.add(peer)
                return False
            self.parts.figures.wrong += 1
            if not self._doubt(peer, f"another chunk {index} of a payload"):
                await trio.to_thread.run_sync(partial.abandon, limiter=self.parts.threads)
                raise PayloadAbandoned("its list of chunk hashes is not believed") from error
            return False
        self._count(length)
        return True

    def _doubt(self, peer: PeerId, reason: str) -> bool:
        """Blame the sender of wrong bytes; False if the size that nobody signed may be wrong."""
        if self.sizes:
            self._blame(peer, reason)
            return True
        # Begin again, without whoever told the size.
        self._silent.add(self._list_source or peer)
        self.size = 0
        return False

    async def _ask(
        self, peer: PeerId, request: GetChunk | GetChunkHashes, bytes_max: int
    ) -> bytes | None:
        """Return a peer's answer, or None if it hasn't what is asked for or doesn't answer well."""
        load = self.parts.load
        load[peer] += 1
        self._own_load[peer] += 1
        try:
            return await self.parts.network.request(
                peer,
                encode_message(request),
                response_bytes_max=bytes_max,
                timeout_s=_compute_timeout(request, bytes_max),
            )
        except RequestTimedOut:
            # Once is enough: it would hold up each further round of asking, and each of the other
            # payloads that a block names, for as long.
            self._silent.add(peer)
            self.parts.distrust(peer)
        except RequestTooLarge:
            # It may have a longer payload than was signed or told.
            if self.sizes:
                self._misfits.add(peer)
            else:
                self._doubt(peer, "more bytes than were asked for")
                self._lacking.add(peer)
        except RequestFailed:
            self._lacking.add(peer)
        finally:
            self._own_load[peer] -= 1
            load[peer] -= 1
            if not load[peer]:
                del load[peer]
        return None

    def _choose(self) -> PeerId | None:
        """Return the peer to ask next: one that should have it, and the least busy of these."""
        linked = [
            info.peer_id
            for info in self.parts.network.peers()
            if info.peer_id not in self._silent
            and info.peer_id not in self._misfits
            and info.peer_id not in self._lacking
            and self._own_load[info.peer_id] < CHUNKS_PER_PEER_MAX
        ]
        return min(
            linked,
            key=lambda peer: (
                self.parts.is_distrusted(peer),
                peer not in self.holders,
                self.parts.load[peer],
                self.holders.index(peer) if peer in self.holders else 0,
            ),
            default=None,
        )

    def _blame(self, peer: PeerId, reason: str) -> None:
        """Score a peer down, and ask it no more for this payload."""
        self.parts.network.report(peer, WRONG_PAYLOAD_PENALTY, reason)
        self._silent.add(peer)

    def _count(self, length: int) -> None:
        self.parts.figures.chunks += 1
        self.parts.figures.bytes += length


def _compute_timeout(request: GetChunk | GetChunkHashes, bytes_max: int) -> float:
    """Return how many seconds the answer to a request may take."""
    expected = bytes_max if isinstance(request, GetChunk) else LIST_BYTES
    return REQUEST_TIMEOUT_S + expected / SLOWEST_BYTES_PER_S


def _give_up(partial: PartialPayload) -> None:
    """Let go of the room that was kept for a payload of which nothing has come."""
    if len(partial.missing()) == len(partial.chunk_hashes):
        partial.abandon()
