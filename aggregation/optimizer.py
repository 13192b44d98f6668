"""From an aggregate to the next weights: applying a server optimizer tensor by tensor.

Owns the layout of weights and of optimizer state in bytes, the clamping of weights, and the table
of server optimizers. Never knows how a step is computed: that is the optimizer's own file.

Layout: weights are little-endian int32, tensor after tensor in the order of the task, without
padding. State is little-endian int64: none for `sgd`; the velocities for `momentum`; all first
moments, then all second moments, for `adagrad`, `adam` and `yogi`.

Before the first step there is no state, and none is ever made: each part starts from zeros, but for
the second moments, which start from `moments.compute_start`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import assert_never

import numpy as np
from numpy.typing import NDArray
from quorate.chain.task import FIXED_POINT_ONE, OptimizerName, ServerOptimizer, TensorSpec
from quorate.chain.weights import WEIGHT_BYTES

from aggregation.adagrad import compute_adagrad_moment
from aggregation.adam import compute_adam_moment
from aggregation.arithmetic import (
    INT16_ABS_MAX,
    INT32_MAX,
    INT32_MIN,
    SCALE_MULTIPLIER_MAX,
)
from aggregation.columns import PayloadBytes
from aggregation.errors import BoundError, RuleError
from aggregation.moments import (
    FRACTION_BITS_MAX,
    compute_adaptive_step,
    compute_first_moment,
    compute_start,
)
from aggregation.momentum import compute_momentum_step, compute_velocity
from aggregation.sgd import compute_sgd_step
from aggregation.yogi import compute_yogi_moment

STATE_BYTES_PER_PARAMETER: Mapping[OptimizerName, int] = MappingProxyType(
    {
        OptimizerName.SGD: 0,
        OptimizerName.MOMENTUM: 8,
        OptimizerName.ADAGRAD: 16,
        OptimizerName.ADAM: 16,
        OptimizerName.YOGI: 16,
    }
)
_ADAPTIVE = frozenset({OptimizerName.ADAGRAD, OptimizerName.ADAM, OptimizerName.YOGI})
_DECAYING = frozenset({OptimizerName.ADAM, OptimizerName.YOGI})
_PART_PARAMETERS = 1 << 16


@dataclass(frozen=True, slots=True)
class OptimizerStep:
    """The result of one server-optimizer step.

    Attributes
    ----------
    weights : memoryview of bytes, 4 * d
        Little-endian int32. Read-only, as the state is.
    state : memoryview of bytes
        What the next step needs.
    clamped : int
        How many weights were cut off at the ends of int32.
    """

    weights: memoryview
    state: memoryview
    clamped: int


def validate_optimizer(optimizer: ServerOptimizer) -> None:
    """Check that an optimizer has the parameters it needs, and no others.

    Raises
    ------
    RuleError
        If one is missing, or one is set that the optimizer does not read.
    """
    name = optimizer.name
    if optimizer.momentum and name is OptimizerName.SGD:
        raise RuleError(f"{name} has no momentum: set it to 0")
    if optimizer.second_moment_decay and name not in _DECAYING:
        raise RuleError(f"{name} has no second_moment_decay: set it to 0")
    if optimizer.adaptivity and name not in _ADAPTIVE:
        raise RuleError(f"{name} has no adaptivity: set it to 0")
    if not optimizer.adaptivity and name in _ADAPTIVE:
        raise RuleError(f"{name} needs a positive adaptivity, for example 0.001")


def apply_optimizer(
    optimizer: ServerOptimizer,
    tensors: Sequence[TensorSpec],
    weights: bytes | memoryview | PayloadBytes,
    state: bytes | memoryview | PayloadBytes | None,
    aggregate: NDArray[np.int16],
) -> OptimizerStep:
    """Compute the next weights from the current ones and a training round's aggregate.

    Weights and state are read part by part, so only what comes out need fit into memory.

    Parameters
    ----------
    optimizer : ServerOptimizer
    tensors : sequence of TensorSpec
        The task's tensors, in order; their sizes add up to d.
    weights : bytes, memoryview of bytes or PayloadBytes, 4 * d
        Little-endian int32, at each tensor's `weight_fraction_bits`.
    state : bytes, memoryview of bytes or PayloadBytes, STATE_BYTES_PER_PARAMETER[name] * d; or None
        From the step before; None before the first.
    aggregate : int16, (d,)
        Values in +-32767, at each tensor's `update_fraction_bits`.

    Returns
    -------
    OptimizerStep

    Raises
    ------
    BoundError
        If the lengths do not belong together, or a parameter or a value of the aggregate or the
        state is outside the range for which the arithmetic is exact.
    """
    _validate_parameters(optimizer, tensors)
    dimension = sum(tensor.size for tensor in tensors)
    if isinstance(weights, bytes | memoryview):
        weights = np.frombuffer(weights, np.uint8)
    if isinstance(state, bytes | memoryview):
        state = np.frombuffer(state, np.uint8)
    state_bytes = None if state is None else state.size
    _validate_lengths(optimizer, dimension, weights.size, state_bytes, aggregate)
    following = np.empty(dimension, np.dtype("<i4"))
    rows = STATE_BYTES_PER_PARAMETER[optimizer.name] // 8
    following_state = np.empty((rows, dimension), np.dtype("<i8"))
    clamped = 0
    for start, stop, tensor in _get_parts(tensors):
        part = following_state[:, start:stop]
        for index, moments in enumerate(part):
            if state is None:
                moments[:] = _get_start(optimizer, tensor, index)
                continue
            begin = 8 * (index * dimension + start)
            moments[:] = state[begin : begin + 8 * (stop - start)].view(np.dtype("<i8"))
        step = _compute_step(optimizer, tensor, part, aggregate[start:stop])
        step += weights[WEIGHT_BYTES * start : WEIGHT_BYTES * stop].view(np.dtype("<i4"))
        clamped += int(np.count_nonzero((step < INT32_MIN) | (step > INT32_MAX)))
        following[start:stop] = np.clip(step, INT32_MIN, INT32_MAX)
    return OptimizerStep(_view_bytes(following), _view_bytes(following_state), clamped)


def _get_start(optimizer: ServerOptimizer, tensor: TensorSpec, row: int) -> int:
    """Return what a row of the state holds for a tensor before the first step."""
    is_second_moment = row == 1 and optimizer.name in _ADAPTIVE
    return compute_start(optimizer, tensor.update_fraction_bits) if is_second_moment else 0


def _view_bytes(array: NDArray[np.int32] | NDArray[np.int64]) -> memoryview:
    """Return an array's bytes, where they are.

    Copying them into a `bytes` object holds the interpreter's lock for all of it, 18 ms for the
    weights of ten million parameters, and so holds up what else the process does.
    """
    return array.reshape(-1).view(np.uint8).data.toreadonly()


def _compute_step(
    optimizer: ServerOptimizer,
    tensor: TensorSpec,
    state: NDArray[np.int64],
    update: NDArray[np.int16],
) -> NDArray[np.int64]:
    """Return what is added to the weights of a part of a tensor, and renew its state in place."""
    weight_bits, update_bits = tensor.weight_fraction_bits, tensor.update_fraction_bits
    match optimizer.name:
        case OptimizerName.SGD:
            return compute_sgd_step(optimizer, update, weight_bits - update_bits)
        case OptimizerName.MOMENTUM:
            state[0] = compute_velocity(optimizer, state[0], update)
            return compute_momentum_step(optimizer, state[0], weight_bits - update_bits)
        case OptimizerName.ADAGRAD:
            state[1] = compute_adagrad_moment(state[1], update)
        case OptimizerName.ADAM:
            state[1] = compute_adam_moment(optimizer, state[1], update)
        case OptimizerName.YOGI:
            state[1] = compute_yogi_moment(optimizer, state[1], update)
        case _:
            assert_never(optimizer.name)
    state[0] = compute_first_moment(optimizer, state[0], update)
    return compute_adaptive_step(optimizer, state[0], state[1], weight_bits, update_bits)


def _validate_parameters(optimizer: ServerOptimizer, tensors: Sequence[TensorSpec]) -> None:
    """Refuse what decoding a task refuses, and building its parts in memory does not."""
    decays = (optimizer.momentum, optimizer.second_moment_decay)
    factors = (optimizer.learning_rate, optimizer.adaptivity)
    if min(decays) < 0 or max(decays) >= FIXED_POINT_ONE:
        raise BoundError(f"the decays {decays} are not all in 0..{FIXED_POINT_ONE - 1}")
    if min(factors) < 0 or max(factors) > SCALE_MULTIPLIER_MAX:
        raise BoundError(f"rate and adaptivity {factors} are not in 0..{SCALE_MULTIPLIER_MAX}")
    for tensor in tensors:
        for bits in (tensor.weight_fraction_bits, tensor.update_fraction_bits):
            if not 0 <= bits <= FRACTION_BITS_MAX:
                raise BoundError(
                    f"tensor {tensor.name} has {bits} fraction bits, not 0..{FRACTION_BITS_MAX}"
                )


def _validate_lengths(
    optimizer: ServerOptimizer,
    dimension: int,
    weight_bytes: int,
    state_bytes: int | None,
    aggregate: NDArray[np.int16],
) -> None:
    if weight_bytes != WEIGHT_BYTES * dimension:
        raise BoundError(
            f"the weights have {weight_bytes} bytes; {dimension} parameters take"
            f" {WEIGHT_BYTES * dimension}"
        )
    expected = STATE_BYTES_PER_PARAMETER[optimizer.name] * dimension
    if state_bytes is not None and state_bytes != expected:
        raise BoundError(
            f"the state of {optimizer.name} has {state_bytes} bytes; {dimension} parameters take"
            f" {expected}"
        )
    if aggregate.dtype != np.int16 or aggregate.shape != (dimension,):
        raise BoundError(
            f"the aggregate is {aggregate.dtype} of shape {aggregate.shape};"
            f" expected int16 of shape ({dimension},)"
        )
    if dimension and int(aggregate.min()) < -INT16_ABS_MAX:
        raise BoundError("the aggregate contains -32768, which no rule computes")


def _get_parts(tensors: Sequence[TensorSpec]) -> Iterator[tuple[int, int, TensorSpec]]:
    """Yield (start, stop, tensor) of parts that share their scales."""
    offset = 0
    for tensor in tensors:
        end = offset + tensor.size
        for start in range(offset, end, _PART_PARAMETERS):
            yield start, min(start + _PART_PARAMETERS, end), tensor
        offset = end
