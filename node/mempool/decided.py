"""The hashes of lately decided transactions, so that a late copy costs one look-up.

Owns a bounded memory of them. Never the authority: the door knows every decided transaction.
"""

from collections import OrderedDict

from quorate.chain.ids import Hash


class DecidedTransactions:
    """Remembers the latest hashes.

    Parameters
    ----------
    hashes_max : int
        How many; the oldest make room.
    """

    def __init__(self, hashes_max: int) -> None:
        # A plain dict forgets its oldest entry ever slower: it looks past all that went before.
        self._hashes: OrderedDict[Hash, None] = OrderedDict()
        self._hashes_max = hashes_max

    def __len__(self) -> int:
        return len(self._hashes)

    def __contains__(self, transaction_hash: Hash) -> bool:
        return transaction_hash in self._hashes

    def add(self, transaction_hash: Hash) -> None:
        """Remember a decided transaction."""
        self._hashes[transaction_hash] = None
        if len(self._hashes) > self._hashes_max:
            self._hashes.popitem(last=False)
