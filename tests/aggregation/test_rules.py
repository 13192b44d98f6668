"""Every rule, alone and composed, against the dumb version of it, and at its edges.

Owns the comparison. Never tests an internal function that a rule's result would not show.
"""

import tracemalloc
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import permutations
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from numpy.typing import NDArray
from quorate.chain.task import (
    DEFAULT_RULE,
    PRE_AGGREGATIONS,
    STAGES_MAX,
    AggregationRule,
    Stage,
)

from aggregation import (
    Aggregate,
    RuleError,
    aggregate,
    compute_updates_min,
    keeps_aggregate,
    needs_seed,
)
from tests.aggregation import reference

FINAL_STAGES = [
    Stage.MEAN,
    Stage.MEDIAN,
    Stage.TRIMMED_MEAN,
    Stage.KRUM,
    Stage.MULTI_KRUM,
    Stage.BULYAN,
    Stage.GEOMETRIC_MEDIAN,
    Stage.CENTERED_CLIPPING,
]
FRONTS = [
    (),
    (Stage.CLIP,),
    (Stage.ARC,),
    (Stage.NNM,),
    (Stage.BUCKETING,),
    (Stage.CLIP, Stage.NNM),
    (Stage.NNM, Stage.CLIP),
    (Stage.ARC, Stage.BUCKETING, Stage.NNM),
]
SEED = bytes(range(32))
COMPOSITIONS = [(*front, final) for front in FRONTS for final in FINAL_STAGES]
EVERY_FRONT = [
    front
    for length in range(STAGES_MAX)
    for front in permutations(sorted(PRE_AGGREGATIONS), length)
]
"""Whatever may stand in front of a final stage, in any order."""

# Few different values make many ties; the full range finds overflow.
VALUES = st.one_of(st.integers(-3, 3), st.integers(-32767, 32767), st.sampled_from([-32767, 32767]))


def to_arrays(updates: Sequence[Sequence[int]]) -> list[NDArray[np.int16]]:
    return [np.array(update, np.int16) for update in updates]


def run(
    rule: AggregationRule,
    updates: Sequence[NDArray[np.int16]],
    *,
    seed: bytes = SEED,
    previous: NDArray[np.int16] | None = None,
) -> Aggregate:
    """Aggregate with a seed and a last aggregate (zeros, unless given) if the rule wants them."""
    kept = np.zeros(updates[0].size, np.int16) if previous is None else previous
    return aggregate(
        rule,
        updates,
        seed=seed if needs_seed(rule) else None,
        previous=kept if keeps_aggregate(rule) else None,
    )


def is_unprotected(stages: tuple[Stage, ...]) -> bool:
    return stages[-1] is Stage.MEAN and not {Stage.CLIP, Stage.ARC} & set(stages)


def make_rule(stages: tuple[Stage, ...], f: int) -> AggregationRule:
    return AggregationRule(stages, 0 if is_unprotected(stages) else f)


def to_list(result: Aggregate) -> list[int]:
    return [int(value) for value in result.vector]


@st.composite
def matrices(draw: st.DrawFn, rows_min: int = 1, rows_max: int = 12) -> list[list[int]]:
    n = draw(st.integers(rows_min, max(rows_min, rows_max)))
    d = draw(st.integers(1, 6))
    return draw(st.lists(st.lists(VALUES, min_size=d, max_size=d), min_size=n, max_size=n))


def flip_signs(honest: list[list[int]]) -> list[int]:
    return [max(-32767, min(32767, -8 * column[0])) for column in zip(*honest, strict=True)]


