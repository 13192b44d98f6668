"""The server optimizers against their dumb versions, and at the edges of int32 and int64.

Owns the comparison of weights, state and the count of clamped weights.
"""

import tracemalloc
from math import isqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from quorate.chain.task import FIXED_POINT_ONE, OptimizerName, ServerOptimizer, TensorSpec

from aggregation import (
    BoundError,
    RuleError,
    adam,
    apply_optimizer,
    validate_optimizer,
    yogi,
)
from aggregation.moments import FIRST_MOMENT_ABS_MAX, ROOT_VALUE_MAX, compute_roots
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
    state: memoryview | None = None
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


ADAPTIVE = [OptimizerName.ADAGRAD, OptimizerName.ADAM, OptimizerName.YOGI]


def make_adaptive(name: OptimizerName, rate: int, beta1: int, beta2: int, tau: int) -> Any:
    return ServerOptimizer(name, rate, beta1, 0 if name is OptimizerName.ADAGRAD else beta2, tau)


def step_by_hand(
    optimizer: ServerOptimizer,
    tensors: list[TensorSpec],
    weights: list[int],
    moments: tuple[list[int], list[int]],
    update: list[int],
) -> tuple[list[int], tuple[list[int], list[int]], int]:
    parameters = (
        optimizer.learning_rate,
        optimizer.momentum,
        optimizer.second_moment_decay,
        optimizer.adaptivity,
    )
    bits = [
        (tensor.weight_fraction_bits, tensor.update_fraction_bits)
        for tensor in tensors
        for _ in range(tensor.size)
    ]
    rows = [
        reference.adaptive_step(optimizer.name, parameters, (m, v), w, u, b)
        for w, m, v, u, b in zip(weights, *moments, update, bits, strict=True)
    ]
    bounded = [max(-(2**31), min(2**31 - 1, w)) for w, _, _ in rows]
    clamped = sum(w != b for (w, _, _), b in zip(rows, bounded, strict=True))
    return bounded, ([m for _, m, _ in rows], [v for _, _, v in rows]), clamped


DECAYS = st.one_of(st.integers(0, 2**16 - 1), st.sampled_from([0, 2**15, 58_982, 2**16 - 1]))


@settings(max_examples=400, deadline=None)
@given(
    tensor_lists(),
    st.sampled_from(ADAPTIVE),
    RATES,
    DECAYS,
    DECAYS,
    st.one_of(st.integers(1, 2**32), st.integers(1, 100)),
    st.data(),
)
def test_adaptive_steps_equal_their_dumb_version(
    tensors: list[TensorSpec],
    name: OptimizerName,
    rate: int,
    beta1: int,
    beta2: int,
    tau: int,
    data: st.DataObject,
) -> None:
    optimizer = make_adaptive(name, rate, beta1, beta2, tau)
    validate_optimizer(optimizer)
    d = sum(tensor.size for tensor in tensors)
    weights = data.draw(st.lists(INT32, min_size=d, max_size=d))
    start = [
        min(reference.adaptivity(tau, tensor.update_fraction_bits) ** 2, 2**46)
        for tensor in tensors
        for _ in range(tensor.size)
    ]
    moments = ([0] * d, start)
    state: memoryview | None = None
    for _ in range(3):
        update = data.draw(st.lists(UPDATES, min_size=d, max_size=d))
        expected, moments, clamped = step_by_hand(optimizer, tensors, weights, moments, update)
        step = apply_optimizer(
            optimizer, tensors, pack(weights, 4), state, np.array(update, np.int16)
        )
        assert step.weights == pack(expected, 4)
        assert step.state == pack(moments[0] + moments[1], 8)
        assert step.clamped == clamped
        weights, state = expected, step.state


SECOND_MOMENTS_MAX = {
    OptimizerName.ADAGRAD: ROOT_VALUE_MAX,
    OptimizerName.ADAM: adam.SECOND_MOMENT_MAX,
    OptimizerName.YOGI: yogi.SECOND_MOMENT_MAX,
}


