"""Composing stages into a task's aggregation rule, and running it over a training round.

Owns which compositions are valid, what they cost, and the `Aggregate` they result in. Never knows
how a stage computes: that is the stage's own file, found through the registry.

A rule is zero or more different pre-aggregations, then exactly one final stage. Every stage maps
integers to int16 integers; the next sees only these. The verdict on the updates comes from `nnm`
if it is in the composition (what follows it sees mixtures, not updates), else from the final
stage. Clipping keeps an update's direction and gives no verdict. Behind `bucketing`, a verdict on a
bucket is one on each update in it.

What a rule needs beside the updates of its round, a seed or the last aggregate, is an argument: the
chain keeps it, and nothing here does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from quorate.chain.errors import ErrorCode
from quorate.chain.ids import UINT32_MAX
from quorate.chain.receipt import ScoreName
from quorate.chain.task import AggregationRule, Stage

from aggregation.arithmetic import INT16_ABS_MAX
from aggregation.bucketing import compute_bucket_count, compute_members_min
from aggregation.columns import ColumnSource, RowSource, UpdateColumns
from aggregation.errors import BoundError, RuleError, UpdateError
from aggregation.registry import (
    FINAL_STAGES,
    PARAMETERS,
    PRE_AGGREGATIONS,
    FinalStage,
    RoundInputs,
    StageEntry,
)
from aggregation.staleness import scale_stale_updates
from aggregation.verdict import Verdict

_BOUNDING = frozenset({Stage.CLIP, Stage.ARC})
"""The pre-aggregations that bound how far one update goes, and keep the updates apart."""
_SCORES = {
    Stage.MEAN: ScoreName.LEAVE_ONE_OUT,
    Stage.MEDIAN: ScoreName.SURVIVAL,
    Stage.TRIMMED_MEAN: ScoreName.SURVIVAL,
    Stage.KRUM: ScoreName.CENTRALITY,
    Stage.MULTI_KRUM: ScoreName.CENTRALITY,
    Stage.BULYAN: ScoreName.CENTRALITY,
    Stage.GEOMETRIC_MEDIAN: ScoreName.WEIGHT,
    Stage.CENTERED_CLIPPING: ScoreName.CLIPPING,
}


@dataclass(frozen=True, slots=True)
class Aggregate:
    """The result of a training round's aggregation.

    Attributes
    ----------
    vector : int16, (d,), read-only
        The aggregate, at the scales of the updates, in +-32767.
    scores : tuple of int, (n,)
        Contribution scores with 16 fraction bits, within +-2^31. What they measure depends on
        the composition: in-degree in the neighbourhoods if `nnm` is in it
        (`nnm.judge_in_degree`); else leave-one-out for `mean` (`mean.judge_leave_one_out`),
        survival for `median` and `trimmed_mean` (`trimmed_mean.judge_survival`), centrality for
        `krum`, `multi_krum` and `bulyan` (`multi_krum.judge_centrality`), the share of the weight
        for `geometric_median` (`geometric_median.judge_shares`), the clipping factor for
        `centered_clipping` (`centered_clipping.judge_factors`).
    set_aside : tuple of bool, (n,)
        Updates that had no weight or clearly less than their share, as defined beside the score:
        in-degree of at most f; weight 0; survival below half of the fair share; not selected; less
        than half an equal weight; less than half of the distance counted.
    saturated : int
        How many integers of the round's updates are +-32767, cut off when they were encoded.
    clipped : tuple of bool, (n,)
        Which updates `clip` or `arc` scaled down, behind `bucketing` their bucket.
    """

    vector: NDArray[np.int16]
    scores: tuple[int, ...]
    set_aside: tuple[bool, ...]
    saturated: int
    clipped: tuple[bool, ...]


def validate_rule(rule: AggregationRule, updates_min: int) -> None:
    """Check that a rule is a known composition and that a round's minimum satisfies it.

    Parameters
    ----------
    rule : AggregationRule
    updates_min : int
        The smallest number of updates the rule may be applied to.

    Raises
    ------
    RuleError
        If a number is negative; if there is not exactly one final stage, in the last place; if a
        pre-aggregation is repeated; if a parameter belongs to a stage that is absent; if the
        precondition of a stage, n >= the bound the message names, does not hold for
        `updates_min`, or behind `bucketing` for the number of buckets; if there are fewer buckets
        than hostile updates; if `mean` is to tolerate hostile updates without `clip` or `arc`.
    """
    _validate_composition(rule)
    f = rule.num_byzantine
    count = updates_min
    for stage in rule.stages:
        entry = _get_entry(stage)
        bound = entry.compute_updates_min(f)
        if count < bound:
            bucketed = "" if count == updates_min else f", of which bucketing makes {count}"
            raise RuleError(
                f"{stage} needs n >= {entry.bound} = {bound} updates in a training round"
                f" (num_byzantine is {f}), but the minimum is {updates_min}{bucketed}"
            )
        if stage is Stage.BUCKETING:
            count = compute_bucket_count(count, rule.bucket_size)
    if rule.stages[-1] is Stage.MEAN and f > 0 and not _BOUNDING & set(rule.stages):
        raise RuleError(
            f"mean tolerates no hostile update, but num_byzantine is {f}:"
            " set it to 0, put clip or arc in front, or choose another final stage"
        )
    if count < f:
        # Every other stage needs more; a mean of clipped updates has no bound of its own.
        raise RuleError(
            f"{rule.stages[-1]} needs n >= num_byzantine = {f}, but the minimum is {updates_min},"
            f" of which bucketing makes {count}"
        )
    if rule.selected > count - f:
        raise RuleError(
            f"multi_krum needs selected <= n - num_byzantine = {count - f},"
            f" but selected is {rule.selected}"
        )


def _validate_composition(rule: AggregationRule) -> None:
    if not rule.stages:
        raise RuleError("a rule needs at least one stage")
    if rule.num_byzantine < 0:
        raise RuleError(f"num_byzantine is negative: {rule.num_byzantine}")
    *front, last = rule.stages
    for stage in front:
        if stage not in PRE_AGGREGATIONS:
            raise RuleError(
                f"{stage} cannot stand in front of another stage; those that can:"
                f" {', '.join(PRE_AGGREGATIONS)}"
            )
    if last not in FINAL_STAGES:
        raise RuleError(
            f"{last} cannot be the last stage; those that can: {', '.join(FINAL_STAGES)}"
        )
    for index, stage in enumerate(front):
        if stage in front[:index]:
            raise RuleError(f"{stage} stands in the rule twice")
    for name, stages in PARAMETERS.items():
        if getattr(rule, name) < 0:
            raise RuleError(f"{name} is negative: {getattr(rule, name)}")
        if getattr(rule, name) and not set(stages) & set(rule.stages):
            raise RuleError(
                f"{name} is a parameter of {' and '.join(stages)}, which is not in the rule"
            )


def _get_entry(stage: Stage) -> StageEntry:
    if stage in PRE_AGGREGATIONS:
        return PRE_AGGREGATIONS[stage]
    return FINAL_STAGES[stage]


def compute_updates_min(rule: AggregationRule) -> int:
    """Return the smallest number of updates that satisfies every stage of a valid rule."""
    needed = max(rule.selected + rule.num_byzantine, 1)
    for stage in reversed(rule.stages):
        if stage is Stage.BUCKETING:
            needed = compute_members_min(needed, rule.bucket_size)
        needed = max(needed, _get_entry(stage).compute_updates_min(rule.num_byzantine))
    return needed


def is_weightable(rule: AggregationRule) -> bool:
    """Return whether example counts can weigh the updates: `mean`, with or without clipping."""
    *front, last = rule.stages
    return FINAL_STAGES[last].is_weightable and _BOUNDING.issuperset(front)


def get_score_name(rule: AggregationRule) -> ScoreName:
    """Return what the scores of a valid rule measure."""
    return ScoreName.IN_DEGREE if Stage.NNM in rule.stages else _SCORES[rule.stages[-1]]


def needs_seed(rule: AggregationRule) -> bool:
    """Return whether a stage permutes the updates, so that `aggregate` must be given a seed."""
    return Stage.BUCKETING in rule.stages


def keeps_aggregate(rule: AggregationRule) -> bool:
    """Return whether `aggregate` must be given the last training round's aggregate."""
    return Stage.CENTERED_CLIPPING in rule.stages