def push_inner_product(honest: list[list[int]]) -> list[int]:
    return [-sum(column) // len(column) for column in zip(*honest, strict=True)]


def hide_in_the_spread(honest: list[list[int]]) -> list[int]:
    """The least that any honest update says of each coordinate: never an outlier in one."""
    return [min(column) for column in zip(*honest, strict=True)]


ATTACKS: list[Callable[[list[list[int]]], list[int]]] = [
    flip_signs,
    push_inner_product,
    hide_in_the_spread,
    lambda honest: honest[-1],
    lambda honest: [32767] * len(honest[0]),
    lambda honest: [32767 if place % 2 else -32767 for place in range(len(honest[0]))],
    lambda honest: [0] * len(honest[0]),
]
"""What all hostile updates of a round say, given the honest ones; the fourth mimics one of them."""


def put_hostile(
    updates: list[list[int]], f: int, attack: Callable[[list[list[int]]], list[int]]
) -> list[list[int]]:
    """Return a round whose last f updates are hostile."""
    honest = updates[: len(updates) - f]
    return honest + [attack(honest)] * f


@st.composite
def rounds(draw: st.DrawFn) -> tuple[AggregationRule, list[list[int]]]:
    every = st.tuples(st.sampled_from(EVERY_FRONT), st.sampled_from(FINAL_STAGES))
    stages = draw(st.sampled_from(COMPOSITIONS) | every.map(lambda pair: (*pair[0], pair[1])))
    f = draw(st.integers(0, 2 if {Stage.BULYAN, Stage.BUCKETING} & set(stages) else 3))
    length = st.one_of(st.just(0), st.integers(1, 60_000))
    drawn = {
        name: draw(values) if set(owners) & set(stages) else 0
        for name, values, owners in [
            ("clip_norm", length, {Stage.CLIP}),
            ("bucket_size", st.integers(0, 3), {Stage.BUCKETING}),
            ("radius", length, {Stage.CENTERED_CLIPPING}),
            ("iterations", st.integers(0, 3), {Stage.GEOMETRIC_MEDIAN, Stage.CENTERED_CLIPPING}),
        ]
    }
    rule = replace(make_rule(stages, f), **drawn)
    updates = draw(matrices(compute_updates_min(rule), compute_updates_min(rule) + 5))
    if draw(st.booleans()):
        updates = put_hostile(updates, rule.num_byzantine, draw(st.sampled_from(ATTACKS)))
    if stages[-1] is Stage.MULTI_KRUM:
        size = rule.bucket_size or 2
        n = -(-len(updates) // size) if Stage.BUCKETING in stages else len(updates)
        rule = replace(rule, selected=draw(st.integers(0, n - rule.num_byzantine)))
    return rule, updates


def compute_expected(
    rule: AggregationRule, updates: list[list[int]], seed: bytes, previous: list[int]
) -> list[int]:
    stages = [str(stage) for stage in rule.stages]
    return reference.apply_stages(stages, updates, describe(rule, seed, previous))


def describe(rule: AggregationRule, seed: bytes, previous: list[int]) -> reference.Rule:
    return reference.Rule(
        rule.num_byzantine,
        rule.clip_norm,
        rule.selected,
        rule.bucket_size,
        rule.iterations,
        rule.radius,
        seed,
        previous,
    )


@settings(max_examples=600, deadline=None)
@given(rounds(), st.binary(min_size=1, max_size=40), st.lists(VALUES, min_size=6, max_size=6))
def test_every_composition_equals_its_dumb_version(
    case: tuple[AggregationRule, list[list[int]]], seed: bytes, centre: list[int]
) -> None:
    rule, updates = case
    previous = centre[: len(updates[0])]
    result = run(rule, to_arrays(updates), seed=seed, previous=np.array(previous, np.int16))
    assert to_list(result) == compute_expected(rule, updates, seed, previous)
    stages = [str(stage) for stage in rule.stages]
    clipped = reference.clipped(stages, updates, describe(rule, seed, previous))
    assert list(result.clipped) == clipped
    assert result.saturated == sum(abs(value) == 32767 for row in updates for value in row)
    assert len(result.scores) == len(result.set_aside) == len(updates)


@pytest.mark.parametrize("final", FINAL_STAGES)
@pytest.mark.parametrize("attack", range(len(ATTACKS)))
def test_every_order_of_stages_equals_its_dumb_version_under_attack(
    attack: int, final: Stage
) -> None:
    """All that a task may compose, each at its smallest n and a little above."""
    for place, front in enumerate(EVERY_FRONT):
        rule = make_rule((*front, final), 1)
        n = max(compute_updates_min(rule), 2) + place % 3
        generator = np.random.default_rng((attack, place))
        honest = generator.integers(-900, 1500, (n, 3)).tolist()
        updates = put_hostile(honest, 1, ATTACKS[attack])
        previous = honest[0]
        result = run(rule, to_arrays(updates), previous=np.array(previous, np.int16))
        assert to_list(result) == compute_expected(rule, updates, SEED, previous), rule.stages
        names = [str(stage) for stage in rule.stages]
        clipped = reference.clipped(names, updates, describe(rule, SEED, previous))
        assert list(result.clipped) == clipped, rule.stages


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
    assert list(result.scores) == [reference.score(Fraction(count, d)) for count in counts]
    fair = Fraction(n - 2 * f, n)
    assert list(result.set_aside) == [Fraction(count, d) < fair / 2 for count in counts]


@settings(deadline=None)
@given(matrices(rows_min=11), st.integers(0, 2), st.sampled_from(FINAL_STAGES[1:]))
def test_mixing_scores_by_in_degree(updates: list[list[int]], f: int, final: Stage) -> None:
    result = run(AggregationRule((Stage.NNM, final), f), to_arrays(updates))
    degrees = reference.in_degrees(updates, f)
    near = len(updates) - f
    assert list(result.scores) == [reference.score(Fraction(degree, near)) for degree in degrees]
    assert list(result.set_aside) == [degree <= f for degree in degrees]


@settings(deadline=None)
@given(matrices(rows_min=7), st.integers(0, 2), st.integers(0, 5))
def test_multi_krum_scores_by_centrality(updates: list[list[int]], f: int, selected: int) -> None:
    result = aggregate(AggregationRule((Stage.MULTI_KRUM,), f, 0, selected), to_arrays(updates))
    chosen = reference.krum_selection(updates, f, selected)
    assert list(result.scores) == score_by_centrality(updates, f, chosen)
    assert list(result.set_aside) == [i not in chosen for i in range(len(updates))]


@settings(deadline=None)
@given(matrices(rows_min=7), st.integers(0, 2))
def test_krum_scores_by_centrality_and_sets_all_others_aside(
    updates: list[list[int]], f: int
) -> None:
    result = aggregate(AggregationRule((Stage.KRUM,), f), to_arrays(updates))
    chosen = reference.krum_selection(updates, f, 1)
    assert list(result.scores) == score_by_centrality(updates, f, chosen)
    assert list(result.set_aside) == [i not in chosen for i in range(len(updates))]


@settings(deadline=None)
@given(matrices(rows_min=11), st.integers(0, 2))
def test_bulyan_scores_by_centrality_and_sets_aside_what_it_does_not_select(
    updates: list[list[int]], f: int
) -> None:
    result = aggregate(AggregationRule((Stage.BULYAN,), f), to_arrays(updates))
    chosen = reference.bulyan_selection(updates, f)
    assert list(result.scores) == score_by_centrality(updates, f, chosen)
    assert list(result.set_aside) == [i not in chosen for i in range(len(updates))]


def score_by_centrality(updates: list[list[int]], f: int, chosen: list[int]) -> list[int]:
    krum = reference.krum_scores(updates, f)
    worst = max(krum[i] for i in chosen)
    shares = [Fraction(worst, worst + value) if worst + value else Fraction(1, 2) for value in krum]
    return [reference.score(share) for share in shares]


@settings(deadline=None)
@given(matrices(rows_min=5), st.integers(0, 4))
def test_the_geometric_median_scores_by_weight(updates: list[list[int]], iterations: int) -> None:
    rule = AggregationRule((Stage.GEOMETRIC_MEDIAN,), 2, iterations=iterations)
    result = aggregate(rule, to_arrays(updates))
    weights = reference.geometric_median_weights(updates, iterations)
    shares = [Fraction(len(updates) * weight, sum(weights)) for weight in weights]
    assert list(result.scores) == [reference.score(share) for share in shares]
    assert list(result.set_aside) == [share < Fraction(1, 2) for share in shares]


@settings(deadline=None)
@given(matrices(rows_min=5), st.integers(0, 40_000), st.integers(0, 3))
def test_centered_clipping_scores_by_factor(
    updates: list[list[int]], radius: int, iterations: int
) -> None:
    rule = AggregationRule((Stage.CENTERED_CLIPPING,), 2, iterations=iterations, radius=radius)
    previous = updates[0][::-1]
    result = run(rule, to_arrays(updates), previous=np.array(previous, np.int16))
    _, factors = reference.centered_clipping(updates, previous, radius, iterations)
    assert list(result.scores) == factors
    assert list(result.set_aside) == [2 * factor < 2**16 for factor in factors]


@settings(deadline=None)
@given(matrices(rows_min=9, rows_max=14), st.integers(2, 3), st.binary(min_size=1))
def test_a_verdict_on_a_bucket_is_one_on_its_updates(
    updates: list[list[int]], size: int, seed: bytes
) -> None:
    for front in ((), (Stage.NNM,)):
        stages = (Stage.BUCKETING, *front, Stage.TRIMMED_MEAN)
        result = run(AggregationRule(stages, 1, bucket_size=size), to_arrays(updates), seed=seed)
        rows = reference.bucketing(updates, size, seed)
        behind = aggregate(AggregationRule(stages[1:], 1), to_arrays(rows))
        for bucket, members in enumerate(reference.buckets(len(updates), size, seed)):
            for member in members:
                assert result.scores[member] == behind.scores[bucket]
                assert result.set_aside[member] == behind.set_aside[bucket]


def test_bucketing_behind_mixing_leaves_the_verdict_to_mixing() -> None:
    updates = list(np.random.default_rng(1).integers(-99, 99, (12, 5), dtype=np.int16))
    result = run(AggregationRule((Stage.NNM, Stage.BUCKETING, Stage.MEDIAN), 2), updates)
    alone = run(AggregationRule((Stage.NNM, Stage.MEDIAN), 2), updates)
    assert (result.scores, result.set_aside) == (alone.scores, alone.set_aside)


def test_a_seed_decides_the_buckets() -> None:
    updates = list(np.random.default_rng(1).integers(-99, 99, (12, 50), dtype=np.int16))
    rule = AggregationRule((Stage.BUCKETING, Stage.MEDIAN), 1)
    results = {run(rule, updates, seed=bytes([i] * 32)).vector.tobytes() for i in range(8)}
    assert len(results) == 8
    assert (
        run(rule, updates, seed=b"1").vector.tobytes()
        == run(rule, updates, seed=b"1").vector.tobytes()
    )


def test_centered_clipping_moves_no_further_than_its_radius() -> None:
    """Whatever f updates say, they move the centre by f / n of the radius each at most."""
    honest = [np.full(100, 10, np.int16)] * 8
    centre = np.full(100, 10, np.int16)
    hostile = [np.full(100, 32767, np.int16)] * 3
    rule = AggregationRule((Stage.CENTERED_CLIPPING,), 3, radius=110)
    result = aggregate(rule, honest + hostile, previous=centre)
    # Three of eleven times a length of 110 along the diagonal, 11 in each of 100 coordinates.
    assert result.vector.tolist() == [13] * 100
    assert result.set_aside == (False,) * 8 + (True,) * 3


@pytest.mark.parametrize("stages", COMPOSITIONS)
@pytest.mark.parametrize("sign", [-1, 1])
def test_extreme_updates_stay_extreme(stages: tuple[Stage, ...], sign: int) -> None:
    """All at one end of the range, many of them, over more than one block."""
    n, d = 300, 5000
    updates = [np.full(d, sign * 32767, np.int16)] * n
    result = run(make_rule(stages, 30), updates, previous=updates[0])
    assert np.array_equal(result.vector, updates[0])
    assert result.saturated == n * d


@pytest.mark.parametrize("stages", COMPOSITIONS)
@pytest.mark.parametrize("value", [0, 1, -7])
def test_updates_that_are_all_equal_are_their_aggregate(
    stages: tuple[Stage, ...], value: int
) -> None:
    """No distance, no direction where they are 0, and ties everywhere."""
    updates = [np.full(3, value, np.int16)] * 30
    result = run(make_rule(stages, 3), updates, previous=updates[0])
    assert result.vector.tolist() == [value] * 3
    assert len(set(result.scores)) == 1
    if not {Stage.KRUM, Stage.MULTI_KRUM, Stage.BULYAN} & set(stages) or Stage.NNM in stages:
        assert not any(result.set_aside)


@pytest.mark.parametrize("stages", COMPOSITIONS)
def test_opposite_extremes(stages: tuple[Stage, ...]) -> None:
    """Half at either end: the largest distances there are."""
    n, d = 15, 40_000
    updates = [np.full(d, 32767 if i % 2 else -32767, np.int16) for i in range(n)]
    rule = make_rule(stages, 3 if Stage.BULYAN in stages else 6)
    rule = replace(rule, num_byzantine=min(rule.num_byzantine, compute_tolerance(rule, n)))
    previous = np.full(d, -32767, np.int16)
    result = run(rule, updates, previous=previous)
    # Repeated columns multiply all distances alike; by a square, so that their roots are exact.
    small = [[int(update[0])] * 4 for update in updates]
    expected = compute_expected(rule, small, SEED, [-32767] * 4)
    assert result.vector.tolist() == expected[:1] * d


def compute_tolerance(rule: AggregationRule, n: int) -> int:
    """The largest num_byzantine that n updates allow the rule."""
    return max(
        f for f in range(n) if f == 0 or compute_updates_min(replace(rule, num_byzantine=f)) <= n
    )


@pytest.mark.parametrize("stages", COMPOSITIONS)
def test_one_participant_is_its_own_aggregate(stages: tuple[Stage, ...]) -> None:
    rule = AggregationRule(stages, 0)
    update = np.array([32767, -32767, 5, 0], np.int16)
    if compute_updates_min(rule) > 1:
        with pytest.raises(RuleError, match="needs n >="):
            run(rule, [update])
        return
    result = run(rule, [update])
    assert np.array_equal(result.vector, update)
    assert not any(result.set_aside)


@pytest.mark.parametrize("stages", COMPOSITIONS)
def test_at_the_bound_of_f_hostile_extremes_do_not_carry(stages: tuple[Stage, ...]) -> None:
    """With as many at an extreme as the precondition admits, the rest, all equal, prevail.

    Clipping alone, in front of the mean or around a centre, bounds what extremes do and does not
    undo it, and the geometric median has so many iterations and no more. Mixing spreads a trace of
    what it mixes.
    """
    n = 23
    rule = make_rule(stages, 1)
    if stages[-1] is not Stage.MEAN:
        rule = replace(rule, num_byzantine=compute_tolerance(rule, n))
    f = rule.num_byzantine
    honest = np.array([100, -7, 0, 3], np.int16)
    updates = [honest] * (n - f) + [np.array([32767, -32767, 32767, -32767], np.int16)] * f
    result = run(rule, updates, previous=honest)
    if stages[-1] is Stage.MEAN:
        assert np.all(np.abs(result.vector - honest) <= 100 * f)
    else:
        limit = 16_000 if stages[-1] is Stage.GEOMETRIC_MEDIAN else 333
        assert np.all(np.abs(result.vector.astype(int) - honest) <= limit)
    if not {Stage.MEAN, Stage.CENTERED_CLIPPING, Stage.GEOMETRIC_MEDIAN, Stage.NNM} & set(stages):
        assert result.vector.tolist() == honest.tolist()


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


def test_bulyan_selects_among_more_updates_than_a_network_sorts() -> None:
    """One in five is hostile; what is selected of them at the end is not close to the median."""
    n, f = 1500, 300
    updates = [np.array([i % 7, -(i % 5)], np.int16) for i in range(n - f)]
    updates += [np.array([9000, 9000], np.int16)] * f
    result = aggregate(AggregationRule((Stage.BULYAN,), f), updates)
    assert sum(result.set_aside) == 2 * f
    assert np.all(np.abs(result.vector) <= 7)


@pytest.mark.parametrize(
    "stages",
    [
        DEFAULT_RULE,
        (Stage.NNM, Stage.CLIP, Stage.MULTI_KRUM),
        (Stage.BULYAN,),
        (Stage.ARC, Stage.BUCKETING, Stage.GEOMETRIC_MEDIAN),
    ],
)
@pytest.mark.parametrize("clip_norm", [0, 400_000])
def test_many_blocks_equal_many_small_problems(stages: tuple[Stage, ...], clip_norm: int) -> None:
    """Tables and several blocks at once: repeating a small problem's columns scales its norms."""
    generator = np.random.default_rng(11)
    if clip_norm and Stage.CLIP not in stages:
        pytest.skip("the rule does not clip to a norm")
    n, d, copies = 11, 8, 1 << 14
    small = (generator.integers(-3000, 3000, (n, d)) * generator.integers(1, 9, (n, 1))).tolist()
    updates = [np.tile(np.array(update, np.int16), copies) for update in small]
    # Repeating 2^14 times multiplies every norm by exactly 2^7.
    rule = AggregationRule(stages, 2, clip_norm)
    wide = run(rule, updates)
    assert d * copies > 1 << 16
    expected = run(AggregationRule(stages, 2, clip_norm >> 7), to_arrays(small))
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
    first = run(rule, to_arrays([update for _, update in sorted(addressed)]))
    random.shuffle(addressed)
    arrays = to_arrays([update for _, update in sorted(addressed)])
    for array in arrays:
        array.flags.writeable = False
    again = run(rule, arrays)
    assert again.vector.tobytes() == first.vector.tobytes()
    assert (again.scores, again.set_aside) == (first.scores, first.set_aside)
    assert [array.tolist() for array in arrays] == updates


@pytest.mark.parametrize("stages", [s for s in COMPOSITIONS if Stage.BUCKETING not in s])
def test_without_ties_any_order_gives_the_same_vector(stages: tuple[Stage, ...]) -> None:
    """The index of an update breaks ties and decides on its bucket, and nothing else.

    With f < 3 Bulyan comes to ask for one neighbour, and two that are each other's tie.
    """
    generator = np.random.default_rng(3)
    updates = list(generator.integers(-9000, 9000, (15, 50), dtype=np.int16))
    rule = make_rule(stages, 3)
    result = run(rule, updates)
    for _ in range(20):
        order = generator.permutation(15)
        shuffled = run(rule, [updates[i] for i in order])
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
        (Stage.GEOMETRIC_MEDIAN,),
        (Stage.NNM, Stage.GEOMETRIC_MEDIAN),
        (Stage.ARC, Stage.NNM, Stage.TRIMMED_MEAN),
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


@pytest.mark.parametrize(
    "stages",
    [DEFAULT_RULE, (Stage.CLIP, Stage.MULTI_KRUM), (Stage.BULYAN,), (Stage.CENTERED_CLIPPING,)],
)
def test_memory_stays_below_the_size_of_the_updates(stages: tuple[Stage, ...]) -> None:
    """A rule works in blocks: beside the caller's arrays it holds less than another copy."""
    generator = np.random.default_rng(9)
    updates = [generator.integers(-3000, 3000, 1 << 20, dtype=np.int16) for _ in range(16)]
    tracemalloc.start()
    try:
        run(AggregationRule(stages, 3), updates)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * updates[0].nbytes


def test_every_stage_of_the_task_is_composed_here() -> None:
    assert {stage for stages in COMPOSITIONS for stage in stages} == set(Stage)
    assert {stage for front in FRONTS for stage in front} == PRE_AGGREGATIONS