@pytest.mark.parametrize("name", ADAPTIVE)
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("second", [0, 1])
@pytest.mark.parametrize("update", [0, 32767])
@pytest.mark.parametrize("beta", [0, 2**16 - 1])
def test_the_largest_moments_do_not_overflow(
    name: OptimizerName, sign: int, second: int, update: int, beta: int
) -> None:
    """Moments at their bounds, the smallest adaptivity, the largest rate: exact, and within."""
    optimizer = make_adaptive(name, 2**32, beta, beta, 1)
    tensor = make_tensor(1, 30, 0)
    moments = ([sign * FIRST_MOMENT_ABS_MAX], [second * SECOND_MOMENTS_MAX[name]])
    expected, following, clamped = step_by_hand(optimizer, [tensor], [7], moments, [sign * update])
    step = apply_optimizer(
        optimizer,
        [tensor],
        pack([7], 4),
        pack(moments[0] + moments[1], 8),
        np.array([sign * update], np.int16),
    )
    assert (step.weights, step.state) == (pack(expected, 4), pack(following[0] + following[1], 8))
    assert step.clamped == clamped
    assert abs(following[0][0]) <= FIRST_MOMENT_ABS_MAX
    assert 0 <= following[1][0] <= SECOND_MOMENTS_MAX[name]


@pytest.mark.parametrize("name", ADAPTIVE)
def test_moments_out_of_bounds_are_refused(name: OptimizerName) -> None:
    optimizer = make_adaptive(name, FIXED_POINT_ONE, 100, 100, 66)
    first, second = FIRST_MOMENT_ABS_MAX + 1, SECOND_MOMENTS_MAX[name] + 1
    for state in ([first, 0], [-first, 0], [0, second], [0, -1]):
        with pytest.raises(BoundError, match="moment is outside"):
            apply_optimizer(
                optimizer,
                [make_tensor(1, 16, 8)],
                pack([0], 4),
                pack(state, 8),
                np.zeros(1, np.int16),
            )


@given(st.lists(st.integers(0, 2**62 - 1), min_size=1, max_size=20), st.integers(0, 2**31 - 1))
def test_roots_are_exact(values: list[int], root: int) -> None:
    values += [root**2, max(0, root**2 - 1), min(root**2 + 2 * root, 2**62 - 1), 2**62 - 1]
    roots = compute_roots(np.array(values, np.int64))
    assert roots.tolist() == [isqrt(value) for value in values]


def test_roots_are_refused_outside_their_range() -> None:
    for value in (-1, 2**62):
        with pytest.raises(BoundError, match="under a root"):
            compute_roots(np.array([value], np.int64))


def test_an_optimizer_has_what_it_needs_and_nothing_else() -> None:
    one = FIXED_POINT_ONE
    for good in [
        ServerOptimizer(OptimizerName.SGD),
        ServerOptimizer(OptimizerName.MOMENTUM, one, 9),
        ServerOptimizer(OptimizerName.ADAGRAD, one, 9, 0, 1),
        ServerOptimizer(OptimizerName.ADAM, one, 0, 0, 1),
        ServerOptimizer(OptimizerName.YOGI, one, 9, 9, 1),
    ]:
        validate_optimizer(good)
    for bad, message in [
        (ServerOptimizer(OptimizerName.SGD, one, 1), "sgd has no momentum"),
        (ServerOptimizer(OptimizerName.MOMENTUM, one, 1, 1), "momentum has no second_moment_decay"),
        (
            ServerOptimizer(OptimizerName.ADAGRAD, one, 1, 1, 1),
            "adagrad has no second_moment_decay",
        ),
        (ServerOptimizer(OptimizerName.MOMENTUM, one, 1, 0, 1), "momentum has no adaptivity"),
        (ServerOptimizer(OptimizerName.ADAM, one, 1, 1), "adam needs a positive adaptivity"),
    ]:
        with pytest.raises(RuleError, match=message):
            validate_optimizer(bad)


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
    step = apply_optimizer(optimizer, tensors, weights.astype("<i4").tobytes(), None, update)
    factors = np.repeat([2**10, 2**16, 2**8], sizes)
    expected = np.clip(weights + 3 * update.astype(np.int64) * factors, -(2**31), 2**31 - 1)
    assert np.array_equal(np.frombuffer(step.weights, "<i4"), expected)
    assert np.array_equal(np.frombuffer(step.state, "<i8"), update.astype(np.int64) << 16)


