"""What each update codec costs in accuracy: the same training, with other bytes.

Owns the trainings that are compared, with floats as the yardstick. Nobody is hostile here. Encodes
with the SDK's own encoder, aggregates with the ledger's own rules, and keeps a residual as
`quorate.Participant` does.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import mean
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray
from quorate.chain.task import AggregationRule, Stage, UpdateCodec, UpdateLayout
from quorate.fixed_point import ModelSchema
from quorate.update_encoding import encode_update

from aggregation import aggregate, apply_optimizer, decode_update
from node.demo.digits import (
    Examples,
    Floats,
    Model,
    compute_accuracy,
    load_digits,
    make_model,
    split_examples,
    train,
)
from node.robustness.case import SGD

PARTICIPANTS: Final = 8
FLOAT32_BYTES: Final = 4


@dataclass(frozen=True)
class CodecChoice:
    """A codec as a task names it.

    Attributes
    ----------
    name : str
        For people.
    codec : UpdateCodec or None
        None: floats, averaged in floats.
    density : float
        With top-k, the part of the parameters that an update names.
    """

    name: str
    codec: UpdateCodec | None
    density: float = 0.0

    def make_layout(self, dimension: int) -> UpdateLayout | None:
        """Return how updates of d parameters are laid out; None for floats."""
        if self.codec is None:
            return None
        return UpdateLayout(self.codec, dimension, round(self.density * dimension))


@dataclass(frozen=True)
class CodecCost:
    """What a codec came to.

    Attributes
    ----------
    name : str
    bytes_per_update : int
    rule : str
    with_feedback, without_feedback : float
        Mean accuracy over the seeds; the same number for floats, which leave nothing out.
    saturated : int
        How many numbers were beyond the range, over all seeds and rounds, with error feedback.
    """

    name: str
    bytes_per_update: int
    rule: str
    with_feedback: float
    without_feedback: float
    saturated: int


FLOATS: Final = CodecChoice("float32", None)
CHOICES: Final = (
    FLOATS,
    CodecChoice("dense_int16", UpdateCodec.DENSE_INT16),
    CodecChoice("dense_int8", UpdateCodec.DENSE_INT8),
    CodecChoice("top_k_int16, 10 %", UpdateCodec.TOP_K_INT16, 0.1),
    CodecChoice("top_k_int16, 5 %", UpdateCodec.TOP_K_INT16, 0.05),
    CodecChoice("top_k_int16, 1 %", UpdateCodec.TOP_K_INT16, 0.01),
)
RULES: Final = (("mean", 0), ("clip+nnm+trimmed_mean", 2))
"""Rules with their f: nobody is hostile, but the second one trims as if two of eight were."""


def measure_codecs(rounds: int, seeds: int) -> Iterator[CodecCost]:
    """Yield the cost of every codec under every rule, one after the other."""
    for name, num_byzantine in RULES:
        rule = AggregationRule(tuple(map(Stage, name.split("+"))), num_byzantine)
        for choice in CHOICES:
            if choice.codec is not None or rule.stages == (Stage.MEAN,):
                yield _measure(choice, name, rule, rounds, seeds)


def _measure(
    choice: CodecChoice, name: str, rule: AggregationRule, rounds: int, seeds: int
) -> CodecCost:
    dimension = ModelSchema.from_arrays(make_model(0)).dimension
    layout = choice.make_layout(dimension)
    if layout is None:
        accuracy = mean(_train_in_floats(rounds, seed) for seed in range(seeds))
        return CodecCost(choice.name, FLOAT32_BYTES * dimension, name, accuracy, accuracy, 0)
    feedback, plain = (
        [_train(layout, rule, rounds, seed, keeps=keeps) for seed in range(seeds)]
        for keeps in (True, False)
    )
    return CodecCost(
        choice.name,
        layout.size,
        name,
        mean(accuracy for accuracy, _ in feedback),
        mean(accuracy for accuracy, _ in plain),
        sum(saturated for _, saturated in feedback),
    )


def _train_in_floats(rounds: int, seed: int) -> float:
    """Return the final accuracy when the plain mean is computed in floats."""
    shards, held_out = split_examples(load_digits(), PARTICIPANTS, seed)
    model = make_model(seed)
    for number in range(rounds):
        model = list(map(_average, zip(*_fit(model, shards, seed, number), strict=True)))
    return compute_accuracy(model, held_out)


def _train(
    layout: UpdateLayout, rule: AggregationRule, rounds: int, seed: int, *, keeps: bool
) -> tuple[float, int]:
    """Return the final accuracy, and how many numbers were cut off."""
    shards, held_out = split_examples(load_digits(), PARTICIPANTS, seed)
    initial = make_model(seed)
    schema = ModelSchema.from_arrays(initial)
    weights, saturated = schema.encode_weights(initial).data, 0
    residuals: list[NDArray[np.float32] | None] = [None] * len(shards)
    for number in range(rounds):
        model = cast("Model", schema.decode_weights(weights))
        updates = []
        for i, trained in enumerate(_fit(model, shards, seed, number)):
            difference: list[Floats] = [new - old for new, old in zip(trained, model, strict=True)]
            encoded = encode_update(schema, layout, difference, residuals[i])
            residuals[i] = encoded.residual if keeps else None
            saturated += encoded.saturated
            updates.append(decode_update(encoded.data, layout))
        vector = aggregate(rule, updates).vector
        weights = bytes(apply_optimizer(SGD, schema.tensors, weights, b"", vector).weights)
    return compute_accuracy(cast("Model", schema.decode_weights(weights)), held_out), saturated


def _average(layers: tuple[Floats, ...]) -> Floats:
    average: Floats = np.stack(layers).mean(axis=0)
    return average


def _fit(model: Model, shards: list[Examples], seed: int, number: int) -> list[Model]:
    """Return what each participant's own training makes of the weights."""
    return [train(model, shard, seed + 1_000 * number + i) for i, shard in enumerate(shards)]
