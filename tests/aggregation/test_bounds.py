"""Every kernel refuses what is outside its stated bound, and takes what is just inside.

Owns the refusals that no composition of a valid rule comes to. That a bound suffices is shown where
the kernel is compared with integers that cannot overflow.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from quorate.chain.task import (
    PARAMETERS_MAX,
    AggregationRule,
    OptimizerName,
    ServerOptimizer,
    Stage,
    TensorSpec,
)

from aggregation import BoundError, RuleError, apply_optimizer, arithmetic, bulyan, validate_rule
from aggregation.arc import clip_adaptively
from aggregation.clip import scale_down
from aggregation.columns import RowSource
from aggregation.combination import compute_squared_gaps
from aggregation.distances import compute_gram, compute_squared_distances, compute_squared_norms
from aggregation.krum import aggregate_krum
from aggregation.median import aggregate_median
from aggregation.moments import FIRST_MOMENT_ABS_MAX, compute_adaptive_step, compute_adaptivity
from aggregation.multi_krum import aggregate_multi_krum, compute_krum_scores
from aggregation.nnm import mix_nearest_neighbours
from aggregation.ranking import RankSelector
from aggregation.trimmed_mean import aggregate_trimmed_mean, compute_rows_mean
from tests.aggregation.reference import round_half_away


def make_source(n_updates: int) -> RowSource:
    return RowSource([np.array([index, -index], np.int16) for index in range(n_updates)])


def test_division_takes_values_up_to_its_bound_and_no_further() -> None:
    most = 2**62 - 8
    inside = np.array([most, -most], np.int64)
    expected = round_half_away(Fraction(most, 7))
    assert arithmetic.divide_rounded(inside, 7).tolist() == [expected, -expected]
    for values in ([most + 1], [-most - 1], [2**63 - 1], [-(2**63)]):
        with pytest.raises(BoundError, match="could overflow"):
            arithmetic.divide_rounded(np.array(values, np.int64), 7)
    for divisor in (0, -1, 2**61, np.array([1, 0]), np.array([1, 2**61])):
        with pytest.raises(BoundError, match="divisors"):
            arithmetic.divide_rounded(np.array([1, 1], np.int64), divisor)
    assert arithmetic.divide_rounded(np.array([2], np.int64), 2**61 - 1).tolist() == [0]
    assert arithmetic.divide_rounded(np.zeros(0, np.int64), np.zeros(0, np.int64)).size == 0


def test_narrow_division_takes_values_up_to_its_bound_and_no_further() -> None:
    most = 2**29 - 1
    inside = np.array([most, -most], np.int32)
    assert arithmetic.divide_rounded_int32(inside, 2**28).tolist() == [2, -2]
    for value in (most + 1, -most - 1, 2**31 - 1, -(2**31)):
        with pytest.raises(BoundError, match="could overflow"):
            arithmetic.divide_rounded_int32(np.array([value], np.int32), 1)
    for divisor in (0, 2**28 + 1):
        with pytest.raises(BoundError, match="divisors"):
            arithmetic.divide_rounded_int32(np.array([1], np.int32), divisor)


@pytest.mark.parametrize("ratio", [(-1, 1), (2, 1), (2**46, 2**46), (0, 0)])
def test_a_ratio_that_is_none_scales_nothing(ratio: tuple[int, int]) -> None:
    with pytest.raises(BoundError):
        scale_down(np.ones(1, np.int16), *ratio)


@pytest.mark.parametrize(
    ("run", "per_byzantine", "extra"),
    [
        (clip_adaptively, 2, 1),
        (mix_nearest_neighbours, 2, 1),
        (lambda source, f: aggregate_median(source, f, is_judging=True), 2, 1),
        (lambda source, f: aggregate_median(source, f, is_judging=False), 2, 1),
        (lambda source, f: aggregate_trimmed_mean(source, f, is_judging=False), 2, 1),
        (aggregate_krum, 2, 3),
        (lambda source, f: aggregate_multi_krum(source, f, 0), 2, 3),
        (bulyan.aggregate_bulyan, 4, 3),
    ],
)
def test_a_stage_runs_on_as_many_updates_as_its_f_needs(
    run: Callable[[RowSource, int], Any], per_byzantine: int, extra: int
) -> None:
    for f in (0, 1, 3):
        needed = per_byzantine * f + extra
        run(make_source(needed), f)
        if needed > 1:
            with pytest.raises(BoundError, match=f"needs n >= {needed}"):
                run(make_source(needed - 1), f)
    with pytest.raises(BoundError, match="num_byzantine = -1"):
        run(make_source(20), -1)


def test_selections_stay_within_what_there_is() -> None:
    source = make_source(7)
    for selected in (-1, 7):
        with pytest.raises(BoundError, match="were to be selected"):
            aggregate_multi_krum(source, 1, selected)
    aggregate_multi_krum(source, 1, 6)
    matrix = compute_squared_distances(source)
    with pytest.raises(BoundError, match="needs n >= 8"):
        compute_krum_scores(matrix, 5)
    with pytest.raises(BoundError, match="needs n >= 8"):
        bulyan.select_repeatedly(matrix, 1, 8)
    for wrong in (-1, 2**62):
        matrix[0, 1] = wrong
        with pytest.raises(BoundError, match="squared distance"):
            bulyan.select_repeatedly(matrix, 1, 5)
    matrix[0, 1] = 2**62 - 1
    assert len(bulyan.select_repeatedly(matrix, 1, 5)) == 5
    # One number, seen as the distances of more updates than a round has.
    many = np.broadcast_to(np.int64(1), (4097, 4097))
    with pytest.raises(BoundError, match="4097 updates"):
        bulyan.select_repeatedly(many, 1, 5)


def test_ranks_and_rows_stay_within_what_there_is() -> None:
    block = np.zeros((4, 3), np.int16)
    for drop in (-1, 2):
        with pytest.raises(BoundError, match="dropped from each end"):
            RankSelector().keep_middle(block, drop)
    for rank in (-1, 4):
        with pytest.raises(BoundError, match="ranks"):
            RankSelector().select_ranks(block, (0, rank))
    for drop in (-1, 4):
        with pytest.raises(BoundError, match="to be dropped"):
            bulyan.average_around_median(list(block), drop)
    with pytest.raises(BoundError, match="4097 values"):
        bulyan.average_around_median([block[0]] * 4097, 0)
    for count in (0, 4097):
        with pytest.raises(BoundError, match="a mean of"):
            compute_rows_mean([block[0]] * count)
    assert compute_rows_mean([np.full(1, -32767, np.int16)] * 4096).tolist() == [-32767]


class Endless:
    """A source of which nothing may be read: it is too long."""

    n_updates = rows_read = 2
    dimension = PARAMETERS_MAX + 1

    def read(self, start: int, stop: int) -> Any:
        raise AssertionError(f"columns {start}..{stop} of too long a source were read")


@pytest.mark.parametrize(
    "compute", [compute_gram, compute_squared_norms, compute_squared_distances]
)
def test_products_of_too_many_columns_are_refused(compute: Callable[[Any], Any]) -> None:
    with pytest.raises(BoundError, match="exceed int64"):
        compute(Endless())


def test_gaps_of_products_out_of_bounds_are_refused() -> None:
    with pytest.raises(BoundError, match="inner product"):
        compute_squared_gaps(np.array([[2**60]]), [1])


SGD = ServerOptimizer(OptimizerName.SGD)
ADAM = ServerOptimizer(OptimizerName.ADAM, adaptivity=66)


@pytest.mark.parametrize(
    ("optimizer", "change"),
    [
        (ServerOptimizer(OptimizerName.MOMENTUM), {"momentum": 2**16}),
        (ServerOptimizer(OptimizerName.MOMENTUM), {"momentum": -1}),
        (SGD, {"learning_rate": 2**32 + 1}),
        (SGD, {"learning_rate": -1}),
        (ADAM, {"second_moment_decay": 2**16}),
        (ADAM, {"adaptivity": 2**32 + 1}),
        (ADAM, {"adaptivity": -1}),
    ],
)
def test_parameters_out_of_bounds_step_nowhere(
    optimizer: ServerOptimizer, change: dict[str, int]
) -> None:
    size = {OptimizerName.SGD: 0, OptimizerName.MOMENTUM: 8, OptimizerName.ADAM: 16}
    tensors = [TensorSpec("layer", (1,), 16, 8)]
    state, update = bytes(size[optimizer.name]), np.zeros(1, np.int16)
    apply_optimizer(optimizer, tensors, bytes(4), state, update)
    with pytest.raises(BoundError, match=r"are not (all )?in 0\.\."):
        apply_optimizer(replace(optimizer, **change), tensors, bytes(4), state, update)


def test_scales_out_of_bounds_step_nowhere() -> None:
    update = np.zeros(1, np.int16)
    for optimizer, state in ((SGD, b""), (ADAM, bytes(16))):
        for bits in ((61, 30), (0, 62), (30, -31), (-50, 0)):
            with pytest.raises(BoundError, match="fraction bits"):
                apply_optimizer(optimizer, [TensorSpec("w", (1,), *bits)], bytes(4), state, update)
    for bits in (-1, 31):
        with pytest.raises(BoundError, match="fraction bits"):
            compute_adaptivity(ADAM, bits)
    assert compute_adaptivity(replace(ADAM, adaptivity=2**32), 30) == 2**54


def test_a_moment_out_of_bounds_makes_no_step() -> None:
    second = np.zeros(1, np.int64)
    for first in (FIRST_MOMENT_ABS_MAX + 1, -FIRST_MOMENT_ABS_MAX - 1):
        with pytest.raises(BoundError, match="first moment"):
            compute_adaptive_step(ADAM, np.array([first]), second, 16, 8)


@pytest.mark.parametrize("name", ["num_byzantine", "iterations", "radius"])
def test_a_negative_number_makes_no_rule(name: str) -> None:
    rule = AggregationRule((Stage.CENTERED_CLIPPING,), 0)
    with pytest.raises(RuleError, match=f"{name} is negative"):
        validate_rule(replace(rule, **{name: -1}), 9)
