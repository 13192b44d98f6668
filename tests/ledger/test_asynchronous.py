"""Asynchronous tasks: buffers that updates of several base weights go into, scaled by staleness."""

from collections import deque
from fractions import Fraction
from random import Random

import numpy as np
import pytest
from quorate.chain.errors import ErrorCode
from quorate.chain.ids import Hash
from quorate.chain.keys import PrivateKey
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.receipt import RoundOutcome, SealCause
from quorate.chain.round_policy import RoundMode, RoundPolicy, StalenessWeighting
from quorate.chain.transaction import (
    ChangeTaskStatus,
    FinalizeTrainingRound,
    RevokeParticipant,
    SignedTransaction,
    SubmitEvaluation,
    TaskStatus,
)

from ledger.execution import ExecutionResult
from ledger.queries import get_frozen_inputs, get_training_round
from tests.ledger.chain import (
    AUTHORITY,
    DIMENSION,
    INITIAL_WEIGHTS,
    PARTICIPANTS,
    VALIDATORS,
    Chain,
    get_receipt,
    make_policy,
    make_spec,
)

FREE = ConsensusParameters(aggregation_cost_block_max=0)
"""Parameters under which every training round is frozen first."""


def make_buffer(**changes: object) -> RoundPolicy:
    settings: dict[str, object] = {
        "mode": RoundMode.ASYNCHRONOUS,
        "updates_min": 1,
        "updates_max": 2,
        "staleness_max": 3,
    }
    return make_policy(**(settings | changes))


def create(chain: Chain, participants: int = 6, **policy: object) -> Hash:
    return chain.create_task(make_spec(policy=make_buffer(**policy)), participants=participants)


def sign_update(
    chain: Chain, task_id: Hash, key: PrivateKey, value: int, **changes: object
) -> SignedTransaction:
    return chain.sign(key, chain.make_update(task_id, [value] * DIMENSION, **changes))


def finalize(chain: Chain, task_id: Hash, number: int) -> ExecutionResult:
    body = FinalizeTrainingRound(task_id, number)
    return chain.run_block(chain.sign(VALIDATORS[0], body), proposer=0)


def read_weights(chain: Chain, task_id: Hash) -> list[int]:
    data = chain.payloads.get(chain.get_task(task_id).weights_root)
    assert data is not None
    values: list[int] = np.frombuffer(data, "<i4").tolist()
    return values


def test_an_update_stays_valid_across_rounds_as_long_as_its_base_is_in_the_window() -> None:
    chain = Chain()
    task_id = create(chain, staleness_max=1)
    old = chain.get_task(task_id).weights_root
    chain.submit(task_id, 1, 2)
    assert chain.get_task(task_id).training_round == 1
    # It was made in round 0, against its weights, and arrives in round 1.
    late = sign_update(chain, task_id, PARTICIPANTS[2], 8, training_round=0, base_weights_root=old)
    chain.run_block(late)
    receipt = get_receipt(chain.submit(task_id, 8, first=3), RoundOutcome.FINALIZED)
    assert receipt.training_round == 1
    found = {u.participant: (u.staleness, u.factor) for u in receipt.updates}
    assert found == {
        PARTICIPANTS[2].address: (1, 46_341),
        PARTICIPANTS[3].address: (0, 65_536),
    }
    # In the next round its base is too old.
    later = sign_update(chain, task_id, PARTICIPANTS[4], 8, training_round=0, base_weights_root=old)
    chain.assert_refused(later, ErrorCode.STALE_WEIGHTS, "at most 1 training rounds before")
    early = sign_update(chain, task_id, PARTICIPANTS[4], 8, training_round=3)
    chain.assert_refused(early, ErrorCode.WRONG_TRAINING_ROUND, "round 3, open is 2")


def test_a_synchronous_task_weighs_stale_updates_too_but_wants_its_own_round() -> None:
    chain = Chain()
    policy = make_policy(updates_min=1, updates_max=2, staleness_max=1)
    task_id = chain.create_task(make_spec(policy=policy), participants=4)
    old = chain.get_task(task_id).weights_root
    chain.submit(task_id, 1, 2)
    before = read_weights(chain, task_id)
    of_round_0 = sign_update(
        chain, task_id, PARTICIPANTS[0], 100, training_round=0, base_weights_root=old
    )
    chain.assert_refused(of_round_0, ErrorCode.WRONG_TRAINING_ROUND, "round 0, open is 1")
    chain.run_block(sign_update(chain, task_id, PARTICIPANTS[0], 100, base_weights_root=old))
    chain.submit(task_id, 100, first=1)
    # round(100 / sqrt(2)) = 71; the mean of 71 and 100 is 85.5, away from zero 86.
    moved = np.array(read_weights(chain, task_id)) - np.array(before)
    assert moved.tolist() == [86 * 16] * DIMENSION


