"""Drafts of tasks: from a model's arrays and a few plain choices to a task's specification.

Owns the conversion of what a person chooses (rates as floats) into what the chain stores
(integers). Never sends anything: `Client.create_task` does.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from quorate.chain.codec import decode, encode
from quorate.chain.content import compute_content_hash
from quorate.chain.errors import DecodeError
from quorate.chain.known_types import convert_plain
from quorate.chain.task import (
    DEFAULT_RULE,
    FIXED_POINT_ONE,
    AggregationRule,
    OptimizerName,
    RoundPolicy,
    ServerOptimizer,
    TaskSpec,
    UpdateCodec,
)
from quorate.chain.transaction import TRANSACTION_BYTES_MAX
from quorate.errors import EncodingError
from quorate.fixed_point import Array, Arrays, ModelSchema


@dataclass(frozen=True)
class TaskDraft:
    """A task ready to be created.

    Attributes
    ----------
    spec : TaskSpec
        What goes on the chain.
    weights : bytes, 4 * d
        The initial weights, which travel beside it.
    saturated : int
        How many initial weights did not fit the scale; 0 unless it is badly chosen.
    """

    spec: TaskSpec
    weights: bytes
    saturated: int


def make_sgd(learning_rate: float = 1.0) -> ServerOptimizer:
    """Return a server optimizer that adds the aggregate times `learning_rate`."""
    return ServerOptimizer(OptimizerName.SGD, _scale(learning_rate))


def make_momentum(learning_rate: float = 1.0, momentum: float = 0.9) -> ServerOptimizer:
    """Return a server optimizer with momentum in [0, 1)."""
    return ServerOptimizer(OptimizerName.MOMENTUM, _scale(learning_rate), _scale(momentum))


def make_adagrad(
    learning_rate: float = 0.1, momentum: float = 0.0, *, adaptivity: float = 0.001
) -> ServerOptimizer:
    """Return FedAdagrad: steps shorten with the squares of all aggregates so far.

    `adaptivity`, positive, bounds how much a step can grow; in units of the model's weights.
    """
    return _make_adaptive(OptimizerName.ADAGRAD, learning_rate, momentum, 0.0, adaptivity)


def make_adam(
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    second_moment_decay: float = 0.99,
    *,
    adaptivity: float = 0.001,
) -> ServerOptimizer:
    """Return FedAdam: as `make_adagrad`, with squares that fade by `second_moment_decay`."""
    name = OptimizerName.ADAM
    return _make_adaptive(name, learning_rate, momentum, second_moment_decay, adaptivity)


def make_yogi(
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    second_moment_decay: float = 0.99,
    *,
    adaptivity: float = 0.001,
) -> ServerOptimizer:
    """Return FedYogi: as `make_adam`, with squares that fade no faster than they grow."""
    name = OptimizerName.YOGI
    return _make_adaptive(name, learning_rate, momentum, second_moment_decay, adaptivity)


def _make_adaptive(
    name: OptimizerName,
    learning_rate: float,
    momentum: float,
    second_moment_decay: float,
    adaptivity: float,
) -> ServerOptimizer:
    return ServerOptimizer(
        name,
        _scale(learning_rate),
        _scale(momentum),
        _scale(second_moment_decay),
        _scale_positive("adaptivity", adaptivity),
    )


def draft_task(
    name: str,
    arrays: Arrays | Mapping[str, Array],
    policy: RoundPolicy,
    *,
    rule: AggregationRule | None = None,
    optimizer: ServerOptimizer | None = None,
    schema: ModelSchema | None = None,
    example_count_max: int = 0,
    codec: UpdateCodec = UpdateCodec.DENSE_INT16,
    density: float | None = None,
) -> TaskDraft:
    """Draft a task that trains a model from these initial weights.

    Parameters
    ----------
    name : str
        Unique on the chain; letters, digits and ``_ . : / -``.
    arrays : sequence of arrays, or mapping of names to arrays
        The initial weights.
    policy : RoundPolicy
        When a training round closes: deadline in milliseconds, how many updates at least and at
        most; whom it waits for, and whether it is synchronous.
    rule : AggregationRule, optional
        How updates become one; by default ARC, then NNM, then geometric median, no Byzantine
        participant tolerated. Say how many you want to tolerate: `num_byzantine`.
    optimizer : ServerOptimizer, optional
        By default `make_sgd(1.0)`: the aggregate is added as it is. Others: `make_momentum`,
        `make_adagrad`, `make_adam`, `make_yogi`.
    schema : ModelSchema, optional
        By default `ModelSchema.from_arrays(arrays)`.
    example_count_max : int
        Cap on the number of examples that weights an update under a mean; 0: unweighted.
    codec : UpdateCodec
        How updates are written down; by default int16 for every parameter.
    density : float, optional
        With `UpdateCodec.TOP_K_INT16`, the part of the parameters that an update names, in (0, 1].

    Raises
    ------
    EncodingError
        If anything is beyond its bounds; the sentence names the field and the bound.

    Examples
    --------
    >>> import numpy as np
    >>> from quorate.chain.task import RoundPolicy
    >>> draft = draft_task(
    ...     "digits",
    ...     {"kernel": np.zeros((64, 10)), "bias": np.zeros(10)},
    ...     RoundPolicy(deadline_ms=60_000, updates_min=4, updates_max=8),
    ...     rule=AggregationRule(DEFAULT_RULE, num_byzantine=1),
    ... )
    >>> draft.spec.dimension
    650
    """
    schema = ModelSchema.from_arrays(arrays) if schema is None else schema
    values = list(arrays.values()) if isinstance(arrays, Mapping) else arrays
    encoded = schema.encode_weights(values)
    spec = TaskSpec(
        name=name,
        tensors=schema.tensors,
        initial_weights_root=compute_content_hash(encoded.data),
        rule=AggregationRule(DEFAULT_RULE, 0) if rule is None else rule,
        optimizer=make_sgd() if optimizer is None else optimizer,
        codec=codec,
        policy=policy,
        example_count_max=example_count_max,
        top_k=_compute_top_k(codec, density, schema.dimension),
    )
    _validate_bounds(spec)
    try:
        checked = decode(TaskSpec, encode(spec), TRANSACTION_BYTES_MAX)
    except (DecodeError, TypeError) as error:
        raise EncodingError(f"the task cannot be written down: {error}") from error
    return TaskDraft(checked, encoded.data, encoded.saturated)


def _compute_top_k(codec: UpdateCodec, density: float | None, dimension: int) -> int:
    if codec is not UpdateCodec.TOP_K_INT16:
        if density is not None:
            raise EncodingError(f"the codec {codec.name.lower()} has no density")
        return 0
    if density is None or not 0.0 < density <= 1.0:
        raise EncodingError(f"the codec {codec.name.lower()} needs a density in (0, 1]")
    return max(1, round(density * dimension))


def _validate_bounds(spec: TaskSpec) -> None:
    """Say which field of a specification is beyond which bound; the codec says where, not what."""
    for part, value in (
        ("policy", spec.policy),
        ("rule", spec.rule),
        ("optimizer", spec.optimizer),
        ("task", spec),
    ):
        for field in msgspec.structs.fields(value):
            try:
                convert_plain(getattr(value, field.name), field.type)
            except msgspec.ValidationError as error:
                units = f" (in units of 1/{FIXED_POINT_ONE})" if part == "optimizer" else ""
                raise EncodingError(
                    f"the {part}'s {field.name} is {getattr(value, field.name)!r:.80}:"
                    f" {error}{units}"
                ) from error


def _scale(value: float) -> int:
    return round(value * FIXED_POINT_ONE)


def _scale_positive(name: str, value: float) -> int:
    scaled = _scale(value)
    if scaled <= 0:
        raise EncodingError(
            f"the optimizer's {name} is {value:g}; it needs at least {1 / FIXED_POINT_ONE:g}"
        )
    return scaled
