"""The kernels below the rules: rounding, exact products, selection networks, and their guards.

Owns what no rule's result would show: the bounds at which exactness would end.
"""

import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregation import (
    BoundError,
    arithmetic,
    bulyan,
    clip,
    columns,
    combination,
    distances,
    mean,
    multi_krum,
    ranking,
    trimmed_mean,
)
from tests.aggregation import reference
from tests.aggregation.reference import round_half_away


@given(st.integers(-(2**61), 2**61), st.integers(1, 2**60))
def test_division_rounds_half_away_from_zero(value: int, divisor: int) -> None:
    expected = round_half_away(Fraction(value, divisor))
    assert arithmetic.divide_rounded_exact(value, divisor) == expected
    assert arithmetic.divide_rounded(np.array([value], np.int64), divisor).tolist() == [expected]


@given(st.integers(-(2**29) + 1, 2**29 - 1), st.integers(1, 2**28))
def test_narrow_division_rounds_half_away_from_zero(value: int, divisor: int) -> None:
    result = arithmetic.divide_rounded_int32(np.array([value], np.int32), divisor)
    assert result.dtype == np.int32
    assert result.tolist() == [round_half_away(Fraction(value, divisor))]


@given(st.integers(-40, 40), st.integers(1, 8))
def test_small_halves_round_away_from_zero(value: int, divisor: int) -> None:
    expected = round_half_away(Fraction(value, divisor))
    assert arithmetic.divide_rounded(np.array([value], np.int64), divisor).tolist() == [expected]
    assert arithmetic.divide_rounded_int32(np.array([value], np.int32), divisor).tolist() == [
        expected
    ]


WIDE = st.one_of(
    st.integers(-(2**47) + 1, 2**47 - 1),
    st.integers(-300, 300),
    st.sampled_from([2**47 - 1, -(2**47) + 1, 2**46, -(2**31)]),
)


@settings(max_examples=1000)
@given(
    WIDE,
    st.one_of(st.integers(0, 2**32), st.integers(0, 3), st.just(2**32)),
    st.integers(-30, 62),
)
def test_scaling_is_exact_in_79_bits(value: int, multiplier: int, shift: int) -> None:
    exact = round_half_away(Fraction(value * multiplier) / Fraction(2) ** shift)
    expected = max(-(2**40), min(2**40, exact))
    values = np.array([value], np.int64)
    assert arithmetic.scale_rounded(values, multiplier, shift).tolist() == [expected]
    assert values.tolist() == [value]


@pytest.mark.parametrize(
    ("value", "multiplier", "shift"),
    [
        (2**47, 1, 0),
        (-(2**47), 1, 0),
        (2**63 - 1, 1, 0),
        # Its magnitude is no int64: negated, it is itself again.
        (-(2**63), 1, 0),
        (1, -1, 0),
        (1, 2**32 + 1, 0),
        (1, 1, -31),
        (1, 1, 63),
    ],
)
def test_scaling_refuses_what_it_could_not_do_exactly(
    value: int, multiplier: int, shift: int
) -> None:
    with pytest.raises(BoundError):
        arithmetic.scale_rounded(np.array([value], np.int64), multiplier, shift)


def test_scores_are_cut_off() -> None:
    assert arithmetic.compute_score(1, 2) == 1 << 15
    assert arithmetic.compute_score(10**30, 3) == 2**31
    assert arithmetic.compute_score(-(10**30), 3) == -(2**31)


def test_products_are_exact_up_to_the_guard_and_refused_beyond() -> None:
    block = np.full((3, 1 << 15), 32767.0)
    block[1] *= -1
    gram = distances.compute_block_gram(block, 32767)
    square = 32767**2 << 15
    assert gram.tolist() == [
        [square, -square, square], [-square, square, -square], [square, -square, square]
    ]  # fmt: skip
    vector = np.full(1 << 15, 32767, np.int16)
    assert distances.compute_block_products(block, vector, 32767).tolist() == [
        square, -square, square
    ]  # fmt: skip
    # 2^53 itself is exact: 2^19 * 2^19 * 2^15. One more unit of the bound is not promised.
    distances.compute_block_gram(block, 2**19)
    with pytest.raises(BoundError, match="2\\^53"):
        distances.compute_block_gram(block, 2**19 + 1)
    with pytest.raises(BoundError, match="2\\^53"):
        distances.compute_block_products(block, vector, 2**19 + 1)


