"""The geometric median, by a fixed number of smoothed Weiszfeld iterations.

Owns the weights it comes to. Never looks at single coordinates.

Formula, from z = mean(u) on, R = `iterations` times::

    e_i = max(1, |u_i - z|),   c_i = round( 2^24 min_j e_j / e_i ),   z = sum_i c_i u_i / sum_i c_i
    a   = round(z) at the end, halves rounded away from 0

Symbols: n updates; the smoothing nu is one unit of the updates' integers, below which rounding
hides every difference. z is never rounded in between: it is kept as the integers c_i, and e_i is
floor(C |u_i - z|) / C with C = sum_i c_i.

Bounds: c_i <= 2^24 and n <= 2^12 give C <= 2^36; see `combination`.

Precondition: n >= 2 f + 1.

Source: Pillutla, Kakade, Harchaoui, arXiv:1912.13445, Algorithm 2 (the smoothed Weiszfeld
algorithm; unweighted here, because example counts are what participants say they are).
"""

from collections.abc import Sequence
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from aggregation.arithmetic import compute_score, divide_rounded_exact
from aggregation.columns import ColumnSource
from aggregation.combination import combine_updates, compute_squared_gaps
from aggregation.distances import compute_gram
from aggregation.verdict import Verdict

ITERATIONS_DEFAULT = 8
WEIGHT_BITS = 24


def aggregate_geometric_median(
    source: ColumnSource, iterations: int, *, is_judging: bool
) -> tuple[NDArray[np.int16], Verdict | None]:
    """Return the geometric median of a source and, if asked for, the updates' shares in it.

    Parameters
    ----------
    source : ColumnSource
    iterations : int
        R, or 0 for `ITERATIONS_DEFAULT`.
    is_judging : bool
        Whether a verdict is wanted.

    Returns
    -------
    vector : int16, (d,)
    verdict : Verdict or None
        See `judge_shares`.
    """
    gram = compute_gram(source)
    weights = [1 << WEIGHT_BITS] * source.n_updates
    for _ in range(iterations or ITERATIONS_DEFAULT):
        weights = compute_weights(gram, weights)
    vector = combine_updates(source, weights)
    return vector, judge_shares(weights) if is_judging else None


def compute_weights(gram: NDArray[np.int64], weights: Sequence[int]) -> list[int]:
    """Return the next weights c_i, given the inner products of the updates and the last weights.

    Parameters
    ----------
    gram : int64, (n, n)
    weights : sequence of int, (n,)

    Returns
    -------
    list of int, (n,)
        In 0..2^24; the largest is 2^24.
    """
    total = sum(weights)
    lengths = [max(total, isqrt(gap)) for gap in compute_squared_gaps(gram, weights)]
    nearest = min(lengths)
    return [divide_rounded_exact(nearest << WEIGHT_BITS, length) for length in lengths]


def judge_shares(weights: Sequence[int]) -> Verdict:
    """Score each update by its weight, compared with an equal share.

    score_i = n c_i / C: 1.0 is an equal share. Set aside: less than half of one, 2 n c_i < C.

    Parameters
    ----------
    weights : sequence of int, (n,)
        c_i.

    Returns
    -------
    Verdict
    """
    n, total = len(weights), sum(weights)
    return Verdict(
        tuple(compute_score(n * weight, total) for weight in weights),
        tuple(2 * n * weight < total for weight in weights),
    )
