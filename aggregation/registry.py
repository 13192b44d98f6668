"""The table of all stages: what each needs, what it costs, and how it is run.

Owns that table. Never composes stages and reads no update itself.

To add a rule, write its file and one entry here; nothing else in the package changes. The table is
where Krum's relatives (Bulyan), centered clipping, the geometric median, bucketing and ARC
clipping will have their entries; `aggregation.optimizer` has its own for the server optimizers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from quorate.chain.task import AggregationRule, Stage

from aggregation.clip import clip
from aggregation.columns import ColumnSource
from aggregation.mean import aggregate_mean
from aggregation.median import aggregate_median
from aggregation.multi_krum import aggregate_multi_krum
from aggregation.nnm import mix_nearest_neighbours
from aggregation.trimmed_mean import aggregate_trimmed_mean
from aggregation.verdict import Verdict

RunPreAggregation = Callable[
    [ColumnSource, AggregationRule], tuple[ColumnSource, Verdict | None]
]
"""n updates in, n updates out, and a verdict if the stage has one."""
RunFinal = Callable[
    [ColumnSource, AggregationRule, Sequence[int] | None, bool],
    tuple[NDArray[np.int16], Verdict | None],
]
"""Source, rule, example counts, whether a verdict is wanted; vector and verdict."""


@dataclass(frozen=True, slots=True)
class StageEntry:
    """What every stage has.

    Attributes
    ----------
    updates_per_byzantine, updates_extra : int
        The precondition n >= updates_per_byzantine * f + updates_extra.
    weight : int
        Cost of one parameter of one update: about its nanoseconds on one core of a common
        server at n = 32, rounded up. What matters for agreement is that all nodes use the same.
    """

    updates_per_byzantine: int
    updates_extra: int
    weight: int

    def compute_updates_min(self, num_byzantine: int) -> int:
        """Return the smallest n that the stage's precondition admits for f."""
        return self.updates_per_byzantine * num_byzantine + self.updates_extra

    @property
    def bound(self) -> str:
        """The right-hand side of the precondition, for messages."""
        return f"{self.updates_per_byzantine} * num_byzantine + {self.updates_extra}"


@dataclass(frozen=True, slots=True)
class PreAggregation(StageEntry):
    """A stage that stands in front of the final one."""

    run: RunPreAggregation


@dataclass(frozen=True, slots=True)
class FinalStage(StageEntry):
    """A stage that makes one vector out of n updates.

    Attributes
    ----------
    is_weightable : bool
        Whether example counts mean anything to it.
    """

    run: RunFinal
    is_weightable: bool = False


def _run_clip(
    source: ColumnSource, rule: AggregationRule
) -> tuple[ColumnSource, Verdict | None]:
    return clip(source, rule.clip_norm), None


def _run_nnm(
    source: ColumnSource, rule: AggregationRule
) -> tuple[ColumnSource, Verdict | None]:
    return mix_nearest_neighbours(source, rule.num_byzantine)


def _run_mean(
    source: ColumnSource, _rule: AggregationRule, counts: Sequence[int] | None, is_judging: bool
) -> tuple[NDArray[np.int16], Verdict | None]:
    return aggregate_mean(source, counts, is_judging=is_judging)


def _run_median(
    source: ColumnSource, rule: AggregationRule, _counts: Sequence[int] | None, is_judging: bool
) -> tuple[NDArray[np.int16], Verdict | None]:
    return aggregate_median(source, rule.num_byzantine, is_judging=is_judging)


def _run_trimmed_mean(
    source: ColumnSource, rule: AggregationRule, _counts: Sequence[int] | None, is_judging: bool
) -> tuple[NDArray[np.int16], Verdict | None]:
    return aggregate_trimmed_mean(source, rule.num_byzantine, is_judging=is_judging)


def _run_multi_krum(
    source: ColumnSource, rule: AggregationRule, _counts: Sequence[int] | None, _is_judging: bool
) -> tuple[NDArray[np.int16], Verdict | None]:
    return aggregate_multi_krum(source, rule.num_byzantine, rule.selected)


PRE_AGGREGATIONS: Mapping[Stage, PreAggregation] = MappingProxyType({
    Stage.CLIP: PreAggregation(2, 1, weight=1, run=_run_clip),
    Stage.NNM: PreAggregation(2, 1, weight=3, run=_run_nnm),
})
FINAL_STAGES: Mapping[Stage, FinalStage] = MappingProxyType({
    # The mean's own precondition, no hostile update unless clipped, is not a bound on n.
    Stage.MEAN: FinalStage(0, 1, weight=1, run=_run_mean, is_weightable=True),
    Stage.MEDIAN: FinalStage(2, 1, weight=2, run=_run_median),
    Stage.TRIMMED_MEAN: FinalStage(2, 1, weight=2, run=_run_trimmed_mean),
    Stage.MULTI_KRUM: FinalStage(2, 3, weight=2, run=_run_multi_krum),
})
