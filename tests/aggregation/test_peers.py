"""Our integers against the floats of Flower and ByzFL, on ordinary and on hostile inputs.

Owns the comparison within the error of quantization: half a unit, where a rule rounds once. Inputs
are integers, which their floats hold exactly, so what differs is rounding and the rule itself.
Where a peer departs from the paper, the test says how, and compares with what is left.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from quorate.chain.task import (
    FIXED_POINT_ONE,
    AggregationRule,
    OptimizerName,
    ServerOptimizer,
    Stage,
    TensorSpec,
)

from aggregation import aggregate, apply_optimizer, initial_optimizer_state

HAS_FLOWER = find_spec("flwr") is not None
HAS_BYZFL = find_spec("byzfl") is not None and find_spec("torch") is not None
REASON = "the dependency group peers is not installed"
pytestmark = [
    pytest.mark.peers,
    # What the peers' own imports warn of is theirs.
    pytest.mark.filterwarnings("ignore"),
]
needs_flower = pytest.mark.skipif(not HAS_FLOWER, reason=REASON)
needs_byzfl = pytest.mark.skipif(not HAS_BYZFL, reason=REASON)

N, F, D = 23, 5, 4000
"""Odd, so that the median is one value in all libraries; 4 f + 3, Bulyan's bound."""

Updates = NDArray[np.int16]


def make_ordinary() -> Updates:
    generator = np.random.default_rng(1)
    common = generator.normal(0, 800, D)
    return np.rint(common + generator.normal(0, 1500, (N, D))).clip(-32767, 32767).astype(np.int16)


def make_sign_flip() -> Updates:
    updates = make_ordinary()
    updates[-F:] = np.clip(-8 * updates[-F:].astype(np.int64), -32767, 32767)
    return updates


def make_extreme() -> Updates:
    updates = make_ordinary()
    updates[-F:] = 32767
    return updates


def make_alie() -> Updates:
    """Just inside the spread of the honest ones, all the same: a little is enough."""
    updates = make_ordinary()
    honest = updates[:-F].astype(np.float64)
    updates[-F:] = np.rint(honest.mean(axis=0) - 1.2 * honest.std(axis=0))
    return updates


INPUTS = pytest.mark.parametrize(
    "make", [make_ordinary, make_sign_flip, make_extreme, make_alie], ids=lambda make: make.__name__
)
Make = Callable[[], Updates]


def run(stages: tuple[Stage, ...], updates: Updates, f: int = F, **parameters: Any) -> Any:
    kept = {"previous": np.zeros(D, np.int16)} if Stage.CENTERED_CLIPPING in stages else {}
    return aggregate(AggregationRule(stages, f, **parameters), list(updates), **kept).vector


def assert_close(ours: Updates, theirs: Any, units: float = 0.5) -> None:
    """Within `units`, and a little for the peer's own floats."""
    error = np.abs(ours.astype(np.float64) - np.asarray(theirs, np.float64)).max()
    assert error <= units + 1e-3, f"{error} units apart"


# --- ByzFL ----------------------------------------------------------------------------------------


def load_byzfl() -> Any:
    return import_module("byzfl")


@needs_byzfl
@INPUTS
def test_ranks_and_means_equal_byzfl(make: Make) -> None:
    byzfl, updates = load_byzfl(), make()
    floats = updates.astype(np.float64)
    assert_close(run((Stage.MEAN,), updates, 0), byzfl.Average()(floats))
    assert_close(run((Stage.MEDIAN,), updates), byzfl.Median()(floats))
    assert_close(run((Stage.TRIMMED_MEAN,), updates), byzfl.TrMean(F)(floats))


@needs_byzfl
@INPUTS
def test_krum_and_multi_krum_equal_byzfl(make: Make) -> None:
    """ByzFL sums n - f - 1 distances; the paper, and ours, n - f - 2: as with one f less there."""
    byzfl, updates = load_byzfl(), make()
    floats = updates.astype(np.float64)
    assert_close(run((Stage.KRUM,), updates, F), byzfl.Krum(F + 1)(floats))
    chosen = run((Stage.MULTI_KRUM,), updates, F, selected=N - F - 1)
    assert_close(chosen, byzfl.MultiKrum(F + 1)(floats))


@needs_byzfl
@INPUTS
@pytest.mark.parametrize("iterations", [1, 3, 8])
def test_the_geometric_median_equals_byzfl(make: Make, iterations: int) -> None:
    """ByzFL starts from 0 and we from the mean, as the paper's experiments do: so it is shifted."""
    byzfl, updates = load_byzfl(), make()
    floats = updates.astype(np.float64)
    centre = floats.mean(axis=0)
    theirs = byzfl.GeometricMedian(nu=1.0, T=iterations)(floats - centre) + centre
    assert_close(run((Stage.GEOMETRIC_MEDIAN,), updates, iterations=iterations), theirs, 0.51)


@needs_byzfl
@INPUTS
@pytest.mark.parametrize("iterations", [1, 3])
def test_centered_clipping_equals_byzfl(make: Make, iterations: int) -> None:
    byzfl, updates = load_byzfl(), make()
    theirs = byzfl.CenteredClipping(L=iterations, tau=90_000.0)(updates.astype(np.float64))
    ours = run((Stage.CENTERED_CLIPPING,), updates, iterations=iterations, radius=90_000)
    # Factors of 16 bits, of values up to 2^15: another half unit.
    assert_close(ours, theirs, 1.0)


