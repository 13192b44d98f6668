"""When training rounds end, and what follows."""

import numpy as np
import pytest
from quorate.chain.codec import encode
from quorate.chain.content import compute_content_hash
from quorate.chain.errors import ErrorCode, PendingError
from quorate.chain.ids import Hash
from quorate.chain.merkle import EMPTY_ROOT, compute_root
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.receipt import RoundOutcome
from quorate.chain.task import BelowMinimum, OptimizerName, RoundPolicy, ServerOptimizer
from quorate.chain.transaction import (
    ChangeTaskStatus,
    FinalizeTrainingRound,
    RegisterParticipant,
    RevokeParticipant,
    SignedTransaction,
    TaskStatus,
)

from ledger.execution import InlineAggregates
from ledger.queries import get_finalizations_due, get_frozen_inputs, get_training_round
from tests.ledger.chain import (
    AUTHORITY,
    DIMENSION,
    INITIAL_WEIGHTS,
    PARTICIPANTS,
    VALIDATORS,
    Chain,
    SlowAggregates,
    get_receipt,
    hash_of,
    make_policy,
    make_spec,
)

FREE = ConsensusParameters(aggregation_cost_block_max=0)
"""Parameters under which every training round is frozen first."""


def create(chain: Chain, policy: RoundPolicy, participants: int = 4) -> Hash:
    return chain.create_task(make_spec(policy=policy), participants=participants)


# --- sealing --------------------------------------------------------------------------------------


def test_a_round_seals_at_its_maximum() -> None:
    chain = Chain()
    task_id = create(chain, make_policy(updates_min=1, updates_max=3))
    assert chain.submit(task_id, 1, 2).receipts.rounds == ()
    receipt = get_receipt(chain.submit(task_id, 3, first=2), RoundOutcome.FINALIZED)
    assert len(receipt.updates) == 3


def test_a_round_seals_when_everyone_is_counted() -> None:
    chain = Chain()
    task_id = create(chain, make_policy(), participants=3)
    assert chain.submit(task_id, 1, 2).receipts.rounds == ()
    get_receipt(chain.submit(task_id, 3, first=2), RoundOutcome.FINALIZED)


@pytest.mark.parametrize("below_minimum", list(BelowMinimum))
def test_everyone_is_not_enough_below_the_minimum(below_minimum: BelowMinimum) -> None:
    chain = Chain()
    task_id = create(chain, make_policy(updates_min=3, below_minimum=below_minimum), participants=2)
    before = chain.get_task(task_id).deadline_time_ms
    assert chain.submit(task_id, 1, 2).receipts.rounds == ()
    assert chain.get_task(task_id).update_count == 2
    assert chain.get_task(task_id).deadline_time_ms == before


def test_who_registers_in_the_last_block_is_waited_for() -> None:
    chain = Chain()
    task_id = create(chain, make_policy(), participants=2)
    result = chain.run_block(
        chain.sign(PARTICIPANTS[0], chain.make_update(task_id, [1] * DIMENSION)),
        chain.sign(PARTICIPANTS[1], chain.make_update(task_id, [2] * DIMENSION)),
        chain.sign(PARTICIPANTS[2], RegisterParticipant(task_id)),
    )
    assert result.receipts.rounds == ()
    leave = RevokeParticipant(task_id, PARTICIPANTS[2].address)
    get_receipt(chain.run_block(chain.sign(PARTICIPANTS[2], leave)), RoundOutcome.FINALIZED)


def test_a_round_seals_at_its_deadline_with_its_minimum() -> None:
    chain = Chain()
    task_id = create(chain, make_policy())
    opened = chain.get_task(task_id).opened_time_ms
    result = chain.submit(task_id, 1, 2)
    assert result.next_due_time_ms == opened + 10_000
    left = opened + 10_000 - result.time_ms
    assert chain.run_block(after_ms=left - 1).receipts.rounds == ()
    result = chain.run_block(after_ms=1)
    assert len(get_receipt(result, RoundOutcome.FINALIZED).updates) == 2
    assert result.next_due_time_ms is None
    task = chain.get_task(task_id)
    assert (task.training_round, task.opened_time_ms) == (1, result.time_ms)
    assert task.deadline_time_ms == result.time_ms + 10_000


