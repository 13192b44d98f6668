"""Every rule, alone and composed, against the dumb version of it, and at its edges.

Owns the comparison. Never tests an internal function that a rule's result would not show.
"""

import tracemalloc
from collections.abc import Sequence
from fractions import Fraction
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from quorate.chain.task import DEFAULT_RULE, PRE_AGGREGATIONS, AggregationRule, Stage

from aggregation import Aggregate, aggregate, compute_updates_min
from tests.aggregation import reference

FINAL_STAGES = [Stage.MEAN, Stage.MEDIAN, Stage.TRIMMED_MEAN, Stage.MULTI_KRUM]
FRONTS = [
    (),
    (Stage.CLIP,),
    (Stage.NNM,),
    (Stage.CLIP, Stage.NNM),
    (Stage.NNM, Stage.CLIP),
]
COMPOSITIONS = [(*front, final) for front in FRONTS for final in FINAL_STAGES]

# Few different values make many ties; the full range finds overflow.
VALUES = st.one_of(st.integers(-3, 3), st.integers(-32767, 32767), st.sampled_from([-32767, 32767]))


def to_arrays(updates: Sequence[Sequence[int]]) -> list[NDArray[np.int16]]:
    return [np.array(update, np.int16) for update in updates]


def to_list(result: Aggregate) -> list[int]:
    return [int(value) for value in result.vector]


@st.composite
def matrices(draw: st.DrawFn, rows_min: int = 1, rows_max: int = 12) -> list[list[int]]:
    n = draw(st.integers(rows_min, max(rows_min, rows_max)))
    d = draw(st.integers(1, 6))
    return draw(
        st.lists(st.lists(VALUES, min_size=d, max_size=d), min_size=n, max_size=n)
    )


@st.composite
def rounds(draw: st.DrawFn) -> tuple[AggregationRule, list[list[int]]]:
    stages = draw(st.sampled_from(COMPOSITIONS))
    f = draw(st.integers(0, 3))
    if Stage.MEAN in stages and Stage.CLIP not in stages:
        f = 0
    clip_norm = draw(st.one_of(st.just(0), st.integers(1, 60_000))) if Stage.CLIP in stages else 0
    rule = AggregationRule(stages, f, clip_norm)
    updates = draw(matrices(compute_updates_min(rule), compute_updates_min(rule) + 5))
    if stages[-1] is Stage.MULTI_KRUM:
        selected = draw(st.integers(0, len(updates) - f))
        rule = AggregationRule(stages, f, clip_norm, selected)
    return rule, updates


@settings(max_examples=400, deadline=None)
@given(rounds())
def test_every_composition_equals_its_dumb_version(
    case: tuple[AggregationRule, list[list[int]]],
) -> None:
    rule, updates = case
    expected = reference.apply_stages(
        [str(stage) for stage in rule.stages],
        updates,
        rule.num_byzantine,
        rule.clip_norm,
        rule.selected,
    )
    assert to_list(aggregate(rule, to_arrays(updates))) == expected


@settings(deadline=None)
@given(matrices(), st.data())
def test_weighted_mean_equals_its_dumb_version(
    updates: list[list[int]], data: st.DataObject
) -> None:
    counts = data.draw(
        st.lists(
            st.one_of(st.integers(0, 3), st.integers(0, 2**32 - 1)),
            min_size=len(updates),
            max_size=len(updates),
        )
    )
    result = aggregate(AggregationRule((Stage.MEAN,), 0), to_arrays(updates), counts)
    assert to_list(result) == reference.mean(updates, counts)
    weights = counts if any(counts) else [1] * len(updates)
    expected = reference.leave_one_out(updates, weights, to_list(result))
    assert list(result.scores) == [reference.score(value) for value in expected]
    assert list(result.set_aside) == [weight == 0 for weight in weights]


@settings(deadline=None)
@given(matrices(rows_min=5), st.integers(0, 2), st.sampled_from([Stage.MEDIAN, Stage.TRIMMED_MEAN]))
def test_survival_is_the_share_of_coordinates_within_the_kept_range(
    updates: list[list[int]], f: int, stage: Stage
) -> None:
    n, d = len(updates), len(updates[0])
    result = aggregate(AggregationRule((stage,), f), to_arrays(updates))
    counts = reference.survival(updates, f)
    assert list(result.scores) == [
        reference.score(Fraction(count, d)) for count in counts
    ]
    fair = Fraction(n - 2 * f, n)
    assert list(result.set_aside) == [
        Fraction(count, d) < fair / 2 for count in counts
    ]


@settings(deadline=None)
@given(matrices(rows_min=7), st.integers(0, 2), st.sampled_from(FINAL_STAGES[1:]))
def test_mixing_scores_by_in_degree(updates: list[list[int]], f: int, final: Stage) -> None:
    result = aggregate(AggregationRule((Stage.NNM, final), f), to_arrays(updates))
    degrees = reference.in_degrees(updates, f)
    near = len(updates) - f
    assert list(result.scores) == [
        reference.score(Fraction(degree, near)) for degree in degrees
    ]
    assert list(result.set_aside) == [degree <= f for degree in degrees]