def compute_rule_weight(rule: AggregationRule) -> int:
    """Return the cost of a valid rule per update and parameter, the sum of its stages' weights."""
    return sum(_get_entry(stage).weight for stage in rule.stages)


def compute_cost(rule: AggregationRule, n_updates: int, dimension: int) -> int:
    """Return the deterministic cost of an aggregation: updates x parameters x the rule's weight.

    Parameters
    ----------
    rule : AggregationRule
        Valid.
    n_updates : int
        n >= 0.
    dimension : int
        d >= 0.

    Returns
    -------
    int
    """
    if n_updates < 0 or dimension < 0:
        raise BoundError(f"a cost of {n_updates} updates of {dimension} parameters has no meaning")
    return n_updates * dimension * compute_rule_weight(rule)


def aggregate(
    rule: AggregationRule,
    updates: Sequence[UpdateColumns],
    example_counts: Sequence[int] | None = None,
    *,
    staleness_factors: Sequence[int] | None = None,
    seed: bytes | None = None,
    previous: NDArray[np.int16] | None = None,
) -> Aggregate:
    """Aggregate the updates of one training round.

    Parameters
    ----------
    rule : AggregationRule
    updates : sequence of int16, (d,)
        In canonical order, by participant address: ties are broken by index. Values in +-32767.
        Never changed. Arrays, or whatever else gives its columns by slices (`UpdateColumns`).
    example_counts : sequence of int, (n,), optional
        0..2^32 - 1 each; the weights of the updates, for a rule that `is_weightable`.
    staleness_factors : sequence of int, (n,), optional
        1..2^16 each: what the updates are scaled by before the first stage; see `staleness`.
    seed : bytes, optional
        What a rule that `needs_seed` permutes by: the hash of a block before the one that
        aggregates, so that no participant could choose its place.
    previous : int16, (d,), optional
        The aggregate of the task's last training round, for a rule that `keeps_aggregate`; zeros
        in the first one. Never changed.

    Returns
    -------
    Aggregate

    Raises
    ------
    RuleError
        If `validate_rule` refuses the rule for len(updates), or the rule ignores example counts
        and some are given.
    UpdateError
        If the updates are none, too many, of different lengths, not int16, or contain -32768; if
        the example counts are not one per update or leave their range.
    BoundError
        If the seed or the last aggregate is missing, or given to a rule without use for it, or
        the last aggregate is not a vector of d integers in +-32767; if the staleness factors are
        not one per update or leave their range.
    """
    source: ColumnSource
    source = rows = RowSource(updates)
    validate_rule(rule, source.n_updates)
    if example_counts is not None:
        _validate_example_counts(rule, example_counts, source.n_updates)
    _validate_kept(rule, source.dimension, seed, previous)
    if staleness_factors is not None:
        source = scale_stale_updates(source, staleness_factors)
    inputs = RoundInputs(rule, example_counts, seed or b"", previous)
    verdict: Verdict | None = None
    places = list(range(source.n_updates))
    clipped = [False] * source.n_updates
    for stage in rule.stages[:-1]:
        result = PRE_AGGREGATIONS[stage].run(source, inputs)
        verdict = verdict or _spread(result.verdict, places)
        source = result.source
        if result.clipped is not None:
            found = (result.clipped[place] for place in places)
            clipped = [before or now for before, now in zip(clipped, found, strict=True)]
        if result.places is not None:
            places = [result.places[place] for place in places]
    final: FinalStage = FINAL_STAGES[rule.stages[-1]]
    vector, judged = final.run(source, inputs, verdict is None)
    verdict = verdict or _spread(judged, places)
    if verdict is None:
        raise BoundError(f"no stage of {rule.stages} judged the updates")
    vector.flags.writeable = False
    return Aggregate(vector, verdict.scores, verdict.set_aside, rows.saturated, tuple(clipped))