def test_a_minimum_and_maximum_of_one_finalize_with_every_update() -> None:
    chain = Chain()
    task_id = create(chain, make_policy(updates_min=1, updates_max=1), participants=2)
    roots = set()
    for turn in range(4):
        result = chain.submit(task_id, turn + 1, first=turn % 2)
        get_receipt(result, RoundOutcome.FINALIZED)
        roots.add(result.model_root)
    assert len(roots) == 4


def test_the_earliest_of_all_deadlines_is_due() -> None:
    chain = Chain()
    deadlines = {}
    for name, deadline_ms in (("a", 5_000), ("b", 3_000), ("c", 9_000)):
        spec = make_spec(name, policy=make_policy(deadline_ms=deadline_ms))
        task_id = chain.create_task(spec, participants=4)
        result = chain.submit(task_id, 1, 2)
        deadlines[task_id] = chain.get_task(task_id).deadline_time_ms
        assert result.next_due_time_ms == min(deadlines.values())
    for task_id in sorted(deadlines, key=lambda each: deadlines[each]):
        left = deadlines.pop(task_id) - chain.state.time_ms
        result = chain.run_block(after_ms=left)
        assert get_receipt(result, RoundOutcome.FINALIZED).task_id == task_id
        assert result.next_due_time_ms == min(deadlines.values(), default=None)


# --- below the minimum ----------------------------------------------------------------------------


def test_below_the_minimum_a_round_is_extended() -> None:
    chain = Chain()
    task_id = create(chain, make_policy())
    opened = chain.get_task(task_id).opened_time_ms
    result = chain.submit(task_id, 1)
    # Until it may be extended no more, nothing can end this round but another update, which brings
    # a block of its own.
    assert result.next_due_time_ms == opened + 10_000 * (1 + make_policy().extensions_max)
    result = chain.run_block(after_ms=10_000)
    assert result.receipts.rounds == ()
    assert chain.get_task(task_id).deadline_time_ms == result.time_ms + 10_000
    assert chain.get_task(task_id).extension_count == 1
    assert chain.get_task(task_id).update_count == 1
    result = chain.submit(task_id, 2, first=1)
    assert result.receipts.rounds == ()
    assert result.next_due_time_ms == chain.get_task(task_id).deadline_time_ms


def test_an_update_after_an_unseen_deadline_begins_a_new_period() -> None:
    chain = Chain()
    task_id = create(chain, make_policy())
    chain.submit(task_id, 1)
    result = chain.submit(task_id, 2, first=1, after_ms=50_000)
    assert result.receipts.rounds == ()
    assert result.next_due_time_ms == result.time_ms + 10_000
    get_receipt(chain.run_block(after_ms=10_000), RoundOutcome.FINALIZED)


def test_an_empty_round_asks_for_no_blocks_and_waits_for_its_first_update() -> None:
    for below_minimum in BelowMinimum:
        chain = Chain()
        task_id = create(chain, make_policy(updates_min=1, below_minimum=below_minimum))
        assert chain.state.next_due_time_ms is None
        result = chain.run_block(after_ms=100_000)
        assert result.next_due_time_ms is None
        result = chain.submit(task_id, 1)
        assert result.receipts.rounds == ()
        assert result.next_due_time_ms == result.time_ms + 10_000


