"""The Yogi server optimizer.

Owns the recurrence of its second moment; `moments` owns the rest.

Formula, per parameter::

    v' = v - (2^16 - beta2) a^2 sign(v - 2^16 a^2)

Symbols: a the aggregate's integer, v the second moment with 16 fraction bits more than a^2, beta2
its decay with 16 fraction bits. Nothing is rounded.

Bounds: v grows only while v < 2^16 a^2 < 2^46, by less than 2^46; it falls only while it is above
2^16 a^2, by no more than that. So 0 <= v <= 2^47.

Source: Reddi et al., arXiv:2003.00295, Algorithm 2 (FedYogi).
"""

import numpy as np
from numpy.typing import NDArray
from quorate.chain.task import FIXED_POINT_ONE, ServerOptimizer

from aggregation.moments import SECOND_MOMENT_FRACTION_BITS, validate_range

SECOND_MOMENT_MAX = 2**47


def compute_yogi_moment(
    optimizer: ServerOptimizer, moment: NDArray[np.int64], update: NDArray[np.int16]
) -> NDArray[np.int64]:
    """Return the next second moment v'.

    Parameters
    ----------
    optimizer : ServerOptimizer
    moment : int64, (n,)
        0 <= v <= SECOND_MOMENT_MAX. Left unchanged.
    update : int16, (n,)
        Values in +-32767.

    Returns
    -------
    int64, (n,)

    Raises
    ------
    BoundError
        If a moment is out of bounds.
    """
    validate_range("second moment", moment, 0, SECOND_MOMENT_MAX)
    square = np.square(update, dtype=np.int64)
    change = square * (FIXED_POINT_ONE - optimizer.second_moment_decay)
    change *= np.sign(moment - (square << SECOND_MOMENT_FRACTION_BITS))
    following: NDArray[np.int64] = moment - change
    return following
