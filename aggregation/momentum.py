"""The momentum server optimizer.

Owns its step and the recurrence of its velocity. Never touches weights.

Formula, per parameter of a tensor with weight scale 2^b and update scale 2^s::

    v' = round( mu v / 2^16 ) + 2^16 a
    w' = w + round( lambda v' 2^(b - s) / 2^32 ),  halves rounded away from 0

Symbols: a the aggregate's integer, v the velocity, an int64 with 16 fraction bits more than a,
mu the momentum and lambda the learning rate with 16 fraction bits each.

Bounds: mu <= 2^16 - 1 and |a| <= 32767 keep |v| <= (32767 * 2^16 + 1/2) / (1 - mu / 2^16)
<= 32767 * 2^32 + 2^15 < 2^47, and |mu v| < 2^63 - 2^47, so the half that rounding adds fits.

Source: Hsu, Qi, Brown, arXiv:1909.06335, section 4.3 (FedAvgM).
"""

import numpy as np
from numpy.typing import NDArray
from quorate.chain.task import ServerOptimizer

from aggregation.arithmetic import FIXED_POINT_FRACTION_BITS, scale_rounded
from aggregation.errors import BoundError

VELOCITY_ABS_MAX = 32767 * 2**32 + 2**15


def compute_velocity(
    optimizer: ServerOptimizer, velocity: NDArray[np.int64], update: NDArray[np.int16]
) -> NDArray[np.int64]:
    """Return the next velocity v'.

    Parameters
    ----------
    optimizer : ServerOptimizer
    velocity : int64, (n,)
        |v| <= VELOCITY_ABS_MAX. Left unchanged.
    update : int16, (n,)
        Values in +-32767.

    Returns
    -------
    int64, (n,)

    Raises
    ------
    BoundError
        If a velocity is out of bounds, so that the state is not one this optimizer wrote.
    """
    if velocity.size and max(int(velocity.max()), -int(velocity.min())) > VELOCITY_ABS_MAX:
        raise BoundError(f"a velocity in the optimizer's state exceeds {VELOCITY_ABS_MAX}")
    following = velocity * optimizer.momentum
    following += velocity >> 63
    following += 1 << (FIXED_POINT_FRACTION_BITS - 1)
    following >>= FIXED_POINT_FRACTION_BITS
    following += update.astype(np.int64) << FIXED_POINT_FRACTION_BITS
    return following


def compute_momentum_step(
    optimizer: ServerOptimizer, velocity: NDArray[np.int64], scale_bits: int
) -> NDArray[np.int64]:
    """Return what is added to the weights.

    Parameters
    ----------
    optimizer : ServerOptimizer
    velocity : int64, (n,)
        v', |v'| <= VELOCITY_ABS_MAX.
    scale_bits : int
        Weight fraction bits minus update fraction bits, -30..30.

    Returns
    -------
    int64, (n,)
        At the weights' scale, within +-2^40.
    """
    shift = 2 * FIXED_POINT_FRACTION_BITS - scale_bits
    return scale_rounded(velocity, optimizer.learning_rate, shift)
