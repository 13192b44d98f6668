"""As many updates as a round may have, with as many hostile ones among them as the rule admits.

Owns the extremes of n and f together, and those of d, which are made of few columns: a refusal of
what a task may have would stop every node. What a rule computes is compared with its dumb version
where there are few updates.
"""

import itertools
import tracemalloc
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray
from quorate.chain.task import (
    DEFAULT_RULE,
    FIXED_POINT_ONE,
    PARAMETERS_MAX,
    UPDATES_PER_ROUND_MAX,
    AggregationRule,
    OptimizerName,
    ServerOptimizer,
    Stage,
    TensorSpec,
)

from aggregation import (
    aggregate,
    apply_optimizer,
    compute_updates_min,
    distances,
    is_weightable,
    keeps_aggregate,
    mean,
    needs_seed,
    validate_optimizer,
    validate_rule,
)
from aggregation.errors import RuleError
from aggregation.multi_krum import compute_krum_scores
from aggregation.registry import FINAL_STAGES, PRE_AGGREGATIONS
from tests.aggregation import reference

HONEST = np.array([100, -7, 0, 3], np.int16)
HOSTILE = np.array([32767, -32767, 32767, -32767], np.int16)
N = UPDATES_PER_ROUND_MAX


@pytest.mark.parametrize(
    ("stages", "f"),
    [
        ((Stage.MEDIAN,), (N - 1) // 2),
        ((Stage.TRIMMED_MEAN,), (N - 1) // 2),
        ((Stage.KRUM,), (N - 3) // 2),
        ((Stage.MULTI_KRUM,), (N - 3) // 2),
        ((Stage.BULYAN,), (N - 3) // 4),
        ((Stage.CENTERED_CLIPPING,), (N - 1) // 2),
        ((Stage.GEOMETRIC_MEDIAN,), N // 8),
        (DEFAULT_RULE, N // 4),
        ((Stage.CLIP, Stage.NNM, Stage.MULTI_KRUM), N // 4),
    ],
)
def test_the_largest_round_keeps_what_is_honest(stages: tuple[Stage, ...], f: int) -> None:
    rule = AggregationRule(stages, f)
    # So many at an extreme draw the geometric median further off than its iterations come back.
    if len(stages) == 1 and stages[0] is not Stage.GEOMETRIC_MEDIAN:
        one_more = AggregationRule(stages, f + 1)
        assert compute_updates_min(rule) <= N < compute_updates_min(one_more)
    kept = HONEST if keeps_aggregate(rule) else None
    result = aggregate(rule, [HOSTILE] * f + [HONEST] * (N - f), previous=kept)
    assert np.abs(result.vector.astype(int) - HONEST).max() <= 1
    assert result.saturated == 4 * f
    assert min(result.scores[f:]) > max(result.scores[:f])
    if stages[-1] not in (Stage.BULYAN, Stage.KRUM):
        assert not any(result.set_aside[f:])


@pytest.mark.parametrize("final", [Stage.MEDIAN, Stage.BULYAN, Stage.KRUM])
def test_the_largest_round_in_buckets_keeps_what_is_honest(final: Stage) -> None:
    """Each hostile update may spoil one of 2,048 buckets: as many as the final stage tolerates."""
    rule = AggregationRule((Stage.ARC, Stage.BUCKETING, final), 0)
    f = max(f for f in range(N) if compute_updates_min(replace(rule, num_byzantine=f)) <= N)
    assert f == {Stage.MEDIAN: 1023, Stage.BULYAN: 511, Stage.KRUM: 1022}[final]
    rule = replace(rule, num_byzantine=f)
    result = aggregate(rule, [HOSTILE] * f + [HONEST] * (N - f), seed=b"seed")
    assert result.vector.tolist() == HONEST.tolist()
    assert result.clipped == (True,) * f + (False,) * (N - f)


def test_scores_of_the_largest_round_take_no_memory_for_all_pairs_at_once() -> None:
    n = 512
    distances = np.full((n, n), 2**61, np.int64)
    tracemalloc.start()
    scores = compute_krum_scores(distances, 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert scores == [2**61 * (n - 1)] * n
    # A sorted copy of the matrix, and the Python integers of a row.
    assert peak < 1.5 * distances.nbytes


@pytest.fixture
def _as_wide_as_models_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is added up over columns come out as if each column stood there 2^30 times."""
    for module, name in (
        (distances, "compute_block_gram"),
        (distances, "_multiply_rows"),
        (mean, "compute_block_products"),
        (mean, "compute_squared_norm"),
    ):
        compute = getattr(module, name)

        def compute_wide(*arguments: Any, compute: Any = compute) -> Any:
            return compute(*arguments) * PARAMETERS_MAX

        monkeypatch.setattr(module, name, compute_wide)


@pytest.mark.usefixtures("_as_wide_as_models_are")
@pytest.mark.parametrize(
    ("stages", "f"),
    [
        ((Stage.MEAN,), 0),
        ((Stage.KRUM,), 48),
        ((Stage.MULTI_KRUM,), 48),
        ((Stage.MULTI_KRUM,), 0),
        ((Stage.BULYAN,), 24),
        ((Stage.NNM, Stage.MULTI_KRUM), 24),
        ((Stage.NNM, Stage.TRIMMED_MEAN), 49),
    ],
)
def test_a_hundred_wide_updates_rank_as_their_columns_do(stages: tuple[Stage, ...], f: int) -> None:
    """Sums of squares pass int64 here, and only there: the dumb version sees narrow columns.

    No scale that all distances have in common changes what these rules select or score.
    """
    n = 100
    # All in one direction, so that inner products with their mean add up.
    low = 12_000 if stages == (Stage.MEAN,) else -18_000
    rows = np.random.default_rng(f).integers(low, 18_001, (n, 3))
    rows[n - f :] = -18_000
    updates, lists = list(rows.astype(np.int16)), rows.tolist()
    if Stage.MULTI_KRUM in stages or Stage.KRUM in stages:
        assert max(reference.krum_scores(lists, f)) * PARAMETERS_MAX > 2**63
    result = aggregate(AggregationRule(stages, f), updates)
    names = [str(stage) for stage in stages]
    assert result.vector.tolist() == reference.apply_stages(names, lists, reference.Rule(f))
    if stages == (Stage.MEAN,):
        products = (rows @ result.vector.astype(np.int64)).tolist()
        assert sum(products) * PARAMETERS_MAX > 2**63
        expected = reference.leave_one_out(lists, [1] * n, result.vector.tolist())
        assert list(result.scores) == [reference.score(value) for value in expected]


ENDS = (32767, -32767, 32766, 0, 1, -32766, -1)


def make_compositions(last: Stage) -> list[AggregationRule]:
    """All rules of up to three stages that end so, with their numbers at both ends."""
    rules = []
    fronts = [front for k in range(3) for front in itertools.permutations(PRE_AGGREGATIONS, k)]
    for front, f in itertools.product(fronts, (0, 1, 2)):
        stages = (*front, last)
        numbers: list[dict[str, int]] = [{}]
        if Stage.CLIP in front:
            numbers += [{"clip_norm": 1}, {"clip_norm": 2**40}]
        if Stage.BUCKETING in front:
            numbers += [{"bucket_size": 1}, {"bucket_size": 3}]
        if last is Stage.MULTI_KRUM:
            numbers += [{"selected": 1}, {"selected": 4}]
        if last is Stage.CENTERED_CLIPPING:
            numbers += [{"radius": 1}, {"radius": 2**40, "iterations": 16}]
        rules += [AggregationRule(stages, f, **each) for each in numbers]
    return rules


def compute_round(
    rule: AggregationRule, updates: list[NDArray[np.int16]], stalest: int, count: int
) -> None:
    n = len(updates)
    result = aggregate(
        rule,
        updates,
        [count - place % 2 for place in range(n)] if is_weightable(rule) else None,
        staleness_factors=[1 if place % 3 == stalest else 65_536 for place in range(n)],
        seed=b"seed" if needs_seed(rule) else None,
        previous=np.full(1, -32767, np.int16) if keeps_aggregate(rule) else None,
    )
    assert abs(int(result.vector[0])) <= 32767
    assert len(result.scores) == n


@pytest.mark.usefixtures("_as_wide_as_models_are")
@pytest.mark.parametrize("last", FINAL_STAGES)
def test_no_bound_refuses_a_round_of_the_widest_model(last: Stage) -> None:
    tried = 0
    for rule in make_compositions(last):
        least = compute_updates_min(rule)
        try:
            validate_rule(rule, least)
        except RuleError:
            # The plain mean tolerates nobody.
            continue
        for n, first in itertools.product((least, least + 2), range(3)):
            updates = [np.full(1, ENDS[(first + i) % len(ENDS)], np.int16) for i in range(n)]
            compute_round(rule, updates, stalest=first, count=2**32 - 1)
            tried += 1
    assert tried > 300


@pytest.mark.usefixtures("_as_wide_as_models_are")
@pytest.mark.parametrize("stages", [(Stage.MEAN,), (Stage.ARC, Stage.MEAN), (Stage.MEDIAN,)])
def test_no_bound_refuses_the_largest_round_of_the_widest_model(stages: tuple[Stage, ...]) -> None:
    updates = [np.full(1, ENDS[place % 2], np.int16) for place in range(N)]
    compute_round(AggregationRule(stages, 0), updates, stalest=3, count=2**32 - 1)


@pytest.mark.parametrize("name", OptimizerName)
def test_no_bound_refuses_an_optimizer_at_the_ends_of_its_parameters(name: OptimizerName) -> None:
    decays, factors = (0, FIXED_POINT_ONE - 1), (0, 1, 2**32)
    update = np.array([32767, -32767, 0], np.int16)
    tried = 0
    for rate, momentum, decay, tau in itertools.product(factors, decays, decays, factors):
        optimizer = ServerOptimizer(name, rate, momentum, decay, tau)
        try:
            validate_optimizer(optimizer)
        except RuleError:
            continue
        for bits in itertools.product((0, 30), repeat=2):
            tensors = [TensorSpec("w", (3,), *bits)]
            weights: bytes | memoryview = np.array([2**31 - 1, -(2**31), 0], "<i4").tobytes()
            state: memoryview | None = None
            for sign in (1, 1, -1, 1):
                step = apply_optimizer(optimizer, tensors, weights, state, sign * update)
                weights, state = step.weights, step.state
            tried += 1
    assert tried >= 12
