"""The few integer operations every rule is made of, with the bounds that keep them exact.

Owns rounding, scaling and fixed-point ratios. Never sees an update, a rule or a task.

One rounding is used everywhere: to the nearest integer, halves away from zero. For integers v and
k > 0 it is the floor of a single quotient::

    round(v / k) = floor((2 v + k - [v < 0]) / (2 k))

A half of a negative v lands just below the integer that plain flooring would return, and nothing
else moves, because all terms are integers.
"""

import numpy as np
from numpy.typing import NDArray
from quorate.chain.task import FIXED_POINT_ONE

from aggregation.errors import BoundError

INT16_ABS_MAX = 32767
"""The largest magnitude of an update's integer; -32768 is refused, so that negation is exact."""
FIXED_POINT_FRACTION_BITS = FIXED_POINT_ONE.bit_length() - 1
"""16, the fraction bits of a learning rate or a momentum."""
INT32_MIN = -(2**31)
INT32_MAX = 2**31 - 1
DIVISION_ABS_MAX = 2**62
DIVISION_INT32_ABS_MAX = 2**29
"""Below these magnitudes a doubled dividend and the divisor beside it fit their type."""
SCORE_FRACTION_BITS = 16
SCORE_ONE = 1 << SCORE_FRACTION_BITS
SCORE_ABS_MAX = 1 << 31
"""Scores are cut off here (+-32768.0), so that they fit any integer of the wire format."""
SCALE_VALUE_ABS_MAX = 2**47 - 1
SCALE_MULTIPLIER_MAX = 2**32
SCALE_SHIFT_MIN = -30
SCALE_SHIFT_MAX = 62
SCALE_RESULT_ABS_MAX = 2**40
"""Results of `scale_rounded` are cut off here, far outside int32."""


def divide_rounded(
    values: NDArray[np.int64], divisor: int | NDArray[np.int64]
) -> NDArray[np.int64]:
    """Divide each integer by a positive one, rounding half away from zero.

    Parameters
    ----------
    values : int64, any shape
        |v| < 2^62 - divisor, so that twice a value plus the divisor fits. Left unchanged.
    divisor : int, or int64 of the shape of `values`
        1 <= divisor < 2^61.

    Returns
    -------
    int64, the shape of `values`

    Raises
    ------
    BoundError
        If a value or a divisor leaves its range.
    """
    least, most = (divisor, divisor) if isinstance(divisor, int) else _find_range(divisor)
    _validate_division(values, least, most, DIVISION_ABS_MAX - most, DIVISION_ABS_MAX >> 1)
    doubled = values << 1
    # The arithmetic shift is -1 for a negative value and 0 for the others.
    doubled += values >> 63
    doubled += divisor
    doubled //= 2 * divisor
    return doubled


def divide_rounded_int32(values: NDArray[np.int32], divisor: int) -> NDArray[np.int32]:
    """Do what `divide_rounded` does in half the width, for sums of int16 values.

    Parameters
    ----------
    values : int32, any shape
        |v| < 2^29: a sum of up to 4,096 updates stays below 2^27. Left unchanged.
    divisor : int
        1 <= divisor <= 2^28.

    Returns
    -------
    int32, the shape of `values`

    Raises
    ------
    BoundError
        If a value or the divisor leaves its range.
    """
    bound = DIVISION_INT32_ABS_MAX
    _validate_division(values, divisor, divisor, bound, (bound >> 1) + 1)
    doubled = values << 1
    doubled += values >> 31
    doubled += divisor
    doubled //= 2 * divisor
    return doubled


def _find_range(values: NDArray[np.int32] | NDArray[np.int64]) -> tuple[int, int]:
    """Return the smallest and the largest value; of none, 1 and 1."""
    return (int(values.min()), int(values.max())) if values.size else (1, 1)


