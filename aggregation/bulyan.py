"""Bulyan: Krum selects, then each coordinate is averaged around its median.

Owns the repeated selection and the averaging around the median.

Formula::

    S = {};  theta = n - 2 f times:  move from the updates left to S the one of smallest s(i)
    s(i) = sum of |u_i - u_j|^2 over the max(1, r - f - 2) closest u_j left, r of them left with u_i
    a    = round( sum of the beta = n - 4 f values of S closest to their median / beta )

per coordinate, ties among updates by index, the median being the lower one for even theta, and of
two values equally close the smaller one. Halves are rounded away from 0. (The paper leaves open
what Krum is when at most f + 2 updates are left, which happens for f <= 1; the nearest neighbour
then decides.)

Symbols: n updates, f = num_byzantine.

How the values are found: among x_0 <= ... <= x_(theta-1), with the median m, they are consecutive.
Going from the window that starts at j to the next one replaces x_j by x_(j + beta), and brings
closer values if x_(j + beta) - m < m - x_j. That is true up to a certain j and false from there on,
so each j < 2 f can be asked by itself. It is true where x_(j + beta) is at or before the median,
and false where x_j is at or behind it; only in between are there differences to compare.

Bounds: distances < 2^62 are kept as two limbs, so that sums of 4,096 of them stay below 2^43 in
int64; |u| < 2^15, so sums of values stay below 2^27 in int32 and differences below 2^16 in uint16.

Precondition: n >= 4 f + 3.

Source: El Mhamdi, Guerraoui, Rouault, arXiv:1802.07927, section 4.
"""

import numpy as np
from numpy.typing import NDArray
from quorate.chain.task import UPDATES_PER_ROUND_MAX

from aggregation.arithmetic import divide_rounded_int32
from aggregation.columns import ColumnSource, get_block_bounds, validate_precondition
from aggregation.distances import compute_squared_distances
from aggregation.errors import BoundError
from aggregation.multi_krum import compute_krum_scores, judge_centrality
from aggregation.ranking import sort_columns
from aggregation.verdict import Verdict

DISTANCE_MAX = 2**62
_LIMB_BITS = 31
_LIMB_MASK = (1 << _LIMB_BITS) - 1
_ABSENT = np.iinfo(np.int64).max


def aggregate_bulyan(source: ColumnSource, num_byzantine: int) -> tuple[NDArray[np.int16], Verdict]:
    """Return Bulyan's aggregate of a source and the verdict on its updates.

    Parameters
    ----------
    source : ColumnSource
        n >= 4 * num_byzantine + 3.
    num_byzantine : int

    Returns
    -------
    vector : int16, (d,)
    verdict : Verdict
        See `multi_krum.judge_centrality`; set aside are the updates that are not in S.

    Raises
    ------
    BoundError
        If there are fewer updates.
    """
    n = source.n_updates
    validate_precondition(n, num_byzantine, 4 * num_byzantine + 3)
    distances = compute_squared_distances(source)
    chosen = sorted(select_repeatedly(distances, num_byzantine, n - 2 * num_byzantine))
    vector = np.empty(source.dimension, np.int16)
    for start, stop in get_block_bounds(source):
        rows = sort_columns(source.read(start, stop)[chosen])
        vector[start:stop] = average_around_median(rows, 2 * num_byzantine)
    return vector, judge_centrality(compute_krum_scores(distances, num_byzantine), chosen)


def average_around_median(rows: list[NDArray[np.int16]], drop: int) -> NDArray[np.int32]:
    """Return, per column, the rounded mean of all but the `drop` values farthest from the median.

    Parameters
    ----------
    rows : list of int16, (columns,)
        Each column in ascending order. At most 4,096.
    drop : int
        0 <= drop < len(rows).

    Returns
    -------
    int32, (columns,)

    Raises
    ------
    BoundError
        If there are more rows, or none would be left.
    """
    if not 0 <= drop < len(rows) <= UPDATES_PER_ROUND_MAX:
        raise BoundError(f"{drop} of {len(rows)} values were to be dropped")
    kept = len(rows) - drop
    middle = (len(rows) - 1) // 2
    median = rows[middle]
    first = max(0, middle - kept + 1)
    total = rows[first].astype(np.int32)
    for row in rows[first + 1 : first + kept]:
        total += row
    for position in range(first, min(drop, middle)):
        low, high = rows[position], rows[position + kept]
        # Differences of ordered int16 values are exact modulo 2^16.
        below = (median - low).view(np.uint16)
        above = (high - median).view(np.uint16)
        total += (high - low).view(np.uint16) * (above < below)
    return divide_rounded_int32(total, kept)