@settings(deadline=None)
@given(matrices(rows_min=7), st.integers(0, 2), st.integers(0, 5))
def test_multi_krum_scores_by_centrality(updates: list[list[int]], f: int, selected: int) -> None:
    result = aggregate(AggregationRule((Stage.MULTI_KRUM,), f, 0, selected), to_arrays(updates))
    krum = reference.krum_scores(updates, f)
    chosen = reference.krum_selection(updates, f, selected)
    worst = max(krum[i] for i in chosen)
    expected = [
        Fraction(worst, worst + value) if worst + value else Fraction(1, 2)
        for value in krum
    ]
    assert list(result.scores) == [reference.score(value) for value in expected]
    assert list(result.set_aside) == [i not in chosen for i in range(len(updates))]


@pytest.mark.parametrize("stages", COMPOSITIONS)
@pytest.mark.parametrize("sign", [-1, 1])
def test_extreme_updates_stay_extreme(stages: tuple[Stage, ...], sign: int) -> None:
    """All at one end of the range, many of them, over more than one block."""
    n, d = 300, 9000
    updates = [np.full(d, sign * 32767, np.int16)] * n
    f = 0 if Stage.MEAN in stages and Stage.CLIP not in stages else 100
    result = aggregate(AggregationRule(stages, f), updates)
    assert np.array_equal(result.vector, updates[0])
    assert result.saturated == n * d


@pytest.mark.parametrize("stages", COMPOSITIONS)
def test_opposite_extremes(stages: tuple[Stage, ...]) -> None:
    """Half at either end: the largest distances there are."""
    n, d = 15, 40_000
    updates = [np.full(d, 32767 if i % 2 else -32767, np.int16) for i in range(n)]
    f = 0 if Stage.MEAN in stages and Stage.CLIP not in stages else 6
    result = aggregate(AggregationRule(stages, f), updates)
    small = [[int(update[0])] * 2 for update in updates]
    expected = reference.apply_stages([str(stage) for stage in stages], small, f, 0, 0)
    assert result.vector.tolist() == expected[:1] * d


def test_weighted_sums_reach_their_bound_without_overflow() -> None:
    n = 4096
    updates = [np.array([32767, -32767], np.int16)] * n
    counts = [2**32 - 1] * (n - 1) + [2**32 - 2]
    result = aggregate(AggregationRule((Stage.MEAN,), 0), updates, counts)
    assert to_list(result) == [32767, -32767]


def test_more_updates_than_a_network_sorts_equal_the_dumb_version() -> None:
    generator = np.random.default_rng(7)
    updates = list(generator.integers(-40, 40, (700, 9), dtype=np.int16))
    lists = [update.tolist() for update in updates]
    for f in (0, 1, 200, 349):
        rule = AggregationRule((Stage.TRIMMED_MEAN,), f)
        assert to_list(aggregate(rule, updates)) == reference.trimmed_mean(lists, f)
    assert to_list(aggregate(AggregationRule((Stage.MEDIAN,), 3), updates)) == reference.median(
        lists
    )


@pytest.mark.parametrize("stages", [DEFAULT_RULE, (Stage.NNM, Stage.CLIP, Stage.MULTI_KRUM)])
@pytest.mark.parametrize("clip_norm", [0, 400_000])
def test_many_blocks_equal_many_small_problems(stages: tuple[Stage, ...], clip_norm: int) -> None:
    """Tables and several blocks at once: repeating a small problem's columns scales its norms."""
    generator = np.random.default_rng(11)
    n, d, copies = 9, 8, 1 << 14
    small = (generator.integers(-3000, 3000, (n, d)) * generator.integers(1, 9, (n, 1))).tolist()
    updates = [np.tile(np.array(update, np.int16), copies) for update in small]
    # Repeating 2^14 times multiplies every norm by exactly 2^7.
    rule = AggregationRule(stages, 2, clip_norm)
    wide = aggregate(rule, updates)
    assert d * copies > 1 << 16
    expected = aggregate(AggregationRule(stages, 2, clip_norm >> 7), to_arrays(small))
    assert np.array_equal(wide.vector, np.tile(expected.vector, copies))
    assert wide.set_aside == expected.set_aside


def test_clipping_to_the_median_is_the_lower_one_for_even_n() -> None:
    updates = to_arrays([[3, 4], [6, 8], [30, 40], [300, 400]])
    result = aggregate(AggregationRule((Stage.CLIP, Stage.MEAN), 0), updates)
    # Norms 5, 10, 50, 500: clipped to 10 they are (3, 4) and three times (6, 8).
    assert to_list(result) == [5, 7]


def test_halves_are_rounded_away_from_zero() -> None:
    for values, expected in [([1, 2], 2), ([-1, -2], -2), ([0, 1], 1), ([0, -1], -1), ([-1, 1], 0)]:
        updates = to_arrays([[value] for value in values])
        for stage in (Stage.MEAN, Stage.MEDIAN, Stage.TRIMMED_MEAN):
            assert to_list(aggregate(AggregationRule((stage,), 0), updates)) == [expected]