def test_constant_weighting_takes_stale_updates_whole() -> None:
    chain = Chain()
    task_id = create(chain, staleness_weighting=StalenessWeighting.CONSTANT)
    old = chain.get_task(task_id).weights_root
    chain.submit(task_id, 1, 2)
    before = read_weights(chain, task_id)
    stale = {"training_round": 0, "base_weights_root": old}
    chain.run_block(
        sign_update(chain, task_id, PARTICIPANTS[0], 100, **stale),
        sign_update(chain, task_id, PARTICIPANTS[1], 50, **stale),
    )
    moved = np.array(read_weights(chain, task_id)) - np.array(before)
    assert moved.tolist() == [75 * 16] * DIMENSION


def test_the_whole_buffer_against_fractions() -> None:
    """Many rounds of updates of any age, against the paper's sum over K in fractions."""
    random = Random(7)
    chain = Chain()
    task_id = create(chain, updates_max=3, updates_min=3, staleness_max=4)
    bases = deque([chain.get_task(task_id).weights_root], maxlen=5)
    weights = [Fraction(v) for v in np.frombuffer(INITIAL_WEIGHTS, "<i4").tolist()]
    for number in range(12):
        total = Fraction(0)
        turns = random.sample(range(6), 3)
        for turn in turns:
            staleness = random.randrange(len(bases))
            value = random.randrange(-2000, 2000)
            base = bases[-1 - staleness]
            update = sign_update(chain, task_id, PARTICIPANTS[turn], value, base_weights_root=base)
            result = chain.run_block(update)
            factor = round(Fraction(65_536) / Fraction((1 + staleness) ** 0.5))
            total += round_half_away(Fraction(value * factor, 65_536))
        receipt = get_receipt(result, RoundOutcome.FINALIZED)
        assert (receipt.training_round, receipt.cause) == (number, SealCause.MAXIMUM)
        weights = [w + 16 * round_half_away(total / 3) for w in weights]
        assert read_weights(chain, task_id) == weights
        bases.append(chain.get_task(task_id).weights_root)


def round_half_away(value: Fraction) -> int:
    magnitude = int(abs(value) + Fraction(1, 2))
    return -magnitude if value < 0 else magnitude


# --- while a result is being computed ---------------------------------------------------------


def test_what_arrives_while_a_round_is_frozen_goes_into_the_next_buffer() -> None:
    chain = Chain(parameters=FREE)
    task_id = create(chain)
    root = chain.get_task(task_id).weights_root
    frozen = get_receipt(chain.submit(task_id, 10, 20), RoundOutcome.FROZEN)
    task = chain.get_task(task_id)
    assert (task.training_round, task.update_count, task.is_sealed) == (1, 0, False)
    assert task.frozen is not None
    assert (task.frozen.training_round, task.frozen.update_count) == (0, 2)
    # The same participants again, and nobody's update is refused until the buffer is full.
    result = chain.submit(task_id, 30, 40)
    assert result.receipts.rounds == ()
    # A full buffer waits for the result it is added to, and asks for no block meanwhile.
    assert result.next_due_time_ms is None
    assert chain.run_block(after_ms=50_000).receipts.rounds == ()
    more = sign_update(chain, task_id, PARTICIPANTS[2], 1)
    chain.assert_refused(more, ErrorCode.ROUND_FULL, "round 1 takes no more")
    again = chain.sign(PARTICIPANTS[0], chain.make_update(task_id, [1] * DIMENSION))
    chain.assert_refused(again, ErrorCode.DUPLICATE_UPDATE, "may have 1")
    assert [r.update_count for r in (chain.get_task(task_id),)] == [2]
    for number, is_frozen in ((0, True), (1, False)):
        view = get_training_round(chain.state, task_id, number)
        assert view is not None
        assert (view.is_frozen, len(view.updates), view.staleness) == (is_frozen, 2, (0, 0))
    assert get_training_round(chain.state, task_id, 2) is None

    result = finalize(chain, task_id, 0)
    done, following = result.receipts.rounds
    assert (done.outcome, done.set_root) == (RoundOutcome.FINALIZED, frozen.set_root)
    assert (done.training_round, done.cause) == (0, SealCause.MAXIMUM)
    assert done.updates[0].factor == 65_536
    # The buffer was full already: it is sealed at once, one round staler than when it came.
    assert (following.outcome, following.training_round) == (RoundOutcome.FROZEN, 1)
    assert following.base_weights_root == done.weights_root != root
    assert [u.staleness for u in following.updates] == [1, 1]
    inputs = get_frozen_inputs(chain.state, task_id)
    assert inputs is not None
    assert [u.factor for u in inputs.updates] == [46_341, 46_341]
    receipt = get_receipt(finalize(chain, task_id, 1), RoundOutcome.FINALIZED)
    assert receipt.set_root == following.set_root