def select_repeatedly(distances: NDArray[np.int64], num_byzantine: int, count: int) -> list[int]:
    """Return the updates that Krum chooses one after the other, each time from those left.

    After a removal an update has one neighbour fewer to count: the removed one if that counted,
    else the farthest that did. So each step costs a pass over n sums, not over n^2 distances.

    Parameters
    ----------
    distances : int64, (n, n)
        Squared distances, below 2^62, of at most 4,096 updates.
    num_byzantine : int
    count : int
        How many to choose, at most n.

    Returns
    -------
    list of int, (count,)
        In the order of their choice.

    Raises
    ------
    BoundError
        If more than n are to be chosen, n < num_byzantine + 3, n > 4,096, or a distance is out of
        range.
    """
    n = distances.shape[0]
    if n > UPDATES_PER_ROUND_MAX:
        raise BoundError(f"distances of {n} updates, more than {UPDATES_PER_ROUND_MAX}")
    validate_precondition(n, num_byzantine, max(count, num_byzantine + 3))
    if int(distances.min()) < 0 or int(distances.max()) >= DISTANCE_MAX:
        raise BoundError(f"a squared distance is outside 0..{DISTANCE_MAX - 1}")
    neighbours = n - num_byzantine - 2
    members = np.arange(n)
    # Itself first: a distance that no other can undercut.
    to_itself = distances.copy()
    np.fill_diagonal(to_itself, -1)
    order = np.argsort(to_itself, axis=1, kind="stable").astype(np.int16)
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, members.astype(np.int16)[None, :], axis=1)
    counted = np.take_along_axis(distances, order[:, 1 : neighbours + 1].astype(np.intp), axis=1)
    sums = _Sums(counted)
    farthest = np.full(n, neighbours)
    is_left = np.ones(n, np.bool_)
    chosen: list[int] = []
    while len(chosen) < count:
        if neighbours < 1:
            best = _find_closest_pair(distances, is_left)
        else:
            best = sums.find_smallest(is_left)
        chosen.append(best)
        is_left[best] = False
        neighbours -= 1
        was_counted = ranks[:, best] <= farthest
        lost = np.where(was_counted, best, order[members, farthest])
        sums.subtract(distances[members, lost])
        farthest = np.maximum(farthest - ~was_counted, 0)
        # Step back over those that were removed before, so that the farthest is one that is left.
        stale = members
        while stale.size:
            is_stale = ~is_left[order[stale, farthest[stale]]] & (farthest[stale] > 0)
            stale = stale[is_stale]
            farthest[stale] -= 1
    return chosen


class _Sums:
    """A sum of squared distances per update, too large for int64, as two limbs."""

    def __init__(self, counted: NDArray[np.int64]) -> None:
        self._high = (counted >> _LIMB_BITS).sum(axis=1)
        self._low = (counted & _LIMB_MASK).sum(axis=1)
        self._carry()

    def subtract(self, distances: NDArray[np.int64]) -> None:
        self._high -= distances >> _LIMB_BITS
        self._low -= distances & _LIMB_MASK
        self._carry()

    def find_smallest(self, is_left: NDArray[np.bool_]) -> int:
        high = np.where(is_left, self._high, _ABSENT)
        low = np.where(high == high.min(), self._low, _ABSENT)
        return int(low.argmin())

    def _carry(self) -> None:
        self._high += self._low >> _LIMB_BITS
        self._low &= _LIMB_MASK


def _find_closest_pair(distances: NDArray[np.int64], is_left: NDArray[np.bool_]) -> int:
    """Return the first update left whose nearest other one is nearest, or the only one left."""
    left = np.flatnonzero(is_left)
    among = distances[np.ix_(left, left)]
    np.fill_diagonal(among, _ABSENT)
    return int(left[among.min(axis=1).argmin()])
