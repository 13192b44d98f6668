"""The coordinate-wise median.

Owns the median. Never compares whole updates; its scores are the trimmed mean's.

Formula, per coordinate, with u_(1) <= ... <= u_(n) the sorted values::

    a = u_((n+1)/2)                          for odd n
    a = round( (u_(n/2) + u_(n/2+1)) / 2 )   for even n, halves rounded away from 0

Bounds: a sum of two int16 values fits int32 with room to spare.

Precondition: n >= 2 f + 1.

Source: Yin, Chen, Ramchandran, Bartlett, arXiv:1803.01498, Definition 1.
"""

import numpy as np
from numpy.typing import NDArray

from aggregation.columns import ColumnSource, get_wide_block_bounds, validate_precondition
from aggregation.ranking import RankSelector
from aggregation.trimmed_mean import compute_rows_mean, count_within, judge_survival
from aggregation.verdict import Verdict


def aggregate_median(
    source: ColumnSource, num_byzantine: int, *, is_judging: bool
) -> tuple[NDArray[np.int16], Verdict | None]:
    """Return the median of a source and, if asked for, its updates' survival.

    A median has no trimming of its own, so a coordinate survives if its value lies within what
    trimming `num_byzantine` values from each end would keep; see `judge_survival`.

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

    Raises
    ------
    BoundError
        If there are fewer updates.
    """
    n = source.n_updates
    validate_precondition(n, num_byzantine, 2 * num_byzantine + 1)
    vector = np.empty(source.dimension, np.int16)
    survived = np.zeros(n, np.int64)
    middle_ranks = ((n - 1) // 2,) if n % 2 else (n // 2 - 1, n // 2)
    end_ranks = (num_byzantine, n - 1 - num_byzantine)
    selector = RankSelector()
    for start, stop in get_wide_block_bounds(source):
        block = source.read(start, stop)
        if is_judging:
            *middle, low, high = selector.select_ranks(block, (*middle_ranks, *end_ranks))
            survived += count_within(block, low, high)
        else:
            middle = selector.keep_middle(block, middle_ranks[0])
        vector[start:stop] = compute_rows_mean(middle)
    if not is_judging:
        return vector, None
    return vector, judge_survival(
        [int(count) for count in survived], source.dimension, num_byzantine
    )
