"""The server optimizers against their dumb versions, and at the edges of int32 and int64.

Owns the comparison of weights, state and the count of clamped weights.
"""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from quorate.chain.task import FIXED_POINT_ONE, OptimizerName, ServerOptimizer, TensorSpec

from aggregation import BoundError, apply_optimizer, initial_optimizer_state
from aggregation.momentum import VELOCITY_ABS_MAX
from tests.aggregation import reference

INT32 = st.one_of(st.integers(-(2**31), 2**31 - 1), st.sampled_from([-(2**31), 2**31 - 1, 0]))
UPDATES = st.one_of(st.integers(-32767, 32767), st.integers(-2, 2))
RATES = st.one_of(st.integers(0, 2**32), st.integers(0, 2 * FIXED_POINT_ONE), st.just(2**32))


def pack(values: list[int], size: int) -> bytes:
    return b"".join(value.to_bytes(size, "little", signed=True) for value in values)


def make_tensor(size: int, weight_bits: int, update_bits: int) -> TensorSpec:
    return TensorSpec("layer", (size,), weight_bits, update_bits)


@st.composite
def tensor_lists(draw: st.DrawFn) -> list[TensorSpec]:
    return draw(
        st.lists(
            st.builds(make_tensor, st.integers(1, 4), st.integers(0, 30), st.integers(0, 30)),
            min_size=1,
            max_size=3,
        )
    )


@settings(max_examples=400, deadline=None)
@given(tensor_lists(), RATES, st.one_of(st.none(), st.integers(0, 2**16 - 1)), st.data())
def test_steps_equal_their_dumb_version(
    tensors: list[TensorSpec], rate: int, momentum: int | None, data: st.DataObject
) -> None:
    d = sum(tensor.size for tensor in tensors)
    scale_bits = [
        tensor.weight_fraction_bits - tensor.update_fraction_bits
        for tensor in tensors
        for _ in range(tensor.size)
    ]
    if momentum is None:
        optimizer = ServerOptimizer(OptimizerName.SGD, rate)
    else:
        optimizer = ServerOptimizer(OptimizerName.MOMENTUM, rate, momentum)
    weights = data.draw(st.lists(INT32, min_size=d, max_size=d))
    velocity = [0] * d
    state = initial_optimizer_state(optimizer, d)
    for _ in range(3):
        update = data.draw(st.lists(UPDATES, min_size=d, max_size=d))
        expected, velocity, clamped = reference.optimizer_step(
            rate, momentum, weights, velocity, update, scale_bits
        )
        step = apply_optimizer(
            optimizer, tensors, pack(weights, 4), state, np.array(update, np.int16)
        )
        assert step.weights == pack(expected, 4)
        assert step.state == pack(velocity, 8)
        assert step.clamped == clamped
        weights, state = expected, step.state


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("update_bits", [0, 30])
def test_the_largest_velocity_does_not_overflow(sign: int, update_bits: int) -> None:
    """The strongest momentum and learning rate, at the velocity they would tend to."""
    optimizer = ServerOptimizer(OptimizerName.MOMENTUM, 2**32, 2**16 - 1)
    tensor = make_tensor(1, 30 - update_bits, update_bits)
    bits = tensor.weight_fraction_bits - tensor.update_fraction_bits
    velocity = sign * VELOCITY_ABS_MAX
    update = np.array([sign * 32767], np.int16)
    step = apply_optimizer(optimizer, [tensor], pack([0], 4), pack([velocity], 8), update)
    weights, velocities, clamped = reference.optimizer_step(
        2**32, 2**16 - 1, [0], [velocity], [sign * 32767], [bits]
    )
    assert abs(velocities[0]) <= VELOCITY_ABS_MAX
    assert (step.weights, step.state) == (pack(weights, 4), pack(velocities, 8))
    assert step.clamped == clamped == (update_bits == 0)