def test_below_the_minimum_a_round_can_be_void() -> None:
    chain = Chain()
    task_id = create(chain, make_policy(updates_min=3, below_minimum=BelowMinimum.VOID))
    before = chain.get_task(task_id)
    result = chain.submit(task_id, 1, 2)
    assert result.next_due_time_ms == before.deadline_time_ms
    result = chain.run_block(after_ms=10_000)
    receipt = get_receipt(result, RoundOutcome.VOID)
    assert [update.score for update in receipt.updates] == [0, 0]
    assert receipt.base_weights_root == receipt.weights_root == before.weights_root
    assert len(result.released_payloads) == 2
    assert result.artifacts == {}
    task = chain.get_task(task_id)
    assert (task.training_round, task.rounds_finalized, task.update_count) == (1, 0, 0)
    assert task.weights_root == before.weights_root
    # Who was in the void round takes part in the next.
    get_receipt(chain.submit(task_id, 1, 2, 3, 4), RoundOutcome.FINALIZED)


def test_a_void_round_may_still_reach_its_minimum_in_the_block_of_the_deadline() -> None:
    chain = Chain()
    task_id = create(chain, make_policy(updates_min=2, below_minimum=BelowMinimum.VOID))
    chain.submit(task_id, 1)
    get_receipt(chain.submit(task_id, 2, first=1, after_ms=10_000), RoundOutcome.FINALIZED)


# --- the spread of proposers ----------------------------------------------------------------------


def test_no_proposer_picks_the_set_alone() -> None:
    chain = Chain()
    policy = make_policy(waive_proposer_spread=False)
    task_id = create(chain, policy, participants=2)
    for _ in range(2):
        result = chain.submit(task_id, 1, 2, proposer=0)
        assert result.receipts.rounds == ()
        # The set is complete, so that another proposer's block is wanted at once.
        assert result.next_due_time_ms == result.time_ms
        result = chain.run_block(proposer=0)
        assert (result.receipts.rounds, result.next_due_time_ms) == ((), result.time_ms)
        result = chain.run_block(proposer=1)
        get_receipt(result, RoundOutcome.FINALIZED)
        assert result.next_due_time_ms is None


def test_blocks_with_updates_of_different_proposers_are_a_spread() -> None:
    chain = Chain()
    task_id = create(chain, make_policy(waive_proposer_spread=False), participants=2)
    chain.submit(task_id, 1, proposer=0)
    get_receipt(chain.submit(task_id, 2, first=1, proposer=1), RoundOutcome.FINALIZED)


def test_blocks_before_the_first_update_do_not_count() -> None:
    chain = Chain()
    task_id = create(chain, make_policy(waive_proposer_spread=False), participants=2)
    for proposer in range(4):
        chain.run_block(proposer=proposer)
    assert chain.submit(task_id, 1, 2, proposer=0).receipts.rounds == ()


@pytest.mark.parametrize(
    ("powers", "is_enough"), [((1, 1, 1), False), ((2, 1, 1), True), ((1, 2, 1), False)]
)
def test_the_spread_is_more_than_a_third_of_the_power(
    powers: tuple[int, ...], *, is_enough: bool
) -> None:
    chain = Chain(powers=powers)
    task_id = create(chain, make_policy(waive_proposer_spread=False), participants=2)
    result = chain.submit(task_id, 1, 2, proposer=0)
    assert bool(result.receipts.rounds) is is_enough


@pytest.mark.parametrize("below_minimum", list(BelowMinimum))
def test_the_deadline_waits_for_the_spread(below_minimum: BelowMinimum) -> None:
    chain = Chain()
    updates_min = 2 if below_minimum is BelowMinimum.EXTEND else 3
    policy = make_policy(
        updates_min=updates_min, below_minimum=below_minimum, waive_proposer_spread=False
    )
    task_id = create(chain, policy)
    chain.submit(task_id, 1, 2, proposer=2)
    result = chain.run_block(after_ms=10_000, proposer=2)
    assert (result.receipts.rounds, result.next_due_time_ms) == ((), result.time_ms)
    outcome = RoundOutcome.FINALIZED if below_minimum is BelowMinimum.EXTEND else RoundOutcome.VOID
    get_receipt(chain.run_block(proposer=3), outcome)


# --- finalizing -----------------------------------------------------------------------------------


