"""The table of all stages: what each needs, what it costs, and how it is run.

Owns that table. Never composes stages and reads no update itself.

To add a rule, write its file and one entry here; nothing else in the package changes. Server
optimizers have a table of their own in `aggregation.optimizer`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from quorate.chain.task import AggregationRule, Stage

from aggregation.arc import clip_adaptively
from aggregation.bucketing import bucket_updates
from aggregation.bulyan import aggregate_bulyan
from aggregation.centered_clipping import aggregate_centered_clipping
from aggregation.clip import clip
from aggregation.columns import ColumnSource
from aggregation.errors import BoundError
from aggregation.geometric_median import aggregate_geometric_median
from aggregation.krum import aggregate_krum
from aggregation.mean import aggregate_mean
from aggregation.median import aggregate_median
from aggregation.multi_krum import aggregate_multi_krum
from aggregation.nnm import mix_nearest_neighbours
from aggregation.trimmed_mean import aggregate_trimmed_mean
from aggregation.verdict import Verdict


@dataclass(frozen=True, slots=True)
class RoundInputs:
    """What stages are given beside the updates.

    Attributes
    ----------
    rule : AggregationRule
        Valid for the round.
    example_counts : sequence of int, (n,), or None
    seed : bytes
        Present if a stage of the rule needs it.
    previous : int16, (d,), or None
        The last aggregate; present if a stage of the rule needs it.
    """

    rule: AggregationRule
    example_counts: Sequence[int] | None = None
    seed: bytes = b""
    previous: NDArray[np.int16] | None = None


@dataclass(frozen=True, slots=True)
class PreAggregated:
    """What a pre-aggregation results in.

    Attributes
    ----------
    source : ColumnSource
    verdict : Verdict or None
        On the updates it was given.
    places : list of int or None
        The row of `source` that each update it was given went into; None: its own.
    clipped : list of bool, (n,), or None
        Which of the updates it was given it has scaled down.
    """

    source: ColumnSource
    verdict: Verdict | None = None
    places: list[int] | None = None
    clipped: list[bool] | None = None


RunPreAggregation = Callable[[ColumnSource, RoundInputs], PreAggregated]
RunFinal = Callable[[ColumnSource, RoundInputs, bool], tuple[NDArray[np.int16], Verdict | None]]
"""Source, inputs, whether a verdict is wanted; vector and verdict."""


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


def _run_clip(source: ColumnSource, inputs: RoundInputs) -> PreAggregated:
    clipped = clip(source, inputs.rule.clip_norm)
    return PreAggregated(clipped, clipped=clipped.clipped)


def _run_arc(source: ColumnSource, inputs: RoundInputs) -> PreAggregated:
    clipped = clip_adaptively(source, inputs.rule.num_byzantine)
    return PreAggregated(clipped, clipped=clipped.clipped)


def _run_nnm(source: ColumnSource, inputs: RoundInputs) -> PreAggregated:
    return PreAggregated(*mix_nearest_neighbours(source, inputs.rule.num_byzantine))


def _run_bucketing(source: ColumnSource, inputs: RoundInputs) -> PreAggregated:
    bucketed, places = bucket_updates(source, inputs.rule.bucket_size, inputs.seed)
    return PreAggregated(bucketed, places=places)


def _run_mean(
    source: ColumnSource, inputs: RoundInputs, is_judging: bool
) -> tuple[NDArray[np.int16], Verdict | None]:
    return aggregate_mean(source, inputs.example_counts, is_judging=is_judging)


def _run_median(
    source: ColumnSource, inputs: RoundInputs, is_judging: bool
) -> tuple[NDArray[np.int16], Verdict | None]:
    return aggregate_median(source, inputs.rule.num_byzantine, is_judging=is_judging)


def _run_trimmed_mean(
    source: ColumnSource, inputs: RoundInputs, is_judging: bool
) -> tuple[NDArray[np.int16], Verdict | None]:
    return aggregate_trimmed_mean(source, inputs.rule.num_byzantine, is_judging=is_judging)


def _run_krum(
    source: ColumnSource, inputs: RoundInputs, _is_judging: bool
) -> tuple[NDArray[np.int16], Verdict | None]:
    return aggregate_krum(source, inputs.rule.num_byzantine)


def _run_multi_krum(
    source: ColumnSource, inputs: RoundInputs, _is_judging: bool
) -> tuple[NDArray[np.int16], Verdict | None]:
    return aggregate_multi_krum(source, inputs.rule.num_byzantine, inputs.rule.selected)


def _run_bulyan(
    source: ColumnSource, inputs: RoundInputs, _is_judging: bool
) -> tuple[NDArray[np.int16], Verdict | None]:
    return aggregate_bulyan(source, inputs.rule.num_byzantine)


def _run_geometric_median(
    source: ColumnSource, inputs: RoundInputs, is_judging: bool
) -> tuple[NDArray[np.int16], Verdict | None]:
    return aggregate_geometric_median(source, inputs.rule.iterations, is_judging=is_judging)


def _run_centered_clipping(
    source: ColumnSource, inputs: RoundInputs, _is_judging: bool
) -> tuple[NDArray[np.int16], Verdict | None]:
    if inputs.previous is None:
        raise BoundError("centered_clipping was called without the last aggregate")
    rule = inputs.rule
    return aggregate_centered_clipping(source, inputs.previous, rule.radius, rule.iterations)


PRE_AGGREGATIONS: Mapping[Stage, PreAggregation] = MappingProxyType(
    {
        Stage.CLIP: PreAggregation(2, 1, weight=1, run=_run_clip),
        Stage.ARC: PreAggregation(2, 1, weight=1, run=_run_arc),
        Stage.NNM: PreAggregation(2, 1, weight=3, run=_run_nnm),
        # Its precondition is that of the stages behind it, for the number of buckets.
        Stage.BUCKETING: PreAggregation(0, 1, weight=1, run=_run_bucketing),
    }
)
FINAL_STAGES: Mapping[Stage, FinalStage] = MappingProxyType(
    {
        # The mean's own precondition, no hostile update unless clipped, is not a bound on n.
        Stage.MEAN: FinalStage(0, 1, weight=1, run=_run_mean, is_weightable=True),
        Stage.MEDIAN: FinalStage(2, 1, weight=2, run=_run_median),
        Stage.TRIMMED_MEAN: FinalStage(2, 1, weight=2, run=_run_trimmed_mean),
        Stage.KRUM: FinalStage(2, 3, weight=2, run=_run_krum),
        Stage.MULTI_KRUM: FinalStage(2, 3, weight=2, run=_run_multi_krum),
        Stage.BULYAN: FinalStage(4, 3, weight=4, run=_run_bulyan),
        Stage.GEOMETRIC_MEDIAN: FinalStage(2, 1, weight=3, run=_run_geometric_median),
        Stage.CENTERED_CLIPPING: FinalStage(2, 1, weight=3, run=_run_centered_clipping),
    }
)
PARAMETERS: Mapping[str, tuple[Stage, ...]] = MappingProxyType(
    {
        "clip_norm": (Stage.CLIP,),
        "selected": (Stage.MULTI_KRUM,),
        "bucket_size": (Stage.BUCKETING,),
        "iterations": (Stage.GEOMETRIC_MEDIAN, Stage.CENTERED_CLIPPING),
        "radius": (Stage.CENTERED_CLIPPING,),
    }
)
"""Which stages read a parameter of a rule; in a rule without them it must be 0."""
