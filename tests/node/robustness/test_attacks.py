"""The attacks against values computed by hand, and what each promises of itself."""

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from node.robustness.attacks import (
    MIMIC_WARM_UP_STEPS,
    Mimic,
    add_little,
    compute_little,
    flip_sign,
    manipulate_inner_product,
    stretch_to_maximum,
)

HONEST = np.array([[1.0, 2.0], [3.0, 2.0], [5.0, 8.0]])
"""Mean (3, 4), standard deviations sqrt(8/3) and sqrt(8)."""


def test_sign_flip_and_inner_product_are_multiples_of_the_mean() -> None:
    assert flip_sign(HONEST).tolist() == [-3.0, -4.0]
    assert manipulate_inner_product(HONEST, 0.5).tolist() == [-1.5, -2.0]
    assert manipulate_inner_product(HONEST, 8.0).tolist() == [-24.0, -32.0]


@pytest.mark.parametrize(
    ("num_honest", "num_hostile", "quantile"),
    [
        (16, 4, 9 / 16),  # n = 20: s = 11 - 4 = 7 honest ones are to be won.
        (14, 6, 9 / 14),  # s = 11 - 6 = 5.
        (38, 12, 24 / 38),  # The paper's example has n = 50: s = 26 - 12 = 14.
    ],
)
def test_a_little_is_the_quantile_of_the_paper(
    num_honest: int, num_hostile: int, quantile: float
) -> None:
    z = compute_little(num_honest, num_hostile)
    assert NormalDist().cdf(z) == pytest.approx(quantile)


def test_alie_stays_z_deviations_from_the_mean() -> None:
    # n = 4, f = 1: s = floor(3) - 1 = 2, the quantile 1/3, below the mean.
    z = NormalDist().inv_cdf(1 / 3)
    expected = [3 - z * (8 / 3) ** 0.5, 4 - z * 8**0.5]
    assert add_little(HONEST, 1).tolist() == pytest.approx(expected)


def test_min_max_by_hand() -> None:
    # In one dimension: 0, 2 and 4 have mean 2 and reach 4. The farthest from mu - gamma sigma is 4,
    # so that 4 - (2 - gamma sigma) = 4: the attack is at 0.
    assert stretch_to_maximum(np.array([[0.0], [2.0], [4.0]])).tolist() == pytest.approx([0.0])
    # Around a square, sigma is the diagonal: |(1, 1) (1 + gamma)| = |(2, 2)| lets gamma be 1.
    square = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert stretch_to_maximum(square).tolist() == pytest.approx([-1.0, -1.0])


def measure(updates: NDArray[np.float64]) -> NDArray[np.float64]:
    distances: NDArray[np.float64] = np.linalg.norm(updates[:, None] - updates[None], axis=2)
    return distances


@given(st.integers(2, 9), st.integers(1, 6), st.integers(0, 10_000))
def test_min_max_is_as_far_as_it_may_be(count: int, dimension: int, seed: int) -> None:
    honest = np.random.default_rng(seed).normal(size=(count, dimension))
    crafted = stretch_to_maximum(honest)
    reach = measure(honest).max()
    farthest = np.linalg.norm(honest - crafted, axis=1).max()
    assert farthest == pytest.approx(reach)
    # Any farther along the same line is beyond.
    beyond = crafted - 1e-3 * honest.std(axis=0)
    assert np.linalg.norm(honest - beyond, axis=1).max() > reach


def test_min_max_of_equal_updates_is_one_of_them() -> None:
    assert stretch_to_maximum(np.ones((3, 2))).tolist() == [1.0, 1.0]


def test_a_mimic_copies_whoever_differs_most_and_keeps_to_it() -> None:
    generator = np.random.default_rng(5)
    drift = np.array([0.0, 0.3, 3.0, -0.5])
    mimic = Mimic(seed=1)

    def draw() -> NDArray[np.float64]:
        honest = generator.normal(0.0, 0.1, (4, 6))
        honest[:, 2] += drift
        return honest

    for _ in range(MIMIC_WARM_UP_STEPS):
        honest = draw()
        assert mimic.craft(honest).tolist() in honest.tolist()
    assert mimic.copied == 2
    drift[:] = [9.0, 0.0, 0.0, 0.0]
    for _ in range(5):
        honest = draw()
        assert mimic.craft(honest).tolist() == honest[2].tolist()


def test_what_is_given_is_not_changed() -> None:
    before = HONEST.copy()
    for crafted in (
        flip_sign(HONEST),
        add_little(HONEST, 1),
        stretch_to_maximum(HONEST),
        Mimic(0).craft(HONEST),
    ):
        crafted[:] = 1e6
    assert (before == HONEST).all()
