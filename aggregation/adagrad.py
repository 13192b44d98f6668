"""The Adagrad server optimizer.

Owns the recurrence of its second moment; `moments` owns the rest.

Formula, per parameter::

    v' = min( v + 2^16 a^2, 2^62 - 1 )

Symbols: a the aggregate's integer, v the second moment with 16 fraction bits more than a^2.

Bounds: a^2 < 2^30, so v + 2^16 a^2 < 2^62 + 2^46. The limit is reached after 2^16 training rounds
in which a is as large as it can be, and only keeps the step from shrinking further.

Source: Reddi et al., arXiv:2003.00295, Algorithm 2 (FedAdagrad).
"""

import numpy as np
from numpy.typing import NDArray

from aggregation.moments import ROOT_VALUE_MAX, SECOND_MOMENT_FRACTION_BITS, validate_range


def compute_adagrad_moment(
    moment: NDArray[np.int64], update: NDArray[np.int16]
) -> NDArray[np.int64]:
    """Return the next second moment v'.

    Parameters
    ----------
    moment : int64, (n,)
        0 <= v < 2^62. Left unchanged.
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
    validate_range("second moment", moment, 0, ROOT_VALUE_MAX)
    following = np.square(update, dtype=np.int64)
    following <<= SECOND_MOMENT_FRACTION_BITS
    following += moment
    return np.minimum(following, ROOT_VALUE_MAX, out=following)
