"""Evaluations, their medians, and the best weights."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quorate.chain.errors import ErrorCode
from quorate.chain.ids import Hash
from quorate.chain.receipt import MedianMetric, RoundOutcome
from quorate.chain.transaction import ChangeTaskStatus, Metric, SubmitEvaluation, TaskStatus

from ledger.evaluations import compute_median
from ledger.queries import get_task, get_training_round
from tests.ledger.chain import (
    AUTHORITY,
    PARTICIPANTS,
    STRANGER,
    Chain,
    get_receipt,
    make_policy,
    make_spec,
)


def evaluate(chain: Chain, task_id: Hash, loss: int, /, **changes: object) -> SubmitEvaluation:
    task = chain.get_task(task_id)
    settings: dict[str, object] = {
        "task_id": task_id,
        "training_round": task.training_round,
        "weights_root": task.weights_root,
        "loss": loss,
        "example_count": 100,
    }
    return SubmitEvaluation(**(settings | changes))  # type: ignore[arg-type]


def run_evaluations(chain: Chain, task_id: Hash, *losses: int) -> None:
    chain.run_block(
        *(
            chain.sign(PARTICIPANTS[index], evaluate(chain, task_id, loss))
            for index, loss in enumerate(losses)
        )
    )


def test_medians_are_in_the_receipt_of_the_round_that_ends() -> None:
    chain = Chain()
    task_id = chain.create_task(participants=4)
    accuracy = ((90,), (70,), (80,), ())
    chain.run_block(
        *(
            chain.sign(
                PARTICIPANTS[index],
                evaluate(
                    chain,
                    task_id,
                    loss,
                    metrics=tuple(Metric("accuracy", value) for value in accuracy[index]),
                ),
            )
            for index, loss in enumerate((50, 10, 41, 30))
        )
    )
    before = chain.get_task(task_id)
    receipt = get_receipt(chain.submit(task_id, 1, 2, 3, 4), RoundOutcome.FINALIZED)
    assert receipt.evaluation_count == 4
    # The middle two losses are 30 and 41: half rounds away from zero.
    assert receipt.evaluations == (MedianMetric("loss", 36), MedianMetric("accuracy", 80))
    task = chain.get_task(task_id)
    assert task.best is not None
    assert (task.best.weights_root, task.best.loss) == (before.weights_root, 36)
    assert task.evaluation_count == 0
    # The best weights stay at hand though the task has left them.
    assert chain.state.is_payload_needed(before.weights_root)


def test_the_best_weights_are_kept_until_better_ones_come() -> None:
    chain = Chain()
    task_id = chain.create_task(participants=2)
    hashes, best = [], []
    for value, losses in ((1, (5, 5)), (2, (7, 1)), (3, ()), (4, (4, 4)), (5, (3, 3))):
        hashes.append(chain.get_task(task_id).weights_root)
        run_evaluations(chain, task_id, *losses)
        result = chain.submit(task_id, value, value)
        record = chain.get_task(task_id).best
        assert record is not None
        best.append((record.training_round, record.loss))
    # The median of 7 and 1 is 4 and better than 5; the later weights of loss 4 are no better.
    assert best == [(0, 5), (1, 4), (1, 4), (1, 4), (4, 3)]
    # Replaced, the former best may go; the new best is the base of the last round.
    assert hashes[1] in result.released_payloads
    assert hashes[4] not in result.released_payloads


def test_a_frozen_or_void_round_settles_evaluations_when_it_ends() -> None:
    chain = Chain()
    task_id = chain.create_task(participants=4)
    run_evaluations(chain, task_id, 9)
    chain.submit(task_id, 1, 2)
    body = ChangeTaskStatus(task_id, TaskStatus.COMPLETED)
    receipt = get_receipt(chain.run_block(chain.sign(AUTHORITY, body)), RoundOutcome.VOID)
    assert receipt.evaluations == (MedianMetric("loss", 9),)


def test_the_last_weights_of_a_completed_task_can_be_the_best() -> None:
    chain = Chain()
    task_id = chain.create_task(make_spec(policy=make_policy(rounds_max=1)), participants=2)
    run_evaluations(chain, task_id, 10, 10)
    chain.submit(task_id, 1, 2)
    record = chain.get_task(task_id)
    run_evaluations(chain, task_id, 8, 8)
    view = get_task(chain.state, task_id)
    assert view is not None
    assert view.best is not None
    assert (view.best.loss, view.best.weights_root) == (8, record.weights_root)
    training_round = get_training_round(chain.state, task_id)
    assert training_round is not None
    assert [evaluation.loss for evaluation in training_round.evaluations] == [8, 8]


def test_an_evaluation_that_does_not_fit_is_refused() -> None:
    chain = Chain()
    task_id = chain.create_task(participants=2)
    key = PARTICIPANTS[0]
    for changes, code, words in (
        ({"task_id": Hash(b"?" * 32)}, ErrorCode.UNKNOWN_TASK, "no task"),
        ({"training_round": 1}, ErrorCode.WRONG_TRAINING_ROUND, "round 1, open is 0"),
        ({"weights_root": Hash(b"?" * 32)}, ErrorCode.UNKNOWN_WEIGHTS, "evaluate these"),
        ({"metrics": (Metric("loss", 1),)}, ErrorCode.MALFORMED, "names each metric once"),
        ({"metrics": (Metric("a", 1), Metric("a", 1))}, ErrorCode.MALFORMED, "once"),
    ):
        signed = chain.sign(key, evaluate(chain, task_id, 1, **changes))
        chain.assert_refused(signed, code, words)
    stranger = chain.sign(STRANGER, evaluate(chain, task_id, 1))
    chain.assert_refused(stranger, ErrorCode.NOT_AUTHORIZED, "register first")
    chain.run_block(chain.sign(AUTHORITY, evaluate(chain, task_id, 1)))


def test_one_evaluation_each_and_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.evaluations.EVALUATIONS_PER_ROUND_MAX", 2)
    chain = Chain()
    task_id = chain.create_task(participants=3)
    first = chain.sign(PARTICIPANTS[0], evaluate(chain, task_id, 1))
    second = chain.sign(PARTICIPANTS[0], evaluate(chain, task_id, 2), ahead=1)
    words = "has evaluated the weights of training round 0 already"
    chain.assert_refused(second, ErrorCode.ALREADY_EXISTS, words, first)
    chain.run_block(first)
    run = chain.sign(PARTICIPANTS[1], evaluate(chain, task_id, 1))
    third = chain.sign(PARTICIPANTS[2], evaluate(chain, task_id, 1))
    chain.assert_refused(third, ErrorCode.ROUND_FULL, "have 2 evaluations, the limit", run)
    chain.submit(task_id, 1, 2, 3)
    run_evaluations(chain, task_id, 1, 2)


@given(st.lists(st.integers(-(2**63) + 1, 2**63 - 1), min_size=1, max_size=9))
def test_the_median_splits_the_values(values: list[int]) -> None:
    median = compute_median(values)
    assert 2 * sum(value < median for value in values) <= len(values)
    assert 2 * sum(value > median for value in values) <= len(values)
    assert median == -compute_median([-value for value in values])
    if len(values) % 2:
        assert median in values
