"""What is refused: rules, preconditions, bytes and integers, each with a sentence that helps.

Owns the checks at the doors of the package. Never computes an aggregate that is used.
"""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from numpy.typing import NDArray
from quorate.chain.errors import ErrorCode, InvariantError, QuorateError
from quorate.chain.task import (
    DEFAULT_RULE,
    PARAMETERS_MAX,
    PRE_AGGREGATIONS,
    UPDATES_PER_ROUND_MAX,
    AggregationRule,
    Stage,
    UpdateCodec,
    UpdateLayout,
)

import aggregation
from aggregation import (
    BoundError,
    RuleError,
    UpdateError,
    aggregate,
    compute_cost,
    compute_rule_weight,
    compute_updates_min,
    decode_update,
    is_weightable,
    keeps_aggregate,
    needs_seed,
    open_update,
    registry,
    validate_rule,
)

FINALS = frozenset(Stage) - PRE_AGGREGATIONS
BOUNDS = [
    ((Stage.MEDIAN,), 2, 1),
    ((Stage.TRIMMED_MEAN,), 2, 1),
    ((Stage.MULTI_KRUM,), 2, 3),
    ((Stage.KRUM,), 2, 3),
    ((Stage.BULYAN,), 4, 3),
    ((Stage.GEOMETRIC_MEDIAN,), 2, 1),
    ((Stage.CENTERED_CLIPPING,), 2, 1),
    ((Stage.ARC, Stage.MEAN), 2, 1),
    ((Stage.ARC, Stage.BULYAN), 4, 3),
    ((Stage.CLIP, Stage.MEAN), 2, 1),
    ((Stage.NNM, Stage.MEDIAN), 2, 1),
    ((Stage.NNM, Stage.MULTI_KRUM), 2, 3),
    (DEFAULT_RULE, 2, 1),
]


@pytest.mark.parametrize("f", [0, 1, 5])
@pytest.mark.parametrize(("stages", "factor", "extra"), BOUNDS)
def test_precondition_on_n_holds_exactly_from_its_bound(
    stages: tuple[Stage, ...], factor: int, extra: int, f: int
) -> None:
    rule = AggregationRule(stages, f)
    bound = factor * f + extra
    assert compute_updates_min(rule) == bound
    validate_rule(rule, bound)
    message = rf"n >= {factor} \* num_byzantine \+ \d = {bound} .*is {bound - 1}"
    with pytest.raises(RuleError, match=message):
        validate_rule(rule, bound - 1)
    updates = [np.array([i], np.int16) for i in range(bound)]
    previous = np.zeros(1, np.int16) if keeps_aggregate(rule) else None
    aggregate(rule, updates, previous=previous)
    with pytest.raises((RuleError, UpdateError)):
        aggregate(rule, updates[1:], previous=previous)


