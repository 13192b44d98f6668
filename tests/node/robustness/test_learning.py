"""Gradients of many participants at once, against one participant at a time."""

import numpy as np
import pytest
from numpy.typing import NDArray

from node.demo.digits import Examples, load_digits, make_model, split_examples
from node.demo.errors import DemoError
from node.robustness.learning import DIMENSION, Hyperparameters, Learners, flip_labels

SHARDS, _ = split_examples(load_digits(), 5, 0, alpha=0.1, examples_min=8)


def compute_loss(flat: NDArray[np.float64], examples: Examples) -> float:
    cuts = np.cumsum([64 * 32, 32, 32 * 10])
    kernel_1, bias_1, kernel_2, bias_2 = np.split(flat, cuts)
    hidden = np.maximum(examples.pictures @ kernel_1.reshape(64, 32) + bias_1, 0.0)
    scores = hidden @ kernel_2.reshape(32, 10) + bias_2
    odds = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(examples)), examples.labels]
    return float(odds.mean())


def test_steps_are_gradients_of_the_loss() -> None:
    one = [Examples(shard.pictures[:1], shard.labels[:1]) for shard in SHARDS]
    # A batch of one example, drawn as often as one likes.
    parameters = Hyperparameters(batch_examples=3, momentum=0.0, weight_decay=0.0)
    model = make_model(3)
    flat = np.concatenate([layer.reshape(-1) for layer in model])
    steps = Learners(one, parameters, 0).compute_steps(model, 0)
    assert steps.shape == (5, DIMENSION)
    generator = np.random.default_rng(0)
    for examples, step in zip(one, steps, strict=True):
        for place in [*generator.integers(0, 64 * 32, 10), 64 * 32 + 3, DIMENSION - 15, -1]:
            nudge = np.zeros(DIMENSION)
            nudge[place] = 1e-6
            rise = compute_loss(flat + nudge, examples) - compute_loss(flat - nudge, examples)
            assert step[place] == pytest.approx(-rise / 2e-6, abs=1e-6)


def test_momentum_averages_and_decay_pulls_to_zero() -> None:
    one = [Examples(SHARDS[0].pictures[:1], SHARDS[0].labels[:1])]
    model = make_model(3)
    plain = Learners(one, Hyperparameters(momentum=0.0, weight_decay=0.0), 0)
    gradient = plain.compute_steps(model, 0)
    heavy = Learners(one, Hyperparameters(momentum=0.75, weight_decay=0.0), 0)
    shares = [heavy.compute_steps(model, 0) / np.where(gradient, gradient, 1.0) for _ in range(3)]
    moved = gradient[0] != 0
    for share, expected in zip(
        shares, (1 / 4, 1 / 4 + 3 / 16, 1 / 4 + 3 / 16 + 9 / 64), strict=True
    ):
        np.testing.assert_allclose(share[0, moved], expected)
    decayed = Learners(one, Hyperparameters(momentum=0.0, weight_decay=0.5), 0)
    flat = np.concatenate([layer.reshape(-1) for layer in model])
    np.testing.assert_allclose(decayed.compute_steps(model, 0)[0], gradient[0] - 0.5 * flat)


def test_the_learning_rate_falls_linearly_from_the_middle_on() -> None:
    parameters = Hyperparameters(steps=100, learning_rate=2.0, decayed_from=0.5)
    rates = [parameters.get_learning_rate(step) for step in (0, 49, 50, 75, 99)]
    assert rates == [2.0, 2.0, 2.0, 1.0, 2.0 / 50]


def test_batches_come_from_the_own_examples_and_the_seed() -> None:
    parameters = Hyperparameters(momentum=0.0)
    model = make_model(0)
    steps = Learners(SHARDS, parameters, 1).compute_steps(model, 0)
    assert (steps == Learners(SHARDS, parameters, 1).compute_steps(model, 0)).all()
    assert (steps != Learners(SHARDS, parameters, 2).compute_steps(model, 0)).any()
    # The output bias of a class that a participant does not have is only ever pushed down.
    for shard, step in zip(SHARDS, steps, strict=True):
        missing = sorted(set(range(10)) - set(shard.labels.tolist()))
        assert missing
        assert (step[-10:][missing] < 0).all()


def test_labels_are_flipped_around_the_middle() -> None:
    flipped = flip_labels(SHARDS[0])
    assert (flipped.labels + SHARDS[0].labels == 9).all()
    assert flipped.pictures is SHARDS[0].pictures


@pytest.mark.parametrize("alpha", [1.0, 0.1])
@pytest.mark.parametrize("shards", [14, 20])
@pytest.mark.parametrize("seed", range(3))
def test_a_split_is_a_partition(alpha: float, shards: int, seed: int) -> None:
    digits = load_digits()
    parts, held_out = split_examples(digits, shards, seed, alpha=alpha, examples_min=8)
    assert len(parts) == shards
    assert min(map(len, parts)) >= 8

    def collect(pieces: list[Examples]) -> list[bytes]:
        return sorted(
            picture.tobytes() + bytes([label])
            for piece in pieces
            for picture, label in zip(piece.pictures, piece.labels, strict=True)
        )

    assert collect([*parts, held_out]) == collect([digits])


def test_a_small_alpha_leaves_each_participant_few_classes() -> None:
    def count_main_classes(alpha: float) -> float:
        counts = []
        for seed in range(10):
            parts, _ = split_examples(load_digits(), 20, seed, alpha=alpha, examples_min=8)
            for part in parts:
                shares = np.sort(np.bincount(part.labels, minlength=10) / len(part))[::-1]
                counts.append(int(np.argmax(np.cumsum(shares) > 0.8)) + 1)
        return float(np.mean(counts))

    assert count_main_classes(0.1) < 3.0
    assert count_main_classes(1.0) > 4.0


def test_a_split_that_cannot_be_is_refused() -> None:
    with pytest.raises(DemoError, match="none gave each shard 400 examples"):
        split_examples(load_digits(), 5, 0, alpha=0.01, examples_min=400)
