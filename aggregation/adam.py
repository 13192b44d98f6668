"""The Adam server optimizer.

Owns the recurrence of its second moment; `moments` owns the rest.

Formula, per parameter::

    v' = round( beta2 v / 2^16 ) + (2^16 - beta2) a^2,  halves rounded up

Symbols: a the aggregate's integer, v the second moment with 16 fraction bits more than a^2, beta2
its decay with 16 fraction bits. As in the paper there is no correction of the first steps' bias:
v starts at tau^2, not at 0.

Bounds: a^2 <= 2^30 - 65535 and v <= 2^46 give v' <= 2^46, and beta2 v < 2^62.

Source: Reddi et al., arXiv:2003.00295, Algorithm 2 (FedAdam).
"""

import numpy as np
from numpy.typing import NDArray
from quorate.chain.task import FIXED_POINT_ONE, ServerOptimizer

from aggregation.arithmetic import divide_rounded
from aggregation.moments import validate_range

SECOND_MOMENT_MAX = 2**46


def compute_adam_moment(
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
    decay = optimizer.second_moment_decay
    following = divide_rounded(moment * decay, FIXED_POINT_ONE)
    following += np.square(update, dtype=np.int64) * (FIXED_POINT_ONE - decay)
    return following