@pytest.mark.parametrize("size", [0, 2, 3, 7])
@pytest.mark.parametrize("stages", [(Stage.MEDIAN,), (Stage.NNM, Stage.KRUM), (Stage.BULYAN,)])
def test_behind_bucketing_preconditions_count_buckets(stages: tuple[Stage, ...], size: int) -> None:
    f = 2
    rule = AggregationRule((Stage.BUCKETING, *stages), f, bucket_size=size)
    needed = compute_updates_min(AggregationRule(stages, f))
    bound = compute_updates_min(rule)
    assert -(-bound // (size or 2)) == needed
    assert -(-(bound - 1) // (size or 2)) == needed - 1
    validate_rule(rule, bound)
    message = f"the minimum is {bound - 1}, of which bucketing makes {needed - 1}"
    with pytest.raises(RuleError, match=message):
        validate_rule(rule, bound - 1)
    aggregate(rule, [np.array([i], np.int16) for i in range(bound)], seed=b"seed")


def test_multi_krum_behind_bucketing_selects_among_buckets() -> None:
    rule = AggregationRule((Stage.BUCKETING, Stage.MULTI_KRUM), 1, selected=6)
    assert compute_updates_min(rule) == 13
    validate_rule(rule, 13)
    with pytest.raises(RuleError, match="selected <= n - num_byzantine = 5"):
        validate_rule(rule, 12)


@pytest.mark.parametrize("front", [Stage.CLIP, Stage.ARC])
def test_a_mean_of_buckets_is_not_refused_in_the_name_of_another_stage(front: Stage) -> None:
    rule = AggregationRule((front, Stage.BUCKETING, Stage.MEAN), 2, bucket_size=4)
    assert compute_updates_min(rule) == 5
    validate_rule(rule, 5)
    rule = replace(rule, bucket_size=5)
    message = "mean needs n >= num_byzantine = 2, but the minimum is 5, of which bucketing makes 1"
    with pytest.raises(RuleError, match=message):
        validate_rule(rule, 5)


@pytest.mark.parametrize("f", [0, 1, 2, 5])
def test_the_smallest_number_of_updates_of_every_composition_is_exact(f: int) -> None:
    tried = 0
    for length, last in itertools.product(range(4), FINALS):
        for front in itertools.permutations(sorted(PRE_AGGREGATIONS), length):
            numbers = {"bucket_size": 3} if Stage.BUCKETING in front else {}
            if last is Stage.MULTI_KRUM:
                numbers["selected"] = 2 * f + 5
            rule = AggregationRule((*front, last), f, **numbers)
            if last is Stage.MEAN and f and not {Stage.CLIP, Stage.ARC} & set(front):
                continue
            least = compute_updates_min(rule)
            validate_rule(rule, least)
            with pytest.raises(RuleError, match="needs"):
                validate_rule(rule, least - 1)
            tried += 1
    assert tried > 250


def test_what_a_rule_keeps_or_draws_is_given_exactly_to_rules_that_use_it() -> None:
    updates = [np.array([i, -i], np.int16) for i in range(9)]
    kept = np.zeros(2, np.int16)
    plain = AggregationRule((Stage.MEDIAN,), 1)
    bucketed = AggregationRule((Stage.BUCKETING, Stage.MEDIAN), 1)
    centered = AggregationRule((Stage.CENTERED_CLIPPING,), 1)
    assert [needs_seed(rule) for rule in (plain, bucketed, centered)] == [False, True, False]
    assert [keeps_aggregate(rule) for rule in (plain, bucketed, centered)] == [False, False, True]
    wide: NDArray[Any] = kept.astype(np.int64)
    cases: list[tuple[AggregationRule, bytes | None, NDArray[np.int16] | None, str]] = [
        (plain, b"seed", None, "seed"),
        (bucketed, None, None, "seed"),
        (bucketed, b"", None, "seed"),
        (plain, None, kept, "keeps its aggregate"),
        (centered, None, None, "keeps its aggregate"),
        (centered, None, kept[:1], r"last aggregate is int16 of shape \(1,\)"),
        (centered, None, wide, "last aggregate is int64"),
        (centered, None, np.array([0, -32768], np.int16), "-32768"),
    ]
    for rule, seed, previous, message in cases:
        with pytest.raises(BoundError, match=message):
            aggregate(rule, updates, seed=seed, previous=previous)
    aggregate(bucketed, updates, seed=b"seed")
    aggregate(centered, updates, previous=kept)
    assert kept.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((), "at least one stage"),
        ((Stage.CLIP,), "clip cannot be the last stage; those that can: mean, median,"),
        ((Stage.MEAN, Stage.NNM), "mean cannot stand in front .* can: clip, arc, nnm, bucketing"),
        ((Stage.MEAN, Stage.MEAN), "mean cannot stand in front"),
        ((Stage.CLIP, Stage.NNM), "nnm cannot be the last stage"),
        ((Stage.CLIP, Stage.CLIP, Stage.MEAN), "clip stands in the rule twice"),
        ((Stage.NNM, Stage.CLIP, Stage.NNM, Stage.MEAN), "nnm stands in the rule twice"),
    ],
)
def test_unknown_compositions_are_refused(stages: tuple[Stage, ...], message: str) -> None:
    with pytest.raises(RuleError, match=message):
        validate_rule(AggregationRule(stages, 0), 10)
    with pytest.raises(RuleError, match=message):
        aggregate(AggregationRule(stages, 0), [np.zeros(2, np.int16)] * 10)


def test_mean_tolerates_no_hostile_update_unless_clipped() -> None:
    for stages in [(Stage.MEAN,), (Stage.NNM, Stage.MEAN)]:
        validate_rule(AggregationRule(stages, 0), 1)
        with pytest.raises(RuleError, match=r"mean tolerates no hostile update.*is 1"):
            validate_rule(AggregationRule(stages, 1), 100)
    validate_rule(AggregationRule((Stage.CLIP, Stage.MEAN), 1), 3)
    validate_rule(AggregationRule((Stage.ARC, Stage.MEAN), 1), 3)


def test_parameters_of_absent_stages_are_refused() -> None:
    assert set(registry.PARAMETERS) | {"stages", "num_byzantine"} == set(
        AggregationRule.__struct_fields__
    )
    for name, owners in registry.PARAMETERS.items():
        for stage in FINALS | PRE_AGGREGATIONS:
            front = (stage,) if stage in PRE_AGGREGATIONS else ()
            final = Stage.MEDIAN if front else stage
            rule = replace(AggregationRule((*front, final), 0), **{name: 3})
            if stage in owners:
                validate_rule(rule, 50)
                continue
            expected = f"{name} is a parameter of {' and '.join(owners)}, which is not"
            with pytest.raises(RuleError, match=expected):
                validate_rule(rule, 50)