@needs_byzfl
@INPUTS
def test_what_stands_in_front_equals_byzfl(make: Make) -> None:
    """A stage in front rounds to integers, and the last one again: half a unit more."""
    byzfl, updates = load_byzfl(), make()
    floats = updates.astype(np.float64)
    adaptive = byzfl.ARC(F)(floats.copy())
    assert_close(run((Stage.ARC, Stage.MEDIAN), updates), byzfl.Median()(adaptive), 1.0)
    bounded = byzfl.Clipping(80_000.0)(floats.copy())
    ours = run((Stage.CLIP, Stage.MEDIAN), updates, clip_norm=80_000)
    assert_close(ours, byzfl.Median()(bounded), 1.0)
    mixed = byzfl.NNM(F)(floats)
    ours = run((Stage.NNM, Stage.TRIMMED_MEAN), updates)
    assert_close(ours, byzfl.TrMean(F)(mixed), 1.0)


# --- Flower ---------------------------------------------------------------------------------------


def load_flower() -> Any:
    return import_module("flwr.server.strategy.aggregate")


def make_results(updates: Updates) -> list[Any]:
    return [([row], 1) for row in updates.astype(np.float64)]


@needs_flower
@INPUTS
def test_ranks_and_means_equal_flower(make: Make) -> None:
    flower, updates = load_flower(), make()
    assert_close(run((Stage.MEAN,), updates, 0), flower.aggregate(make_results(updates))[0])
    median = flower.aggregate_median(make_results(updates))[0]
    assert_close(run((Stage.MEDIAN,), updates), median)
    trimmed = flower.aggregate_trimmed_avg(make_results(updates), F / N + 1e-9)[0]
    assert_close(run((Stage.TRIMMED_MEAN,), updates), trimmed)


@needs_flower
@INPUTS
def test_krum_and_its_relatives_equal_flower(make: Make) -> None:
    flower, updates = load_flower(), make()
    assert_close(run((Stage.KRUM,), updates), flower.aggregate_krum(make_results(updates), F, 0)[0])
    several = flower.aggregate_krum(make_results(updates), F, N - F)[0]
    assert_close(run((Stage.MULTI_KRUM,), updates), several)
    bulyan = flower.aggregate_bulyan(make_results(updates), F, flower.aggregate_krum, to_keep=0)
    # Of two values as close to the median either may be taken: up to their distance over beta.
    ours = run((Stage.BULYAN,), updates)
    apart = np.abs(ours - bulyan[0]) > 0.501
    assert np.count_nonzero(apart) <= D // 100


ETA, BETA_1, BETA_2, TAU = 0.5, 0.5, 0.75, 0.125


@needs_flower
@pytest.mark.parametrize("make", [make_ordinary, make_extreme], ids=lambda make: make.__name__)
@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        (OptimizerName.ADAGRAD, "FedAdagrad"),
        (OptimizerName.ADAM, "FedAdam"),
        (OptimizerName.YOGI, "FedYogi"),
    ],
)
def test_adaptive_optimizers_equal_flower(name: OptimizerName, strategy: str, make: Make) -> None:
    """Flower starts v at 0 where the paper has at least tau^2, and corrects Adam's first steps.

    So it is started from tau^2, and its correction is taken out of its rate.
    """
    flower = step_flower(getattr(import_module("flwr.server.strategy"), strategy), name)
    bits = 20, 10
    tensors = [TensorSpec("layer", (D,), *bits)]
    beta_1, beta_2 = (0.0, 0.0) if name is OptimizerName.ADAGRAD else (BETA_1, BETA_2)
    optimizer = ServerOptimizer(
        name, *(round(value * FIXED_POINT_ONE) for value in (ETA, beta_1, beta_2, TAU))
    )
    weights, state = bytes(4 * D), initial_optimizer_state(optimizer, tensors)
    for update in make()[-6:]:
        step = apply_optimizer(optimizer, tensors, weights, state, update)
        theirs = flower(update / 2.0 ** bits[1])
        weights, state = step.weights, step.state
        ours = np.frombuffer(weights, "<i4") / 2.0 ** bits[0]
        # The root has 8 bits behind the point, of values from 128 on (tau): 2^-15 of each step.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=6 * ETA * 2 * 2.0**-15 + 2.0**-20)


def step_flower(strategy: Any, name: OptimizerName) -> Callable[[Any], Any]:
    """Drive Flower's strategy by its own `aggregate_fit`, with one client that sends x + delta."""
    common = import_module("flwr.common")
    start = common.ndarrays_to_parameters([np.zeros(D)])
    decays = {} if name is OptimizerName.ADAGRAD else {"beta_1": BETA_1, "beta_2": BETA_2}
    fed = strategy(initial_parameters=start, eta=ETA, tau=TAU, **decays)
    fed.v_t = [np.full(D, TAU**2)]
    rounds = 0

    def step(delta: Any) -> Any:
        nonlocal rounds
        rounds += 1
        if name is OptimizerName.ADAM:
            correction = np.sqrt(1 - BETA_2 ** (rounds + 1)) / (1 - BETA_1 ** (rounds + 1))
            fed.eta = ETA / correction
        sent = common.ndarrays_to_parameters([fed.current_weights[0] + delta])
        result = SimpleNamespace(parameters=sent, num_examples=1, metrics={})
        parameters, _ = fed.aggregate_fit(rounds, [(None, result)], [])
        return common.parameters_to_ndarrays(parameters)[0]

    return step
