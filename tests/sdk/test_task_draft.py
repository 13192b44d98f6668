"""Drafts of tasks: what a person chooses, as the chain stores it."""

import numpy as np
import pytest
from msgspec.structs import replace
from quorate import (
    RoundPolicy,
    draft_task,
    make_adagrad,
    make_adam,
    make_momentum,
    make_sgd,
    make_yogi,
)
from quorate.chain.content import compute_content_hash
from quorate.chain.task import AggregationRule, OptimizerName, Stage, UpdateCodec
from quorate.errors import EncodingError

from aggregation import validate_optimizer

POLICY = RoundPolicy(60_000, 4, 8)


def test_a_draft_commits_to_its_weights() -> None:
    draft = draft_task("digits", [np.ones((2, 2)), np.array([200.0])], POLICY)
    assert draft.spec.initial_weights_root == compute_content_hash(draft.weights)
    assert len(draft.weights) == 20
    assert draft.saturated == 1  # 200 is beyond +-128.
    assert draft.spec.codec is UpdateCodec.DENSE_INT16
    assert draft.spec.rule.stages == (Stage.ARC, Stage.NNM, Stage.GEOMETRIC_MEDIAN)
    assert draft.spec.optimizer == make_sgd(1.0)


def test_rates_become_integers() -> None:
    assert make_sgd(0.5).learning_rate == 32768
    optimizer = make_momentum(0.25, 0.9)
    assert optimizer.name is OptimizerName.MOMENTUM
    assert (optimizer.learning_rate, optimizer.momentum) == (16384, 58982)


def test_adaptive_optimizers_are_ones_that_a_node_takes() -> None:
    for made, name in ((make_adagrad(), "adagrad"), (make_adam(), "adam"), (make_yogi(), "yogi")):
        assert made.name == name
        validate_optimizer(made)
        draft_task("digits", [np.zeros(2)], POLICY, optimizer=made)
    assert (make_adam().second_moment_decay, make_adagrad().second_moment_decay) == (64881, 0)
    with pytest.raises(EncodingError, match="adaptivity is 1e-06; it needs at least"):
        make_yogi(adaptivity=1e-6)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"policy": RoundPolicy(0, 1, 1)}, "policy's deadline_ms is 0: Expected `int` >= 1"),
        ({"policy": replace(POLICY, staleness_max=2000)}, "staleness_max is 2000.*<= 1024"),
        ({"policy": replace(POLICY, extensions_max=0)}, "extensions_max is 0.*>= 1"),
        ({"policy": replace(POLICY, mode=7)}, "policy's mode is 7: Invalid enum value"),
        ({"rule": AggregationRule((Stage.MEAN,), -1)}, "rule's num_byzantine is -1.*>= 0"),
        ({"rule": AggregationRule((Stage.MEAN,), 0, iterations=17)}, "iterations is 17.*<= 16"),
        (
            {"optimizer": make_momentum(1.0, 1.0)},
            r"momentum is 65536: .*<= 65535 \(in units of 1/65536\)",
        ),
        ({"example_count_max": -1}, "task's example_count_max is -1.*>= 0"),
        ({"name": "no spaces"}, "task's name is 'no spaces'.*regex"),
    ],
)
def test_a_refusal_names_the_field_and_its_bound(change: dict[str, object], told: str) -> None:
    arguments = {"name": "digits", "arrays": [np.zeros(2)], "policy": POLICY, **change}
    with pytest.raises(EncodingError, match=told):
        draft_task(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"name": "no spaces"},
        {"policy": RoundPolicy(0, 1, 1)},
        {"rule": AggregationRule((), 0)},
        {"rule": AggregationRule((Stage.MEAN,), -1)},
        {"optimizer": make_sgd(-1.0)},
        {"optimizer": make_momentum(1.0, 1.0)},
        {"example_count_max": -1},
    ],
    ids=range(7),
)
def test_what_is_beyond_its_bounds_is_refused(change: dict[str, object]) -> None:
    arguments = {"name": "digits", "arrays": [np.zeros(2)], "policy": POLICY, **change}
    with pytest.raises(EncodingError):
        draft_task(**arguments)  # type: ignore[arg-type]
