"""One training: the integers it runs through, and what an attack does to a rule without defence."""

import numpy as np
import pytest
from quorate.chain.task import DEFAULT_RULE, AggregationRule, Stage
from quorate.fixed_point import ModelSchema

from node.demo.digits import Floats, Model, load_digits, make_model, split_examples
from node.robustness.attacks import Attack
from node.robustness.case import (
    PARTICIPANTS,
    UPDATE_FRACTION_BITS,
    Case,
    IntegerServer,
    encode_updates,
    run_case,
)
from node.robustness.grid import DEFAULT, RULES, is_applicable
from node.robustness.learning import Hyperparameters, Learners, flip_labels

SHORT = Hyperparameters(steps=12)
MEDIAN = AggregationRule((Stage.MEDIAN,), 1)


def test_updates_are_encoded_as_the_sdk_does() -> None:
    model = make_model(0)
    schema = ModelSchema.from_arrays(model, update_fraction_bits=UPDATE_FRACTION_BITS)
    updates = np.random.default_rng(0).normal(0.0, 1.0, (4, schema.dimension))
    updates[0, :3] = [1e9, -1e9, 2.0]
    updates[1, :2] = [0.5 / 2**14, 1.5 / 2**14]  # Halves.
    for update, integers in zip(updates, encode_updates(updates), strict=True):
        encoded = schema.encode_update(schema.unflatten(update))
        assert integers.astype("<i2").tobytes() == encoded.data


def test_the_server_adds_the_aggregate_in_integers() -> None:
    model = make_model(1)
    server = IntegerServer(MEDIAN, model)
    before = np.concatenate([layer.reshape(-1) for layer in server.model])
    updates = np.zeros((3, before.size))
    updates[:, 5] = [0.25, 0.125, 1e6]
    server.apply(updates)
    after = np.concatenate([layer.reshape(-1) for layer in server.model])
    assert (after - before).nonzero()[0].tolist() == [5]
    assert after[5] - before[5] == 0.25
    assert server.saturated == 1


class Recorder(IntegerServer):
    """Keeps what it was given."""

    def __init__(self, rule: AggregationRule, initial: Model) -> None:
        super().__init__(rule, initial)
        self.rounds: list[Floats] = []
        RECORDERS.append(self)

    def apply(self, updates: Floats) -> None:
        self.rounds.append(updates.copy())
        super().apply(updates)


RECORDERS: list[Recorder] = []


@pytest.mark.parametrize("attack", list(Attack))
def test_who_sends_what(attack: Attack) -> None:
    RECORDERS.clear()
    case = Case("median", 4, 1.0, attack, 0)
    run_case(case, SHORT, Recorder)
    (recorder,) = RECORDERS
    assert len(recorder.rounds) == SHORT.steps
    for updates in recorder.rounds:
        assert updates.shape == (PARTICIPANTS, 2410)
        honest, hostile = updates[:-4], updates[-4:]
        if attack is Attack.NONE:
            assert not (hostile == hostile[0]).all()
            continue
        assert (hostile == hostile[0]).all()
        along = float(honest.mean(axis=0) @ hostile[0])
        length = float(honest.mean(axis=0) @ honest.mean(axis=0))
        match attack:
            case Attack.SIGN_FLIP:
                assert along == pytest.approx(-length)
            case Attack.IPM_SMALL:
                assert along == pytest.approx(-0.5 * length)
            case Attack.IPM_LARGE:
                # 2 h / f = 8: the sum of all, 16 mu - 4 * 8 mu, points backwards.
                assert along == pytest.approx(-8 * length)
            case Attack.MIMIC:
                assert (honest == hostile[0]).all(axis=1).any()
            case _:
                assert not (honest == hostile[0]).all(axis=1).any()


def test_who_flips_labels_sends_the_mean_of_what_was_learned_from_them() -> None:
    RECORDERS.clear()
    run_case(Case("median", 4, 1.0, Attack.LABEL_FLIP, 0), SHORT, Recorder)
    shards, _ = split_examples(load_digits(), 16, 0, alpha=1.0, examples_min=8)
    flippers = Learners([flip_labels(shard) for shard in shards], SHORT, 0)
    expected = flippers.compute_steps(IntegerServer(MEDIAN, make_model(0)).model, 0).mean(axis=0)
    (recorder,) = RECORDERS
    assert (recorder.rounds[0][-1] == expected).all()
    assert np.linalg.norm(recorder.rounds[0][0] - expected) > 0.0


def test_the_same_case_is_the_same_outcome() -> None:
    case = Case("clip+nnm+trimmed_mean", 4, 0.1, Attack.MIN_MAX, 3)
    first = run_case(case, SHORT)
    assert first == run_case(case, SHORT)
    assert 0.0 <= first.accuracy <= 1.0


def test_the_plain_mean_breaks_and_the_default_rule_holds() -> None:
    parameters = Hyperparameters(steps=80)
    broken = run_case(Case("mean", 6, 1.0, Attack.IPM_LARGE, 0), parameters)
    whole = run_case(Case(DEFAULT, 6, 1.0, Attack.IPM_LARGE, 0), parameters)
    assert broken.accuracy < 0.3
    assert whole.accuracy > 0.8


def test_the_default_is_the_tasks_default() -> None:
    assert Case(DEFAULT, 4, 1.0, Attack.NONE, 0).aggregation_rule == AggregationRule(
        DEFAULT_RULE, 4
    )
    assert DEFAULT in RULES


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_of_the_grid_runs(rule: str) -> None:
    assert is_applicable(rule, 4)
    outcome = run_case(Case(rule, 4, 1.0, Attack.SIGN_FLIP, 0), Hyperparameters(steps=2))
    assert outcome.accuracy > 0.0


def test_rules_that_need_more_participants_are_known() -> None:
    assert not is_applicable("bulyan", 6)
    assert not is_applicable("bucketing+trimmed_mean", 6)
    assert is_applicable("krum", 6)
