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
    UpdateCodec,
    UpdateLayout,
)
from quorate.fixed_point import UPDATE_FRACTION_BITS_DEFAULT, ModelSchema
from quorate.update_encoding import encode_update

from aggregation import (
    aggregate,
    apply_optimizer,
    compute_updates_min,
    decode_update,
)
from aggregation.columns import RowSource
from aggregation.registry import PRE_AGGREGATIONS, RoundInputs
from tests.aggregation import reference

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
SEED = b"the hash of a block"


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


def make_ipm() -> Updates:
    """The honest mean the other way round, not longer than an honest update."""
    updates = make_ordinary()
    updates[-F:] = np.rint(-1.5 * updates[:-F].astype(np.float64).mean(axis=0))
    return updates


def make_mimic() -> Updates:
    """All copies of one honest update: distances of 0, and ties wherever something is ranked."""
    updates = make_ordinary()
    updates[-F:] = updates[3]
    return updates


def make_opposite() -> Updates:
    """At both ends of the range, so far apart as updates can be."""
    updates = make_ordinary()
    updates[-F:] = np.where(np.arange(D) % 2, 32767, -32767)
    updates[-F] *= -1
    return updates


def make_equal() -> Updates:
    return np.repeat(make_ordinary()[:1], N, axis=0)


MAKERS = [
    make_ordinary,
    make_sign_flip,
    make_extreme,
    make_alie,
    make_ipm,
    make_mimic,
    make_opposite,
    make_equal,
]
INPUTS = pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
Make = Callable[[], Updates]
SIZES = [(1, 0), (2, 0), (3, 0), (3, 1), (4, 0), (5, 1), (7, 1), (22, 10), (23, 11), (24, 5)]
"""Numbers of updates and of hostile ones: the least, even ones, and f at its bound."""


def run(stages: tuple[Stage, ...], updates: Updates, f: int = F, **parameters: Any) -> Any:
    given: dict[str, Any] = {}
    if Stage.CENTERED_CLIPPING in stages:
        given["previous"] = parameters.pop("previous", np.zeros(D, np.int16))
    if Stage.BUCKETING in stages:
        given["seed"] = SEED
    return aggregate(AggregationRule(stages, f, **parameters), list(updates), **given).vector


def run_front(stage: Stage, updates: Updates, f: int = F, **parameters: Any) -> Any:
    """Return the updates that a stage in front hands on."""
    inputs = RoundInputs(AggregationRule((stage, Stage.MEDIAN), f, **parameters), seed=SEED)
    source = PRE_AGGREGATIONS[stage].run(RowSource(list(updates)), inputs).source
    return source.read(0, D).copy()


def make_round(n: int, f: int) -> Updates:
    """n updates, of which the last f are hostile."""
    generator = np.random.default_rng(n)
    updates = np.rint(generator.normal(300, 1500, (n, D))).astype(np.int16)
    updates[n - f :] = -32767
    return updates


def is_admitted(stage: Stage, n: int, f: int) -> bool:
    return compute_updates_min(AggregationRule((stage,), f)) <= n


def assert_close(ours: Updates, theirs: Any, units: float = 0.5) -> None:
    """Within `units`, and a little for the peer's own floats."""
    error = np.abs(ours.astype(np.float64) - np.asarray(theirs, np.float64)).max()
    assert error <= units + 1e-3, f"{error} units apart"


