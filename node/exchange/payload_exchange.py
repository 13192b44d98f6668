"""Payloads pulled from peers: what a transaction or a block names and this node lacks.

Owns the list of wanted payloads and the requests for them. Never decides whether a payload is
wanted: the mempool (for an admitted transaction) and the executor (for a proposed block) do.
Never keeps bytes whose hash differs from the one asked for.

What a block needs does not queue behind what transactions name: a participant may name payloads
that nobody has, as many as it likes, and these hold up each other alone.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import structlog
import trio
from quorate.chain.codec import decode
from quorate.chain.content import compute_content_hash
from quorate.chain.errors import DecodeError
from quorate.chain.ids import Hash

from node.exchange.messages import RANGE_BYTES_MAX, GetPayloadRange, RangeAnswer, encode_message
from p2p.network import RESPONSE_BYTES_MAX, Network, PeerId, RequestFailed, RequestTimedOut
from store.errors import PayloadRefused
from store.payload_contract import Payloads

WANTED_MAX = 4096
"""Payloads asked for at a time; more are refused and asked for again by whoever needs them."""
PULLS_MAX = 8
"""Payloads pulled at a time."""
RANGE_TIMEOUT_S = 10.0
RETRY_DELAY_S = 0.2
THREAD_BYTES_MIN = 128 * 1024
"""A payload of this size or more is stored in a thread."""
ATTEMPTS_MAX = 50
WRONG_PAYLOAD_PENALTY = 20

_log = structlog.get_logger("payloads")


@dataclass(slots=True)
class _Wanted:
    size: int
    holders: list[PeerId] = field(default_factory=list)
    done: trio.Event = field(default_factory=trio.Event)
    attempts: int = 0
    is_started: bool = False
    silent: set[PeerId] = field(default_factory=set)


class PayloadExchange:
    """Pulls wanted payloads from peers in turn, each slice over the request stream.

    Parameters
    ----------
    network : Network
        Where peers answer `GetPayloadRange`.
    payloads : Payloads
        Where verified payloads are kept.
    payload_bytes_max : int
        The most bytes a payload may have.
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
        self._network = network
        self._payloads = payloads
        self._bytes_max = payload_bytes_max
        self._on_stored = on_stored
        self._wanted: dict[Hash, _Wanted] = {}
        self._send_queue, self._receive_queue = trio.open_memory_channel[Hash](WANTED_MAX)

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
            if holder is not None and holder not in known.holders:
                known.holders.append(holder)
            return True
        if len(self._wanted) >= WANTED_MAX:
            return False
        try:
            # What a block has taken out of its turn keeps its place in the queue.
            self._send_queue.send_nowait(payload_hash)
        except trio.WouldBlock:
            return False
        self._wanted[payload_hash] = _Wanted(size, [holder] if holder is not None else [])
        return True

    async def wait_for(self, payload_hashes: tuple[Hash, ...]) -> None:
        """Pull what a block needs, a few at a time; return when the pulls have ended, well or not.

        What waits in the queue is pulled here and now; what is being pulled is waited for.
        """
        limit = trio.Semaphore(PULLS_MAX)
        async with trio.open_nursery() as nursery:
            for payload_hash in payload_hashes:
                nursery.start_soon(self._pull_for_block, payload_hash, limit)

    async def _pull_for_block(self, payload_hash: Hash, limit: trio.Semaphore) -> None:
        async with limit:
            if self._payloads.has(payload_hash):
                return
            # As many as blocks name, which has a limit of its own, beside those in the queue.
            wanted = self._wanted.setdefault(payload_hash, _Wanted(0))
            if wanted.is_started:
                await wanted.done.wait()
            else:
                await self._pull_to_the_end(payload_hash, wanted)

    async def run(self) -> None:
        """Pull until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(PULLS_MAX):
                nursery.start_soon(self._work)

    async def _work(self) -> None:
        async for payload_hash in self._receive_queue.clone():
            wanted = self._wanted.get(payload_hash)
            if wanted is not None and not wanted.is_started:
                await self._pull_to_the_end(payload_hash, wanted)

    async def _pull_to_the_end(self, payload_hash: Hash, wanted: _Wanted) -> None:
        wanted.is_started = True
        try:
            await self._pull(payload_hash, wanted)
        except trio.Cancelled:
            # The height is over, but a transaction may wait for it still.
            with suppress(trio.WouldBlock):
                self._send_queue.send_nowait(payload_hash)
                wanted.is_started = False
            raise
        finally:
            if wanted.is_started:
                del self._wanted[payload_hash]
                wanted.done.set()

    async def _pull(self, payload_hash: Hash, wanted: _Wanted) -> None:
        while wanted.attempts < ATTEMPTS_MAX and not self._payloads.has(payload_hash):
            for peer in self._candidates(wanted):
                wanted.attempts += 1
                data = await self._pull_from(peer, payload_hash, wanted)
                if data is not None:
                    await self._store(payload_hash, data)
                    return
            wanted.attempts += 1
            await trio.sleep(RETRY_DELAY_S)
        if not self._payloads.has(payload_hash):
            _log.warning("payload_not_found", payload=payload_hash.hex(), asked=wanted.attempts)

    async def _store(self, payload_hash: Hash, data: bytes) -> None:
        try:
            if len(data) < THREAD_BYTES_MIN:
                # Durable with the vote, or with the block, for which it is here.
                self._payloads.put_expected(payload_hash, data, sync=False)
            else:
                # Votes need not wait for a large file to reach the disk.
                await trio.to_thread.run_sync(self._payloads.put_expected, payload_hash, data)
        except PayloadRefused as error:
            # What others send must not stop the node. Whoever needs it asks again, so that the
            # node goes on by itself once there is room.
            _log.error("payload_not_stored", payload=payload_hash.hex(), reason=str(error))
            return
        self._on_stored(payload_hash)

    def _candidates(self, wanted: _Wanted) -> list[PeerId]:
        linked = [p.peer_id for p in self._network.peers() if p.peer_id not in wanted.silent]
        first = [peer for peer in wanted.holders if peer in linked]
        return first + [peer for peer in linked if peer not in first]

    async def _pull_from(self, peer: PeerId, payload_hash: Hash, wanted: _Wanted) -> bytes | None:
        """Return the payload as `peer` has it, or None if it hasn't or doesn't answer well."""
        slices: list[bytes] = []
        received: int = 0
        total: float = math.inf
        try:
            while received < total:
                request = GetPayloadRange(payload_hash, received, RANGE_BYTES_MAX)
                raw = await self._network.request(
                    peer,
                    encode_message(request),
                    response_bytes_max=RESPONSE_BYTES_MAX,
                    timeout_s=RANGE_TIMEOUT_S,
                )
                answer = decode(RangeAnswer, raw, RESPONSE_BYTES_MAX)
                is_plausible = 0 < answer.total <= self._bytes_max and wanted.size in (
                    0,
                    answer.total,
                )
                if not is_plausible or total not in (math.inf, answer.total):
                    self._network.report(peer, WRONG_PAYLOAD_PENALTY, "payload of another size")
                    return None
                total = answer.total
                # Whole slices alone: a byte at a time would keep a worker busy for ever.
                if len(answer.data) != min(RANGE_BYTES_MAX, total - received):
                    self._network.report(peer, WRONG_PAYLOAD_PENALTY, "payload in other slices")
                    return None
                received += len(answer.data)
                slices.append(answer.data)
        except RequestTimedOut:
            # Once is enough: it would hold up each further round of asking for as long.
            wanted.silent.add(peer)
            return None
        except RequestFailed:
            return None
        except DecodeError as error:
            self._network.report(peer, WRONG_PAYLOAD_PENALTY, str(error))
            return None
        data = b"".join(slices)
        if compute_content_hash(data) != payload_hash:
            self._network.report(peer, WRONG_PAYLOAD_PENALTY, "payload with another hash")
            return None
        return data
