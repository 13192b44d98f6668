"""Norm clipping: no update goes further than a bound (pre-aggregation).

Owns the clipping bound and the scaling of updates to it. Never discards an update.

Formula::

    y_i = u_i                       if |u_i| <= C
    y_i = round( u_i * C / |u_i| )  otherwise, halves rounded away from 0

Symbols: |u_i| the Euclidean norm, C = `clip_norm`, or, if that is 0, the lower median of the
round's norms (the floor((n+1)/2)-th smallest: always the norm of some update, and never above all
honest ones as long as n >= 2 f + 1).

Norms are compared as exact squares. The ratio C / |u_i| is p / q with p = floor(2^16 C) and
q = floor(2^16 |u_i|), by integer square roots; y_i is rounded once from u_i p / q. So the norm of
y_i exceeds C by at most the rounding, sqrt(d) / 2, and 2^-16 of a unit.

Bounds: |u_i|^2 < 2^60, so p <= q < 2^46, and |2 u p| + q < 2^62 + 2^46 in int64.

Precondition: n >= 2 f + 1.

Source: Sun et al., arXiv:1911.07963, section 4 (norm thresholding).
"""

from math import isqrt

import numpy as np
from numpy.typing import NDArray

from aggregation.arithmetic import divide_rounded
from aggregation.columns import ColumnSource
from aggregation.distances import compute_squared_norms
from aggregation.errors import BoundError

RATIO_FRACTION_BITS = 16
RATIO_MAX = 2**46
_TABLE_VALUES = 1 << 16


class ClippedSource:
    """The updates of a source, each scaled down to the clipping bound if it exceeds it."""

    def __init__(self, source: ColumnSource, ratios: list[tuple[int, int]]) -> None:
        """Wrap a source.

        Parameters
        ----------
        source : ColumnSource
        ratios : list of (int, int), (n,)
            p and q of each update, 0 <= p <= q < 2^46; equal for one that is left as it is.
        """
        self.n_updates = source.n_updates
        self.rows_read = source.rows_read
        self.dimension = source.dimension
        self.clipped = [numerator != denominator for numerator, denominator in ratios]
        """Which updates are scaled down."""
        self._source = source
        self._ratios = ratios
        self._tables: dict[tuple[int, int], NDArray[np.int16]] = {}
        if source.dimension >= _TABLE_VALUES:
            # An int16 has so few values that looking a product up is cheaper than dividing. From
            # here on a table is no larger than the update it stands for. Updates that are equally
            # stale share one.
            values = np.arange(_TABLE_VALUES, dtype=np.uint16).view(np.int16)
            self._tables = {
                ratio: scale_down(values, *ratio)
                for ratio in dict.fromkeys(ratios)
                if ratio[0] != ratio[1]
            }

    def read(self, start: int, stop: int) -> NDArray[np.int16]:
        """Return columns start..stop of the clipped updates; see `ColumnSource.read`."""
        block = self._source.read(start, stop)
        for row, ratio in zip(block, self._ratios, strict=True):
            if ratio[0] == ratio[1]:
                continue
            table = self._tables.get(ratio)
            if table is None:
                row[:] = scale_down(row, *ratio)
            else:
                row[:] = table.take(row.view(np.uint16))
        return block


def scale_down(values: NDArray[np.int16], numerator: int, denominator: int) -> NDArray[np.int16]:
    """Return round(v * numerator / denominator) of each value.

    Parameters
    ----------
    values : int16, any shape
    numerator, denominator : int
        0 <= numerator <= denominator < 2^46, and the denominator positive.

    Returns
    -------
    int16, the shape of `values`

    Raises
    ------
    BoundError
        If the ratio leaves its range.
    """
    if not 0 <= numerator <= denominator < RATIO_MAX:
        raise BoundError(
            f"the ratio {numerator} / {denominator} is none of two integers below 2^46, at most 1"
        )
    return divide_rounded(values.astype(np.int64) * numerator, denominator).astype(np.int16)


def clip(source: ColumnSource, clip_norm: int) -> ClippedSource:
    """Return a source of the same updates with their norms bounded.

    Parameters
    ----------
    source : ColumnSource
    clip_norm : int
        The bound in units of the updates' integers; 0 means the lower median of the norms.

    Returns
    -------
    ClippedSource
    """
    return ClippedSource(source, compute_clip_ratios(compute_squared_norms(source), clip_norm))


def compute_clip_ratios(squared_norms: list[int], clip_norm: int) -> list[tuple[int, int]]:
    """Return p and q of each update; see the module's formula.

    Parameters
    ----------
    squared_norms : list of int, (n,)
        Below 2^60 each.
    clip_norm : int

    Returns
    -------
    list of (int, int), (n,)
        (1, 1) for an update within the bound.
    """
    if clip_norm:
        return compute_ratios(squared_norms, clip_norm**2)
    return compute_ratios(squared_norms, sorted(squared_norms)[(len(squared_norms) - 1) // 2])


def compute_ratios(squared_norms: list[int], squared_bound: int) -> list[tuple[int, int]]:
    """Return p and q of each update, for a bound that is given as its square.

    Parameters
    ----------
    squared_norms : list of int, (n,)
        Below 2^60 each.
    squared_bound : int

    Returns
    -------
    list of (int, int), (n,)
        (1, 1) for an update within the bound.
    """
    bound = isqrt(squared_bound << (2 * RATIO_FRACTION_BITS))
    return [
        (bound, isqrt(norm << (2 * RATIO_FRACTION_BITS))) if norm > squared_bound else (1, 1)
        for norm in squared_norms
    ]
