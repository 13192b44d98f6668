"""From an aggregate to the next weights: applying a server optimizer tensor by tensor.

Owns the layout of weights and of optimizer state in bytes, the clamping of weights, and the table
of server optimizers (Adam, Yogi and Adagrad will have their entries in it). Never knows how a step
is computed: that is the optimizer's own file.

Layout: weights are little-endian int32, tensor after tensor in the order of the task, without
padding. The state of `sgd` is empty; that of `momentum` is one little-endian int64 per parameter.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import assert_never

import numpy as np
from numpy.typing import NDArray
from quorate.chain.task import OptimizerName, ServerOptimizer, TensorSpec

from aggregation.arithmetic import INT16_ABS_MAX, INT32_MAX, INT32_MIN
from aggregation.errors import BoundError
from aggregation.momentum import compute_momentum_step, compute_velocity
from aggregation.sgd import compute_sgd_step

WEIGHT_BYTES = 4
STATE_BYTES_PER_PARAMETER: Mapping[OptimizerName, int] = MappingProxyType({
    OptimizerName.SGD: 0,
    OptimizerName.MOMENTUM: 8,
})
_PART_PARAMETERS = 1 << 16


@dataclass(frozen=True, slots=True)
class OptimizerStep:
    """The result of one server-optimizer step.

    Attributes
    ----------
    weights : bytes, 4 * d
        Little-endian int32.
    state : bytes
        What the next step needs.
    clamped : int
        How many weights were cut off at the ends of int32.
    """

    weights: bytes
    state: bytes
    clamped: int


def initial_optimizer_state(optimizer: ServerOptimizer, dimension: int) -> bytes:
    """Return the state before the first step: all zeros.

    Parameters
    ----------
    optimizer : ServerOptimizer
    dimension : int
        The number of parameters d.

    Returns
    -------
    bytes, STATE_BYTES_PER_PARAMETER[name] * d
    """
    return bytes(STATE_BYTES_PER_PARAMETER[optimizer.name] * dimension)


def apply_optimizer(
    optimizer: ServerOptimizer,
    tensors: Sequence[TensorSpec],
    weights: bytes,
    state: bytes,
    aggregate: NDArray[np.int16],
) -> OptimizerStep:
    """Compute the next weights from the current ones and a training round's aggregate.

    Parameters
    ----------
    optimizer : ServerOptimizer
    tensors : sequence of TensorSpec
        The task's tensors, in order; their sizes add up to d.
    weights : bytes, 4 * d
        Little-endian int32, at each tensor's `weight_fraction_bits`.
    state : bytes
        From `initial_optimizer_state` or the step before.
    aggregate : int16, (d,)
        Values in +-32767, at each tensor's `update_fraction_bits`.

    Returns
    -------
    OptimizerStep

    Raises
    ------
    BoundError
        If the lengths do not belong together, or a value of the aggregate or the state is outside
        the range for which the arithmetic is exact.
    """
    dimension = sum(tensor.size for tensor in tensors)
    _validate_lengths(optimizer, dimension, weights, state, aggregate)
    following = np.frombuffer(weights, np.dtype("<i4")).copy()
    following_state = np.frombuffer(state, np.dtype("<i8")).copy()
    clamped = 0
    for start, stop, scale_bits in _get_parts(tensors):
        part = aggregate[start:stop]
        match optimizer.name:
            case OptimizerName.SGD:
                step = compute_sgd_step(optimizer, part, scale_bits)
            case OptimizerName.MOMENTUM:
                velocity = compute_velocity(optimizer, following_state[start:stop], part)
                following_state[start:stop] = velocity
                step = compute_momentum_step(optimizer, velocity, scale_bits)
            case _:
                assert_never(optimizer.name)
        step += following[start:stop]
        clamped += int(np.count_nonzero((step < INT32_MIN) | (step > INT32_MAX)))
        following[start:stop] = np.clip(step, INT32_MIN, INT32_MAX)
    return OptimizerStep(following.tobytes(), following_state.tobytes(), clamped)


def _validate_lengths(
    optimizer: ServerOptimizer,
    dimension: int,
    weights: bytes,
    state: bytes,
    aggregate: NDArray[np.int16],
) -> None:
    if len(weights) != WEIGHT_BYTES * dimension:
        raise BoundError(
            f"the weights have {len(weights)} bytes; {dimension} parameters take"
            f" {WEIGHT_BYTES * dimension}"
        )
    state_bytes = STATE_BYTES_PER_PARAMETER[optimizer.name] * dimension
    if len(state) != state_bytes:
        raise BoundError(
            f"the state of {optimizer.name} has {len(state)} bytes; {dimension} parameters take"
            f" {state_bytes}"
        )
    if aggregate.dtype != np.int16 or aggregate.shape != (dimension,):
        raise BoundError(
            f"the aggregate is {aggregate.dtype} of shape {aggregate.shape};"
            f" expected int16 of shape ({dimension},)"
        )
    if dimension and int(aggregate.min()) < -INT16_ABS_MAX:
        raise BoundError("the aggregate contains -32768, which no rule computes")


def _get_parts(tensors: Sequence[TensorSpec]) -> Iterator[tuple[int, int, int]]:
    """Yield (start, stop, weight minus update fraction bits) of parts that share their scales."""
    offset = 0
    for tensor in tensors:
        scale_bits = tensor.weight_fraction_bits - tensor.update_fraction_bits
        end = offset + tensor.size
        for start in range(offset, end, _PART_PARAMETERS):
            yield start, min(start + _PART_PARAMETERS, end), scale_bits
        offset = end
