"""The coordinate-wise trimmed mean.

Owns the trimmed mean and the survival scores. Never compares whole updates.

Formula, per coordinate, with u_(1) <= ... <= u_(n) the sorted values::

    a = round( sum_{k = f+1}^{n-f} u_(k) / (n - 2 f) )

Symbols: n updates, f = num_byzantine values dropped from each end, halves rounded away from 0.

Bounds: |u| < 2^15 and n <= 2^12, so the sum stays below 2^27 and is kept in int32.

Precondition: n >= 2 f + 1.

Source: Yin, Chen, Ramchandran, Bartlett, arXiv:1803.01498, Definition 2.
"""

import numpy as np
from numpy.typing import NDArray
from quorate.chain.task import UPDATES_PER_ROUND_MAX

from aggregation.arithmetic import compute_score, divide_rounded_int32
from aggregation.columns import ColumnSource, get_wide_block_bounds, validate_precondition
from aggregation.errors import BoundError
from aggregation.ranking import RankSelector
from aggregation.verdict import Verdict


def aggregate_trimmed_mean(
    source: ColumnSource, num_byzantine: int, *, is_judging: bool
) -> tuple[NDArray[np.int16], Verdict | None]:
    """Return the trimmed mean of a source and, if asked for, its updates' survival.

    Parameters
    ----------
    source : ColumnSource
        n >= 2 * num_byzantine + 1.
    num_byzantine : int
    is_judging : bool
        Whether a verdict is wanted.

    Returns
    -------
    vector : int16, (d,)
    verdict : Verdict or None
        See `judge_survival`.

    Raises
    ------
    BoundError
        If there are fewer updates.
    """
    validate_precondition(source.n_updates, num_byzantine, 2 * num_byzantine + 1)
    vector = np.empty(source.dimension, np.int16)
    survived = np.zeros(source.n_updates, np.int64)
    selector = RankSelector()
    for start, stop in get_wide_block_bounds(source):
        block = source.read(start, stop)
        kept = selector.keep_middle(block, num_byzantine)
        vector[start:stop] = compute_rows_mean(kept)
        if is_judging:
            survived += count_within(block, kept[0], kept[-1])
    if not is_judging:
        return vector, None
    return vector, judge_survival(
        [int(count) for count in survived], source.dimension, num_byzantine
    )


def compute_rows_mean(rows: list[NDArray[np.int16]]) -> NDArray[np.int32]:
    """Return the rounded mean of 1 to 4,096 rows of one block.

    Raises
    ------
    BoundError
        If there are none, or more.
    """
    if not 1 <= len(rows) <= UPDATES_PER_ROUND_MAX:
        raise BoundError(f"a mean of {len(rows)} rows, not of 1 to {UPDATES_PER_ROUND_MAX}")
    total = rows[0].astype(np.int32)
    for row in rows[1:]:
        total += row
    return divide_rounded_int32(total, len(rows))


def count_within(
    block: NDArray[np.int16], low: NDArray[np.int16], high: NDArray[np.int16]
) -> NDArray[np.int64]:
    """Count, per update, the columns in which its value lies within a range.

    Differences modulo 2^16 make one comparison of two: v - low <= high - low, which a value below
    `low` fails because its difference wraps around to more than any range of int16 values spans.

    Parameters
    ----------
    block : int16, (n, columns)
        Values in +-32767.
    low, high : int16, (columns,)
        low <= high, values in +-32767.

    Returns
    -------
    int64, (n,)
    """
    first = low.view(np.uint16)
    span = high.view(np.uint16) - first
    offset, is_within = np.empty_like(span), np.empty(span.shape, np.bool_)
    counts = np.empty(block.shape[0], np.int64)
    for index, row in enumerate(block.view(np.uint16)):
        np.subtract(row, first, out=offset)
        np.less_equal(offset, span, out=is_within)
        counts[index] = np.count_nonzero(is_within)
    return counts


def judge_survival(survived: list[int], dimension: int, num_byzantine: int) -> Verdict:
    """Score each update by the share of its coordinates that survived trimming.

    A coordinate survives if its value lies within the range of the values that were kept; values
    equal to the ends of that range survive whoever they belong to, so the score does not depend
    on the order of the updates. If all updates came from one distribution, a share of
    (n - 2 f) / n would survive. Set aside: less than half of that,
    2 * n * survived_i < (n - 2 f) * d.

    Parameters
    ----------
    survived : list of int, (n,)
        Surviving coordinates of each update.
    dimension : int
    num_byzantine : int

    Returns
    -------
    Verdict
        Scores are the shares, 0 to 1.0.
    """
    n = len(survived)
    fair = (n - 2 * num_byzantine) * dimension
    return Verdict(
        tuple(compute_score(count, dimension) for count in survived),
        tuple(2 * n * count < fair for count in survived),
    )
