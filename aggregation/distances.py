"""Exact inner products and distances of integer updates, at the speed of floating-point BLAS.

Owns the only places where floating point meets the aggregate, and the guards that make it exact.
Never decides anything: rules read the integers it returns.

Why it is exact: a float64 holds every integer up to 2^53. When both factors are integers and
|left| * |right| * (number of products) <= 2^53, every partial sum of a matrix product is such an
integer, whatever the order of summation, the number of threads, or the use of fused
multiply-add. Then the product is one well-defined integer and every machine computes the same.

What grows with n^2 is one matrix product a block, and products with one vector are one, too. Norms
are dot products of rows, in parts so short that BLAS computes them in the calling thread. A node
gives BLAS one thread: waking others costs more than it gains, on a busy machine a hundred times.

Bounds: |u| <= 32767 and blocks of at most 2^15 columns give partial sums below 2^45. Blocks are
added up in int64: d <= 2^30 gives |<u, v>| < 2^60 and |u - v|^2 < 2^62.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from quorate.chain.task import PARAMETERS_MAX

from aggregation.arithmetic import INT16_ABS_MAX
from aggregation.columns import ColumnSource, get_block_bounds, get_block_width
from aggregation.errors import BoundError

FLOAT64_INTEGER_MAX = 2**53
_DOT_COLUMNS = 1 << 13
_LIMB_BITS = 16
_LIMB_MASK = (1 << _LIMB_BITS) - 1


class FloatBlock:
    """Room for one block in float64, used again for every block.

    Allocating megabytes anew for each block makes the system map and clear pages each time, which
    costs more than the arithmetic on them.
    """

    def __init__(self, source: ColumnSource) -> None:
        """Allocate room for the widest block of a source."""
        self._room = np.empty(source.n_updates * get_block_width(source))

    def view(self, rows: int, columns: int) -> NDArray[np.float64]:
        """Return the room as an array (rows, columns), its contents left over from the last use."""
        if rows * columns > self._room.size:
            raise BoundError(f"a block of {rows} x {columns} exceeds the room made for it")
        return self._room[: rows * columns].reshape(rows, columns)

    def load(self, block: NDArray[np.int16]) -> NDArray[np.float64]:
        """Return a block's values as float64, in this room."""
        values = self.view(*block.shape)
        values[:] = block
        return values


def validate_exact_products(left_abs_max: int, right_abs_max: int, products: int) -> None:
    """Refuse a matrix product whose partial sums could leave the integers a float64 holds.

    Parameters
    ----------
    left_abs_max, right_abs_max : int
        Bounds on the magnitudes of the factors.
    products : int
        How many products make up one entry of the result.

    Raises
    ------
    BoundError
        If left_abs_max * right_abs_max * products > 2^53.
    """
    if left_abs_max * right_abs_max * products > FLOAT64_INTEGER_MAX:
        raise BoundError(
            f"sums of {products} products of {left_abs_max} and {right_abs_max}"
            " exceed 2^53 and would be rounded"
        )


def compute_block_gram(values: NDArray[np.float64], value_abs_max: int) -> NDArray[np.int64]:
    """Return the inner products of the rows of one block.

    Parameters
    ----------
    values : float64, (n, columns)
        Integers.
    value_abs_max : int
        A bound on their magnitude.

    Returns
    -------
    int64, (n, n)

    Raises
    ------
    BoundError
        If value_abs_max^2 * columns > 2^53.
    """
    validate_exact_products(value_abs_max, value_abs_max, values.shape[1])
    return (values @ values.T).astype(np.int64)


def compute_block_products(
    values: NDArray[np.float64], vector: NDArray[np.int16], value_abs_max: int
) -> NDArray[np.int64]:
    """Return the inner product of each row of one block with a vector.

    Parameters
    ----------
    values : float64, (n, columns)
        Integers.
    vector : int16, (columns,)
    value_abs_max : int
        A bound on the magnitude of both arguments' values.

    Returns
    -------
    int64, (n,)

    Raises
    ------
    BoundError
        If value_abs_max^2 * columns > 2^53.
    """
    validate_exact_products(value_abs_max, value_abs_max, values.shape[1])
    return (values @ vector.astype(np.float64)).astype(np.int64)


def sum_rows(values: NDArray[np.float64], value_abs_max: int) -> NDArray[np.int32]:
    """Return the sum of one block's rows.

    Parameters
    ----------
    values : float64, (n, columns)
        Integers.
    value_abs_max : int
        A bound on their magnitude.

    Returns
    -------
    int32, (columns,)

    Raises
    ------
    BoundError
        If n * value_abs_max >= 2^31.
    """
    rows = values.shape[0]
    _validate_int32_sums(rows, value_abs_max)
    return (np.ones(rows) @ values).astype(np.int32)