def test_multi_krum_selects_at_most_n_minus_f() -> None:
    validate_rule(AggregationRule((Stage.MULTI_KRUM,), 1, 0, 6), 7)
    rule = AggregationRule((Stage.MULTI_KRUM,), 1, 0, 7)
    with pytest.raises(RuleError, match="selected <= n - num_byzantine = 6, but selected is 7"):
        validate_rule(rule, 7)
    assert compute_updates_min(rule) == 8


def test_example_counts_are_refused_by_rules_that_ignore_them() -> None:
    updates = [np.zeros(2, np.int16)] * 5
    for stages in [(Stage.MEDIAN,), DEFAULT_RULE, (Stage.MULTI_KRUM,), (Stage.NNM, Stage.MEAN)]:
        rule = AggregationRule(stages, 0)
        assert not is_weightable(rule)
        with pytest.raises(RuleError, match="ignores example counts"):
            aggregate(rule, updates, [1] * 5)
    assert not is_weightable(AggregationRule((Stage.BUCKETING, Stage.MEAN), 0))
    for stages in [(Stage.MEAN,), (Stage.CLIP, Stage.MEAN), (Stage.ARC, Stage.MEAN)]:
        rule = AggregationRule(stages, 0)
        assert is_weightable(rule)
        aggregate(rule, updates, [1] * 5)
        with pytest.raises(UpdateError, match="4 example counts for 5 updates"):
            aggregate(rule, updates, [1] * 4)
        for count in (-1, 2**32):
            with pytest.raises(UpdateError, match="example count of update 4"):
                aggregate(rule, updates, [1] * 4 + [count])


def test_malformed_updates_are_refused() -> None:
    rule = AggregationRule((Stage.MEAN,), 0)
    good = np.zeros(3, np.int16)
    wide: NDArray[Any] = good.astype(np.int32)
    endless = np.broadcast_to(np.int16(0), (PARAMETERS_MAX + 1,))
    cases: list[tuple[list[NDArray[np.int16]], str, ErrorCode]] = [
        ([], "1 to 4096 updates, not 0", ErrorCode.WRONG_SHAPE),
        ([good] * (UPDATES_PER_ROUND_MAX + 1), "not 4097", ErrorCode.WRONG_SHAPE),
        ([good[:0]], "parameters, not 0", ErrorCode.WRONG_SHAPE),
        ([good, good[:2]], r"update 1 is int16 of shape \(2,\)", ErrorCode.WRONG_SHAPE),
        ([good, wide], "update 1 is int32", ErrorCode.WRONG_SHAPE),
        ([good, good.reshape(1, 3)], r"shape \(1, 3\)", ErrorCode.WRONG_SHAPE),
        ([good, np.array([0, 0, -32768], np.int16)], "-32768", ErrorCode.VALUE_OUT_OF_RANGE),
        ([endless], "1073741825", ErrorCode.WRONG_SHAPE),
    ]
    for updates, message, code in cases:
        with pytest.raises(UpdateError, match=message) as caught:
            aggregate(rule, updates)
        assert caught.value.code is code
    assert aggregate(rule, [good] * UPDATES_PER_ROUND_MAX).vector.tolist() == [0, 0, 0]


def test_saturated_integers_are_counted() -> None:
    updates = np.zeros((3, 70_000), np.int16)
    updates[0, [1, 40_000]] = 32767
    updates[2, [0, 69_999]] = -32767
    assert aggregate(AggregationRule((Stage.MEAN,), 0), list(updates)).saturated == 4


def make_dense(dimension: int) -> UpdateLayout:
    return UpdateLayout(UpdateCodec.DENSE_INT16, dimension)


def test_the_aggregate_is_read_only() -> None:
    result = aggregate(AggregationRule((Stage.MEAN,), 0), [np.zeros(3, np.int16)])
    with pytest.raises(ValueError, match="read-only"):
        result.vector[0] = 1


@given(st.lists(st.integers(-32767, 32767), min_size=1, max_size=40))
def test_decoding_views_the_integers(values: list[int]) -> None:
    payload = b"".join(value.to_bytes(2, "little", signed=True) for value in values)
    for view in (payload, memoryview(payload), memoryview(bytearray(payload))):
        update = decode_update(view, make_dense(len(values)))
        assert update.dtype == np.int16
        assert update.shape == (len(values),)
        assert update[:].tolist() == values
        assert not update[:].flags.writeable


def test_decoding_copies_nothing() -> None:
    payload = bytes(8)
    update = decode_update(payload, make_dense(4))
    assert np.shares_memory(update[1:3], np.frombuffer(payload, np.uint8))


