"""Updates against older weights, scaled down before any stage sees them.

Owns the scaling of updates by the factors of their staleness. Never decides how stale an update is
or what factor that makes: `quorate.chain.round_policy.compute_staleness_factor` does.

Formula, per coordinate::

    y_i = round( u_i * w_i / 2^16 ),   halves rounded away from zero

Symbols: u_i the i-th update, w_i its factor with 16 fraction bits, 1 <= w_i <= 2^16.

The update itself is scaled, not its weight in a mean, and a mean divides by the number of updates,
not by the sum of the factors: so the paper has it, and so every rule, robust ones included, sees
what each update is to add, and none has to know of staleness. A hostile update gains nothing by
being stale: it only becomes smaller.

Bounds: |u| <= 32767 and w <= 2^16, so |y| <= 32767, and |2 u w| + 2^17 < 2^33 in int64.

Source: Nguyen et al., arXiv:2106.06639 (FedBuff), Algorithm 1 and section 5.
"""

from collections.abc import Sequence

from quorate.chain.round_policy import STALENESS_FACTOR_ONE

from aggregation.clip import ClippedSource
from aggregation.columns import ColumnSource
from aggregation.errors import BoundError


def scale_stale_updates(source: ColumnSource, factors: Sequence[int]) -> ColumnSource:
    """Return a source of the same updates, each times its factor.

    Parameters
    ----------
    source : ColumnSource
    factors : sequence of int, (n,)
        1..2^16 each; 2^16 leaves an update as it is.

    Returns
    -------
    ColumnSource
        The same one if no update is stale.

    Raises
    ------
    BoundError
        If there is not one factor for each update, or one leaves its range.
    """
    if len(factors) != source.n_updates:
        raise BoundError(f"{len(factors)} staleness factors for {source.n_updates} updates")
    for index, factor in enumerate(factors):
        if not 1 <= factor <= STALENESS_FACTOR_ONE:
            raise BoundError(
                f"the staleness factor of update {index} is {factor},"
                f" outside 1..{STALENESS_FACTOR_ONE}"
            )
    if min(factors) == STALENESS_FACTOR_ONE:
        return source
    return ClippedSource(source, [(factor, STALENESS_FACTOR_ONE) for factor in factors])
