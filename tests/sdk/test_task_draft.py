"""Drafts of tasks: what a person chooses, as the chain stores it."""

import numpy as np
import pytest
from quorate import RoundPolicy, draft_task, make_momentum, make_sgd
from quorate.chain.content import compute_content_hash
from quorate.chain.task import AggregationRule, OptimizerName, Stage, UpdateCodec
from quorate.errors import EncodingError

POLICY = RoundPolicy(60_000, 4, 8)


def test_a_draft_commits_to_its_weights() -> None:
    draft = draft_task("digits", [np.ones((2, 2)), np.array([200.0])], POLICY)
    assert draft.spec.initial_weights_root == compute_content_hash(draft.weights)
    assert len(draft.weights) == 20
    assert draft.saturated == 1  # 200 is beyond +-128.
    assert draft.spec.codec is UpdateCodec.DENSE_INT16
    assert draft.spec.rule.stages == (Stage.CLIP, Stage.NNM, Stage.TRIMMED_MEAN)
    assert draft.spec.optimizer == make_sgd(1.0)


def test_rates_become_integers() -> None:
    assert make_sgd(0.5).learning_rate == 32768
    optimizer = make_momentum(0.25, 0.9)
    assert optimizer.name is OptimizerName.MOMENTUM
    assert (optimizer.learning_rate, optimizer.momentum) == (16384, 58982)


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
