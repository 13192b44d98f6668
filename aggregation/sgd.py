"""The SGD server optimizer.

Owns its step. Never keeps state between training rounds.

Formula, per parameter of a tensor with weight scale 2^b and update scale 2^s::

    w' = w + round( lambda a 2^(b - s) / 2^16 ),  halves rounded away from 0

Symbols: a the aggregate's integer, lambda the learning rate with 16 fraction bits.

Bounds: |a| <= 32767 and lambda <= 2^32; see `arithmetic.scale_rounded`.

Source: McMahan et al., arXiv:1602.05629 (lambda = 1 is federated averaging); Reddi et al.,
arXiv:2003.00295, section 2, for the server's learning rate.
"""

import numpy as np
from numpy.typing import NDArray
from quorate.chain.task import ServerOptimizer

from aggregation.arithmetic import FIXED_POINT_FRACTION_BITS, scale_rounded


def compute_sgd_step(
    optimizer: ServerOptimizer, update: NDArray[np.int16], scale_bits: int
) -> NDArray[np.int64]:
    """Return what is added to the weights.

    Parameters
    ----------
    optimizer : ServerOptimizer
    update : int16, (n,)
        Values in +-32767.
    scale_bits : int
        Weight fraction bits minus update fraction bits, -30..30.

    Returns
    -------
    int64, (n,)
        At the weights' scale, within +-2^40.
    """
    shift = FIXED_POINT_FRACTION_BITS - scale_bits
    return scale_rounded(update.astype(np.int64), optimizer.learning_rate, shift)
