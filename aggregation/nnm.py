"""Nearest-neighbour mixing: each update becomes the mean of its neighbourhood (pre-aggregation).

Owns neighbourhoods, the mixing, and the in-degree scores. Never discards an update.

Formula::

    y_i = round( sum_{j in N(i)} u_j / (n - f) )
    N(i) = the n - f updates closest to u_i, itself included, ties by index

Symbols: n updates, f = num_byzantine, closeness by |u_i - u_j|^2, halves rounded away from 0.

Bounds: |u_i - u_j|^2 < 2^62 in int64; sums of up to 4,096 int16 values stay below 2^27, exact in
the float64 product of the neighbourhood matrix with a block and in the int32 it is read into.

Precondition: n >= 2 f + 1.

Source: Allouah, Farhadkhani, Guerraoui, Gupta, Pinot, Stephan, arXiv:2302.01772.
"""

import numpy as np
from numpy.typing import NDArray

from aggregation.arithmetic import INT16_ABS_MAX, compute_score, divide_rounded_int32
from aggregation.columns import ColumnSource, validate_precondition
from aggregation.distances import FloatBlock, compute_squared_distances, sum_selected_rows
from aggregation.verdict import Verdict


class MixedSource:
    """The updates of a source, each replaced by the mean of its neighbourhood."""

    def __init__(
        self, source: ColumnSource, neighbourhoods: NDArray[np.bool_], neighbours: int
    ) -> None:
        """Wrap a source.

        Parameters
        ----------
        source : ColumnSource
        neighbourhoods : bool, (n, n)
            Row i marks N(i).
        neighbours : int
            n - f, the size of every neighbourhood.
        """
        self.n_updates = source.n_updates
        self.rows_read = source.rows_read
        self.dimension = source.dimension
        self._source = source
        self._selection = neighbourhoods.astype(np.float64)
        self._neighbours = neighbours
        self._values = FloatBlock(source)
        self._sums = FloatBlock(source)

    def read(self, start: int, stop: int) -> NDArray[np.int16]:
        """Return columns start..stop of the mixed updates; see `ColumnSource.read`."""
        block = self._source.read(start, stop)
        sums = sum_selected_rows(
            self._selection,
            self._values.load(block),
            INT16_ABS_MAX,
            self._sums.view(*block.shape),
        )
        block[:] = divide_rounded_int32(sums, self._neighbours)
        return block


def mix_nearest_neighbours(
    source: ColumnSource, num_byzantine: int
) -> tuple[ColumnSource, Verdict]:
    """Return a source of mixed updates and the verdict on the original ones.

    Parameters
    ----------
    source : ColumnSource
        n >= 2 * num_byzantine + 1.
    num_byzantine : int

    Returns
    -------
    mixed : ColumnSource
    verdict : Verdict
        See `judge_in_degree`.

    Raises
    ------
    BoundError
        If there are fewer updates.
    """
    validate_precondition(source.n_updates, num_byzantine, 2 * num_byzantine + 1)
    distances = compute_squared_distances(source)
    neighbours = source.n_updates - num_byzantine
    order = np.argsort(distances, axis=1, kind="stable")[:, :neighbours]
    neighbourhoods = np.zeros(distances.shape, np.bool_)
    np.put_along_axis(neighbourhoods, order, values=True, axis=1)
    mixed = MixedSource(source, neighbourhoods, neighbours)
    return mixed, judge_in_degree(distances, num_byzantine)


def judge_in_degree(distances: NDArray[np.int64], num_byzantine: int) -> Verdict:
    """Score each update by how many updates count it among their neighbours.

    Update j counts i if |u_i - u_j|^2 is at most the (n - f)-th smallest squared distance from
    u_j; ties count for all, so the score does not depend on the order of the updates. The score
    is that in-degree over n - f, which is its average unless there are ties: 1.0 is a fair share.
    Set aside: an in-degree of at most f, which hostile updates alone could have given. With
    f = 0 nobody is set aside, because every update counts itself.

    Parameters
    ----------
    distances : int64, (n, n)
        Squared distances.
    num_byzantine : int

    Returns
    -------
    Verdict
        Scores are in 1 / (n - f) .. n / (n - f).
    """
    neighbours = distances.shape[0] - num_byzantine
    radius = np.sort(distances, axis=1, kind="stable")[:, neighbours - 1]
    in_degrees = np.count_nonzero(distances <= radius[:, None], axis=0).tolist()
    return Verdict(
        tuple(compute_score(in_degree, neighbours) for in_degree in in_degrees),
        tuple(in_degree <= num_byzantine for in_degree in in_degrees),
    )
