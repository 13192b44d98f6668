"""What hostile participants send, who see every honest update before they choose their own.

Owns the attacks, each as its paper defines it. Never encodes: what an attack asks for beyond the
range of an update is cut off there, like anybody's.

Symbols: g_1..g_h the honest updates, mu their mean, sigma their standard deviation (both by
parameter), n all updates, f the hostile ones, n = h + f. All hostile participants send the same.

- sign flip: -mu (Allen-Zhu et al., ICLR 2021, arXiv:2012.14368).
- IPM: -epsilon mu; inner product manipulation, arXiv:1903.03936. Small, epsilon = 0.5, it hides
  among the honest; large, epsilon = 2 h / f, it turns the mean of all updates around.
- ALIE: mu - z sigma with z the (h - s) / h quantile of the normal distribution,
  s = floor(n / 2 + 1) - f; "a little is enough", arXiv:1902.06156.
- mimic: the update of one honest participant, always the same one, so that it counts f + 1 times;
  whose updates differ most from the mean along the direction in which all vary most,
  arXiv:2006.09365, section 5.
- label flip: what honest participants would send whose labels l are told as 9 - l
  (arXiv:2007.08432). In the paper, each sends its own; here they agree on the mean of what all
  honest ones would, as in ByzFL's benchmark, which rules find far harder to tell from honest.
- min-max: mu - gamma sigma, with the largest gamma for which no honest update is farther away than
  the two honest ones that are farthest apart; Shejwalkar & Houmansadr, NDSS 2021, section IV.
"""

from enum import StrEnum
from math import floor
from statistics import NormalDist
from typing import Final

import numpy as np

from node.demo.digits import Floats

IPM_EPSILON_SMALL: Final = 0.5
IPM_RATIO_LARGE: Final = 2.0
MIMIC_WARM_UP_STEPS: Final = 50
"""How long mimics look for the direction and the participant before they keep to one."""


class Attack(StrEnum):
    """The attacks; `NONE` is everybody following the protocol."""

    NONE = "none"
    SIGN_FLIP = "sign_flip"
    IPM_SMALL = "ipm_small"
    IPM_LARGE = "ipm_large"
    ALIE = "alie"
    MIMIC = "mimic"
    LABEL_FLIP = "label_flip"
    MIN_MAX = "min_max"


def flip_sign(honest: Floats) -> Floats:
    """Return -mu."""
    return -_compute_mean(honest)


def manipulate_inner_product(honest: Floats, epsilon: float) -> Floats:
    """Return -epsilon mu."""
    return -epsilon * _compute_mean(honest)


def add_little(honest: Floats, num_hostile: int) -> Floats:
    """Return mu - z sigma."""
    z = compute_little(len(honest), num_hostile)
    deviation: Floats = honest.std(axis=0)
    return _compute_mean(honest) - z * deviation


def compute_little(num_honest: int, num_hostile: int) -> float:
    """Return z: so few deviations that as many honest updates as are needed lie beyond."""
    supporters = floor((num_honest + num_hostile) / 2 + 1) - num_hostile
    return NormalDist().inv_cdf((num_honest - supporters) / num_honest)


def stretch_to_maximum(honest: Floats) -> Floats:
    """Return mu - gamma sigma, with the largest gamma for which it stays among the honest.

    For each i, |mu - gamma sigma - g_i| <= R bounds gamma by the larger root of a quadratic
    equation, where R is the largest distance between two honest updates.
    """
    mean = _compute_mean(honest)
    deviation: Floats = honest.std(axis=0)
    squares = np.sum(honest * honest, axis=1)
    distances = squares[:, None] + squares[None, :] - 2.0 * (honest @ honest.T)
    reach = max(float(distances.max()), 0.0)
    length = float(deviation @ deviation)
    if length == 0.0:
        return mean
    offsets = mean - honest
    across = offsets @ deviation
    rest = np.maximum(reach - np.sum(offsets * offsets, axis=1), 0.0)
    gamma = float(np.min((across + np.sqrt(across * across + length * rest)) / length))
    return mean - gamma * deviation


def _compute_mean(honest: Floats) -> Floats:
    mean: Floats = honest.mean(axis=0)
    return mean


class Mimic:
    """Copies one honest participant.

    During the warm-up, z follows the direction in which the updates vary most (a step of power
    iteration on the variance seen so far), and the sum of each participant's deviations along z
    is kept; the one with the largest magnitude is copied, and after the warm-up always.
    """

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._steps = 0
        self._mean: Floats = np.zeros(0)
        self._direction: Floats = np.zeros(0)
        self._sums: Floats = np.zeros(0)
        self.copied = 0

    def craft(self, honest: Floats) -> Floats:
        """Return a copy of an honest update, (d,); called once a step with all of them, (h, d)."""
        if self._steps < MIMIC_WARM_UP_STEPS:
            self._learn(honest)
        copied: Floats = honest[self.copied].copy()
        return copied

    def _learn(self, honest: Floats) -> None:
        if self._steps == 0:
            self._mean = np.zeros(honest.shape[1])
            drawn = self._rng.standard_normal(len(self._mean))
            self._direction = drawn / float(np.linalg.norm(drawn))
            self._sums = np.zeros(len(honest))
        self._steps += 1
        self._mean += (_compute_mean(honest) - self._mean) / self._steps
        deviations = honest - self._mean
        grown = deviations.T @ (deviations @ self._direction)
        length = float(np.linalg.norm(grown))
        if length > 0.0:
            turned = (self._steps - 1) * self._direction + grown / length
            self._direction = turned / float(np.linalg.norm(turned))
        self._sums += deviations @ self._direction
        self.copied = int(np.argmax(np.abs(self._sums)))
