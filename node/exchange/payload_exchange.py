"""Payloads pulled from peers: what a transaction or a block names and this node lacks.

Owns the list of wanted payloads and the order in which they are pulled (`payload_pull` pulls one).
Never decides whether a payload is wanted: the mempool (for an admitted transaction) and the
executor (for a proposed block) do.

What a block needs does not queue behind what transactions name: a participant may name payloads
that nobody has, as many as it likes, and these hold up each other alone.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import structlog
import trio
from quorate.chain.ids import Hash

from node.exchange.payload_pull import PayloadPull, PullFigures, PullParts
from p2p.network import Network, PeerId
from store.payload_contract import Payloads

WANTED_MAX: Final = 4096
"""Payloads asked for at a time; more are refused and asked for again by whoever needs them."""
PULLS_MAX: Final = 8
"""Payloads pulled at a time, and as many for blocks."""
CHUNKS_IN_MEMORY_MAX: Final = 16
"""Chunks of queued payloads that are asked for or being written, and as many for blocks."""
SIZES_MAX: Final = 16
"""Sizes of one payload that pending transactions may say, of which one at most is right."""
LOOK_S: Final = 0.05
"""How often it is looked whether what a block needs has come another way than from the peer that
was asked, who may take until the timeout to say nothing."""
PARTIAL_IDLE_S: Final = 600.0
"""A payload that arrives chunk by chunk is dropped if no chunk has come for one to two times as
long. A restart begins this anew."""
THREADS_MAX: Final = 4
"""Threads that verify and write chunks."""

_log = structlog.get_logger("payloads")


@dataclass(slots=True)
class _Wanted:
    sizes: list[int]
    holders: list[PeerId] = field(default_factory=list)
    done: trio.Event = field(default_factory=trio.Event)
    is_started: bool = False


class PayloadExchange:
    """Pulls wanted payloads from peers.

    Parameters
    ----------
    network : Network
        Where peers answer `GetChunkHashes` and `GetChunk`.
    payloads : Payloads
        Where verified chunks and payloads are kept.
    payload_bytes_max : int
        The most bytes of a payload whose size no transaction says.
    on_stored : callable
        Told the hash of each payload that was pulled and stored.
    """

    def __init__(
        self,
        network: Network,
        payloads: Payloads,
        payload_bytes_max: int,
        on_stored: Callable[[Hash], object],
    ) -> None:
        self._payloads = payloads
        self._on_stored = on_stored
        self._wanted: dict[Hash, _Wanted] = {}
        self._send_queue, self._receive_queue = trio.open_memory_channel[Hash](WANTED_MAX)
        threads, load = trio.CapacityLimiter(THREADS_MAX), Counter[PeerId]()
        distrusted: dict[PeerId, float] = {}
        self.figures = PullFigures()
        self._queued_parts, self._block_parts = (
            PullParts(
                network,
                payloads,
                payload_bytes_max,
                trio.CapacityLimiter(CHUNKS_IN_MEMORY_MAX),
                threads,
                load,
                self.figures,
                distrusted,
            )
            for _ in range(2)
        )

    @property
    def wanted_count(self) -> int:
        """Payloads that are wanted and not here."""
        return len(self._wanted)

    @property
    def bytes_missing(self) -> int:
        """Bytes of wanted payloads that are not here, as far as sizes are known."""
        missing = 0
        for payload_hash, wanted in self._wanted.items():
            partial = self._payloads.get_partial(payload_hash)
            missing += max(wanted.sizes, default=0) if partial is None else partial.missing_bytes
        return missing

    def want(self, payload_hash: Hash, size: int = 0, holder: PeerId | None = None) -> bool:
        """Begin to pull a payload; tell whether it is being pulled (False: at hand, or full).

        Parameters
        ----------
        payload_hash : bytes, 32
            The content address of the payload.
        size : int
            Its size in bytes if a signed transaction names it, 0 if unknown.
        holder : PeerId, optional
            A peer that should have it, asked first.
        """
        if self._payloads.has(payload_hash):
            return False
        known = self._wanted.get(payload_hash)
        if known is not None:
            self._note_holder(known, holder)
            if len(known.sizes) < SIZES_MAX:
                _note_size(known, size)
            return True
        if len(self._wanted) >= WANTED_MAX:
            return False
        try:
            # What a block has taken out of its turn keeps its place in the queue.
            self._send_queue.send_nowait(payload_hash)
        except trio.WouldBlock:
            return False
        wanted = self._wanted[payload_hash] = _Wanted([])
        _note_size(wanted, size)
        self._note_holder(wanted, holder)
        return True

    def note_holder(self, payload_hash: Hash, holder: PeerId) -> None:
        """Take note that a peer should have a payload, if it is wanted."""
        known = self._wanted.get(payload_hash)
        if known is not None:
            self._note_holder(known, holder)

    async def wait_for(
        self, payload_hashes: tuple[Hash, ...], sizes: Mapping[bytes, int] | None = None
    ) -> None:
        """Pull what a block needs, a few at a time; return when the pulls have ended, well or not.

        What waits in the queue is pulled here and now; what is being pulled is waited for.

        Parameters
        ----------
        payload_hashes : tuple of bytes, 32
        sizes : mapping of bytes to int, optional
            The sizes that the block's transactions say.
        """
        limit = trio.Semaphore(PULLS_MAX)
        async with trio.open_nursery() as nursery:
            for payload_hash in payload_hashes:
                size = 0 if sizes is None else sizes.get(payload_hash, 0)
                nursery.start_soon(self._pull_for_block, payload_hash, size, limit)

    async def _pull_for_block(self, payload_hash: Hash, size: int, limit: trio.Semaphore) -> None:
        async with limit:
            if self._payloads.has(payload_hash):
                return
            # As many as blocks name, which has a limit of its own, beside those in the queue.
            wanted = self._wanted.setdefault(payload_hash, _Wanted([]))
            # However many sizes transactions have said: a block says one, and is not waited for
            # in vain because of them.
            _note_size(wanted, size)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._look_for, payload_hash, nursery.cancel_scope)
                if wanted.is_started:
                    await wanted.done.wait()
                else:
                    await self._pull_to_the_end(payload_hash, wanted, self._block_parts)
                nursery.cancel_scope.cancel()

    async def _look_for(self, payload_hash: Hash, pulling: trio.CancelScope) -> None:
        """Stop waiting for a payload once it is here: it may have come with its transaction."""
        while True:
            if self._payloads.has(payload_hash):
                pulling.cancel()
                return
            await trio.sleep(LOOK_S)

    async def run(self) -> None:
        """Pull until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(PULLS_MAX):
                nursery.start_soon(self._work)

    async def _work(self) -> None:
        async for payload_hash in self._receive_queue.clone():
            wanted = self._wanted.get(payload_hash)
            if wanted is not None and not wanted.is_started:
                await self._pull_to_the_end(payload_hash, wanted, self._queued_parts)

    async def sweep_partials(self) -> None:
        """Drop what began to arrive, from peers or users, and does not go on; until cancelled."""
        while True:
            await trio.sleep(PARTIAL_IDLE_S)
            swept = await trio.to_thread.run_sync(self._payloads.sweep_partials)
            if swept:
                _log.info("partial_payloads_dropped", count=swept)

    async def _pull_to_the_end(self, payload_hash: Hash, wanted: _Wanted, parts: PullParts) -> None:
        wanted.is_started = True
        has_ended = False
        try:
            pull = PayloadPull(parts, payload_hash, wanted.sizes, wanted.holders)
            is_stored = await pull.run()
            has_ended = True
        finally:
            if not has_ended:
                # The height is over, but a transaction may wait for it still.
                with suppress(trio.WouldBlock):
                    self._send_queue.send_nowait(payload_hash)
                    wanted.is_started = False
            if wanted.is_started:
                del self._wanted[payload_hash]
                wanted.done.set()
        if is_stored:
            self._on_stored(payload_hash)

    @staticmethod
    def _note_holder(wanted: _Wanted, holder: PeerId | None) -> None:
        if holder is not None and holder not in wanted.holders:
            wanted.holders.append(holder)


def _note_size(wanted: _Wanted, size: int) -> None:
    """Take note of a size that a signed transaction says; 0 is none."""
    if size and size not in wanted.sizes:
        wanted.sizes.append(size)