def round_halves_away(floats: Any) -> Any:
    return np.trunc(floats + np.copysign(0.5, floats))


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
@pytest.mark.parametrize(("n", "f"), SIZES)
def test_rules_equal_byzfl_at_the_ends_of_n_and_f(n: int, f: int) -> None:
    byzfl, updates = load_byzfl(), make_round(n, f)
    floats = updates.astype(np.float64)
    assert_close(run((Stage.MEAN,), updates, 0), byzfl.Average()(floats))
    assert_close(run((Stage.MEDIAN,), updates, f), byzfl.Median()(floats))
    assert_close(run((Stage.TRIMMED_MEAN,), updates, f), byzfl.TrMean(f)(floats))
    assert_close(run_front(Stage.ARC, updates, f), byzfl.ARC(f)(floats.copy()))
    assert_close(run_front(Stage.NNM, updates, f), byzfl.NNM(f)(floats))
    centre = floats.mean(axis=0)
    theirs = byzfl.GeometricMedian(nu=1.0, T=8)(floats - centre) + centre
    assert_close(run((Stage.GEOMETRIC_MEDIAN,), updates, f), theirs, 0.51)
    if is_admitted(Stage.KRUM, n, f):
        assert_close(run((Stage.KRUM,), updates, f), byzfl.Krum(f + 1)(floats))
        chosen = run((Stage.MULTI_KRUM,), updates, f, selected=n - f - 1)
        assert_close(chosen, byzfl.MultiKrum(f + 1)(floats))


@needs_byzfl
@INPUTS
@pytest.mark.parametrize("iterations", [1, 3])
def test_centered_clipping_equals_byzfl(make: Make, iterations: int) -> None:
    """Over three training rounds: ByzFL's object remembers its result, as the chain does ours."""
    byzfl, updates = load_byzfl(), make()
    theirs = byzfl.CenteredClipping(L=iterations, tau=90_000.0)
    previous = np.zeros(D, np.int16)
    for _ in range(3):
        theirs.m = previous.astype(np.float64)
        previous = run(
            (Stage.CENTERED_CLIPPING,),
            updates,
            iterations=iterations,
            radius=90_000,
            previous=previous,
        )
        # Factors of 16 bits, of values up to 2^15: another half unit.
        assert_close(previous, theirs(updates.astype(np.float64)), 1.0)


