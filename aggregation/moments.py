"""What the adaptive server optimizers share: the first moment, the exact root, and the step.

Owns these three. Never keeps the second moment, in which the optimizers differ (`adagrad`, `adam`,
`yogi`).

Formula, per parameter of a tensor with weight scale 2^b and update scale 2^s::

    m' = round( beta1 m / 2^16 ) + (2^16 - beta1) a
    D  = floor(sqrt(v')) + max(1, round( tau 2^(s - 8) ))
    q  = round( 2^16 m' / D )
    w' = w + round( lambda q 2^(b - 40) ),  halves rounded away from 0 throughout

Symbols: a the aggregate's integer; m the first moment with 16 fraction bits more than a; v the
second moment with 16 fraction bits more than a^2, so that its root has 8 more than a, as D has; tau
the adaptivity, beta1 the momentum and lambda the learning rate, with 16 fraction bits each; q the
ratio m / (sqrt(v) + tau) with 24 fraction bits. At the start m = 0 and v = tau^2, the least that
the paper admits, in a's units and at most 2^46.

Bounds: beta1 <= 2^16 - 1 and |a| <= 32767 keep |m| <= 32767 * 2^16 + 2^15 = 2^31 - 2^15, so
|2^16 m| < 2^47, which is what `scale_rounded` takes; D <= 2^31 + 2^54.

Precision: q is off by at most 2^-25, besides what the rounding of v's root, 2^-8 of an update's
integer, makes of it.

Source: Reddi et al., arXiv:2003.00295, Algorithm 2.
"""

import numpy as np
from numpy.typing import NDArray
from quorate.chain.task import FIXED_POINT_ONE, ServerOptimizer

from aggregation.arithmetic import (
    FIXED_POINT_FRACTION_BITS,
    divide_rounded,
    divide_rounded_exact,
    scale_rounded,
)
from aggregation.errors import BoundError

FIRST_MOMENT_ABS_MAX = 2**31 - 2**15
SECOND_MOMENT_START_MAX = 2**46
SECOND_MOMENT_FRACTION_BITS = 16
ROOT_FRACTION_BITS = SECOND_MOMENT_FRACTION_BITS // 2
ROOT_VALUE_MAX = 2**62 - 1
FRACTION_BITS_MAX = 30
_RATIO_SHIFT = 16
_RATIO_FRACTION_BITS = _RATIO_SHIFT + FIXED_POINT_FRACTION_BITS - ROOT_FRACTION_BITS


def compute_first_moment(
    optimizer: ServerOptimizer, moment: NDArray[np.int64], update: NDArray[np.int16]
) -> NDArray[np.int64]:
    """Return the next first moment m'.

    Parameters
    ----------
    optimizer : ServerOptimizer
    moment : int64, (n,)
        |m| <= FIRST_MOMENT_ABS_MAX. Left unchanged.
    update : int16, (n,)
        Values in +-32767.

    Returns
    -------
    int64, (n,)

    Raises
    ------
    BoundError
        If a moment is out of bounds, so that the state is not one such an optimizer wrote.
    """
    validate_range("first moment", moment, -FIRST_MOMENT_ABS_MAX, FIRST_MOMENT_ABS_MAX)
    following = divide_rounded(moment * optimizer.momentum, FIXED_POINT_ONE)
    following += update.astype(np.int64) * (FIXED_POINT_ONE - optimizer.momentum)
    return following


def compute_start(optimizer: ServerOptimizer, update_fraction_bits: int) -> int:
    """Return the second moment before the first step: tau^2 at its scale, at most 2^46."""
    return min(compute_adaptivity(optimizer, update_fraction_bits) ** 2, SECOND_MOMENT_START_MAX)


def compute_adaptivity(optimizer: ServerOptimizer, update_fraction_bits: int) -> int:
    """Return tau with 8 fraction bits more than the updates, at least 1.

    Parameters
    ----------
    optimizer : ServerOptimizer
    update_fraction_bits : int
        s, 0..30.

    Returns
    -------
    int
        In 1..2^54.

    Raises
    ------
    BoundError
        If `update_fraction_bits` leaves its range.
    """
    if not 0 <= update_fraction_bits <= FRACTION_BITS_MAX:
        raise BoundError(f"{update_fraction_bits} fraction bits are not 0..{FRACTION_BITS_MAX}")
    shift = update_fraction_bits + ROOT_FRACTION_BITS - FIXED_POINT_FRACTION_BITS
    if shift >= 0:
        return max(1, optimizer.adaptivity << shift)
    return max(1, divide_rounded_exact(optimizer.adaptivity, 1 << -shift))


def compute_adaptive_step(
    optimizer: ServerOptimizer,
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    weight_fraction_bits: int,
    update_fraction_bits: int,
) -> NDArray[np.int64]:
    """Return what is added to the weights.

    Parameters
    ----------
    optimizer : ServerOptimizer
    first : int64, (n,)
        m', |m'| <= FIRST_MOMENT_ABS_MAX.
    second : int64, (n,)
        v', 0..ROOT_VALUE_MAX.
    weight_fraction_bits, update_fraction_bits : int
        b and s, 0..30.

    Returns
    -------
    int64, (n,)
        At the weights' scale, within +-2^40.

    Raises
    ------
    BoundError
        If a moment or a number of fraction bits leaves its range.
    """
    validate_range("first moment", first, -FIRST_MOMENT_ABS_MAX, FIRST_MOMENT_ABS_MAX)
    divisors = compute_roots(second)
    divisors += compute_adaptivity(optimizer, update_fraction_bits)
    ratios = divide_rounded(first << _RATIO_SHIFT, divisors)
    shift = _RATIO_FRACTION_BITS + FIXED_POINT_FRACTION_BITS - weight_fraction_bits
    return scale_rounded(ratios, optimizer.learning_rate, shift)


def compute_roots(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return floor(sqrt(v)) exactly.

    The floating-point root is off by less than one, so the integer below it is the result, or its
    neighbour; which one it is, integers decide.

    Parameters
    ----------
    values : int64, (n,)
        0..2^62 - 1. Left unchanged.

    Returns
    -------
    int64, (n,)
        0..2^31 - 1.

    Raises
    ------
    BoundError
        If a value is out of bounds.
    """
    validate_range("value under a root", values, 0, ROOT_VALUE_MAX)
    roots = np.sqrt(values.astype(np.float64)).astype(np.int64)
    roots -= roots * roots > values
    roots += (roots + 1) * (roots + 1) <= values
    return roots


def validate_range(name: str, values: NDArray[np.int64], low: int, high: int) -> None:
    """Refuse values outside low..high.

    Raises
    ------
    BoundError
        Naming what is out of its range.
    """
    if values.size and (int(values.min()) < low or int(values.max()) > high):
        raise BoundError(f"a {name} is outside {low}..{high}")
