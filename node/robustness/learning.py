"""The gradients of many participants at once, with momentum, as fields of stacked arrays.

Owns what honest participants compute in floats, from their examples to their updates. Never
aggregates, and knows no integers.

Every participant works on the same weights with a batch of its own, so that the forward pass of all
is one matrix product. The momentum stays with the participant (distributed stochastic heavy ball,
arXiv:2302.01772, Algorithm 1): it averages over batches, which leaves hostile updates less room
between honest ones.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from node.demo.digits import CLASSES, HIDDEN, PIXELS, Examples, Floats, Model

DIMENSION: Final = PIXELS * HIDDEN + HIDDEN + HIDDEN * CLASSES + CLASSES


@dataclass(frozen=True)
class Hyperparameters:
    """How participants train; the same for every rule and attack.

    Attributes
    ----------
    steps : int
        Training rounds: in each, every participant sends one step.
    batch_examples : int
        Examples of a batch, drawn with replacement from the participant's own.
    learning_rate : float
        At the start.
    momentum : float
        beta in m = beta m + (1 - beta) g.
    decayed_from : float
        From this part of the steps on, the learning rate falls linearly, to almost 0.
    weight_decay : float
        Added to the gradient, times the weights.
    """

    steps: int = 400
    batch_examples: int = 32
    learning_rate: float = 1.0
    momentum: float = 0.9
    decayed_from: float = 0.5
    weight_decay: float = 1e-4

    def get_learning_rate(self, step: int) -> float:
        """Return the learning rate of step 0, 1, ..."""
        start = self.decayed_from * self.steps
        left = (self.steps - step) / (self.steps - start) if step > start else 1.0
        return self.learning_rate * left


class Learners:
    """Participants that compute gradients on their own examples.

    Parameters
    ----------
    shards : sequence of Examples
        One for each participant.
    parameters : Hyperparameters
    seed : int
        Decides the batches.
    """

    def __init__(self, shards: list[Examples], parameters: Hyperparameters, seed: int) -> None:
        self._parameters = parameters
        self._rng = np.random.default_rng(seed)
        self._sizes = np.array([len(shard) for shard in shards])
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._pictures = np.concatenate([shard.pictures for shard in shards])
        self._labels = np.concatenate([shard.labels for shard in shards])
        self._momentum = np.zeros((len(shards), DIMENSION))

    def compute_steps(self, model: Model, step: int) -> Floats:
        """Return what each participant adds to the weights, (n, d); called once a step."""
        gradients = self._compute_gradients(model)
        flat = np.concatenate([layer.reshape(-1) for layer in model])
        gradients += self._parameters.weight_decay * flat
        beta = self._parameters.momentum
        self._momentum *= beta
        self._momentum += (1.0 - beta) * gradients
        return -self._parameters.get_learning_rate(step) * self._momentum

    def _compute_gradients(self, model: Model) -> Floats:
        """Return the gradients of the mean cross-entropy on a batch of each, (n, d)."""
        count, batch = len(self._sizes), self._parameters.batch_examples
        drawn = self._rng.random((count, batch)) * self._sizes[:, None]
        chosen = self._starts[:, None] + drawn.astype(np.int64)
        pictures = self._pictures[chosen]
        kernel_1, bias_1, kernel_2, bias_2 = model
        hidden = np.maximum(pictures @ kernel_1 + bias_1, 0.0)
        scores = hidden @ kernel_2 + bias_2
        error = np.exp(scores - scores.max(axis=2, keepdims=True))
        error /= error.sum(axis=2, keepdims=True)
        labels = self._labels[chosen]
        rows, columns = np.ogrid[:count, :batch]
        error[rows, columns, labels] -= 1.0
        error /= batch
        back = (error @ kernel_2.T) * (hidden > 0.0)
        parts = (
            (pictures.transpose(0, 2, 1) @ back).reshape(count, -1),
            back.sum(axis=1),
            (hidden.transpose(0, 2, 1) @ error).reshape(count, -1),
            error.sum(axis=1),
        )
        return np.concatenate(parts, axis=1)


def flip_labels(examples: Examples) -> Examples:
    """Return the examples with each label l told as 9 - l."""
    flipped: NDArray[np.int64] = CLASSES - 1 - examples.labels
    return Examples(examples.pictures, flipped)
