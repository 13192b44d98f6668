"""Pending transactions between nodes: batches pushed over links, the rest repaired by pull.

Owns the way of a pending transaction to other nodes: batches to all linked peers, relays beyond
them, announcements of what has been pending for long, and pulls of what an announcement names.
Never judges a transaction: the mempool does.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import structlog
import trio
from quorate.chain.codec import decode
from quorate.chain.errors import DecodeError
from quorate.chain.ids import Hash

from node.config import MempoolSection
from node.exchange.broadcasting import Broadcaster
from node.exchange.messages import (
    HASHES_PER_MESSAGE_MAX,
    RIDING_PAYLOAD_BYTES_MAX,
    TRANSACTION_BATCH_BYTES_MAX,
    TRANSACTIONS_PER_MESSAGE_MAX,
    GetTransactions,
    PendingHashesMessage,
    TransactionEntry,
    TransactionsMessage,
    encode_message,
)
from node.mempool.door import PendingTransaction
from node.mempool.mempool import Mempool
from p2p.network import (
    RESPONSE_BYTES_MAX,
    Network,
    PeerId,
    Priority,
    RequestFailed,
    RequestTimedOut,
)
from store.payload_contract import Payloads

BATCHES_QUEUED_MAX: Final = 256
"""Batches of peers that wait to be checked; more are dropped, and pulled when announced."""
BATCHES_QUEUED_BYTES_MAX: Final = 32 << 20
PULLS_QUEUED_MAX: Final = 64
"""Announcements that wait to be followed up."""
PULLS_PER_PEER_MAX: Final = 4
"""Of these, those of one peer: whoever announces and never answers must not hold up the others."""
MALFORMED_PENALTY: Final = 20
SILENCE_PENALTY: Final = 20
ANNOUNCED_MAX: Final = 4 * HASHES_PER_MESSAGE_MAX
"""Transactions announced in one go; the oldest first."""
PULL_TIMEOUT_S: Final = 5.0
ANNOUNCE_AGAIN: Final = 4
"""A transaction is announced again after so many times the announcement interval."""

_log = structlog.get_logger("transaction_gossip")


class TransactionGossip:
    """Carries pending transactions from and to the mempool.

    Parameters
    ----------
    network : Network
        Links, requests and announcements.
    mempool : Mempool
        What is pending.
    payloads : Payloads
        The payloads of pending transactions.
    broadcaster : Broadcaster
        Knows whom a batch from a peer has not reached.
    config : MempoolSection
        `gossip_interval_ms` and `announce_after_ms`.
    """

    def __init__(
        self,
        network: Network,
        mempool: Mempool,
        payloads: Payloads,
        broadcaster: Broadcaster,
        config: MempoolSection,
    ) -> None:
        self._network = network
        self._mempool = mempool
        self._payloads = payloads
        self._broadcaster = broadcaster
        self._interval_s = config.gossip_interval_ms / 1000
        self._announce_s = config.announce_after_ms / 1000
        self._queued_bytes = 0
        self._to_worker, self._batches = trio.open_memory_channel[
            tuple[PeerId, tuple[TransactionEntry, ...], int]
        ](BATCHES_QUEUED_MAX)
        self._to_puller, self._pulls = trio.open_memory_channel[tuple[PeerId, tuple[Hash, ...]]](
            PULLS_QUEUED_MAX
        )
        self._pulls_of: Counter[PeerId] = Counter()
        self.dropped_batches = 0

    # What peers send: both calls return at once.

    def receive(self, peer: PeerId, entries: tuple[TransactionEntry, ...]) -> None:
        """Take a batch of a peer; when too much waits already, drop it."""
        size = sum(len(entry.transaction) + len(entry.payload or b"") for entry in entries)
        try:
            if self._queued_bytes + size > BATCHES_QUEUED_BYTES_MAX:
                raise trio.WouldBlock
            self._to_worker.send_nowait((peer, entries, size))
            self._queued_bytes += size
        except trio.WouldBlock:
            self.dropped_batches += 1

    def receive_hashes(self, peer: PeerId, hashes: Sequence[Hash]) -> None:
        """Ask a peer for the announced transactions that are not known here."""
        unknown = tuple(hash_ for hash_ in hashes if not self._mempool.has(hash_))
        if unknown:
            try:
                if self._pulls_of[peer] >= PULLS_PER_PEER_MAX:
                    raise trio.WouldBlock
                self._to_puller.send_nowait((peer, unknown))
                self._pulls_of[peer] += 1
            except trio.WouldBlock:
                self.dropped_batches += 1

    def get_entry(self, transaction_hash: Hash) -> TransactionEntry | None:
        """Return a pending transaction as it travels, for a peer that pulls it."""
        entry = self._mempool.get(transaction_hash)
        return None if entry is None else self._make_entry(entry)

    async def run(self) -> None:
        """Carry transactions until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._take_batches)
            nursery.start_soon(self._send_outbox)
            nursery.start_soon(self._announce)
            nursery.start_soon(self._pull)

    async def _take_batches(self) -> None:
        async for peer, entries, size in self._batches:
            self._queued_bytes -= size
            await self._mempool.receive_batch(
                peer, [(entry.transaction, entry.payload) for entry in entries]
            )

    async def _send_outbox(self) -> None:
        """Send what is new: own users' to all peers, peers' to those they may not have reached."""
        while True:
            await self._mempool.wait_for_outbox()
            await trio.sleep(self._interval_s)
            while batch := self._mempool.take_outbox(
                TRANSACTION_BATCH_BYTES_MAX, TRANSACTIONS_PER_MESSAGE_MAX
            ):
                self._send_batch(batch)
                await trio.lowlevel.checkpoint()

    def _send_batch(self, batch: list[PendingTransaction]) -> None:
        by_origin: dict[str | None, list[PendingTransaction]] = {}
        for entry in batch:
            by_origin.setdefault(entry.origin, []).append(entry)
        for origin, entries in by_origin.items():
            if origin is None:
                self._network.broadcast(Priority.MEMPOOL, self._encode(entries))
                continue
            targets = self._broadcaster.get_relay_targets(PeerId(origin))
            if targets:
                body = self._encode(entries)
                for peer in targets:
                    self._network.send(peer, Priority.MEMPOOL, body)

    def _encode(self, entries: list[PendingTransaction]) -> bytes:
        return encode_message(
            TransactionsMessage(tuple(self._make_entry(entry) for entry in entries))
        )

    def _make_entry(self, entry: PendingTransaction) -> TransactionEntry:
        payload = None
        if entry.payload_hash is not None and entry.payload_size <= RIDING_PAYLOAD_BYTES_MAX:
            payload = self._payloads.get(entry.payload_hash)
        return TransactionEntry(entry.raw, payload)

    async def _announce(self) -> None:
        """Name what has been pending for long, on links and by gossip, for who has missed it."""
        announced: dict[Hash, float] = {}
        while True:
            await trio.sleep(self._announce_s)
            now = trio.current_time()
            pending: dict[Hash, float] = {}
            due: list[Hash] = []
            for entry in self._mempool.iterate_older_than(self._announce_s):
                last = announced.get(entry.hash)
                if last is None or now - last >= ANNOUNCE_AGAIN * self._announce_s:
                    due.append(entry.hash)
                    last = now
                pending[entry.hash] = last
                if len(due) >= ANNOUNCED_MAX:
                    break
            announced = pending
            for start in range(0, len(due), HASHES_PER_MESSAGE_MAX):
                hashes = tuple(due[start : start + HASHES_PER_MESSAGE_MAX])
                body = encode_message(PendingHashesMessage(hashes))
                self._network.broadcast(Priority.MEMPOOL, body)
                self._network.announce(body)

    async def _pull(self) -> None:
        async for peer, hashes in self._pulls:
            self._pulls_of[peer] -= 1
            if not self._pulls_of[peer]:
                del self._pulls_of[peer]
            unknown = tuple(hash_ for hash_ in hashes if not self._mempool.has(hash_))
            if unknown:
                await self._pull_from(peer, unknown)

    async def _pull_from(self, peer: PeerId, hashes: tuple[Hash, ...]) -> None:
        try:
            raw = await self._network.request(
                peer,
                encode_message(GetTransactions(hashes)),
                response_bytes_max=RESPONSE_BYTES_MAX,
                timeout_s=PULL_TIMEOUT_S,
            )
            answer = decode(TransactionsMessage, raw, RESPONSE_BYTES_MAX)
        except RequestFailed as error:
            _log.debug("pull_failed", peer=peer, reason=str(error))
            if isinstance(error, RequestTimedOut):
                self._network.report(peer, SILENCE_PENALTY, "announced what it did not send")
            return
        except DecodeError as error:
            self._network.report(peer, MALFORMED_PENALTY, str(error))
            return
        await self._mempool.receive_batch(
            peer, [(entry.transaction, entry.payload) for entry in answer.entries]
        )