class SlicedPayload:
    """Bytes that can only be had by slices; notes which ones were."""

    def __init__(self, payload: bytes) -> None:
        self.size = len(payload)
        self.read: list[tuple[int, int]] = []
        self._payload = payload

    def __getitem__(self, part: slice, /) -> NDArray[np.uint8]:
        start, stop, _ = part.indices(self.size)
        self.read.append((start, stop))
        return np.frombuffer(self._payload[start:stop], np.uint8)


@given(st.lists(st.integers(-32767, 32767), min_size=1, max_size=40), st.data())
def test_an_opened_update_reads_the_columns_asked_for(
    values: list[int], data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(values)))
    stop = data.draw(st.integers(start, len(values)))
    payload = SlicedPayload(np.array(values, "<i2").tobytes())
    update = open_update(payload, make_dense(len(values)))
    assert update.dtype == np.int16
    assert update.shape == (len(values),)
    assert payload.read == []
    assert update[start:stop].tolist() == values[start:stop]
    assert payload.read == [(2 * start, 2 * stop)]


def test_an_opened_update_of_another_length_is_refused() -> None:
    with pytest.raises(UpdateError, match=r"has 8 bytes; 3 parameters .* take 6"):
        open_update(SlicedPayload(bytes(8)), make_dense(3))


def test_an_opened_update_aggregates_like_its_integers_and_is_checked_then() -> None:
    values = np.arange(-6, 6, dtype="<i2").reshape(3, 4)
    opened = [open_update(SlicedPayload(row.tobytes()), make_dense(4)) for row in values]
    rule = AggregationRule((Stage.MEDIAN,), 0)
    result, expected = aggregate(rule, opened), aggregate(rule, list(values.astype(np.int16)))
    assert result.vector.tolist() == expected.vector.tolist()
    assert result.scores == expected.scores
    values[1, 2] = -32768
    opened = [open_update(SlicedPayload(row.tobytes()), make_dense(4)) for row in values]
    with pytest.raises(UpdateError, match="contains -32768"):
        aggregate(rule, opened)


@pytest.mark.parametrize("size", [0, 1, 5, 7, 8])
def test_wrong_length_is_refused(size: int) -> None:
    with pytest.raises(UpdateError, match=f"has {size} bytes; 3 parameters .* take 6") as caught:
        decode_update(bytes(size), make_dense(3))
    assert caught.value.code is ErrorCode.WRONG_SHAPE


@pytest.mark.parametrize("position", [0, 1, 32_767, 32_768, 99_999])
def test_the_lowest_int16_is_refused_wherever_it_stands(position: int) -> None:
    update = np.zeros(100_000, np.dtype("<i2"))
    update[position] = -32768
    with pytest.raises(UpdateError, match=f"value {position} of the update") as caught:
        decode_update(update.tobytes(), make_dense(100_000))
    assert caught.value.code is ErrorCode.VALUE_OUT_OF_RANGE


def test_sizes_and_costs() -> None:
    # These are part of the protocol: they decide in which block a training round is finalized.
    weights = {
        stages: compute_rule_weight(AggregationRule(stages, 0))
        for stages in [(Stage.MEAN,), (Stage.MEDIAN,), (Stage.TRIMMED_MEAN,), (Stage.MULTI_KRUM,),
                       (Stage.CLIP, Stage.MEAN), (Stage.NNM, Stage.MEAN), DEFAULT_RULE,
                       (Stage.KRUM,), (Stage.BULYAN,), (Stage.GEOMETRIC_MEDIAN,),
                       (Stage.CENTERED_CLIPPING,), (Stage.ARC, Stage.MEAN),
                       (Stage.BUCKETING, Stage.MEAN)]
    }  # fmt: skip
    assert list(weights.values()) == [1, 2, 2, 2, 2, 4, 7, 2, 4, 3, 3, 2, 2]
    default = AggregationRule(DEFAULT_RULE, 1)
    assert compute_cost(default, 4096, 2**30) == 7 * 2**42
    assert compute_cost(default, 0, 5) == 0
    with pytest.raises(BoundError):
        compute_cost(default, -1, 5)


def test_the_registry_has_every_stage_in_its_place() -> None:
    assert set(registry.PRE_AGGREGATIONS) == PRE_AGGREGATIONS
    assert set(registry.FINAL_STAGES) == set(Stage) - PRE_AGGREGATIONS


def test_errors_hang_in_the_tree() -> None:
    assert issubclass(RuleError, aggregation.AggregationError)
    assert issubclass(UpdateError, aggregation.AggregationError)
    assert issubclass(aggregation.AggregationError, QuorateError)
    assert issubclass(BoundError, InvariantError)
    for name in aggregation.__all__:
        assert hasattr(aggregation, name)
