"""Selecting the middle ranks of each column without sorting what need not be sorted.

Owns the networks of compare-exchanges and the sort that takes over where they stop paying. Never
computes anything but ranks: its results are values of its argument.

A compare-exchange of two updates is one `np.minimum` and one `np.maximum` over whole rows, so the
block needs no transposing and the processor's 16-bit lanes are full on any machine. The network is
Batcher's merge exchange (D. E. Knuth, The Art of Computer Programming, volume 3, algorithm
5.2.2M), from which every comparison is removed that cannot change which values end up in the
middle. Beyond `NETWORK_ROWS_MAX` updates its n (log n)^2 comparisons cost more than a radix sort
of transposed blocks. Both ways return the same multiset, which is all that a rule depends on.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from aggregation.columns import BlockRoom
from aggregation.errors import BoundError

NETWORK_ROWS_MAX = 512
NETWORKS_CACHED_MAX = 8
"""Of each kind: one of 512 rows takes a megabyte. All blocks of a round are sorted by the same."""
_DISCARDED = -1
_KEPT = 0

Exchange = tuple[int, int, bool, bool]
"""Rows i < j; whether row i's minimum is needed; whether row j's maximum is needed."""


class RankSelector:
    """Selects ranks, block after block, with room that it uses again for every one.

    The blocks themselves stay as they are: the first exchanges write what they find into the room.
    """

    def __init__(self) -> None:
        self._room = BlockRoom()

    def keep_middle(self, block: NDArray[np.int16], drop: int) -> list[NDArray[np.int16]]:
        """Return each column's values without its `drop` smallest and its `drop` largest.

        Parameters
        ----------
        block : int16, (n, columns)
            Contiguous.
        drop : int
            0 <= 2 * drop < n.

        Returns
        -------
        list of int16, (columns,)
            n - 2 * drop rows, valid until the next call, not to be written to: first each column's
            smallest kept value, last its largest; the others in no particular order.

        Raises
        ------
        BoundError
            If `drop` leaves its range.
        """
        rows = block.shape[0]
        if not 0 <= 2 * drop < rows:
            raise BoundError(f"{drop} values were to be dropped from each end of {rows}")
        if rows > NETWORK_ROWS_MAX:
            return _sort_transposed(block)[drop : rows - drop]
        return self._exchange(block, get_selection_network(rows, drop))[drop : rows - drop]

    def select_ranks(
        self, block: NDArray[np.int16], ranks: tuple[int, ...]
    ) -> list[NDArray[np.int16]]:
        """Return each column's values of certain ranks.

        Parameters
        ----------
        block : int16, (n, columns)
            Contiguous.
        ranks : tuple of int
            0..n - 1 each; 0 is the smallest value's.

        Returns
        -------
        list of int16, (columns,)
            One row for each rank, in the order of `ranks`; valid until the next call, not to be
            written to.

        Raises
        ------
        BoundError
            If a rank leaves its range.
        """
        if not all(0 <= rank < block.shape[0] for rank in ranks):
            raise BoundError(f"the ranks {ranks} are not all in 0..{block.shape[0] - 1}")
        if block.shape[0] > NETWORK_ROWS_MAX:
            rows = _sort_transposed(block)
        else:
            rows = self._exchange(block, get_rank_network(block.shape[0], ranks))
        return [rows[rank] for rank in ranks]

    def _exchange(
        self, block: NDArray[np.int16], network: tuple[Exchange, ...]
    ) -> list[NDArray[np.int16]]:
        rows, is_ours = list(block), [False] * block.shape[0]
        # An exchange writes two rows before it gives back the two that it has read.
        spare = list(self._room.view(block.shape[0] + 2, block.shape[1]))
        for low, high, minimum_needed, maximum_needed in network:
            first, second = rows[low], rows[high]
            if minimum_needed:
                rows[low] = np.minimum(first, second, out=spare.pop())
            if maximum_needed:
                rows[high] = np.maximum(first, second, out=spare.pop())
            if is_ours[high]:
                spare.append(second)
            if is_ours[low]:
                spare.append(first)
            is_ours[low], is_ours[high] = minimum_needed, maximum_needed
        return rows


def sort_columns(block: NDArray[np.int16]) -> list[NDArray[np.int16]]:
    """Return the rows of a block in which each column ascends.

    Parameters
    ----------
    block : int16, (n, columns)
        Contiguous; overwritten.

    Returns
    -------
    list of int16, (columns,)
        n rows.
    """
    if block.shape[0] > NETWORK_ROWS_MAX:
        return _sort_transposed(block)
    rows = list(block)
    spare = np.empty(block.shape[1], np.int16)
    for low, high in get_sorting_network(len(rows)):
        first, second = rows[low], rows[high]
        np.minimum(first, second, out=spare)
        np.maximum(first, second, out=second)
        rows[low], spare = spare, first
    return rows


def _sort_transposed(block: NDArray[np.int16]) -> list[NDArray[np.int16]]:
    columns = np.ascontiguousarray(block.T)
    columns.sort(axis=1, kind="stable")
    return list(np.ascontiguousarray(columns.T))


@lru_cache(maxsize=NETWORKS_CACHED_MAX)
def get_selection_network(rows: int, drop: int) -> tuple[Exchange, ...]:
    """Return the compare-exchanges that bring a column's middle values into its middle rows.

    The sorting network is walked backwards with a label on each row: discarded (nothing later
    reads it), kept (it is in the result, in whichever row), or the number of the later exchange
    that reads it. An exchange of two rows with one label changes nothing that is read, because
    whoever reads them treats both alike, so it is left out; half an exchange is left out when one
    of its rows is discarded.

    Parameters
    ----------
    rows : int
    drop : int
        0 <= 2 * drop < rows.

    Returns
    -------
    tuple of (int, int, bool, bool)
    """
    labels = [_KEPT if drop <= row < rows - drop else _DISCARDED for row in range(rows)]
    for end in (drop, rows - 1 - drop):
        labels[end] = _label_rank(end)
    return _prune(rows, labels)


@lru_cache(maxsize=NETWORKS_CACHED_MAX)
def get_rank_network(rows: int, ranks: tuple[int, ...]) -> tuple[Exchange, ...]:
    """Return the compare-exchanges that bring certain ranks into the rows of their numbers.

    As `get_selection_network`, but for a label of its own for each row that is read at the end.

    Parameters
    ----------
    rows : int
    ranks : tuple of int
        0..rows - 1 each.

    Returns
    -------
    tuple of (int, int, bool, bool)
    """
    return _prune(rows, [_label_rank(row) if row in ranks else _DISCARDED for row in range(rows)])


def _label_rank(row: int) -> int:
    """Return the label of a row that is read at the end, and is no other's."""
    return -2 - row


def _prune(rows: int, labels: list[int]) -> tuple[Exchange, ...]:
    network: list[Exchange] = []
    for number, (low, high) in enumerate(reversed(get_sorting_network(rows)), start=1):
        if labels[low] == labels[high]:
            continue
        network.append((low, high, labels[low] != _DISCARDED, labels[high] != _DISCARDED))
        labels[low] = labels[high] = number
    return tuple(reversed(network))


@lru_cache(maxsize=NETWORKS_CACHED_MAX)
def get_sorting_network(rows: int) -> tuple[tuple[int, int], ...]:
    """Return the comparisons (i, j), i < j, of Batcher's merge exchange for any number of rows."""
    network: list[tuple[int, int]] = []
    merged = 1
    while merged < rows:
        distance = merged
        while distance >= 1:
            for start in range(distance % merged, rows - distance, 2 * distance):
                network.extend(
                    (low, low + distance)
                    for low in range(start, min(start + distance, rows - distance))
                    if low // (2 * merged) == (low + distance) // (2 * merged)
                )
            distance //= 2
        merged *= 2
    return tuple(network)