def _spread(verdict: Verdict | None, places: Sequence[int]) -> Verdict | None:
    """Return the verdict on the updates, given one on the rows they went into."""
    if verdict is None:
        return None
    return Verdict(
        tuple(verdict.scores[place] for place in places),
        tuple(verdict.set_aside[place] for place in places),
    )


def _validate_kept(
    rule: AggregationRule,
    dimension: int,
    seed: bytes | None,
    previous: NDArray[np.int16] | None,
) -> None:
    if needs_seed(rule) is not bool(seed):
        raise BoundError(f"{' > '.join(rule.stages)} was called with the seed {seed!r}")
    if keeps_aggregate(rule) is not (previous is not None):
        raise BoundError(f"{' > '.join(rule.stages)} keeps its aggregate, or was given one")
    if previous is None:
        return
    if previous.dtype != np.int16 or previous.shape != (dimension,):
        raise BoundError(
            f"the last aggregate is {previous.dtype} of shape {previous.shape};"
            f" expected int16 of shape ({dimension},)"
        )
    if int(previous.min()) < -INT16_ABS_MAX:
        raise BoundError("the last aggregate contains -32768, which no rule computes")


def _validate_example_counts(
    rule: AggregationRule, example_counts: Sequence[int], n_updates: int
) -> None:
    if not is_weightable(rule):
        raise RuleError(
            f"{' > '.join(rule.stages)} ignores example counts; only mean, with or without clip"
            " or arc in front, weighs updates by them"
        )
    if len(example_counts) != n_updates:
        raise UpdateError(
            ErrorCode.WRONG_SHAPE, f"{len(example_counts)} example counts for {n_updates} updates"
        )
    for index, count in enumerate(example_counts):
        if not 0 <= count <= UINT32_MAX:
            raise UpdateError(
                ErrorCode.VALUE_OUT_OF_RANGE,
                f"the example count of update {index} is {count}, outside 0..{UINT32_MAX}",
            )