STARTING = [
    ServerOptimizer(OptimizerName.SGD),
    ServerOptimizer(OptimizerName.MOMENTUM, FIXED_POINT_ONE, 2**15),
    make_adaptive(OptimizerName.ADAGRAD, FIXED_POINT_ONE, 58_982, 0, 66),
    make_adaptive(OptimizerName.ADAM, FIXED_POINT_ONE, 58_982, 64_880, 66),
    make_adaptive(OptimizerName.YOGI, FIXED_POINT_ONE, 58_982, 64_880, 66),
]


def make_starting_state(optimizer: ServerOptimizer, tensors: list[TensorSpec]) -> bytes:
    scales = [(tensor.size, tensor.update_fraction_bits) for tensor in tensors]
    return reference.starting_state(optimizer.name, optimizer.adaptivity, scales)


@pytest.mark.parametrize("optimizer", STARTING, ids=lambda optimizer: optimizer.name)
def test_no_state_is_the_one_that_a_first_step_starts_from(optimizer: ServerOptimizer) -> None:
    """Tensors at four scales, some cut by the parts of a step, some smaller than one."""
    generator = np.random.default_rng(5)
    sizes = [70_000, 1, 65_536, 131_073]
    tensors = [
        make_tensor(size, 20, bits) for size, bits in zip(sizes, (10, 4, 30, 12), strict=True)
    ]
    d = sum(sizes)
    weights = generator.integers(-(2**30), 2**30, d).astype("<i4").tobytes()
    update = generator.integers(-32767, 32767, d, dtype=np.int16)
    # Zeros show the starting values as they are, or once decayed.
    update[::2] = 0
    whole = make_starting_state(optimizer, tensors)
    step = apply_optimizer(optimizer, tensors, weights, None, update)
    assert step == apply_optimizer(optimizer, tensors, weights, whole, update)
    assert len(step.state) == len(whole)


@pytest.mark.parametrize("optimizer", STARTING, ids=lambda optimizer: optimizer.name)
def test_a_first_step_makes_no_state_beside_its_result(optimizer: ServerOptimizer) -> None:
    d = 1 << 20
    tensors = [make_tensor(d, 20, 10)]
    weights, update = bytes(4 * d), np.ones(d, np.int16)
    tracemalloc.start()
    try:
        step = apply_optimizer(optimizer, tensors, weights, None, update)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A part has 2^16 parameters, and its arithmetic makes a few arrays of int64.
    assert peak < len(step.weights) + len(step.state) + 12 * (8 << 16) + (1 << 20)


def test_a_step_changes_none_of_its_arguments() -> None:
    optimizer = ServerOptimizer(OptimizerName.MOMENTUM, FIXED_POINT_ONE, 100)
    tensors = [make_tensor(2, 8, 8)]
    weights, state = pack([1, 2], 4), bytes(16)
    update = np.array([3, 4], np.int16)
    apply_optimizer(optimizer, tensors, weights, state, update)
    assert (weights, state, update.tolist()) == (pack([1, 2], 4), bytes(16), [3, 4])


def test_lengths_that_do_not_belong_together_are_refused() -> None:
    sgd = ServerOptimizer(OptimizerName.SGD)
    momentum = ServerOptimizer(OptimizerName.MOMENTUM)
    tensors = [make_tensor(2, 8, 8)]
    update = np.zeros(2, np.int16)
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
