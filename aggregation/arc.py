"""Adaptive robust clipping: the longest updates are cut to the next one's norm (pre-aggregation).

Owns how many are cut, and so the bound. Never discards an update; `clip` does the scaling.

Formula::

    k   = floor( 2 f (n - f) / n )
    C   = the (k + 1)-th largest of |u_1|, ..., |u_n|
    y_i = u_i if |u_i| <= C, else round( u_i C / |u_i| ), halves rounded away from 0

Symbols: n updates, f = num_byzantine, |u_i| the Euclidean norm, compared as its exact square.

Bounds: those of `clip`. k <= n - 1, because 2 f (n - f) <= n^2 / 2 < n^2.

Precondition: n >= 2 f + 1.

Source: Allouah, Guerraoui, Gupta, Jellouli, Rizk, Stephan, arXiv:2405.14432, Algorithm 2.
"""

from aggregation.clip import ClippedSource, compute_ratios
from aggregation.columns import ColumnSource, validate_precondition
from aggregation.distances import compute_squared_norms


def clip_adaptively(source: ColumnSource, num_byzantine: int) -> ClippedSource:
    """Return a source of the same updates with the norms of the longest bounded.

    Parameters
    ----------
    source : ColumnSource
        n >= 2 * num_byzantine + 1.
    num_byzantine : int

    Returns
    -------
    ClippedSource

    Raises
    ------
    BoundError
        If there are fewer updates.
    """
    n = source.n_updates
    validate_precondition(n, num_byzantine, 2 * num_byzantine + 1)
    norms = compute_squared_norms(source)
    clipped = 2 * num_byzantine * (n - num_byzantine) // n
    bound = sorted(norms)[n - 1 - clipped]
    return ClippedSource(source, compute_ratios(norms, bound))
