"""The digits, who has which of them, and the perceptron that learns them.

Owns the data set (scikit-learn's 1,797 handwritten digits), its split into shards and a held-out
part, and the training of the model in numpy. Never talks to a node and knows no fixed point.

Everything follows from the seeds given: the same seed, the same numbers.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from node.demo.errors import DemoError

PIXELS, HIDDEN, CLASSES = 64, 32, 10
LAYERS: Final = ("hidden.kernel", "hidden.bias", "output.kernel", "output.bias")
"""The model's tensors in their order; 2,410 parameters."""
DIRICHLET_ALPHA: Final = 1.0
HELD_OUT_PART: Final = 0.2
EXAMPLES_PER_SHARD_MIN: Final = 32
SPLITS_MAX: Final = 10_000

LOCAL_EPOCHS: Final = 3
BATCH_EXAMPLES: Final = 16
LEARNING_RATE: Final = 0.05
MOMENTUM: Final = 0.9
GRADIENT_NORM_MAX: Final = 5.0

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Model = list[Floats]


@dataclass(frozen=True)
class Examples:
    """Pictures and what they show.

    Attributes
    ----------
    pictures : float64, (n, 64)
        Grey values in [0, 1].
    labels : int64, (n,)
        0 to 9.
    """

    pictures: Floats
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> "Examples":
        """Return some of the examples."""
        return Examples(self.pictures[indices], self.labels[indices])


def load_digits() -> Examples:
    """Return all of scikit-learn's digits.

    Raises
    ------
    DemoError
        If scikit-learn is not installed.
    """
    try:
        from sklearn import datasets  # noqa: PLC0415 - an extra that only this function needs.
    except ImportError:
        raise DemoError(
            "The demo needs scikit-learn, which is not installed: run `pip install "
            "'quorate-node[demo]'`, or `make demo`, which does it by itself."
        ) from None
    pixels, labels = datasets.load_digits(return_X_y=True)
    return Examples(np.asarray(pixels, np.float64) / 16.0, np.asarray(labels, np.int64))


def split_examples(
    examples: Examples,
    shards: int,
    seed: int,
    *,
    alpha: float = DIRICHLET_ALPHA,
    examples_min: int = EXAMPLES_PER_SHARD_MIN,
) -> tuple[list[Examples], Examples]:
    """Split examples into shards of different composition, and a part that nobody trains on.

    Parameters
    ----------
    examples : Examples
    shards : int
        How many.
    seed : int
    alpha : float
        How alike the shards are: with 0.1, most have examples of two or three classes.
    examples_min : int
        The fewest examples of a shard.

    Returns
    -------
    shards : list of Examples
        For each class, the shares of the shards are drawn from a Dirichlet distribution with
        `alpha` (arXiv:1909.06335, section 3); drawn again until each shard has `examples_min`.
    held_out : Examples

    Raises
    ------
    DemoError
        If no split in `SPLITS_MAX` has enough examples in every shard.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(examples))
    held_out_count = round(len(examples) * HELD_OUT_PART)
    held_out, rest = examples.take(order[:held_out_count]), examples.take(order[held_out_count:])
    for _ in range(SPLITS_MAX):
        parts: list[list[NDArray[np.int64]]] = [[] for _ in range(shards)]
        for label in range(CLASSES):
            members = np.flatnonzero(rest.labels == label)
            shares = rng.dirichlet(np.full(shards, alpha))
            cuts = np.rint(np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
            for part, indices in zip(parts, np.split(members, cuts), strict=True):
                part.append(indices)
        drawn = [rest.take(np.concatenate(part)) for part in parts]
        if min(map(len, drawn)) >= examples_min:
            return drawn, held_out
    raise DemoError(
        f"In {SPLITS_MAX} splits into {shards} shards with alpha {alpha:g}, none gave each shard "
        f"{examples_min} examples: take fewer shards, or a larger alpha."
    )


def make_model(seed: int) -> Model:
    """Return random initial weights, in the order of `LAYERS` (He initialization)."""
    rng = np.random.default_rng(seed)
    return [
        rng.normal(0.0, np.sqrt(2.0 / PIXELS), (PIXELS, HIDDEN)),
        np.zeros(HIDDEN),
        rng.normal(0.0, np.sqrt(2.0 / HIDDEN), (HIDDEN, CLASSES)),
        np.zeros(CLASSES),
    ]


def train(model: Model, examples: Examples, seed: int) -> Model:
    """Return new weights: a few epochs of SGD with momentum on the cross-entropy.

    Parameters
    ----------
    model : list of float64 arrays
        Where to start; not changed.
    examples : Examples
    seed : int
        Decides the order of the examples.
    """
    rng = np.random.default_rng(seed)
    weights = list(model)
    velocity = [np.zeros_like(layer) for layer in model]
    for _ in range(LOCAL_EPOCHS):
        order = rng.permutation(len(examples))
        for start in range(0, len(order), BATCH_EXAMPLES):
            batch = examples.take(order[start : start + BATCH_EXAMPLES])
            gradients = _compute_gradients(weights, batch)
            norm = float(np.sqrt(sum(float(np.sum(g * g)) for g in gradients)))
            # Weights that hostile updates have driven far away must not end in infinities.
            rate = LEARNING_RATE * min(1.0, GRADIENT_NORM_MAX / max(norm, 1e-12))
            for i, gradient in enumerate(gradients):
                velocity[i] = MOMENTUM * velocity[i] - rate * gradient
                weights[i] = weights[i] + velocity[i]
    return weights


def compute_accuracy(model: Model, examples: Examples) -> float:
    """Return the part of the examples that the model recognizes, in [0, 1]."""
    _, scores = _compute_forward(model, examples.pictures)
    return float(np.mean(np.argmax(scores, axis=1) == examples.labels))


def _compute_forward(model: Model, pictures: Floats) -> tuple[Floats, Floats]:
    kernel_1, bias_1, kernel_2, bias_2 = model
    hidden = np.maximum(pictures @ kernel_1 + bias_1, 0.0)
    return hidden, hidden @ kernel_2 + bias_2


def _compute_gradients(model: Model, batch: Examples) -> Model:
    hidden, scores = _compute_forward(model, batch.pictures)
    scores = scores - scores.max(axis=1, keepdims=True)
    odds = np.exp(scores)
    error = odds / odds.sum(axis=1, keepdims=True)
    error[np.arange(len(batch)), batch.labels] -= 1.0
    error /= len(batch)
    back = (error @ model[2].T) * (hidden > 0.0)
    return [batch.pictures.T @ back, back.sum(axis=0), hidden.T @ error, error.sum(axis=0)]