def test_ties_are_broken_by_index() -> None:
    updates = to_arrays([[0], [10], [20], [30], [40]])
    # Distances to both neighbours tie throughout; Krum with m = 1 takes the first of the best.
    result = aggregate(AggregationRule((Stage.MULTI_KRUM,), 1, 0, 1), updates)
    assert to_list(result) == [10]
    assert result.set_aside == (True, False, True, True, True)


@settings(max_examples=100, deadline=None)
@given(rounds(), st.randoms(use_true_random=False))
def test_arrival_order_is_lost_in_the_canonical_order(
    case: tuple[AggregationRule, list[list[int]]], random: Random
) -> None:
    """Whoever sorts by address first gets one result; the caller's arrays stay as they were."""
    rule, updates = case
    addressed = list(enumerate(updates))
    first = aggregate(rule, to_arrays([update for _, update in sorted(addressed)]))
    random.shuffle(addressed)
    arrays = to_arrays([update for _, update in sorted(addressed)])
    for array in arrays:
        array.flags.writeable = False
    again = aggregate(rule, arrays)
    assert again.vector.tobytes() == first.vector.tobytes()
    assert (again.scores, again.set_aside) == (first.scores, first.set_aside)
    assert [array.tolist() for array in arrays] == updates


@pytest.mark.parametrize("stages", [s for s in COMPOSITIONS if s[-1] is not Stage.MULTI_KRUM])
def test_without_ties_any_order_gives_the_same_vector(stages: tuple[Stage, ...]) -> None:
    generator = np.random.default_rng(3)
    updates = list(generator.integers(-9000, 9000, (11, 50), dtype=np.int16))
    f = 0 if Stage.MEAN in stages and Stage.CLIP not in stages else 3
    rule = AggregationRule(stages, f)
    result = aggregate(rule, updates)
    for _ in range(20):
        order = generator.permutation(11)
        shuffled = aggregate(rule, [updates[i] for i in order])
        assert np.array_equal(shuffled.vector, result.vector)
        assert shuffled.scores == tuple(result.scores[i] for i in order)


@pytest.mark.parametrize(
    "stages",
    [
        DEFAULT_RULE,
        (Stage.TRIMMED_MEAN,),
        (Stage.MEDIAN,),
        (Stage.MULTI_KRUM,),
        (Stage.NNM, Stage.MULTI_KRUM),
    ],
)
@pytest.mark.parametrize(("n", "f"), [(8, 2), (11, 4), (32, 8)])
def test_hostile_updates_do_not_move_the_aggregate(
    stages: tuple[Stage, ...], n: int, f: int
) -> None:
    """Sign-flipped and ten times as long: the aggregate stays near the honest mean."""
    generator = np.random.default_rng(n)
    direction = generator.normal(0, 300, 400)
    honest = direction + generator.normal(0, 200, (n - f, 400))
    hostile = -10 * (direction + generator.normal(0, 200, (f, 400)))
    everyone = np.rint(np.concatenate([honest, hostile])).clip(-32767, 32767).astype(np.int16)
    honest_mean = honest.mean(axis=0)
    result = aggregate(AggregationRule(stages, f), list(everyone))
    error = float(np.linalg.norm(result.vector - honest_mean) / np.linalg.norm(honest_mean))
    plain = aggregate(AggregationRule((Stage.MEAN,), 0), list(everyone)).vector
    plain_error = float(np.linalg.norm(plain - honest_mean) / np.linalg.norm(honest_mean))
    assert error < 0.6
    assert plain_error > 2
    assert result.set_aside == (False,) * (n - f) + (True,) * f
    assert min(result.scores[: n - f]) > max(result.scores[n - f :])


def test_hostile_updates_score_negative_under_the_mean() -> None:
    generator = np.random.default_rng(5)
    updates = generator.normal(300, 100, (10, 200)).astype(np.int16)
    updates[7] *= -1
    scores = aggregate(AggregationRule((Stage.MEAN,), 0), list(updates)).scores
    assert scores[7] < 0
    assert min(scores[:7] + scores[8:]) > 0


@pytest.mark.parametrize("stages", [DEFAULT_RULE, (Stage.CLIP, Stage.MULTI_KRUM)])
def test_memory_stays_below_the_size_of_the_updates(stages: tuple[Stage, ...]) -> None:
    """A rule works in blocks: beside the caller's arrays it holds less than another copy."""
    generator = np.random.default_rng(9)
    updates = [generator.integers(-3000, 3000, 1 << 20, dtype=np.int16) for _ in range(16)]
    tracemalloc.start()
    try:
        aggregate(AggregationRule(stages, 3), updates)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * updates[0].nbytes


def test_every_stage_of_the_task_is_composed_here() -> None:
    assert {stage for stages in COMPOSITIONS for stage in stages} == set(Stage)
    assert {stage for front in FRONTS for stage in front} == PRE_AGGREGATIONS
