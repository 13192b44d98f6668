"""A participant's rounds: trained, resumed after a crash, late, set aside, lied to."""

from collections.abc import Callable

import httpx
import numpy as np
import pytest
from quorate import (
    Client,
    EncodingError,
    FitResult,
    Participant,
    RoundInfo,
    RpcError,
    TaskClosedError,
    VerificationError,
    WaitTimeoutError,
)
from quorate.chain.content import compute_content_hash
from quorate.chain.receipt import RoundOutcome
from quorate.chain.transaction import (
    RegisterParticipant,
    SubmitUpdate,
    Transaction,
    decode_transaction,
    sign_transaction,
)
from quorate.errors import VerificationStep
from quorate.fixed_point import Array

from tests.sdk.conftest import PARTICIPANTS, Clock, create_task, make_draft
from tests.sdk.fake_node import GENESIS, Answer, FakeNode, problem

KEY = PARTICIPANTS[0]


def add_one(weights: list[Array], _info: RoundInfo) -> list[Array]:
    weights[0] += 0.25  # type: ignore[misc]
    return weights


def count_posts(node: FakeNode, kind: type) -> int:
    """How many transactions of a kind are on the chain."""
    return sum(
        isinstance(decode_transaction(raw).transaction.body, kind)
        for block, _, _ in node.blocks
        for raw in block.transactions
    )


def test_rounds_train_the_weights(client: Client, node: FakeNode) -> None:
    create_task(client, updates=1)
    seen: list[RoundInfo] = []

    def fit(weights: list[Array], info: RoundInfo) -> FitResult:
        seen.append(info)
        assert {array.dtype for array in weights} == {np.dtype(np.float32)}
        return FitResult(add_one(weights, info), 100, {"loss": 0.5})

    told = []
    results = Participant(client, KEY, "digits", fit, trusted=GENESIS).run(3, told.append)
    assert told == results
    assert [result.training_round for result in results] == [0, 1, 2]
    assert {result.outcome for result in results} == {RoundOutcome.FINALIZED}
    assert all(result.is_counted and not result.is_set_aside for result in results)
    assert {result.score for result in results} == {0.5}
    assert {result.saturated for result in results} == {0}
    initial = np.random.default_rng(7).normal(size=(5, 3))
    np.testing.assert_allclose(results[-1].weights[0], initial + 0.75, atol=1e-6)
    assert [info.training_round for info in seen] == [0, 1, 2]
    assert seen[1].base_weights_root == results[0].verified.weights_root
    assert count_posts(node, RegisterParticipant) == 1
    assert count_posts(node, SubmitUpdate) == 3
    body = decode_transaction(node.blocks[-1][0].transactions[0]).transaction.body
    assert isinstance(body, SubmitUpdate)
    assert (body.example_count, body.metrics[0].name) == (100, "loss")


def test_no_weights_are_downloaded_twice(client: Client, node: FakeNode) -> None:
    create_task(client, updates=1)
    Participant(client, KEY, "digits", add_one).run(3)
    assert sum("/weights?" in request for request in node.requests) == 4


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_unchanged_weights_are_an_update_of_zeros(
    client: Client, node: FakeNode, dtype: type
) -> None:
    task_id = create_task(client, updates=1)
    before = node.tasks[task_id].weights
    Participant(client, KEY, "digits", lambda weights, _: weights, dtype=dtype).run(1)
    assert node.tasks[task_id].weights == before  # Rounding to the type moved nothing.


def test_saturation_is_reported(client: Client) -> None:
    create_task(client, updates=1)
    (result,) = Participant(client, KEY, "digits", lambda w, _: [w[0] + 50, w[1]]).run(1)
    assert result.saturated == 15


def test_several_participants_share_a_round(client: Client, node: FakeNode) -> None:
    create_task(client, updates=2)

    def fit(weights: list[Array], info: RoundInfo) -> list[Array]:
        if not node.tasks[info.task.task_id].updates:  # The other one comes in between.
            with Client("http://node", transport=node.transport()) as own:
                other = Participant(own, PARTICIPANTS[1], "digits", add_one, round_timeout_s=0)
                with pytest.raises(WaitTimeoutError, match="it has 1 updates, and needs 2"):
                    other.train_round()
        return [weights[0] + 0.75, weights[1]]  # type: ignore[operator]

    (result,) = Participant(client, KEY, "digits", fit).run(1)
    initial = np.random.default_rng(7).normal(size=(5, 3))
    np.testing.assert_allclose(result.weights[0], initial + 0.5, atol=1e-6)
    assert len(result.receipt.updates) == 2


# --- crashes -------------------------------------------------------------------------------------