def test_the_finalized_weights_are_the_mean_step() -> None:
    chain = Chain()
    task_id = create(chain, make_policy(), participants=2)
    old = chain.get_task(task_id)
    result = chain.submit(task_id, 10, 20)
    ((name, weights),) = result.artifacts.items()
    # The mean is 15 with 12 fraction bits; weights have 16, so that it counts 16 times.
    expected = np.frombuffer(INITIAL_WEIGHTS, "<i4") + 15 * 16
    assert np.frombuffer(weights, "<i4").tolist() == expected.tolist()
    task = chain.get_task(task_id)
    assert (task.weights_root, task.weights_root) == (name, compute_content_hash(weights))
    receipt = get_receipt(result, RoundOutcome.FINALIZED)
    assert (receipt.base_weights_root, receipt.weights_root) == (
        old.weights_root,
        task.weights_root,
    )
    order = [update.participant for update in receipt.updates]
    assert order == sorted(key.address for key in PARTICIPANTS[:2])
    leaves = [encode((u.participant, u.payload_hash, 10, 0)) for u in receipt.updates]
    assert receipt.set_root == compute_root(leaves)
    assert {update.payload_hash for update in receipt.updates} | {old.weights_root} == set(
        result.released_payloads
    )


def test_saturation_and_clamping_are_in_the_receipt() -> None:
    top = np.full(DIMENSION, 2**31 - 1, "<i4").tobytes()
    chain = Chain()
    spec = make_spec(initial_weights_root=compute_content_hash(top))
    task_id = chain.create_task(spec, participants=2, weights=top)
    receipt = get_receipt(chain.submit(task_id, 32767, 32767), RoundOutcome.FINALIZED)
    assert (receipt.saturated, receipt.clamped) == (2 * DIMENSION, DIMENSION)


def test_momentum_is_carried_from_round_to_round() -> None:
    chain = Chain()
    optimizer = ServerOptimizer(OptimizerName.MOMENTUM, momentum=1 << 15)
    task_id = chain.create_task(make_spec(optimizer=optimizer), participants=2)
    for value, velocity in ((64, 64), (64, 96), (0, 48)):
        before = chain.get_task(task_id)
        result = chain.submit(task_id, value, value)
        task = chain.get_task(task_id)
        state = np.frombuffer(result.artifacts[task.optimizer_root], "<i8")
        assert state.tolist() == [velocity << 16] * DIMENSION
        # The state that a task starts from is empty, and so nothing that is needed or let go.
        is_start = before.optimizer_root == EMPTY_ROOT
        assert is_start is (before.training_round == 0)
        assert (before.optimizer_root in result.released_payloads) is not is_start
    assert task.optimizer_root == compute_content_hash(result.artifacts[task.optimizer_root])


def test_a_task_completes_after_its_last_round() -> None:
    chain = Chain()
    task_id = create(chain, make_policy(rounds_max=2), participants=2)
    chain.submit(task_id, 1, 2)
    assert chain.get_task(task_id).status is TaskStatus.OPEN
    chain.submit(task_id, 3, 4)
    assert chain.get_task(task_id).status is TaskStatus.COMPLETED
    late = chain.sign(PARTICIPANTS[0], chain.make_update(task_id, [1] * DIMENSION))
    chain.assert_refused(late, ErrorCode.TASK_NOT_OPEN, "completed")


def test_tasks_are_isolated_even_with_the_same_bytes() -> None:
    chain = Chain()
    one = chain.create_task(make_spec("one"), participants=2)
    other = chain.create_task(make_spec("other"), participants=2)
    shared = chain.get_task(one).weights_root
    assert chain.get_task(other).weights_root == shared
    chain.submit(other, 10)
    result = chain.submit(one, 10, 20)
    # The other task still trains from these weights, and counts one of these payloads.
    assert shared not in result.released_payloads
    assert chain.state.is_payload_needed(shared)
    assert len(result.released_payloads) == 1
    result = chain.submit(other, 20, first=1)
    assert shared in result.released_payloads
    assert len(result.released_payloads) == 3
    assert chain.get_task(one).weights_root == chain.get_task(other).weights_root


