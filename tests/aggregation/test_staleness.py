"""Stale updates against a version in fractions: scaled first, by factors exact to the last bit."""

import tracemalloc
from collections.abc import Sequence
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from quorate.chain.round_policy import (
    STALENESS_FACTOR_ONE,
    STALENESS_MAX,
    StalenessWeighting,
    compute_staleness_factor,
)
from quorate.chain.task import AggregationRule, Stage

from aggregation import Aggregate, BoundError, aggregate, keeps_aggregate
from aggregation.columns import RowSource
from aggregation.staleness import scale_stale_updates
from tests.aggregation import reference

ONE = STALENESS_FACTOR_ONE
VALUES = st.one_of(st.integers(-3, 3), st.integers(-32767, 32767))
RULES = [
    ((Stage.MEAN,), 0),
    ((Stage.MEDIAN,), 1),
    ((Stage.TRIMMED_MEAN,), 1),
    ((Stage.CLIP, Stage.TRIMMED_MEAN), 1),
    ((Stage.CLIP, Stage.NNM, Stage.TRIMMED_MEAN), 1),
    ((Stage.ARC, Stage.MEAN), 1),
    ((Stage.KRUM,), 1),
    ((Stage.CENTERED_CLIPPING,), 1),
]


def run(
    rule: AggregationRule,
    updates: Sequence[NDArray[np.int16]],
    staleness: Sequence[int],
    counts: Sequence[int] | None = None,
) -> Aggregate:
    factors = [compute_staleness_factor(StalenessWeighting.INVERSE_SQRT, s) for s in staleness]
    previous = np.zeros(updates[0].size, np.int16) if keeps_aggregate(rule) else None
    return aggregate(rule, updates, counts, staleness_factors=factors, previous=previous)


def test_every_factor_is_the_nearest_to_the_paper() -> None:
    with localcontext() as context:
        context.prec = 60
        for staleness in range(STALENESS_MAX + 2):
            exact = Decimal(ONE) / Decimal(1 + staleness).sqrt()
            factor = compute_staleness_factor(StalenessWeighting.INVERSE_SQRT, staleness)
            assert abs(Decimal(factor) - exact) < Decimal("0.5")
            constant = compute_staleness_factor(StalenessWeighting.CONSTANT, staleness)
            assert constant == ONE


def test_some_factors_by_hand() -> None:
    by_hand = {0: ONE, 1: 46341, 2: 37837, 3: ONE // 2, 8: 21845, 15: ONE // 4, 1023: ONE // 32}
    for staleness, factor in by_hand.items():
        assert compute_staleness_factor(StalenessWeighting.INVERSE_SQRT, staleness) == factor


@settings(max_examples=60, deadline=None)
@given(data=st.data(), shape=st.sampled_from(RULES), n=st.integers(5, 9), d=st.integers(1, 5))
def test_each_rule_sees_the_scaled_updates(
    data: st.DataObject, shape: tuple[tuple[Stage, ...], int], n: int, d: int
) -> None:
    stages, f = shape
    rows = data.draw(st.lists(st.lists(VALUES, min_size=d, max_size=d), min_size=n, max_size=n))
    staleness = data.draw(st.lists(st.integers(0, 9), min_size=n, max_size=n))
    scaled = [
        [
            reference.round_half_away(
                Fraction(v * compute_staleness_factor(StalenessWeighting.INVERSE_SQRT, s), ONE)
            )
            for v in row
        ]
        for row, s in zip(rows, staleness, strict=True)
    ]
    given_rule = reference.Rule(f=f, previous=[0] * d)
    if Stage.CENTERED_CLIPPING in stages:
        given_rule.iterations = 1
    expected = reference.apply_stages([str(stage) for stage in stages], scaled, given_rule)
    updates = [np.array(row, np.int16) for row in rows]
    result = run(AggregationRule(stages, f), updates, staleness)
    assert result.vector.tolist() == expected
    # The caller's updates are as they were, and what was cut off in encoding is still counted.
    assert [update.tolist() for update in updates] == rows
    assert result.saturated == sum(abs(v) == 32767 for row in rows for v in row)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(VALUES, st.integers(0, 30), st.integers(0, 99)), min_size=1, max_size=6)
)
def test_example_counts_weigh_the_scaled_updates(rows: list[tuple[int, int, int]]) -> None:
    weights = [count for _, _, count in rows]
    if not any(weights):
        weights = [1] * len(rows)
    total = Fraction(0)
    for (value, staleness, _), weight in zip(rows, weights, strict=True):
        factor = compute_staleness_factor(StalenessWeighting.INVERSE_SQRT, staleness)
        total += weight * reference.round_half_away(Fraction(value * factor, ONE))
    result = run(
        AggregationRule((Stage.MEAN,), 0),
        [np.array([value], np.int16) for value, _, _ in rows],
        [staleness for _, staleness, _ in rows],
        [count for _, _, count in rows],
    )
    assert result.vector.tolist() == [reference.round_half_away(total / sum(weights))]


def test_updates_of_one_staleness_share_a_table() -> None:
    update = np.zeros(1 << 16, np.int16)
    source = RowSource([update] * 400)
    tracemalloc.start()
    scaled = scale_stale_updates(source, [40_000, 50_000] * 200)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert scaled.n_updates == 400
    assert taken < 8 * update.nbytes


def test_long_updates_are_scaled_through_a_table_to_the_same_integers() -> None:
    values = np.arange(-32767, 32769, dtype=np.int64).clip(-32767, 32767).astype(np.int16)
    long = np.concatenate([values, values])
    rule = AggregationRule((Stage.MEAN,), 0)
    factor = compute_staleness_factor(StalenessWeighting.INVERSE_SQRT, 2)
    (vector,) = {run(rule, [long], [2]).vector.tobytes()}
    expected = [reference.round_half_away(Fraction(int(v) * factor, ONE)) for v in values] * 2
    assert np.frombuffer(vector, np.int16).tolist() == expected


@pytest.mark.parametrize("factors", [[ONE], [ONE, 0], [ONE, ONE + 1], [ONE, -1]])
def test_a_factor_out_of_range_is_refused(factors: list[int]) -> None:
    updates = [np.array([5], np.int16)] * 2
    with pytest.raises(BoundError, match="staleness factor"):
        aggregate(AggregationRule((Stage.MEAN,), 0), updates, staleness_factors=factors)


def test_the_clipped_are_named_also_behind_buckets() -> None:
    updates = [np.array([v, 0], np.int16) for v in (3, 3, 3, 900, 3)]
    clipped = aggregate(AggregationRule((Stage.CLIP, Stage.MEAN), 1), updates).clipped
    assert clipped == (False, False, False, True, False)
    assert aggregate(AggregationRule((Stage.MEAN,), 0), updates).clipped == (False,) * 5
    rule = AggregationRule((Stage.BUCKETING, Stage.CLIP, Stage.MEAN), 1, bucket_size=2)
    buckets = aggregate(rule, updates, seed=b"seed").clipped
    assert buckets[3]
    assert 1 <= sum(buckets) <= 2