def test_who_leaves_takes_its_update_out_of_the_buffer_but_not_out_of_the_frozen_set() -> None:
    chain = Chain(parameters=FREE)
    task_id = create(chain, participants=3, updates_max=3, updates_min=2)
    get_receipt(chain.submit(task_id, 1, 2, 3), RoundOutcome.FROZEN)
    chain.submit(task_id, 4, 5)
    leaver = PARTICIPANTS[0]
    chain.run_block(chain.sign(leaver, RevokeParticipant(task_id, leaver.address)))
    task = chain.get_task(task_id)
    assert task.frozen is not None
    assert (task.frozen.update_count, task.update_count, task.registered_count) == (3, 1, 2)
    # It may come back and send again: once in this buffer.
    chain.register(task_id, leaver)
    chain.submit(task_id, 6)
    assert chain.get_task(task_id).update_count == 2
    receipt = finalize(chain, task_id, 0).receipts.rounds[0]
    assert leaver.address in [u.participant for u in receipt.updates]


@pytest.mark.parametrize("is_by_authority", [True, False])
def test_completing_a_task_voids_its_buffer_and_keeps_the_frozen_round(
    *, is_by_authority: bool
) -> None:
    chain = Chain(parameters=FREE)
    task_id = create(chain, rounds_max=0 if is_by_authority else 1)
    get_receipt(chain.submit(task_id, 1, 2), RoundOutcome.FROZEN)
    chain.submit(task_id, 3)
    if is_by_authority:
        body = ChangeTaskStatus(task_id, TaskStatus.COMPLETED)
        void = get_receipt(chain.run_block(chain.sign(AUTHORITY, body)), RoundOutcome.VOID)
        get_receipt(finalize(chain, task_id, 0), RoundOutcome.FINALIZED)
    else:
        done, void = finalize(chain, task_id, 0).receipts.rounds
        assert done.outcome is RoundOutcome.FINALIZED
    assert (void.outcome, void.cause) == (RoundOutcome.VOID, SealCause.TASK_COMPLETED)
    assert (void.training_round, len(void.updates), void.rule) == (1, 1, None)
    task = chain.get_task(task_id)
    assert (task.status, task.frozen, task.update_count) == (TaskStatus.COMPLETED, None, 0)


def test_evaluations_of_the_same_weights_count_once_whichever_round_is_open() -> None:
    chain = Chain(parameters=FREE)
    task_id = create(chain)

    def sign_evaluation(key: PrivateKey, number: int, loss: int) -> SignedTransaction:
        root = chain.get_task(task_id).weights_root
        return chain.sign(key, SubmitEvaluation(task_id, number, root, loss, 1))

    chain.run_block(sign_evaluation(PARTICIPANTS[0], 0, 7))
    chain.submit(task_id, 1, 2)
    chain.run_block(sign_evaluation(PARTICIPANTS[1], 1, 9), sign_evaluation(AUTHORITY, 0, 8))
    chain.submit(task_id, 3)
    again = sign_evaluation(PARTICIPANTS[0], 1, 6)
    chain.assert_refused(again, ErrorCode.ALREADY_EXISTS, "weights of training round 0")
    receipt = get_receipt(finalize(chain, task_id, 0), RoundOutcome.FINALIZED)
    assert (receipt.evaluation_count, receipt.evaluations[0].value) == (3, 8)
    best = chain.get_task(task_id).best
    assert best is not None
    assert (best.training_round, best.weights_root) == (0, receipt.base_weights_root)
    chain.run_block(sign_evaluation(PARTICIPANTS[0], 1, 5))
    assert chain.get_task(task_id).evaluation_count == 1