def submit_to_all(chain: Chain, ids: list[Hash]) -> list[SignedTransaction]:
    return [
        chain.sign(PARTICIPANTS[index], chain.make_update(task_id, [3] * DIMENSION), ahead=ahead)
        for ahead, task_id in enumerate(ids)
        for index in (0, 1)
    ]


def test_rounds_that_end_together_are_in_a_fixed_order() -> None:
    chain = Chain()
    bodies = [chain.make_creation(make_spec(name)) for name in "abcde"]
    creations = [chain.sign(AUTHORITY, body, ahead=index) for index, body in enumerate(bodies)]
    chain.run_block(*creations)
    ids = [hash_of(creation) for creation in creations]
    assert ids != sorted(ids)
    for task_id in ids:
        chain.register(task_id, *PARTICIPANTS[:2])
    result = chain.run_block(*submit_to_all(chain, ids))
    assert [receipt.task_id for receipt in result.receipts.rounds] == sorted(ids)


def test_a_block_aggregates_within_its_cost_and_the_oldest_rounds_first() -> None:
    # Each round costs two updates of six parameters; a block has room for two rounds.
    chain = Chain(parameters=ConsensusParameters(aggregation_cost_block_max=25))
    ids = [chain.create_task(make_spec(name), participants=2) for name in "abcde"]
    result = chain.run_block(*submit_to_all(chain, ids))
    ended = [[receipt.task_id for receipt in result.receipts.rounds]]
    while result.next_due_time_ms is not None:
        assert result.next_due_time_ms == result.time_ms
        result = chain.run_block()
        ended.append([receipt.task_id for receipt in result.receipts.rounds])
    assert ended == [ids[0:2], ids[2:4], ids[4:]]


# --- frozen rounds --------------------------------------------------------------------------------


def finalize(task_id: Hash, training_round: int = 0) -> FinalizeTrainingRound:
    return FinalizeTrainingRound(task_id, training_round)


def test_an_expensive_round_is_frozen_and_finalized_later() -> None:
    slow = SlowAggregates()
    chain = Chain(parameters=FREE, aggregates=slow)
    task_id = create(chain, make_policy(), participants=3)
    model_root = chain.state.model_root
    before = chain.get_task(task_id)
    result = chain.submit(task_id, 10, 20, 30)
    receipt = get_receipt(result, RoundOutcome.FROZEN)
    assert receipt.weights_root == before.weights_root
    assert [update.score for update in receipt.updates] == [0, 0, 0]
    assert (result.model_root, result.artifacts) == (model_root, {})
    assert result.finalizations_due == ((task_id, 0),) == get_finalizations_due(chain.state)
    assert (result.next_due_time_ms, result.released_payloads) == (None, ())
    frozen = chain.get_task(task_id).frozen
    assert frozen is not None
    assert frozen.set_root == receipt.set_root
    view = get_training_round(chain.state, task_id)
    assert view is not None
    assert view.is_frozen

    signed = chain.sign(VALIDATORS[1], finalize(task_id))
    execution = chain.begin(chain.make_context(proposer=1))
    with pytest.raises(PendingError, match="is being aggregated"):
        execution.apply_transaction(hash_of(signed), signed)
    assert execution.finish() == chain.begin(chain.make_context(proposer=1)).finish()
    assert slow.asked == [get_frozen_inputs(chain.state, task_id)]

    slow.is_ready = True
    result = chain.run_block(signed, proposer=1)
    done = get_receipt(result, RoundOutcome.FINALIZED)
    assert done.set_root == receipt.set_root
    assert done.training_round == receipt.training_round == 0
    assert result.model_root != model_root
    assert result.finalizations_due == ()
    assert len(result.released_payloads) == 4
    assert get_frozen_inputs(chain.state, task_id) is None
    inline = Chain()
    again = create(inline, make_policy(), participants=3)
    inline.submit(again, 10, 20, 30)
    assert inline.get_task(again).weights_root == chain.get_task(task_id).weights_root