def _validate_division(
    values: NDArray[np.int32] | NDArray[np.int64],
    divisor_least: int,
    divisor_most: int,
    values_bound: int,
    divisor_bound: int,
) -> None:
    if divisor_least < 1 or divisor_most >= divisor_bound:
        raise BoundError(
            f"divisors of {divisor_least} to {divisor_most} are outside 1..{divisor_bound - 1}"
        )
    least, most = _find_range(values)
    if max(-least, most) >= values_bound:
        raise BoundError(
            f"values of {least} to {most} reach {values_bound}: doubled, they could overflow"
        )


def divide_rounded_exact(value: int, divisor: int) -> int:
    """Divide two Python integers, rounding half away from zero; divisor > 0, no other bound."""
    return (2 * value + divisor - (value < 0)) // (2 * divisor)


def compute_score(numerator: int, denominator: int) -> int:
    """Return numerator / denominator with 16 fraction bits, cut off at `SCORE_ABS_MAX`.

    Parameters
    ----------
    numerator : int
    denominator : int
        Positive.

    Returns
    -------
    int
        In [-SCORE_ABS_MAX, SCORE_ABS_MAX].
    """
    score = divide_rounded_exact(numerator << SCORE_FRACTION_BITS, denominator)
    return max(-SCORE_ABS_MAX, min(SCORE_ABS_MAX, score))


def scale_rounded(values: NDArray[np.int64], multiplier: int, shift: int) -> NDArray[np.int64]:
    """Compute round(v * multiplier / 2^shift) exactly, although the product needs 79 bits.

    The product is kept in two limbs, P = high * 2^16 + low with 0 <= low < 2^16. Write
    multiplier = a * 2^16 + b. Then high = |v| a + floor(|v| b / 2^16), and every term stays under
    2^63: |v| a < 2^47 * 2^16, |v| b < 2^47 * 2^16, and high <= |v| multiplier / 2^16
    <= (2^47 - 1) * 2^16 = 2^63 - 2^16. The half that is added before the last shift is divided
    by two with `high`, so that it cannot carry over either.

    Parameters
    ----------
    values : int64, (n,)
        |v| <= 2^47 - 1. Left unchanged.
    multiplier : int
        0 <= multiplier <= 2^32.
    shift : int
        -30 <= shift <= 62; negative shifts multiply.

    Returns
    -------
    int64, (n,)
        Cut off at +-2^40.

    Raises
    ------
    BoundError
        If an argument leaves its range.
    """
    if not 0 <= multiplier <= SCALE_MULTIPLIER_MAX:
        raise BoundError(f"multiplier {multiplier} is outside 0..{SCALE_MULTIPLIER_MAX}")
    if not SCALE_SHIFT_MIN <= shift <= SCALE_SHIFT_MAX:
        raise BoundError(f"shift {shift} is outside {SCALE_SHIFT_MIN}..{SCALE_SHIFT_MAX}")
    least, most = _find_range(values)
    # Before magnitudes are taken: that of the lowest int64 would be negative.
    if max(-least, most) > SCALE_VALUE_ABS_MAX:
        raise BoundError(f"a value exceeds {SCALE_VALUE_ABS_MAX}, the limit of exact scaling")
    magnitude = np.abs(values)
    low = magnitude * (multiplier & 0xFFFF)
    high = magnitude * (multiplier >> 16)
    high += low >> 16
    low &= 0xFFFF
    if shift > 16:
        # round(P / 2^shift): the low limb is below the half bit and cannot change the result.
        # (high + half) >> k is computed as ((high >> (k - 1)) + 1) >> 1, which cannot overflow.
        high >>= shift - 17
        high += 1
        high >>= 1
    else:
        # Cut off before shifting left: what the cap lets through stays under 2^47.
        np.minimum(high, max(1, SCALE_RESULT_ABS_MAX >> (16 - shift)), out=high)
        high <<= 16 - shift
        if shift > 0:
            high += (low + (1 << (shift - 1))) >> shift
        else:
            high += low << -shift
    np.minimum(high, SCALE_RESULT_ABS_MAX, out=high)
    np.negative(high, out=high, where=values < 0)
    return high
