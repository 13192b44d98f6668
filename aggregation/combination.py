"""Weighted combinations of updates, and how far they lie from each update, exactly.

Owns the arithmetic that iterating rules share. Never decides on a weight.

An estimate z = sum_i c_i u_i / C with integer weights c_i >= 0 and C = sum_i c_i is kept as its
weights alone. Its distances to all updates follow from the inner products G_ij = <u_i, u_j>::

    C^2 |z - u_j|^2 = sum_i c_i (G c)_i - 2 C (G c)_j + C^2 G_jj

So a rule may improve its estimate as often as it likes and still reads the updates twice: once for
G, once for the vector at the end.

Bounds: C <= 2^36. G is split into limbs of 20 bits, so that every sum of weights times limbs stays
below 2^56 in int64; from there on it is Python integers. |sum_i c_i u_i| <= 2^36 * 2^15 = 2^51 is
exact in float64.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aggregation.arithmetic import INT16_ABS_MAX, divide_rounded
from aggregation.columns import ColumnSource, get_block_bounds
from aggregation.distances import FloatBlock, validate_exact_products
from aggregation.errors import BoundError

WEIGHTS_TOTAL_MAX = 2**36
PRODUCT_ABS_MAX = 2**60
_LIMB_BITS = 20
_LIMB_MASK = (1 << _LIMB_BITS) - 1


def compute_squared_gaps(gram: NDArray[np.int64], weights: Sequence[int]) -> list[int]:
    """Return C^2 |z - u_j|^2 of the combination z of a round's updates, for each update.

    Parameters
    ----------
    gram : int64, (n, n)
        Inner products, magnitudes below 2^60.
    weights : sequence of int, (n,)
        c_i >= 0; their sum C is in 1..2^36.

    Returns
    -------
    list of int, (n,)
        Not negative.

    Raises
    ------
    BoundError
        If a weight is negative, or their sum or an inner product out of range.
    """
    total = _validate_weights(weights)
    # |<u_i, u_j>| is at most the larger of |u_i|^2 and |u_j|^2.
    if int(np.diagonal(gram).max()) >= PRODUCT_ABS_MAX:
        raise BoundError(f"an inner product reaches {PRODUCT_ABS_MAX}")
    factors = np.array(weights, np.int64)
    products = [0] * len(weights)
    for shift in (2 * _LIMB_BITS, _LIMB_BITS, 0):
        limb = gram >> shift
        if shift < 2 * _LIMB_BITS:
            limb &= _LIMB_MASK
        for index, value in enumerate((limb @ factors).tolist()):
            products[index] += value << shift
    square = sum(weight * product for weight, product in zip(weights, products, strict=True))
    norms = np.diagonal(gram).tolist()
    return [
        square - 2 * total * product + total * total * norm
        for product, norm in zip(products, norms, strict=True)
    ]


def combine_updates(source: ColumnSource, weights: Sequence[int]) -> NDArray[np.int16]:
    """Return round(sum_i c_i u_i / C), halves rounded away from 0.

    Parameters
    ----------
    source : ColumnSource
    weights : sequence of int, (n,)
        c_i >= 0; their sum C is in 1..2^36.

    Returns
    -------
    int16, (d,)

    Raises
    ------
    BoundError
        If a weight is negative, or their sum out of range.
    """
    total = _validate_weights(weights)
    validate_exact_products(INT16_ABS_MAX, total, 1)
    factors = np.array(weights, np.float64)
    vector = np.empty(source.dimension, np.int16)
    room = FloatBlock(source)
    for start, stop in get_block_bounds(source):
        values = room.load(source.read(start, stop))
        sums: NDArray[np.float64] = np.einsum("i,ij->j", factors, values)
        vector[start:stop] = divide_rounded(sums.astype(np.int64), total)
    return vector


def _validate_weights(weights: Sequence[int]) -> int:
    total = sum(weights)
    if min(weights) < 0 or not 1 <= total <= WEIGHTS_TOTAL_MAX:
        raise BoundError(
            f"weights of at least {min(weights)} that add up to {total} are no combination:"
            f" none may be negative, and the sum is in 1..{WEIGHTS_TOTAL_MAX}"
        )
    return total
