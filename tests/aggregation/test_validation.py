"""What is refused: rules, preconditions, bytes and integers, each with a sentence that helps.

Owns the checks at the doors of the package. Never computes an aggregate that is used.
"""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
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
)

import aggregation
from aggregation import (
    BoundError,
    RuleError,
    UpdateError,
    aggregate,
    compute_cost,
    compute_rule_weight,
    compute_update_size,
    compute_updates_min,
    decode_update,
    is_weightable,
    registry,
    validate_rule,
    validate_update_bytes,
)

DENSE = UpdateCodec.DENSE_INT16
BOUNDS = [
    ((Stage.MEDIAN,), 2, 1),
    ((Stage.TRIMMED_MEAN,), 2, 1),
    ((Stage.MULTI_KRUM,), 2, 3),
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
    message = rf"n >= 2 \* num_byzantine \+ \d = {bound} .*is {bound - 1}"
    with pytest.raises(RuleError, match=message):
        validate_rule(rule, bound - 1)
    updates = [np.array([i], np.int16) for i in range(bound)]
    aggregate(rule, updates)
    with pytest.raises((RuleError, UpdateError)):
        aggregate(rule, updates[1:])


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((), "at least one stage"),
        ((Stage.CLIP,), "clip cannot be the last stage; those that can: mean, median,"),
        ((Stage.MEAN, Stage.NNM), "mean cannot stand in front .* can: clip, nnm"),
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


def test_parameters_of_absent_stages_are_refused() -> None:
    with pytest.raises(RuleError, match="selected is a parameter of multi_krum"):
        validate_rule(AggregationRule(DEFAULT_RULE, 1, 0, 2), 10)
    with pytest.raises(RuleError, match="clip_norm is a parameter of clip"):
        validate_rule(AggregationRule((Stage.MEAN,), 0, 5), 10)


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
    for stages in [(Stage.MEAN,), (Stage.CLIP, Stage.MEAN)]:
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


def test_the_aggregate_is_read_only() -> None:
    result = aggregate(AggregationRule((Stage.MEAN,), 0), [np.zeros(3, np.int16)])
    with pytest.raises(ValueError, match="read-only"):
        result.vector[0] = 1


@given(st.lists(st.integers(-32767, 32767), min_size=1, max_size=40))
def test_decoding_views_the_integers(values: list[int]) -> None:
    payload = b"".join(value.to_bytes(2, "little", signed=True) for value in values)
    for view in (payload, memoryview(payload), memoryview(bytearray(payload))):
        update = decode_update(view, DENSE, len(values))
        validate_update_bytes(view, DENSE, len(values))
        assert update.dtype == np.int16
        assert update.tolist() == values
        assert not update.flags.writeable


def test_decoding_copies_nothing() -> None:
    payload = bytes(8)
    update = decode_update(payload, DENSE, 4)
    assert np.shares_memory(update, np.frombuffer(payload, np.uint8))


@pytest.mark.parametrize("size", [0, 1, 5, 7, 8])
def test_wrong_length_is_refused(size: int) -> None:
    with pytest.raises(UpdateError, match=f"has {size} bytes; 3 parameters .* take 6") as caught:
        decode_update(bytes(size), DENSE, 3)
    assert caught.value.code is ErrorCode.WRONG_SHAPE
    with pytest.raises(UpdateError):
        validate_update_bytes(bytes(size), DENSE, 3)


@pytest.mark.parametrize("position", [0, 1, 32_767, 32_768, 99_999])
def test_the_lowest_int16_is_refused_wherever_it_stands(position: int) -> None:
    update = np.zeros(100_000, np.dtype("<i2"))
    update[position] = -32768
    with pytest.raises(UpdateError, match=f"parameter {position} of the update") as caught:
        decode_update(update.tobytes(), DENSE, 100_000)
    assert caught.value.code is ErrorCode.VALUE_OUT_OF_RANGE


def test_sizes_and_costs() -> None:
    assert compute_update_size(DENSE, 650) == 1300
    # These are part of the protocol: they decide in which block a training round is finalized.
    weights = {
        stages: compute_rule_weight(AggregationRule(stages, 0))
        for stages in [(Stage.MEAN,), (Stage.MEDIAN,), (Stage.TRIMMED_MEAN,), (Stage.MULTI_KRUM,),
                       (Stage.CLIP, Stage.MEAN), (Stage.NNM, Stage.MEAN), DEFAULT_RULE]
    }  # fmt: skip
    assert list(weights.values()) == [1, 2, 2, 2, 2, 4, 6]
    default = AggregationRule(DEFAULT_RULE, 1)
    assert compute_cost(default, 4096, 2**30) == 6 * 2**42
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