@pytest.mark.parametrize("velocity", [VELOCITY_ABS_MAX + 1, -VELOCITY_ABS_MAX - 1, -(2**63)])
def test_a_velocity_out_of_bounds_is_refused(velocity: int) -> None:
    optimizer = ServerOptimizer(OptimizerName.MOMENTUM, FIXED_POINT_ONE, 2**15)
    with pytest.raises(BoundError, match="velocity"):
        apply_optimizer(
            optimizer,
            [make_tensor(1, 16, 8)],
            pack([0], 4),
            pack([velocity], 8),
            np.zeros(1, np.int16),
        )


def test_weights_clamp_at_both_ends_and_are_counted() -> None:
    optimizer = ServerOptimizer(OptimizerName.SGD)
    weights = pack([2**31 - 1, 2**31 - 2, -(2**31), 5], 4)
    update = np.array([1, 1, -1, -7], np.int16)
    step = apply_optimizer(optimizer, [make_tensor(4, 8, 8)], weights, b"", update)
    assert step.weights == pack([2**31 - 1, 2**31 - 1, -(2**31), -2], 4)
    assert step.clamped == 2


def test_large_tensors_are_stepped_in_parts_without_a_seam() -> None:
    generator = np.random.default_rng(2)
    sizes = [70_000, 1, 65_536]
    tensors = [make_tensor(size, 20, bits) for size, bits in zip(sizes, (10, 4, 12), strict=True)]
    d = sum(sizes)
    weights = generator.integers(-(2**30), 2**30, d)
    update = generator.integers(-32767, 32767, d, dtype=np.int16)
    optimizer = ServerOptimizer(OptimizerName.MOMENTUM, 3 * FIXED_POINT_ONE, FIXED_POINT_ONE // 2)
    state = initial_optimizer_state(optimizer, d)
    step = apply_optimizer(optimizer, tensors, weights.astype("<i4").tobytes(), state, update)
    factors = np.repeat([2**10, 2**16, 2**8], sizes)
    expected = np.clip(weights + 3 * update.astype(np.int64) * factors, -(2**31), 2**31 - 1)
    assert np.array_equal(np.frombuffer(step.weights, "<i4"), expected)
    assert np.array_equal(np.frombuffer(step.state, "<i8"), update.astype(np.int64) << 16)


def test_a_step_changes_none_of_its_arguments() -> None:
    optimizer = ServerOptimizer(OptimizerName.MOMENTUM, FIXED_POINT_ONE, 100)
    weights, state = pack([1, 2], 4), initial_optimizer_state(optimizer, 2)
    update = np.array([3, 4], np.int16)
    apply_optimizer(optimizer, [make_tensor(2, 8, 8)], weights, state, update)
    assert (weights, state, update.tolist()) == (pack([1, 2], 4), bytes(16), [3, 4])


def test_lengths_that_do_not_belong_together_are_refused() -> None:
    sgd = ServerOptimizer(OptimizerName.SGD)
    momentum = ServerOptimizer(OptimizerName.MOMENTUM)
    tensors = [make_tensor(2, 8, 8)]
    update = np.zeros(2, np.int16)
    assert initial_optimizer_state(sgd, 2) == b""
    wide: NDArray[Any] = update.astype(np.int32)
    cases: list[tuple[ServerOptimizer, bytes, bytes, NDArray[np.int16], str]] = [
        (sgd, bytes(7), b"", update, "weights have 7 bytes; 2 parameters take 8"),
        (sgd, bytes(8), bytes(1), update, "state of sgd has 1 bytes"),
        (momentum, bytes(8), b"", update, "state of momentum has 0 bytes; 2 parameters take 16"),
        (sgd, bytes(8), b"", update[:1], r"shape \(1,\)"),
        (sgd, bytes(8), b"", wide, "aggregate is int32"),
        (sgd, bytes(8), b"", np.array([0, -32768], np.int16), "-32768"),
    ]
    for optimizer, weights, state, vector, message in cases:
        with pytest.raises(BoundError, match=message):
            apply_optimizer(optimizer, tensors, weights, state, vector)