@needs_byzfl
@INPUTS
def test_default_bounds_of_clipping_equal_byzfl_given_them(make: Make) -> None:
    """ByzFL has none: it is told the lower median of the norms, or of the distances."""
    byzfl, updates = load_byzfl(), make()
    floats = updates.astype(np.float64)
    bound = float(np.sort(np.linalg.norm(floats, axis=1))[(N - 1) // 2])
    assert_close(run_front(Stage.CLIP, updates), byzfl.Clipping(bound)(floats.copy()))
    centre = updates[1] // 2
    gaps = np.linalg.norm(floats - centre, axis=1)
    theirs = byzfl.CenteredClipping(tau=float(np.sort(gaps)[(N - 1) // 2]))
    theirs.m = centre.astype(np.float64)
    ours = run((Stage.CENTERED_CLIPPING,), updates, previous=centre)
    assert_close(ours, theirs(floats), 1.0)


@needs_byzfl
@INPUTS
def test_what_stands_in_front_equals_byzfl(make: Make) -> None:
    byzfl, updates = load_byzfl(), make()
    floats = updates.astype(np.float64)
    assert_close(run_front(Stage.ARC, updates), byzfl.ARC(F)(floats.copy()))
    bounded = byzfl.Clipping(80_000.0)(floats.copy())
    assert_close(run_front(Stage.CLIP, updates, clip_norm=80_000), bounded)
    assert_close(run_front(Stage.NNM, updates), byzfl.NNM(F)(floats))


@needs_byzfl
@INPUTS
@pytest.mark.parametrize("size", [1, 2, 3, 5, N, N + 1])
def test_buckets_equal_byzfl_under_one_permutation(make: Make, size: int) -> None:
    """ByzFL draws its permutation: so its input is ordered such that what it draws is ours.

    It draws from numpy's old global generator, and so must whoever is to know what it will draw.
    """
    bucketing, updates = load_byzfl().Bucketing(size), make()
    before = np.random.get_state()  # noqa: NPY002
    drawn = np.random.permutation(N)  # noqa: NPY002
    floats = np.empty((N, D))
    floats[drawn] = updates[reference.permutation(N, SEED)]
    np.random.set_state(before)  # noqa: NPY002
    assert_close(run_front(Stage.BUCKETING, updates, bucket_size=size), bucketing(floats))


@needs_byzfl
@INPUTS
def test_compositions_equal_byzfl(make: Make) -> None:
    """Each stage sees integers; ByzFL's are rounded, too, since near ties go by what is seen."""
    byzfl, updates = load_byzfl(), make()
    clipped = round_halves_away(byzfl.Clipping(80_000.0)(updates.astype(np.float64)))
    shortened = round_halves_away(byzfl.ARC(F)(updates.astype(np.float64)))
    mixed = round_halves_away(byzfl.NNM(F)(shortened))
    theirs = byzfl.TrMean(F)(mixed)
    assert_close(run((Stage.ARC, Stage.NNM, Stage.TRIMMED_MEAN), updates), theirs)
    centre = mixed.mean(axis=0)
    theirs = byzfl.GeometricMedian(nu=1.0, T=8)(mixed - centre) + centre
    assert_close(run((Stage.ARC, Stage.NNM, Stage.GEOMETRIC_MEDIAN), updates), theirs, 0.51)
    theirs = byzfl.Median()(round_halves_away(byzfl.NNM(F)(clipped)))
    assert_close(run((Stage.CLIP, Stage.NNM, Stage.MEDIAN), updates, clip_norm=80_000), theirs)
    assert_close(run((Stage.ARC, Stage.MEAN), updates), byzfl.Average()(shortened))
    assert_close(run((Stage.ARC, Stage.KRUM), updates), byzfl.Krum(F + 1)(shortened))


# --- From floats to floats ------------------------------------------------------------------------


def make_floats(is_hostile: bool) -> NDArray[np.float64]:
    """What participants have trained, of lengths that the default scale holds."""
    generator = np.random.default_rng(2)
    floats = generator.normal(0, 0.02, D) + generator.normal(0, 0.04, (N, D))
    if is_hostile:
        floats[-F:] *= -8
    return floats


def run_on_floats(
    stages: tuple[Stage, ...], floats: NDArray[np.float64], f: int = F, **parameters: Any
) -> Any:
    """The way of an update: encoded by the SDK, decoded from its bytes, aggregated, decoded."""
    schema = ModelSchema.from_arrays([floats[0]])
    layout = UpdateLayout(UpdateCodec.DENSE_INT16, D)
    payloads = [encode_update(schema, layout, [row]) for row in floats]
    assert sum(payload.saturated for payload in payloads) == 0
    updates = np.array([decode_update(payload.data, layout)[:] for payload in payloads])
    return run(stages, updates, f, **parameters) * UNIT


UNIT = 2.0**-UPDATE_FRACTION_BITS_DEFAULT


@needs_byzfl
@pytest.mark.parametrize("is_hostile", [False, True])
def test_trained_floats_come_out_as_of_byzfl_within_the_quantization_error(
    is_hostile: bool,
) -> None:
    """Half a unit when updates are encoded, and half of one for each stage."""
    byzfl, floats = load_byzfl(), make_floats(is_hostile)
    nearest = byzfl.NNM(F)(byzfl.ARC(F)(floats.copy()))
    centre = floats.mean(axis=0)
    cases = [
        ((Stage.MEAN,), byzfl.Average()(floats), 1.0, {"f": 0}),
        ((Stage.MEDIAN,), byzfl.Median()(floats), 1.0, {}),
        ((Stage.TRIMMED_MEAN,), byzfl.TrMean(F)(floats), 1.0, {}),
        ((Stage.KRUM,), byzfl.Krum(F + 1)(floats), 0.5, {}),
        ((Stage.MULTI_KRUM,), byzfl.MultiKrum(F + 1)(floats), 1.0, {"selected": N - F - 1}),
        (
            (Stage.GEOMETRIC_MEDIAN,),
            byzfl.GeometricMedian(nu=UNIT, T=8)(floats - centre) + centre,
            1.01,
            {},
        ),
        (
            (Stage.CENTERED_CLIPPING,),
            byzfl.CenteredClipping(tau=2.0)(floats),
            1.5,
            {"radius": round(2.0 / UNIT)},
        ),
        (
            (Stage.CLIP, Stage.MEDIAN),
            byzfl.Median()(byzfl.Clipping(2.0)(floats.copy())),
            1.5,
            {"clip_norm": round(2.0 / UNIT)},
        ),
        ((Stage.ARC, Stage.NNM, Stage.TRIMMED_MEAN), byzfl.TrMean(F)(nearest), 2.0, {}),
    ]
    for stages, theirs, units, parameters in cases:
        ours = run_on_floats(stages, floats, **parameters)
        assert np.abs(ours - theirs).max() <= (units + 1e-3) * UNIT, stages


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
def test_example_counts_weigh_as_in_flower(make: Make) -> None:
    flower, updates = load_flower(), make()
    counts = [2**32 - 1, 0, 1, *range(100, 100 + N - 3)]
    results = [([row], count) for row, count in zip(updates * 1.0, counts, strict=True)]
    ours = aggregate(AggregationRule((Stage.MEAN,), 0), list(updates), counts).vector
    assert_close(ours, flower.aggregate(results)[0])
    results = [([row], count + 1) for row, count in zip(updates * 1.0, range(N), strict=True)]
    ours = aggregate(AggregationRule((Stage.MEAN,), 0), list(updates), range(1, N + 1)).vector
    assert_close(ours, flower.aggregate(results)[0])


@needs_flower
@INPUTS
def test_clipping_equals_flower(make: Make) -> None:
    """What Flower clips for differential privacy: the update to a norm, in place."""
    updates = make()
    floats = updates.astype(np.float64)
    for row in floats:
        load_flower_clipping()([row], 80_000.0)
    assert_close(run_front(Stage.CLIP, updates, clip_norm=80_000), floats)


def load_flower_clipping() -> Any:
    """Flower has moved it between the versions that the dependency group admits."""
    modules = ("flwr.supercore.differential_privacy", "flwr.common.differential_privacy")
    module = next(name for name in modules if find_spec(name) is not None)
    return import_module(module).clip_inputs_inplace


@needs_flower
@INPUTS
def test_krum_and_its_relatives_equal_flower(make: Make) -> None:
    flower, updates = load_flower(), make()
    assert_close(run((Stage.KRUM,), updates), flower.aggregate_krum(make_results(updates), F, 0)[0])
    several = flower.aggregate_krum(make_results(updates), F, N - F)[0]
    assert_close(run((Stage.MULTI_KRUM,), updates), several)
    assert_bulyan_equals_flower(updates, F)


def assert_bulyan_equals_flower(updates: Updates, f: int) -> None:
    n = len(updates)
    flower = load_flower()
    theirs = flower.aggregate_bulyan(make_results(updates), f, flower.aggregate_krum, to_keep=0)[0]
    result = aggregate(AggregationRule((Stage.BULYAN,), f), list(updates))
    # Of two values as close to the median Flower takes either: only there may it differ.
    selected = updates[[not aside for aside in result.set_aside]].astype(np.int64)
    assert len(selected) == n - 2 * f
    median = np.median(selected, axis=0)
    farthest = np.sort(np.abs(selected - median), axis=0)[n - 4 * f - 1]
    is_below, is_above = selected == median - farthest, selected == median + farthest
    is_tied = is_below.any(axis=0) & is_above.any(axis=0) & (farthest > 0)
    assert np.count_nonzero(is_tied) <= D // 100
    assert_close(result.vector[~is_tied], theirs[~is_tied])


@needs_flower
@pytest.mark.parametrize(("n", "f"), SIZES)
def test_rules_equal_flower_at_the_ends_of_n_and_f(n: int, f: int) -> None:
    flower, updates = load_flower(), make_round(n, f)
    assert_close(run((Stage.MEAN,), updates, 0), flower.aggregate(make_results(updates))[0])
    median = flower.aggregate_median(make_results(updates))[0]
    assert_close(run((Stage.MEDIAN,), updates, f), median)
    trimmed = flower.aggregate_trimmed_avg(make_results(updates), f / n + 1e-9)[0]
    assert_close(run((Stage.TRIMMED_MEAN,), updates, f), trimmed)
    if is_admitted(Stage.KRUM, n, f):
        krum = flower.aggregate_krum(make_results(updates), f, 0)[0]
        assert_close(run((Stage.KRUM,), updates, f), krum)
        several = flower.aggregate_krum(make_results(updates), f, n - f)[0]
        assert_close(run((Stage.MULTI_KRUM,), updates, f), several)
    # For an even number of selected updates Flower's median is between two values.
    if is_admitted(Stage.BULYAN, n, f) and n % 2:
        assert_bulyan_equals_flower(updates, f)


ETA, BETA_1, BETA_2, TAU = 0.5, 0.5, 0.75, 0.125
STEPS = 6


@needs_flower
@INPUTS
@pytest.mark.parametrize(
    ("rate", "momentum"), [(0.5, 0.0), (3.0, 0.0), (0.25, 0.75), (1.0, 0.9375)]
)
def test_sgd_and_momentum_equal_flower(rate: float, momentum: float, make: Make) -> None:
    """Flower's FedAvgM is the paper's: v = mu v + delta, w = w + rate v; without momentum, SGD."""
    flower = import_module("flwr.server.strategy").FedAvgM(
        initial_parameters=start_flower(), server_learning_rate=rate, server_momentum=momentum
    )
    name = OptimizerName.MOMENTUM if momentum else OptimizerName.SGD
    optimizer = ServerOptimizer(name, *(round(v * FIXED_POINT_ONE) for v in (rate, momentum)))
    # Half a unit of the weights for each step, and what a velocity's rounding adds to it.
    compare_steps(optimizer, step_flower(flower), make(), atol=STEPS * 2.0**-21 + 2.0**-22)


def compare_steps(optimizer: ServerOptimizer, flower: Any, updates: Updates, atol: float) -> None:
    bits = 20, 10
    tensors = [TensorSpec("layer", (D,), *bits)]
    weights: bytes | memoryview = bytes(4 * D)
    state: memoryview | None = None
    for update in updates[-STEPS:]:
        step = apply_optimizer(optimizer, tensors, weights, state, update)
        theirs = flower(update / 2.0 ** bits[1])
        weights, state = step.weights, step.state
        ours = np.frombuffer(weights, "<i4") / 2.0 ** bits[0]
        assert step.clamped == 0
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)


@needs_flower
@INPUTS
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
    beta_1, beta_2 = (0.0, 0.0) if name is OptimizerName.ADAGRAD else (BETA_1, BETA_2)
    decays = {} if name is OptimizerName.ADAGRAD else {"beta_1": BETA_1, "beta_2": BETA_2}
    fed = getattr(import_module("flwr.server.strategy"), strategy)(
        initial_parameters=start_flower(), eta=ETA, tau=TAU, **decays
    )
    fed.v_t = [np.full(D, TAU**2)]

    def take_out_the_correction(rounds: int) -> None:
        if name is OptimizerName.ADAM:
            correction = np.sqrt(1 - BETA_2 ** (rounds + 1)) / (1 - BETA_1 ** (rounds + 1))
            fed.eta = ETA / correction

    optimizer = ServerOptimizer(
        name, *(round(value * FIXED_POINT_ONE) for value in (ETA, beta_1, beta_2, TAU))
    )
    # The root has 8 bits behind the point, of values from 128 on (tau): 2^-15 of each step.
    atol = STEPS * ETA * 2 * 2.0**-15 + 2.0**-20
    compare_steps(optimizer, step_flower(fed, take_out_the_correction), make(), atol)


def start_flower() -> Any:
    return import_module("flwr.common").ndarrays_to_parameters([np.zeros(D)])


def step_flower(
    strategy: Any, prepare: Callable[[int], None] | None = None
) -> Callable[[Any], Any]:
    """Drive Flower's strategy by its own `aggregate_fit`, with one client that sends x + delta."""
    common = import_module("flwr.common")
    current, rounds = np.zeros(D), 0

    def step(delta: Any) -> Any:
        nonlocal current, rounds
        rounds += 1
        if prepare is not None:
            prepare(rounds)
        sent = common.ndarrays_to_parameters([current + delta])
        result = SimpleNamespace(parameters=sent, num_examples=1, metrics={})
        parameters, _ = strategy.aggregate_fit(rounds, [(None, result)], [])
        (current,) = common.parameters_to_ndarrays(parameters)
        return current

    return step
