"""The mean, optionally weighted by example counts.

Owns the mean and its leave-one-out scores. Never clips or discards an update.

Formula, per coordinate::

    a = round( sum_i w_i u_i / W ),   W = sum_i w_i

Symbols: u_i the i-th update, w_i its weight (1, or its example count), halves rounded away from 0.
If every count is 0, all updates weigh the same.

Bounds: |u| < 2^15, w < 2^32, n <= 2^12, so |sum w u| < 2^59 and W < 2^44; unweighted sums stay
below 2^27 and are added up in int32.

Precondition: the mean tolerates no hostile update (f = 0), unless `clip` or `arc` bounds each one's
norm.

Source: McMahan et al., arXiv:1602.05629, Algorithm 1, for the weighting by example counts.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aggregation.arithmetic import (
    INT16_ABS_MAX,
    compute_score,
    divide_rounded,
    divide_rounded_int32,
)
from aggregation.columns import ColumnSource, get_block_bounds
from aggregation.distances import (
    FloatBlock,
    compute_block_products,
    sum_rows,
    sum_weighted_rows,
)
from aggregation.verdict import Verdict


def aggregate_mean(
    source: ColumnSource, example_counts: Sequence[int] | None, *, is_judging: bool
) -> tuple[NDArray[np.int16], Verdict | None]:
    """Return the mean of a source and, if asked for, the leave-one-out scores of its updates.

    Parameters
    ----------
    source : ColumnSource
    example_counts : sequence of int, (n,), optional
        0..2^32 - 1 each.
    is_judging : bool
        Whether a verdict is wanted; it costs an inner product per update.

    Returns
    -------
    vector : int16, (d,)
    verdict : Verdict or None
        See `judge_leave_one_out`.
    """
    weights = [1] * source.n_updates if example_counts is None else list(example_counts)
    if not any(weights):
        weights = [1] * source.n_updates
    is_weighted = min(weights) != max(weights)
    vector = np.empty(source.dimension, np.int16)
    products = np.zeros(source.n_updates, np.int64)
    room = FloatBlock(source)
    for start, stop in get_block_bounds(source):
        block = source.read(start, stop)
        if not is_judging and not is_weighted:
            sums = block.sum(axis=0, dtype=np.int32)
            vector[start:stop] = divide_rounded_int32(sums, source.n_updates)
            continue
        values = room.load(block)
        if is_weighted:
            weighted = sum_weighted_rows(weights, values, INT16_ABS_MAX)
            vector[start:stop] = divide_rounded(weighted, sum(weights))
        else:
            vector[start:stop] = divide_rounded_int32(
                sum_rows(values, INT16_ABS_MAX), source.n_updates
            )
        if is_judging:
            products += compute_block_products(values, vector[start:stop], INT16_ABS_MAX)
    if not is_judging:
        return vector, None
    return vector, judge_leave_one_out(
        [int(product) for product in products], compute_squared_norm(vector), weights
    )


def compute_squared_norm(vector: NDArray[np.int16]) -> int:
    """Return |v|^2 of an int16 vector of at most 2^30 integers, exactly."""
    total = 0
    for start in range(0, vector.size, 1 << 15):
        part = vector[start : start + (1 << 15)].astype(np.int64)
        total += int(part @ part)
    return total


def judge_leave_one_out(
    products: Sequence[int], squared_norm: int, weights: Sequence[int]
) -> Verdict:
    """Score each update by what the mean would lose without it.

    The value of a set S of updates is how far its mean goes along the aggregate a::

        v(S) = <mean(S), a> / <a, a>,   v(empty) = 0,   score_i = v(all) - v(all without i)
             = w_i (W p_i - P) / (W (W - w_i) <a, a>),  p_i = <u_i, a>,  P = sum_j w_j p_j

    Positive: the update pulls the mean further along its direction than the others do; negative:
    it holds it back. If a = 0, all scores are 0. Set aside: exactly the updates of weight 0.

    Parameters
    ----------
    products : sequence of int, (n,)
        p_i.
    squared_norm : int
        <a, a>.
    weights : sequence of int, (n,)
        Not all 0.

    Returns
    -------
    Verdict
    """
    total = sum(weights)
    weighted = sum(w * p for w, p in zip(weights, products, strict=True))
    scores: list[int] = []
    for weight, product in zip(weights, products, strict=True):
        if squared_norm == 0:
            scores.append(0)
        elif weight == total:
            scores.append(compute_score(weighted, total * squared_norm))
        else:
            scores.append(
                compute_score(
                    weight * (total * product - weighted),
                    total * (total - weight) * squared_norm,
                )
            )
    return Verdict(tuple(scores), tuple(weight == 0 for weight in weights))
