"""When a training round ends, whom it waits for, and how old an update may be.

Owns the wire type of a task's round policy, and how much an update counts that is based on older
weights. Never looks at state: the ledger ends training rounds.
"""

from enum import IntEnum
from math import isqrt
from typing import Annotated, assert_never

from msgspec import Meta, Struct

from quorate.chain.ids import INT64_MAX

UPDATES_PER_ROUND_MAX = 4096
STALENESS_MAX = 1024
SILENT_ROUNDS_MAX = 64
EXTENSIONS_MAX = 1024
STALENESS_FACTOR_ONE = 1 << 16
"""The factor of an update that is not stale: 16 fraction bits."""


class BelowMinimum(IntEnum):
    """What happens to a training round whose deadline passes below its minimum."""

    EXTEND = 0
    VOID = 1


class RoundMode(IntEnum):
    """How training rounds follow each other.

    In a `SYNCHRONOUS` task an update names the open training round, and while a result is being
    computed none is taken. In an `ASYNCHRONOUS` one (FedBuff, arXiv:2106.06639) a training round is
    a buffer: an update counts in the one that is open when it arrives, as long as its base weights
    are within `staleness_max`, and while a result is being computed the next buffer fills.
    """

    SYNCHRONOUS = 0
    ASYNCHRONOUS = 1


class StalenessWeighting(IntEnum):
    """How much an update counts whose base weights are s training rounds old.

    `CONSTANT`: as much as any other. `INVERSE_SQRT`: 1 / sqrt(1 + s), as arXiv:2106.06639,
    section 5, has it.
    """

    CONSTANT = 0
    INVERSE_SQRT = 1


class RoundPolicy(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """When a training round seals. Times are block time in milliseconds.

    Attributes
    ----------
    deadline_ms : int
        The period after which a training round ends with its minimum.
    updates_min, updates_max : int
        With fewer it does not end well; at the maximum it ends at once. In an asynchronous task
        the maximum is the buffer's goal, K in the paper.
    below_minimum : BelowMinimum
    staleness_max : int
        The number of training rounds an update's base weights may be behind when it is taken.
    waive_proposer_spread : bool
        Gives up the rule that proposers with more than a third of the power must have had a block
        in the round before it seals early or at its deadline.
    rounds_max : int
        The task completes after so many finalized training rounds; 0: never by itself.
    mode : RoundMode
    staleness_weighting : StalenessWeighting
        What an update is scaled by, before any stage of the rule sees it.
    silent_rounds_max : int
        Who has sent nothing in so many training rounds in a row is not waited for, until it sends
        again; 0: everybody is waited for, though never beyond the deadline.
    extensions_max : int
        How often a training round below its minimum is extended before it is void after all.
    """

    deadline_ms: Annotated[int, Meta(ge=1, le=10**12)]
    updates_min: Annotated[int, Meta(ge=1, le=UPDATES_PER_ROUND_MAX)]
    updates_max: Annotated[int, Meta(ge=1, le=UPDATES_PER_ROUND_MAX)]
    below_minimum: BelowMinimum = BelowMinimum.EXTEND
    staleness_max: Annotated[int, Meta(ge=0, le=STALENESS_MAX)] = 0
    waive_proposer_spread: bool = False
    rounds_max: Annotated[int, Meta(ge=0, le=INT64_MAX)] = 0
    mode: RoundMode = RoundMode.SYNCHRONOUS
    staleness_weighting: StalenessWeighting = StalenessWeighting.INVERSE_SQRT
    silent_rounds_max: Annotated[int, Meta(ge=0, le=SILENT_ROUNDS_MAX)] = 3
    extensions_max: Annotated[int, Meta(ge=1, le=EXTENSIONS_MAX)] = 16

    @property
    def is_asynchronous(self) -> bool:
        """Whether a training round is a buffer that updates of several base weights go into."""
        return self.mode is RoundMode.ASYNCHRONOUS


def compute_staleness_factor(weighting: StalenessWeighting, staleness: int) -> int:
    """Return what an update is scaled by, with 16 fraction bits, to the nearest integer.

    The nearest integer to x = 2^16 / sqrt(1 + s) is floor((floor(2 x) + 1) / 2), and floor(2 x) is
    the integer square root of floor(2^34 / (1 + s)): all of it is exact. x is never halfway
    between two integers, since 2^34 / (1 + s) would be an odd square, which divides no power of 2.

    Parameters
    ----------
    weighting : StalenessWeighting
    staleness : int
        s >= 0: how many training rounds were finalized from the update's base weights to those it
        is added to.

    Returns
    -------
    int
        In 1..2^16.
    """
    match weighting:
        case StalenessWeighting.CONSTANT:
            return STALENESS_FACTOR_ONE
        case StalenessWeighting.INVERSE_SQRT:
            doubled = isqrt(4 * STALENESS_FACTOR_ONE**2 // (1 + staleness))
            return max(1, (doubled + 1) // 2)
        case _:
            assert_never(weighting)