def sum_weighted_rows(
    weights: Sequence[int], values: NDArray[np.float64], value_abs_max: int
) -> NDArray[np.int64]:
    """Return the sum of one block's rows, each times its weight.

    Weights that could leave float64's integers are cut into limbs of 16 bits, each of which is a
    row of the same matrix product.

    Parameters
    ----------
    weights : sequence of int, (n,)
        0..2^32 - 1 each.
    values : float64, (n, columns)
        Integers.
    value_abs_max : int
        A bound on their magnitude, at most 2^15.

    Returns
    -------
    int64, (columns,)
        Magnitudes of at most sum(weights) * value_abs_max.

    Raises
    ------
    BoundError
        If sum(weights) * value_abs_max > 2^62, or n * 2^16 * value_abs_max > 2^53.
    """
    if not 0 <= min(weights) <= max(weights) < 2 ** (2 * _LIMB_BITS):
        raise BoundError(f"weights of {min(weights)} to {max(weights)} are outside 0..2^32 - 1")
    if sum(weights) * value_abs_max > 2**62:
        raise BoundError(f"sums of values of {value_abs_max} by their weights exceed int64")
    factors = np.array(weights, np.int64)
    if sum(weights) * value_abs_max <= FLOAT64_INTEGER_MAX:
        return (factors.astype(np.float64) @ values).astype(np.int64)
    validate_exact_products(value_abs_max, 1 << _LIMB_BITS, len(weights))
    limbs = np.stack([factors >> _LIMB_BITS, factors & _LIMB_MASK]).astype(np.float64)
    sums = (limbs @ values).astype(np.int64)
    total: NDArray[np.int64] = sums[0] << _LIMB_BITS
    total += sums[1]
    return total


def _multiply_rows(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the inner product of each row of one block with that of another."""
    total = np.zeros(left.shape[0])
    for start in range(0, left.shape[1], _DOT_COLUMNS):
        part = slice(start, start + _DOT_COLUMNS)
        # A matrix product of one row and one column is what numpy hands to BLAS as a dot product.
        total += np.matmul(left[:, None, part], right[:, part, None])[:, 0, 0]
    return total.astype(np.int64)


def sum_selected_rows(
    selection: NDArray[np.float64],
    values: NDArray[np.float64],
    value_abs_max: int,
    room: NDArray[np.float64],
) -> NDArray[np.int32]:
    """Return, for each row of a 0/1 matrix, the sum of the block's rows that it selects.

    Parameters
    ----------
    selection : float64, (m, n)
        Zeros and ones.
    values : float64, (n, columns)
        Integers.
    value_abs_max : int
        A bound on their magnitude.
    room : float64, (m, columns)
        Overwritten.

    Returns
    -------
    int32, (m, columns)
        Magnitudes of at most n * value_abs_max, which is under 2^27 for n <= 4096.

    Raises
    ------
    BoundError
        If n * value_abs_max >= 2^31.
    """
    rows = selection.shape[1]
    _validate_int32_sums(rows, value_abs_max)
    return np.matmul(selection, values, out=room).astype(np.int32)


def _validate_int32_sums(rows: int, value_abs_max: int) -> None:
    """Refuse sums of rows that could leave int32, long before they could leave float64."""
    if rows * value_abs_max >= 2**31:
        raise BoundError(f"sums of {rows} values of {value_abs_max} exceed int32")


def _validate_dimension(source: ColumnSource) -> None:
    """Refuse updates so long that sums over their columns could leave int64."""
    if source.dimension > PARAMETERS_MAX:
        raise BoundError(
            f"products of {source.dimension} columns, more than {PARAMETERS_MAX}, exceed int64"
        )


def compute_squared_norms(source: ColumnSource) -> list[int]:
    """Return |u_i|^2 of each update of a source, exactly; each is below 2^60.

    Raises
    ------
    BoundError
        If d > 2^30.
    """
    _validate_dimension(source)
    total = np.zeros(source.n_updates, np.int64)
    room = FloatBlock(source)
    for start, stop in get_block_bounds(source):
        validate_exact_products(INT16_ABS_MAX, INT16_ABS_MAX, stop - start)
        values = room.load(source.read(start, stop))
        total += _multiply_rows(values, values)
    return [int(value) for value in total]


def compute_gram(source: ColumnSource) -> NDArray[np.int64]:
    """Return the inner products <u_i, u_j> of all pairs of updates of a source, exactly.

    Returns
    -------
    int64, (n, n)
        Symmetric, magnitudes below 2^60.

    Raises
    ------
    BoundError
        If d > 2^30.
    """
    _validate_dimension(source)
    total = np.zeros((source.n_updates, source.n_updates), np.int64)
    room = FloatBlock(source)
    for start, stop in get_block_bounds(source):
        total += compute_block_gram(room.load(source.read(start, stop)), INT16_ABS_MAX)
    return total


def compute_squared_distances(source: ColumnSource) -> NDArray[np.int64]:
    """Return |u_i - u_j|^2 of all pairs of updates of a source, exactly.

    Returns
    -------
    int64, (n, n)
        Symmetric with a zero diagonal, entries below 2^62; no intermediate exceeds 2^62.

    Raises
    ------
    BoundError
        If d > 2^30.
    """
    gram = compute_gram(source)
    norms = np.diagonal(gram)
    distances = norms[:, None] + norms[None, :]
    distances -= 2 * gram
    return distances