def test_a_frozen_round_takes_no_updates_and_keeps_those_it_has() -> None:
    chain = Chain(parameters=FREE)
    task_id = create(chain, make_policy(), participants=2)
    receipt = get_receipt(chain.submit(task_id, 1, 2), RoundOutcome.FROZEN)
    chain.register(task_id, PARTICIPANTS[2])
    late = chain.sign(PARTICIPANTS[2], chain.make_update(task_id, [1] * DIMENSION))
    chain.assert_refused(late, ErrorCode.ROUND_FULL, "takes no more updates")
    leaver = PARTICIPANTS[0]
    chain.run_block(chain.sign(leaver, RevokeParticipant(task_id, leaver.address)))
    chain.register(task_id, leaver)
    early = chain.sign(leaver, chain.make_update(task_id, [1] * DIMENSION))
    chain.assert_refused(early, ErrorCode.ROUND_FULL, "takes no more updates")
    result = chain.run_block(chain.sign(VALIDATORS[0], finalize(task_id)), proposer=0)
    assert get_receipt(result, RoundOutcome.FINALIZED).set_root == receipt.set_root
    chain.submit(task_id, 3)
    assert chain.get_task(task_id).update_count == 1


def test_only_the_proposer_carries_a_result_and_only_of_a_frozen_round() -> None:
    chain = Chain(parameters=FREE, fee_min=5)
    task_id = create(chain, make_policy(updates_max=2))
    early = chain.sign(VALIDATORS[2], finalize(task_id), fee=0)
    chain.assert_refused(early, ErrorCode.WRONG_TRAINING_ROUND, "is not frozen", proposer=2)
    chain.submit(task_id, 1, 2)
    for sender, proposer in ((VALIDATORS[1], 2), (AUTHORITY, 2)):
        signed = chain.sign(sender, finalize(task_id), fee=0 if sender is VALIDATORS[1] else 5)
        chain.assert_refused(
            signed, ErrorCode.NOT_AUTHORIZED, "Only the proposer", proposer=proposer
        )
    wrong = chain.sign(VALIDATORS[2], finalize(task_id, 1), fee=0)
    chain.assert_refused(wrong, ErrorCode.WRONG_TRAINING_ROUND, "round 1 is not", proposer=2)
    unknown = chain.sign(VALIDATORS[2], finalize(Hash(b"?" * 32)), fee=0)
    chain.assert_refused(unknown, ErrorCode.UNKNOWN_TASK, "no task", proposer=2)
    # A validator without coins carries it all the same: no fee is asked.
    signed = chain.sign(VALIDATORS[2], finalize(task_id), fee=0)
    twice = chain.sign(VALIDATORS[2], finalize(task_id), fee=0, ahead=1)
    chain.assert_refused(twice, ErrorCode.WRONG_TRAINING_ROUND, "is not frozen", signed, proposer=2)
    chain.run_block(signed, proposer=2)