def test_row_sums_are_refused_outside_int32() -> None:
    block = np.full((4, 5), -32767.0)
    room = np.empty((2, 5))
    selection = np.array([[1, 1, 1, 1], [0, 1, 0, 0]], np.float64)
    sums = distances.sum_selected_rows(selection, block, 32767, room)
    assert sums.dtype == np.int32
    assert sums.tolist() == [[-4 * 32767] * 5, [-32767] * 5]
    with pytest.raises(BoundError, match="exceeds the room"):
        distances.FloatBlock(columns.RowSource([np.zeros(9, np.int16)])).view(2, 5)
    with pytest.raises(BoundError, match="int32"):
        distances.sum_selected_rows(selection, block, 2**29, room)


def test_sums_of_rows_are_exact_up_to_the_guard_and_refused_beyond() -> None:
    block = np.array([[32767, -32767, 5], [32767, -32767, -6]], np.float64)
    sums = distances.sum_rows(block, 2**30 - 1)
    assert sums.dtype == np.int32
    assert sums.tolist() == [65534, -65534, -1]
    with pytest.raises(BoundError, match="int32"):
        distances.sum_rows(block, 2**30)


@given(
    st.lists(st.one_of(st.integers(0, 2**32 - 1), st.integers(0, 3)), min_size=1, max_size=40),
    st.data(),
)
def test_weighted_sums_of_rows_are_exact(weights: list[int], data: st.DataObject) -> None:
    values = st.one_of(st.integers(-32767, 32767), st.sampled_from([-32767, 32767]))
    rows = data.draw(
        st.lists(
            st.lists(values, min_size=3, max_size=3),
            min_size=len(weights),
            max_size=len(weights),
        )
    )
    expected = [
        sum(weight * value for weight, value in zip(weights, column, strict=True))
        for column in zip(*rows, strict=True)
    ]
    block = np.array(rows, np.float64)
    assert distances.sum_weighted_rows(weights, block, 32767).tolist() == expected


def test_weighted_sums_of_rows_are_refused_outside_their_bounds() -> None:
    weights = [2**32 - 1] * 4096
    block = np.full((4096, 1), 32767.0)
    expected = 4096 * (2**32 - 1) * 32767
    assert distances.sum_weighted_rows(weights, block, 32767).tolist() == [expected]
    for wrong in ([-1, 1], [2**32, 1]):
        with pytest.raises(BoundError, match="outside"):
            distances.sum_weighted_rows(wrong, block[:2], 32767)
    with pytest.raises(BoundError, match="int64"):
        distances.sum_weighted_rows(weights, block, 2**19)
    with pytest.raises(BoundError, match="2\\^53"):
        distances.sum_weighted_rows([2**21] * 4, block[:4], 2**36)


def test_distances_of_opposite_extremes() -> None:
    d = 100_001
    rows = [np.full(d, 32767, np.int16), np.full(d, -32767, np.int16), np.zeros(d, np.int16)]
    source = columns.RowSource(rows)
    far, near = 4 * 32767**2 * d, 32767**2 * d
    expected = [[0, far, near], [far, 0, near], [near, near, 0]]
    assert distances.compute_squared_distances(source).tolist() == expected
    assert distances.compute_squared_norms(source) == [near, near, 0]