def test_a_script_that_crashed_after_submitting_does_not_submit_again(
    client: Client, node: FakeNode, clock: Clock
) -> None:
    create_task(client, updates=2)
    first = Participant(client, KEY, "digits", add_one, round_timeout_s=0)
    with pytest.raises(WaitTimeoutError):
        first.train_round()

    def never(_weights: list[Array], _info: RoundInfo) -> list[Array]:
        raise AssertionError("fitted again")

    def finish(request: httpx.Request, _route: Callable[[], Answer]) -> None:
        if clock.now > 10 and request.url.path.endswith("/rounds/0"):
            node.intercept = None
            other = Participant(client, PARTICIPANTS[1], "digits", add_one)
            other.train_round()

    clock.now = 9.0
    node.intercept = finish
    result = Participant(client, KEY, "digits", never).train_round()
    assert result.is_counted
    assert result.saturated == 0
    assert count_posts(node, SubmitUpdate) == 2
    assert count_posts(node, RegisterParticipant) == 2


def test_a_submission_still_pending_is_waited_for(
    client: Client, node: FakeNode, clock: Clock
) -> None:
    task_id = create_task(client, updates=1)
    client.register(KEY, task_id)
    task = client.task(task_id)
    node.is_holding = True
    payload = b"\x01\x00" * task.spec.dimension
    body = SubmitUpdate(
        task.task_id,
        0,
        task.weights_root,
        task.spec.codec,
        compute_content_hash(payload),  # type: ignore[arg-type]
        len(payload),
        0,
    )
    raw = sign_transaction(KEY, Transaction(1, "fake-1", KEY.public_key, 1, 3, body))
    client.submit(raw, payload)  # What a run that crashed right after had sent.

    def release(_request: httpx.Request, _route: Callable[[], Answer]) -> None:
        if clock.now > 5 and node.is_holding:
            node.release()

    node.intercept = release
    result = Participant(client, KEY, task_id, add_one).train_round()
    assert result.training_round == 1  # Round 0 had the update that was pending.
    assert count_posts(node, SubmitUpdate) == 2


def test_an_error_in_fit_reaches_the_caller_and_nothing_is_sent(
    client: Client, node: FakeNode
) -> None:
    create_task(client, updates=1)

    def fail(_weights: list[Array], _info: RoundInfo) -> list[Array]:
        raise ZeroDivisionError

    participant = Participant(client, KEY, "digits", fail)
    with pytest.raises(ZeroDivisionError):
        participant.train_round()
    assert count_posts(node, SubmitUpdate) == 0
    for wrong, sentence in (
        ([np.zeros((5, 3))], "2 tensors, not 1"),
        ([np.full((5, 3), np.nan), np.zeros(3)], "not finite"),
    ):
        diverged = Participant(client, KEY, "digits", lambda *_, w=wrong: w)  # type: ignore[misc]
        with pytest.raises(EncodingError, match=sentence):
            diverged.train_round()
    assert count_posts(node, SubmitUpdate) == 0


# --- late, full, closed --------------------------------------------------------------------------


def end_round(node: FakeNode, task_id: bytes) -> None:
    """Others finish the round."""
    task = node.tasks[task_id]
    task.updates = {PARTICIPANTS[2].address: (bytes(32), bytes(2 * task.spec.dimension))}
    node.decide([])


def test_who_is_late_takes_part_in_the_next_round(client: Client, node: FakeNode) -> None:
    task_id = create_task(client, updates=1)
    attempts = []

    def slow(weights: list[Array], info: RoundInfo) -> list[Array]:
        attempts.append(info.training_round)
        if len(attempts) == 1:
            end_round(node, task_id)
        return add_one(weights, info)

    result = Participant(client, KEY, "digits", slow).train_round()
    assert attempts == [0, 1]
    assert result.training_round == 1
    assert result.is_counted


def test_who_is_always_late_is_told(client: Client, node: FakeNode) -> None:
    task_id = create_task(client, updates=1)

    def slow(weights: list[Array], _info: RoundInfo) -> list[Array]:
        end_round(node, task_id)
        return weights

    with pytest.raises(WaitTimeoutError, match="10 training rounds in a row"):
        Participant(client, KEY, "digits", slow).train_round()


@pytest.mark.parametrize("code", ["stale_weights", "task_not_open", "wrong_training_round"])
def test_refusals_that_mean_too_late(client: Client, node: FakeNode, code: str) -> None:
    task_id = create_task(client, updates=1)
    client.register(KEY, task_id)
    refusals = [problem(422, code)]

    def refuse(request: httpx.Request, _route: Callable[[], Answer]) -> Answer | None:
        return refusals.pop() if request.method == "POST" and refusals else None

    node.intercept = refuse
    assert Participant(client, KEY, "digits", add_one).train_round().is_counted


def test_an_update_that_is_in_already_is_waited_for(client: Client, node: FakeNode) -> None:
    task_id = create_task(client, updates=1)
    client.register(KEY, task_id)
    taken = []

    def refuse(request: httpx.Request, route: Callable[[], Answer]) -> Answer | None:
        if request.method == "POST":
            taken.append(route())
            return problem(409, "duplicate_update")
        return None

    node.intercept = refuse
    result = Participant(client, KEY, "digits", add_one).train_round()
    assert len(taken) == 1
    assert (result.training_round, result.is_counted) == (0, True)