def test_a_round_opened_by_a_result_can_end_in_the_same_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its base weights are not in the store yet, and the updates before it make room."""
    monkeypatch.setattr("ledger.training.OPEN_UPDATES_MAX", 3)
    chain = Chain(parameters=ConsensusParameters(aggregation_cost_block_max=2 * DIMENSION))
    task_id = create(chain, make_policy(), participants=3)
    get_receipt(chain.submit(task_id, 1, 2, 3), RoundOutcome.FROZEN)
    signed = chain.sign(VALIDATORS[0], finalize(task_id))
    probe = chain.begin(chain.make_context(proposer=0))
    probe.apply_transaction(hash_of(signed), signed)
    root = probe._env.get_task(task_id).weights_root
    updates = [
        chain.sign(
            PARTICIPANTS[index],
            chain.make_update(
                task_id, [value] * DIMENSION, training_round=1, base_weights_root=root
            ),
        )
        for index, value in ((0, 5), (1, 7))
    ]
    leave = chain.sign(PARTICIPANTS[2], RevokeParticipant(task_id, PARTICIPANTS[2].address))
    result = chain.run_block(signed, *updates, leave, proposer=0)
    first, second = result.receipts.rounds
    assert first.outcome is second.outcome is RoundOutcome.FINALIZED
    assert second.base_weights_root == first.weights_root == root
    assert chain.get_task(task_id).rounds_finalized == 2
    # The weights in between were superseded within the block.
    (between,) = [name for name in result.artifacts if name in result.released_payloads]
    assert compute_content_hash(result.artifacts[between]) == root


def test_a_frozen_round_of_a_completed_task_still_gets_its_result() -> None:
    chain = Chain(parameters=FREE)
    task_id = create(chain, make_policy(updates_max=2))
    chain.submit(task_id, 1, 2)
    body = ChangeTaskStatus(task_id, TaskStatus.COMPLETED)
    result = chain.run_block(chain.sign(AUTHORITY, body))
    assert result.receipts.rounds == ()
    assert result.finalizations_due == ((task_id, 0),)
    result = chain.run_block(chain.sign(VALIDATORS[0], finalize(task_id)), proposer=0)
    get_receipt(result, RoundOutcome.FINALIZED)
    assert chain.get_task(task_id).status is TaskStatus.COMPLETED


@pytest.mark.parametrize(("cost_max", "outcome"), [(11, 2), (12, 1)])
def test_the_cost_rule_is_updates_times_parameters_times_weight(
    cost_max: int, outcome: int
) -> None:
    # Two updates of six parameters under the mean, whose weight is 1.
    chain = Chain(parameters=ConsensusParameters(aggregation_cost_block_max=cost_max))
    task_id = create(chain, make_policy(), participants=2)
    get_receipt(chain.submit(task_id, 1, 2), RoundOutcome(outcome))


def test_a_sealing_block_without_its_aggregate_has_no_verdict() -> None:
    slow = SlowAggregates()
    chain = Chain(aggregates=slow)
    task_id = create(chain, make_policy(), participants=2)
    updates = [
        chain.sign(PARTICIPANTS[index], chain.make_update(task_id, [index] * DIMENSION))
        for index in (0, 1)
    ]
    context = chain.make_context()
    execution = chain.begin(context)
    for signed in updates:
        execution.apply_transaction(hash_of(signed), signed)
    with pytest.raises(PendingError, match="is being aggregated"):
        execution.finish()
    slow.is_ready = True
    get_receipt(chain.run_block(*updates), RoundOutcome.FINALIZED)
    first, second = slow.asked
    assert first == second
    assert first.key == second.key


def test_a_result_waits_for_base_weights_and_payloads() -> None:
    chain = Chain()
    task_id = create(chain, make_policy(), participants=2)
    updates = [
        chain.sign(PARTICIPANTS[index], chain.make_update(task_id, [index] * DIMENSION))
        for index in (0, 1)
    ]
    chain.run_block(updates[0])
    weights_hash = chain.get_task(task_id).weights_root
    held = chain.payloads.held.pop(weights_hash)
    execution = chain.begin(chain.make_context())
    execution.apply_transaction(hash_of(updates[1]), updates[1])
    with pytest.raises(PendingError) as caught:
        execution.finish()
    assert caught.value.missing_payloads == (weights_hash,)
    chain.payloads.put(held)
    chain.run_block(updates[1])


def test_inputs_are_known_by_all_that_the_result_depends_on() -> None:
    """Another order of arrival is the same key; anything that matters makes another."""
    keys = set()
    for values in ((1, 2), (1, 3), (2, 1)):
        slow = SlowAggregates()
        slow.is_ready = True
        chain = Chain(aggregates=slow)
        task_id = create(chain, make_policy(), participants=2)
        chain.submit(task_id, *values)
        keys.add(slow.asked[0].key)
        chain.submit(task_id, *values)
        keys.add(slow.asked[1].key)
    assert len(keys) == 6
    assert isinstance(Chain().aggregates, InlineAggregates)