@given(st.lists(st.integers(0, 2**60 - 1), min_size=1, max_size=9), st.integers(0, 2**40))
def test_clip_ratios_have_sixteen_fraction_bits(squared_norms: list[int], bound: int) -> None:
    squared_bound = bound**2 if bound else sorted(squared_norms)[(len(squared_norms) - 1) // 2]
    ratios = clip.compute_clip_ratios(squared_norms, bound)
    for norm, (numerator, denominator) in zip(squared_norms, ratios, strict=True):
        if norm <= squared_bound:
            assert numerator == denominator
            continue
        assert numerator <= denominator < 2**46
        # p <= 2^16 C < p + 1, and the same for q and the norm.
        assert numerator**2 <= squared_bound << 32 < (numerator + 1) ** 2
        assert denominator**2 <= norm << 32 < (denominator + 1) ** 2


@pytest.mark.parametrize(
    "ratio", [(0, 5), (1, 2), (2, 3), (65_535, 65_536), (2**46 - 2, 2**46 - 1), (2**45, 2**46 - 1)]
)
def test_clipping_by_table_and_by_division_scale_every_value(ratio: tuple[int, int]) -> None:
    update = np.arange(-32767, 32768, dtype=np.int16)
    expected = [round_half_away(Fraction(value * ratio[0], ratio[1])) for value in update.tolist()]
    narrow = columns.RowSource([update, update])
    assert narrow.dimension < 1 << 16
    wide = columns.RowSource([np.append(update, np.zeros(1, np.int16))] * 2)
    for source in (narrow, wide):
        clipped = clip.ClippedSource(source, [(1, 1), ratio]).read(0, update.size)
        assert clipped.tolist() == [update.tolist(), expected]


@pytest.mark.parametrize("n", [1, 4, 63, 64, 65, 500, 4096])
@pytest.mark.parametrize("d", [1, 4095, 4096, 4097, 70_000, 1_000_000])
def test_blocks_cover_every_column_once_within_their_limit(n: int, d: int) -> None:
    source = columns.RowSource([np.broadcast_to(np.int16(1), (d,))] * n)
    for bounds, columns_max in (
        (columns.get_block_bounds, columns.COLUMNS_MAX),
        (columns.get_wide_block_bounds, columns.WIDE_COLUMNS_MAX),
    ):
        position = 0
        for start, stop in bounds(source):
            assert start == position
            assert 0 < stop - start <= min(columns_max, columns.BLOCK_VALUES_MAX // n)
            position = stop
        assert position == d


@given(st.integers(1, 70), st.data())
def test_networks_keep_the_middle(n: int, data: st.DataObject) -> None:
    drop = data.draw(st.integers(0, (n - 1) // 2))
    values = data.draw(
        st.lists(st.lists(st.integers(-9, 9), min_size=n, max_size=n), min_size=1, max_size=5)
    )
    block = np.ascontiguousarray(np.array(values, np.int16).T)
    kept = np.sort(np.array(ranking.RankSelector().keep_middle(block, drop)), axis=0)
    expected = [sorted(column)[drop : n - drop] for column in values]
    assert kept.T.tolist() == expected


@given(st.integers(1, 70), st.data())
def test_networks_select_ranks(n: int, data: st.DataObject) -> None:
    ranks = tuple(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=4)))
    values = data.draw(
        st.lists(st.lists(st.integers(-9, 9), min_size=n, max_size=n), min_size=1, max_size=5)
    )
    block = np.ascontiguousarray(np.array(values, np.int16).T)
    expected = [[sorted(column)[rank] for rank in ranks] for column in values]
    assert np.array(ranking.RankSelector().select_ranks(block, ranks)).T.tolist() == expected


@given(st.integers(1, 40), st.data())
def test_a_selector_leaves_blocks_alone_and_names_the_ends_of_what_it_keeps(
    n: int, data: st.DataObject
) -> None:
    selector = ranking.RankSelector()
    for columns_count in data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)):
        drop = data.draw(st.integers(0, (n - 1) // 2))
        seed = data.draw(st.integers(0, 99))
        block = np.random.default_rng(seed).integers(-9, 9, (n, columns_count), np.int16)
        block.flags.writeable = False
        ordered = np.sort(block, axis=0)
        kept = selector.keep_middle(block, drop)
        assert np.array_equal(kept[0], ordered[drop])
        assert np.array_equal(kept[-1], ordered[n - 1 - drop])
        assert np.array_equal(np.sort(np.array(kept), axis=0), ordered[drop : n - drop])
        ranks = (n // 2, drop, n - 1)
        assert np.array_equal(np.array(selector.select_ranks(block, ranks)), ordered[list(ranks)])


def test_ranks_among_more_rows_than_a_network_sorts() -> None:
    block = np.random.default_rng(3).integers(-99, 99, (ranking.NETWORK_ROWS_MAX + 1, 7), np.int16)
    expected = np.sort(block, axis=0)[[0, 256, 512]]
    assert np.array_equal(ranking.RankSelector().select_ranks(block, (0, 256, 512)), expected)


@given(st.lists(st.integers(-32767, 32767), min_size=3, max_size=3), st.data())
def test_counting_within_a_range_is_exact_to_its_ends(ends: list[int], data: st.DataObject) -> None:
    low, _, high = sorted(ends)
    near = st.sampled_from([low, high, max(low - 1, -32767), min(high + 1, 32767), -32767, 32767])
    values = data.draw(st.lists(st.one_of(near, st.integers(-32767, 32767)), min_size=1))
    block = np.array(values, np.int16)[:, None]
    counts = trimmed_mean.count_within(block, np.array([low], np.int16), np.array([high], np.int16))
    assert counts.tolist() == [int(low <= value <= high) for value in values]


def test_sorting_networks_sort_every_pattern_of_zeros_and_ones() -> None:
    """By the zero-one principle a network that sorts all of these sorts everything."""
    for n in range(1, 13):
        block = (np.arange(2**n) >> np.arange(n)[:, None] & 1).astype(np.int16)
        for low, high in ranking.get_sorting_network(n):
            assert low < high
            block[[low, high]] = np.sort(block[[low, high]], axis=0)
        assert np.array_equal(block, np.sort(block, axis=0))
        for drop in range(1, (n - 1) // 2 + 1):
            patterns = (np.arange(2**n) >> np.arange(n)[:, None] & 1).astype(np.int16)
            kept = np.sort(np.array(ranking.RankSelector().keep_middle(patterns, drop)), axis=0)
            assert np.array_equal(kept, block[drop : n - drop])


def test_networks_of_ever_new_sizes_take_little_memory() -> None:
    """A round has another number of updates each time; a network of 512 rows takes a megabyte."""
    caches = (ranking.get_sorting_network, ranking.get_selection_network, ranking.get_rank_network)
    for cache in caches:
        cache.cache_clear()
    tracemalloc.start()
    for rows in range(ranking.NETWORKS_CACHED_MAX + 2):
        ranking.get_selection_network(ranking.NETWORK_ROWS_MAX - rows, 100)
        ranking.get_rank_network(ranking.NETWORK_ROWS_MAX - rows, (100, 200, 300))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [cache.cache_info().currsize for cache in caches] == [ranking.NETWORKS_CACHED_MAX] * 3
    assert held < 24 << 20


def test_pruned_networks_are_smaller() -> None:
    full = len(ranking.get_sorting_network(32))
    assert len(ranking.get_selection_network(32, 8)) < full
    assert len(ranking.get_selection_network(32, 15)) < full


@given(
    st.lists(st.lists(st.integers(-32767, 32767), min_size=2, max_size=2), min_size=1, max_size=8),
    st.data(),
)
def test_gaps_and_combinations_are_exact(rows: list[list[int]], data: st.DataObject) -> None:
    n = len(rows)
    weights = data.draw(st.lists(st.integers(0, 2**33), min_size=n, max_size=n).filter(any))
    total = sum(weights)
    exact = reference.weighted_mean([[Fraction(v) for v in row] for row in rows], weights)
    source = columns.RowSource([np.array(row, np.int16) for row in rows])
    gaps = combination.compute_squared_gaps(distances.compute_gram(source), weights)
    assert gaps == [
        total**2 * sum((a - b) ** 2 for a, b in zip(row, exact, strict=True)) for row in rows
    ]
    expected = [round_half_away(value) for value in exact]
    assert combination.combine_updates(source, weights).tolist() == expected


def test_gaps_of_the_largest_products_and_weights_do_not_overflow() -> None:
    """n = 4,096, inner products of 2^60 and weights that add up to 2^36, by construction."""
    n, product = 4096, 2**60 - 1
    signs = np.where(np.arange(n) % 2, -1, 1)
    gram = (signs[:, None] * signs[None, :]) * np.int64(product)
    weights = [2**24] * n
    # Half point one way and half the other, so the combination is 0 and all are as far from it.
    assert combination.compute_squared_gaps(gram, weights) == [2**72 * product] * n
    weights = [2**25] * (n // 2) + [0] * (n // 2)
    assert combination.compute_squared_gaps(gram, weights) == [2**72 * product] * n
    one_sided = [2**25 if sign > 0 else 0 for sign in signs.tolist()]
    gaps = combination.compute_squared_gaps(gram, one_sided)
    assert gaps[:2] == [0, 4 * 2**72 * product]


def test_weights_that_are_no_combination_are_refused() -> None:
    source = columns.RowSource([np.ones(1, np.int16)] * 2)
    gram = distances.compute_gram(source)
    for weights in ([0, 0], [-1, 2], [2**36, 1]):
        with pytest.raises(BoundError, match="no combination"):
            combination.compute_squared_gaps(gram, weights)
        with pytest.raises(BoundError, match="no combination"):
            combination.combine_updates(source, weights)


def test_leave_one_out_past_int64_is_exact() -> None:
    """n = 100, d = 1e8: weighted inner products pass 2^63 long before they are divided."""
    n, full = 100, 32767**2 * 10**8
    products = [full] * (n - 2) + [full - 10**12, -full]
    assert n * full > 2**63
    verdict = mean.judge_leave_one_out(products, full, [1] * n)
    mean_of_all = Fraction(sum(products), n)
    for product, score in zip(products, verdict.scores, strict=True):
        without = Fraction(sum(products) - product, n - 1)
        assert score == round_half_away((mean_of_all - without) / full * 2**16)
    weights = [2**32 - 1 - i for i in range(n)]
    weighted = mean.judge_leave_one_out(products, full, weights)
    total = sum(w * p for w, p in zip(weights, products, strict=True))
    for weight, product, score in zip(weights, products, weighted.scores, strict=True):
        without = Fraction(total - weight * product, sum(weights) - weight)
        assert score == round_half_away((Fraction(total, sum(weights)) - without) / full * 2**16)


def test_scores_past_int64_rank_exactly() -> None:
    """n = 100, d = 1e8: sums of distances pass 2^63, and differ in their last unit alone."""
    n, f = 100, 24
    far = 4 * 32767**2 * 10**8
    assert far < 2**62 < 2**63 < far * (n - f - 2)
    matrix = np.full((n, n), far, np.int64)
    np.fill_diagonal(matrix, 0)
    # The last update is nearer to each of the others by one unit: the smallest score, by 74 units.
    matrix[-1, :-1] -= 1
    matrix[:-1, -1] -= 1
    scores = multi_krum.compute_krum_scores(matrix, f)
    assert scores == [far * (n - f - 2) - 1] * (n - 1) + [(far - 1) * (n - f - 2)]
    # Without it the others tie, and go by index.
    assert bulyan.select_repeatedly(matrix, f, n - 2 * f) == [n - 1, *range(n - 2 * f - 1)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3), st.integers(0, 5), st.integers(0, 2**32))
def test_repeated_selection_equals_selecting_anew(f: int, extra: int, seed: int) -> None:
    """Few distances, so that most of them tie, against sums made from scratch each time."""
    n = 4 * f + 3 + extra
    upper = np.triu(np.random.default_rng(seed).integers(0, 5, (n, n)), 1) * (2**61 // 4)
    matrix = (upper + upper.T).astype(np.int64)
    left, expected = list(range(n)), []
    while len(expected) < n - 2 * f:
        count = max(1, len(left) - f - 2)
        scores = [(sum(sorted(int(matrix[i, j]) for j in left if j != i)[:count]), i) for i in left]
        best = min(scores)[1]
        expected.append(best)
        left.remove(best)
    assert bulyan.select_repeatedly(matrix, f, n - 2 * f) == expected


@pytest.mark.parametrize("n", [1, 2, 3, 31, 32, 513])
def test_sorted_columns_ascend(n: int) -> None:
    block = np.random.default_rng(n).integers(-40, 40, (n, 65), dtype=np.int16)
    rows = np.array(ranking.sort_columns(block.copy()))
    assert np.array_equal(rows, np.sort(block, axis=0))


@pytest.mark.parametrize("n", [ranking.NETWORK_ROWS_MAX, ranking.NETWORK_ROWS_MAX + 1])
def test_both_ways_of_ranking_agree_at_their_border(n: int) -> None:
    block = np.random.default_rng(n).integers(-50, 50, (n, 33), dtype=np.int16)
    for drop in (1, 100, (n - 1) // 2):
        expected = np.sort(block, axis=0)[drop : n - drop]
        kept = np.sort(np.array(ranking.RankSelector().keep_middle(block, drop)), axis=0)
        assert np.array_equal(kept, expected)


def test_a_source_checks_each_column_once_and_uses_its_room_again() -> None:
    rows = [np.array([1, 32767, 3, 4], np.int16), np.array([-32767, 6, 7, 32767], np.int16)]
    source = columns.RowSource(rows)
    first = source.read(0, 2)
    with pytest.raises(BoundError, match="of 4 columns only 2 were read"):
        _ = source.saturated
    first[:] = 0  # The reader's to overwrite; the caller's arrays are not.
    assert source.read(1, 4).tolist() == [[32767, 3, 4], [6, 7, 32767]]
    assert source.read(0, 4).tolist() == [row.tolist() for row in rows]
    assert source.saturated == 3
    assert np.shares_memory(source.read(0, 2), source.read(2, 4))
