"""Centered clipping: a step from the last aggregate, to which no update adds more than a radius.

Owns the clipping factors and the step. Never keeps the last aggregate: it is an argument, which the
chain remembers from training round to training round.

Formula, from v = p on, L = `iterations` times::

    w_i = min(1, t / |u_i - v|),   v = v + (1/n) sum_i w_i (u_i - v)
    a   = round(v) at the end, halves rounded away from 0

Symbols: n updates, p the last aggregate (zeros in the first training round), t = `radius`, or, if
that is 0, the lower median of the distances |u_i - v|. v is never rounded in between: it is kept as
a combination of p and the updates with integer weights that add up to 2^36, those of the updates
rounded down. w_i has 16 fraction bits, rounded down, so that no update moves v by more than t / n,
but for the 2^-36 of a unit to which |u_i - v| is known.

Bounds: see `combination`; with p, n + 1 <= 4,097 rows, whose weights still add up to 2^36.

Precondition: n >= 2 f + 1. (The paper's guarantee is for f < n / 10 and a suitable t; a smaller
share of honest updates is not refused, since half of them bounds the default radius.)

Source: Karimireddy, He, Jaggi, arXiv:2012.10333, section 4 (equation CClip).
"""

from collections.abc import Sequence
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from aggregation.arithmetic import SCORE_FRACTION_BITS, SCORE_ONE
from aggregation.columns import BlockRoom, ColumnSource
from aggregation.combination import WEIGHTS_TOTAL_MAX, combine_updates, compute_squared_gaps
from aggregation.distances import compute_gram
from aggregation.verdict import Verdict

ITERATIONS_DEFAULT = 1
FACTOR_FRACTION_BITS = SCORE_FRACTION_BITS
FACTOR_ONE = SCORE_ONE


class CenteredSource:
    """The updates of a source below the last aggregate, which is row 0."""

    def __init__(self, source: ColumnSource, previous: NDArray[np.int16]) -> None:
        """Wrap a source.

        Parameters
        ----------
        source : ColumnSource
        previous : int16, (d,)
            Values in +-32767.
        """
        self.n_updates = source.n_updates + 1
        self.rows_read = source.rows_read + 1
        self.dimension = source.dimension
        self._source = source
        self._previous = previous
        self._room = BlockRoom()

    def read(self, start: int, stop: int) -> NDArray[np.int16]:
        """Return columns start..stop of p and the updates; see `ColumnSource.read`."""
        block = self._room.view(self.n_updates, stop - start)
        block[0] = self._previous[start:stop]
        block[1:] = self._source.read(start, stop)
        return block


def aggregate_centered_clipping(
    source: ColumnSource, previous: NDArray[np.int16], radius: int, iterations: int
) -> tuple[NDArray[np.int16], Verdict]:
    """Return the next centre and the verdict on the updates.

    Parameters
    ----------
    source : ColumnSource
    previous : int16, (d,)
        p, values in +-32767.
    radius : int
        t in units of the updates' integers, or 0 for the lower median of the distances.
    iterations : int
        L, or 0 for `ITERATIONS_DEFAULT`.

    Returns
    -------
    vector : int16, (d,)
    verdict : Verdict
        See `judge_factors`.
    """
    centered = CenteredSource(source, previous)
    gram = compute_gram(centered)
    weights = [WEIGHTS_TOTAL_MAX] + [0] * source.n_updates
    factors: list[int] = []
    for _ in range(iterations or ITERATIONS_DEFAULT):
        factors = compute_factors(compute_squared_gaps(gram, weights)[1:], radius)
        weights = compute_step(weights, factors)
    return combine_updates(centered, weights), judge_factors(factors)


def compute_factors(squared_gaps: Sequence[int], radius: int) -> list[int]:
    """Return w_i with 16 fraction bits.

    Parameters
    ----------
    squared_gaps : sequence of int, (n,)
        2^72 |u_i - v|^2.
    radius : int
        t, or 0 for the lower median of the distances.

    Returns
    -------
    list of int, (n,)
        In 0..2^16.
    """
    gaps = [isqrt(gap) for gap in squared_gaps]
    bound = radius * WEIGHTS_TOTAL_MAX if radius else sorted(gaps)[(len(gaps) - 1) // 2]
    return [FACTOR_ONE if gap <= bound else (bound << FACTOR_FRACTION_BITS) // gap for gap in gaps]


def compute_step(weights: Sequence[int], factors: Sequence[int]) -> list[int]:
    """Return the weights of v + (1/n) sum_i w_i (u_i - v).

    Parameters
    ----------
    weights : sequence of int, (n + 1,)
        Of p, then of the updates; their sum is 2^36.
    factors : sequence of int, (n,)
        w_i with 16 fraction bits.

    Returns
    -------
    list of int, (n + 1,)
        Their sum is 2^36.
    """
    whole = len(factors) * FACTOR_ONE
    kept = whole - sum(factors)
    following = [
        (weight * kept + WEIGHTS_TOTAL_MAX * factor) // whole
        for weight, factor in zip(weights[1:], factors, strict=True)
    ]
    return [WEIGHTS_TOTAL_MAX - sum(following), *following]


def judge_factors(factors: Sequence[int]) -> Verdict:
    """Score each update by how much of its distance from the centre counted: w_i of the last step.

    Set aside: less than half of it.

    Parameters
    ----------
    factors : sequence of int, (n,)
        w_i with 16 fraction bits.

    Returns
    -------
    Verdict
        Scores are in 0..1.0.
    """
    return Verdict(tuple(factors), tuple(2 * factor < FACTOR_ONE for factor in factors))
