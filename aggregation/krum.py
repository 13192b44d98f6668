"""Krum: the one update that lies closest to its neighbours.

Owns Krum alone: multi-Krum with m = 1, without reading the other updates a second time.

Formula::

    s(i) = sum of |u_i - u_j|^2 over the n - f - 2 updates j != i closest to u_i
    a    = u_k,  k = argmin_i s(i), ties by index

Symbols: n updates, f = num_byzantine.

Bounds: those of `multi_krum`.

Precondition: n >= 2 f + 3.

Source: Blanchard, El Mhamdi, Guerraoui, Stainer, arXiv:1703.02757, section 4.
"""

import numpy as np
from numpy.typing import NDArray

from aggregation.columns import ColumnSource
from aggregation.multi_krum import aggregate_multi_krum
from aggregation.verdict import Verdict


def aggregate_krum(source: ColumnSource, num_byzantine: int) -> tuple[NDArray[np.int16], Verdict]:
    """Return the most central update and the verdict on all.

    Parameters
    ----------
    source : ColumnSource
        n >= 2 * num_byzantine + 3.
    num_byzantine : int

    Returns
    -------
    vector : int16, (d,)
    verdict : Verdict
        See `multi_krum.judge_centrality`.

    Raises
    ------
    BoundError
        If there are fewer updates.
    """
    return aggregate_multi_krum(source, num_byzantine, selected=1)
