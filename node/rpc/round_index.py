"""Where training rounds ended: from a task and a number to the block with the receipt.

Owns an index in memory: fed as rounds end, and for earlier ones by reading the stored receipts
backwards, each height once. Never stored, and bounded: the oldest entries go first.
"""

from typing import Final

import msgspec
import trio
from quorate.chain.errors import StorageError
from quorate.chain.ids import Hash
from quorate.chain.receipt import RoundOutcome, RoundReceipt

from node.mempool.slices import Slices
from store.chain_store import ChainStore

ENTRIES_MAX: Final = 262_144
"""Training rounds in the index."""

HEIGHTS_PER_SEARCH_MAX: Final = 50_000
"""Heights that one search looks through; the next one goes on from there."""

# Transaction receipts are skipped, not decoded: there may be thousands in a block.
_decoder = msgspec.msgpack.Decoder(tuple[msgspec.Raw, tuple[RoundReceipt, ...]])


class SearchUnfinished(Exception):  # noqa: N818 - it says what happened.
    """A search has come to its limit; searching again goes on from there."""


class RoundIndex:
    """The heights at which training rounds ended.

    Parameters
    ----------
    store : ChainStore
        The decided blocks' receipts.
    entries_max, heights_max : int
        The limits.
    """

    def __init__(
        self,
        store: ChainStore,
        *,
        entries_max: int = ENTRIES_MAX,
        heights_max: int = HEIGHTS_PER_SEARCH_MAX,
    ) -> None:
        self._store = store
        self._entries_max = entries_max
        self._heights_max = heights_max
        self._heights: dict[tuple[Hash, int], int] = {}
        self._lock = trio.Lock()
        # Every height from this one on, up to the one below, has been looked through or told.
        self._searched_from = store.height + 1
        self._told_to = store.height

    def restart(self) -> None:
        """Forget how far the search went: some ends may not have been told."""
        self._searched_from = self._store.height + 1
        self._told_to = self._store.height

    def tell_height(self, height: int) -> None:
        """Say that the ends at every height below this one have been told."""
        self._told_to = max(self._told_to, height - 1)

    def add(self, task_id: Hash, training_round: int, height: int) -> None:
        """Remember where a training round ended."""
        self._heights[task_id, training_round] = height
        while len(self._heights) > self._entries_max:
            del self._heights[next(iter(self._heights))]

    async def find(self, task_id: Hash, training_round: int) -> tuple[int, RoundReceipt] | None:
        """Return the height at which a training round ended and its receipt, or None.

        Raises
        ------
        SearchUnfinished
            If it is not among the heights looked through yet.
        StorageError
            If the receipts cannot be read.
        """
        async with self._lock:
            if (task_id, training_round) not in self._heights:
                await self._search(task_id, training_round)
            height = self._heights.get((task_id, training_round))
        if height is None:
            return None
        for receipt in self._load(height):
            if receipt.task_id == task_id and receipt.training_round == training_round:
                return height, receipt
        return None

    async def _search(self, task_id: Hash, training_round: int) -> None:
        slices = Slices()
        # The state moves on a moment before the ends of its block are told.
        for ahead in range(self._told_to + 1, self._store.height + 1):
            for receipt in self._load(ahead):
                self.add(receipt.task_id, receipt.training_round, ahead)
            await slices.pause_if_due()
        if (task_id, training_round) in self._heights:
            return
        stop = max(self._store.base, self._searched_from - self._heights_max)
        while self._searched_from > stop:
            self._searched_from -= 1
            for receipt in self._load(self._searched_from):
                self.add(receipt.task_id, receipt.training_round, self._searched_from)
            if (task_id, training_round) in self._heights:
                return
            await slices.pause_if_due()
        if self._searched_from > self._store.base:
            raise SearchUnfinished

    def _load(self, height: int) -> list[RoundReceipt]:
        """Return the receipts of training rounds that ended at a height."""
        raw = self._store.load_receipts(height)
        if raw is None:
            return []
        try:
            _, rounds = _decoder.decode(raw)
        except (ValueError, RecursionError) as error:
            raise StorageError(f"Receipts of height {height} cannot be read: {error}") from error
        return [receipt for receipt in rounds if receipt.outcome is not RoundOutcome.FROZEN]