def test_a_full_round_is_waited_out(client: Client, node: FakeNode, clock: Clock) -> None:
    task_id = create_task(client, updates=1)
    client.register(KEY, task_id)
    attempts = []

    def refuse(request: httpx.Request, _route: Callable[[], Answer]) -> Answer | None:
        if request.method == "POST" and not attempts:
            attempts.append(1)
            return problem(422, "round_full")
        if clock.now > 5 and len(attempts) == 1:
            attempts.append(2)
            end_round(node, task_id)
        return None

    node.intercept = refuse
    result = Participant(client, KEY, "digits", add_one).train_round()
    assert result.training_round == 1


def test_other_refusals_reach_the_caller(client: Client, node: FakeNode) -> None:
    create_task(client, updates=1)
    node.intercept = lambda request, _: (
        problem(422, "not_admitted", "Ask an administrator.") if request.method == "POST" else None
    )
    with pytest.raises(RpcError, match="Ask an administrator"):
        Participant(client, KEY, "digits", add_one).train_round()


def test_a_task_that_completes_ends_the_iteration(client: Client, node: FakeNode) -> None:
    task_id = create_task(client, updates=1, rounds_max=2)
    results = Participant(client, KEY, "digits", add_one).run(5)
    assert len(results) == 2
    with pytest.raises(TaskClosedError, match="'digits' is completed"):
        Participant(client, KEY, "digits", add_one).run(5)
    node.tasks[task_id].status = "paused"
    with pytest.raises(TaskClosedError, match="'digits' is paused"):
        Participant(client, KEY, "digits", add_one).train_round()


def test_a_frozen_round_is_waited_out(client: Client, node: FakeNode, clock: Clock) -> None:
    task_id = create_task(client, updates=1)
    task = node.tasks[task_id]

    def freeze(request: httpx.Request, route: Callable[[], Answer]) -> Answer | None:
        if "/rounds/" not in request.url.path or task.training_round:
            return None
        if clock.now > 5:
            end_round(node, task_id)
            return None
        status, headers, body = route()
        return status, headers, body.replace(b'"open"', b'"frozen"')

    node.intercept = freeze
    result = Participant(client, KEY, "digits", add_one).train_round()
    assert result.training_round == 1
    assert clock.now > 5


# --- lies ----------------------------------------------------------------------------------------


def test_weights_that_the_chain_does_not_confirm_are_never_fitted(
    client: Client, node: FakeNode
) -> None:
    task_id = create_task(client, updates=1)
    client.register(KEY, task_id)
    task = node.tasks[task_id]
    task.weights = task.weights[:-1] + b"\x01"
    with pytest.raises(VerificationError) as refused:
        Participant(client, KEY, "digits", add_one, trusted=GENESIS).train_round()
    assert refused.value.step is VerificationStep.WEIGHTS


def test_a_round_on_a_base_that_the_chain_does_not_have_is_refused(
    client: Client, node: FakeNode
) -> None:
    task_id = create_task(client, updates=1)
    client.register(KEY, task_id)
    root = node.tasks[task_id].leaf.weights_root.hex().encode()

    def lie(request: httpx.Request, route: Callable[[], Answer]) -> Answer | None:
        if not request.url.path.endswith("/rounds/current"):
            return None
        status, headers, body = route()
        return status, headers, body.replace(root, b"ab" * 32)

    node.intercept = lie
    with pytest.raises(VerificationError, match="builds on the weights abab"):
        Participant(client, KEY, "digits", add_one, trusted=GENESIS).train_round()


def test_commits_may_come_from_another_node(client: Client, node: FakeNode) -> None:
    create_task(client, updates=1)
    other_node = FakeNode()
    other_node.blocks = node.blocks
    with Client("http://other", transport=other_node.transport()) as other:
        participant = Participant(
            client, KEY, "digits", add_one, trusted=GENESIS, commit_from=other
        )
        assert participant.train_round().is_counted
    assert {request.split("?")[0] for request in other_node.requests} == {
        "GET /commit",
        "GET /validators",
    }
    assert not [request for request in node.requests if "/commit" in request]


def test_without_events_the_round_is_polled(client: Client, node: FakeNode, clock: Clock) -> None:
    task_id = create_task(client, updates=2)

    def refuse(request: httpx.Request, _route: Callable[[], Answer]) -> Answer | None:
        if request.url.path == "/v1/events":
            return problem(404, "not_found")
        if clock.now > 3 and node.tasks[task_id].updates:
            task = node.tasks[task_id]
            task.updates[PARTICIPANTS[2].address] = (bytes(32), bytes(2 * task.spec.dimension))
            node.decide([])
        return None

    node.intercept = refuse
    assert Participant(client, KEY, "digits", add_one).train_round().is_counted
    assert clock.now > 3


def test_a_draft_of_the_schema_is_what_participants_see(client: Client) -> None:
    create_task(client, updates=1)
    shapes = []
    Participant(
        client, KEY, "digits", lambda w, _: shapes.extend(a.shape for a in w) or w, dtype=np.float64
    ).run(1)
    assert shapes == [tensor.shape for tensor in make_draft().spec.tensors]
