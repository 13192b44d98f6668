"""Participants that vanish, stay silent, come late or twice: the training round goes on."""

import pytest
from quorate.chain.errors import ErrorCode
from quorate.chain.ids import Address, Hash
from quorate.chain.receipt import (
    ABSENCES_MAX,
    Absence,
    AbsenceReason,
    RoundOutcome,
    RoundReceipt,
    SealCause,
)
from quorate.chain.round_policy import RoundPolicy
from quorate.chain.task import BelowMinimum
from quorate.chain.transaction import (
    ChangeTaskStatus,
    RegisterParticipant,
    RevokeParticipant,
    TaskStatus,
)

from ledger.execution import ExecutionResult
from ledger.queries import get_participants
from ledger.records import WITHDRAWALS_LISTED_MAX
from ledger.round_receipts import REGISTRATIONS_LISTED_MAX
from tests.ledger.chain import (
    AUTHORITY,
    DIMENSION,
    PARTICIPANTS,
    Chain,
    get_receipt,
    make_key,
    make_policy,
    make_spec,
)

SILENT, EXCUSED = AbsenceReason.SILENT, AbsenceReason.EXCUSED
LEFT, REVOKED = AbsenceReason.LEFT, AbsenceReason.REVOKED


def create(chain: Chain, policy: RoundPolicy, participants: int = 4) -> Hash:
    return chain.create_task(make_spec(policy=policy), participants=participants)


def run_to_deadline(chain: Chain, task_id: Hash) -> ExecutionResult:
    return chain.run_block(after_ms=chain.get_task(task_id).deadline_time_ms - chain.state.time_ms)


def get_reasons(receipt: RoundReceipt) -> dict[Address, AbsenceReason]:
    return {absence.participant: absence.reason for absence in receipt.absences}


def get_awaited(chain: Chain, task_id: Hash) -> list[bool]:
    by_address = {p.address: p.is_awaited for p in get_participants(chain.state, task_id)}
    return [by_address[key.address] for key in PARTICIPANTS if key.address in by_address]


# --- silent participants --------------------------------------------------------------------------


def test_who_is_silent_for_long_is_excused_and_waited_for_again_when_it_sends() -> None:
    chain = Chain()
    task_id = create(chain, make_policy(silent_rounds_max=2))
    for number in range(3):
        # The third has sent nothing; the round waits for it, but not beyond the deadline.
        result = chain.submit(task_id, 1, 2, 3)
        assert result.receipts.rounds == ()
        assert result.next_due_time_ms == chain.get_task(task_id).deadline_time_ms
        receipt = get_receipt(run_to_deadline(chain, task_id), RoundOutcome.FINALIZED)
        assert (receipt.training_round, receipt.cause) == (number, SealCause.DEADLINE)
        assert get_reasons(receipt) == {PARTICIPANTS[3].address: SILENT}
        assert (receipt.registered_count, receipt.awaited_count, receipt.absence_count) == (4, 4, 1)
    assert get_awaited(chain, task_id) == [True, True, True, False]
    receipt = get_receipt(chain.submit(task_id, 1, 2, 3), RoundOutcome.FINALIZED)
    assert (receipt.cause, receipt.awaited_count) == (SealCause.EVERYONE, 3)
    assert get_reasons(receipt) == {PARTICIPANTS[3].address: EXCUSED}
    # It sends again: it is counted, and in the next round waited for.
    chain.submit(task_id, 1, first=3)
    assert get_awaited(chain, task_id) == [True] * 4
    receipt = get_receipt(chain.submit(task_id, 1, 2, 3), RoundOutcome.FINALIZED)
    assert (len(receipt.updates), receipt.absences) == (4, ())
    assert chain.submit(task_id, 1, 2, 3).receipts.rounds == ()


def test_a_task_can_wait_for_everybody_though_never_beyond_the_deadline() -> None:
    chain = Chain()
    task_id = create(chain, make_policy(silent_rounds_max=0))
    for _ in range(70):
        assert chain.submit(task_id, 1, 2, 3).receipts.rounds == ()
        receipt = get_receipt(run_to_deadline(chain, task_id), RoundOutcome.FINALIZED)
        assert get_reasons(receipt) == {PARTICIPANTS[3].address: SILENT}
    assert chain.get_task(task_id).activity == ()


def test_hundreds_that_register_and_stay_silent_delay_a_round_three_times_at_most() -> None:
    chain = Chain()
    task_id = create(chain, make_policy(), participants=2)
    crowd = [make_key(5000 + index) for index in range(REGISTRATIONS_LISTED_MAX)]
    chain.register(task_id, *crowd)
    causes = []
    for _ in range(5):
        result = chain.submit(task_id, 1, 2)
        if not result.receipts.rounds:
            result = run_to_deadline(chain, task_id)
        receipt = get_receipt(result, RoundOutcome.FINALIZED)
        causes.append(receipt.cause)
        # Too many to list, but not to count.
        assert (receipt.absence_count, receipt.absences) == (len(crowd), ())
    assert causes == [SealCause.DEADLINE] * 4 + [SealCause.EVERYONE]


def test_a_receipt_lists_as_many_absences_as_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Chain()
    task_id = create(chain, make_policy(updates_max=2), participants=2)
    crowd = [make_key(5000 + index) for index in range(REGISTRATIONS_LISTED_MAX - 2)]
    chain.register(task_id, *crowd)
    receipt = get_receipt(chain.submit(task_id, 1, 2), RoundOutcome.FINALIZED)
    assert set(get_reasons(receipt)) == {key.address for key in crowd}
    assert len(receipt.absences) + WITHDRAWALS_LISTED_MAX <= ABSENCES_MAX
    # All receipts of a block share what they may look at.
    limit = REGISTRATIONS_LISTED_MAX - 1
    monkeypatch.setattr("ledger.round_receipts.REGISTRATIONS_LISTED_BLOCK_MAX", limit)
    receipt = get_receipt(chain.submit(task_id, 1, 2), RoundOutcome.FINALIZED)
    assert (receipt.absence_count, receipt.absences) == (len(crowd), ())


def test_everybody_gone_ends_a_round_with_what_there_is() -> None:
    chain = Chain()
    task_id = create(chain, make_policy(), participants=4)
    chain.submit(task_id, 1, 2)
    assert chain.get_task(task_id).update_count == 2
    for index in (2, 3):
        leave = RevokeParticipant(task_id, PARTICIPANTS[index].address)
        result = chain.run_block(chain.sign(PARTICIPANTS[index], leave))
    receipt = get_receipt(result, RoundOutcome.FINALIZED)
    # They had sent nothing, so that nothing was withdrawn.
    assert (receipt.cause, receipt.absences, receipt.registered_count) == (
        SealCause.EVERYONE,
        (),
        2,
    )


def test_who_withdrew_an_update_is_in_the_receipt_with_the_reason() -> None:
    chain = Chain()
    task_id = create(chain, make_policy(), participants=5)
    chain.submit(task_id, 1, 2, 3, 4)
    gone = [PARTICIPANTS[0].address, PARTICIPANTS[1].address]
    chain.run_block(chain.sign(PARTICIPANTS[0], RevokeParticipant(task_id, gone[0])))
    chain.run_block(chain.sign(AUTHORITY, RevokeParticipant(task_id, gone[1])))
    receipt = get_receipt(run_to_deadline(chain, task_id), RoundOutcome.FINALIZED)
    assert receipt.absences == (
        Absence(gone[0], LEFT),
        Absence(gone[1], REVOKED),
        Absence(PARTICIPANTS[4].address, SILENT),
    )
    assert (receipt.absence_count, len(receipt.updates)) == (3, 2)
    # The next round has forgotten them.
    receipt = get_receipt(chain.submit(task_id, 1, 2, 3, first=2), RoundOutcome.FINALIZED)
    assert receipt.absence_count == 0


def test_who_withdrew_and_came_back_is_counted_or_silent_like_anybody() -> None:
    chain = Chain()
    task_id = create(chain, make_policy(updates_max=5), participants=5)
    chain.submit(task_id, 1, 2, 3)
    for key in PARTICIPANTS[:2]:
        chain.run_block(
            chain.sign(key, RevokeParticipant(task_id, key.address)),
            chain.sign(key, RegisterParticipant(task_id), ahead=1),
        )
    chain.submit(task_id, 4)  # The first one again.
    receipt = get_receipt(run_to_deadline(chain, task_id), RoundOutcome.FINALIZED)
    counted = [update.participant for update in receipt.updates]
    assert counted == sorted(PARTICIPANTS[index].address for index in (0, 2))
    silent = {PARTICIPANTS[index].address: SILENT for index in (1, 3, 4)}
    assert (get_reasons(receipt), receipt.absence_count) == (silent, 3)


def test_somebody_who_comes_and_goes_all_the_time_fills_no_record() -> None:
    chain = Chain()
    task_id = create(chain, make_policy(updates_max=4), participants=3)
    chain.submit(task_id, 1)
    key = PARTICIPANTS[1]
    for _ in range(3):
        update = chain.make_update(task_id, [5] * DIMENSION)
        leave = RevokeParticipant(task_id, key.address)
        chain.run_block(chain.sign(key, update), chain.sign(key, leave, ahead=1))
        task = chain.get_task(task_id)
        assert (task.withdrawn_count, task.withdrawn) == (1, (Absence(key.address, LEFT),))
        chain.run_block(chain.sign(key, RegisterParticipant(task_id)))
        task = chain.get_task(task_id)
        assert (task.withdrawn_count, task.withdrawn, task.update_count) == (0, (), 1)


def test_of_many_who_withdraw_as_many_are_remembered_as_may_be() -> None:
    chain = Chain()
    task_id = create(chain, make_policy(), participants=2)
    keys = [make_key(5_000 + index) for index in range(WITHDRAWALS_LISTED_MAX + 3)]
    update = chain.make_update(task_id, [5] * DIMENSION)
    for key in keys:
        chain.run_block(
            chain.sign(key, RegisterParticipant(task_id)),
            chain.sign(key, update, ahead=1),
            chain.sign(key, RevokeParticipant(task_id, key.address), ahead=2),
        )
    task = chain.get_task(task_id)
    assert task.withdrawn_count == WITHDRAWALS_LISTED_MAX + 3
    listed = tuple(Absence(key.address, LEFT) for key in keys[:WITHDRAWALS_LISTED_MAX])
    assert (task.withdrawn, task.update_count) == (listed, 0)


# --- too few --------------------------------------------------------------------------------------


def test_a_round_below_its_minimum_is_extended_a_bounded_number_of_times() -> None:
    chain = Chain()
    task_id = create(chain, make_policy(updates_min=3, extensions_max=2))
    chain.submit(task_id, 1, 2)
    end = chain.state.next_due_time_ms
    for count in (1, 2):
        result = run_to_deadline(chain, task_id)
        assert (result.receipts.rounds, result.next_due_time_ms) == ((), end)
        assert chain.get_task(task_id).extension_count == count
    assert chain.get_task(task_id).deadline_time_ms == end
    receipt = get_receipt(run_to_deadline(chain, task_id), RoundOutcome.VOID)
    assert (receipt.cause, receipt.extension_count) == (SealCause.DEADLINE, 2)
    assert {u.score for u in receipt.updates} == {0}
    task = chain.get_task(task_id)
    assert (task.training_round, task.extension_count, task.update_count) == (1, 0, 0)
    get_receipt(chain.submit(task_id, 1, 2, 3, 4), RoundOutcome.FINALIZED)


def test_periods_that_no_block_was_made_in_count() -> None:
    chain = Chain()
    task_id = create(chain, make_policy(updates_min=3, extensions_max=5))
    chain.submit(task_id, 1)
    left = chain.get_task(task_id).deadline_time_ms - chain.state.time_ms
    # An update after three and a half periods: the fourth began with it.
    chain.submit(task_id, 2, first=1, after_ms=left + 25_000)
    assert chain.get_task(task_id).extension_count == 3
    end = chain.state.time_ms + 10_000 * 3
    assert chain.state.next_due_time_ms == end
    assert chain.run_block(after_ms=29_999).receipts.rounds == ()
    assert chain.get_task(task_id).extension_count == 5
    get_receipt(run_to_deadline(chain, task_id), RoundOutcome.VOID)


def test_the_block_of_the_last_deadline_may_still_bring_the_minimum() -> None:
    chain = Chain()
    task_id = create(chain, make_policy(extensions_max=1))
    chain.submit(task_id, 1)
    end = chain.state.next_due_time_ms
    assert end is not None
    result = chain.submit(task_id, 2, first=1, after_ms=end - chain.state.time_ms)
    get_receipt(result, RoundOutcome.FINALIZED)


def test_a_resumed_task_may_be_extended_as_often_as_a_new_one() -> None:
    chain = Chain()
    task_id = create(chain, make_policy(extensions_max=1))
    chain.submit(task_id, 1)
    run_to_deadline(chain, task_id)
    assert chain.get_task(task_id).extension_count == 1
    for status in (TaskStatus.PAUSED, TaskStatus.OPEN):
        result = chain.run_block(chain.sign(AUTHORITY, ChangeTaskStatus(task_id, status)))
    assert chain.get_task(task_id).extension_count == 0
    assert result.next_due_time_ms == result.time_ms + 20_000


# --- late, twice, stale, flooding: refused at the door, and the round goes on ---------------------


@pytest.mark.parametrize("below_minimum", list(BelowMinimum))
def test_refused_updates_change_nothing_of_the_round(below_minimum: BelowMinimum) -> None:
    chain = Chain()
    task_id = create(chain, make_policy(below_minimum=below_minimum), participants=3)
    old = chain.get_task(task_id).weights_root
    chain.submit(task_id, 1, 2, 3)
    chain.submit(task_id, 1)
    before = chain.get_task(task_id)
    ones = [1] * DIMENSION
    refused = {
        ErrorCode.DUPLICATE_UPDATE: (0, chain.make_update(task_id, ones)),
        ErrorCode.WRONG_TRAINING_ROUND: (1, chain.make_update(task_id, ones, training_round=0)),
        ErrorCode.STALE_WEIGHTS: (1, chain.make_update(task_id, ones, base_weights_root=old)),
    }
    for code, (index, body) in refused.items():
        chain.assert_refused(chain.sign(PARTICIPANTS[index], body), code, "round")
    assert chain.get_task(task_id) == before
    chain.submit(task_id, 2, first=1)
    get_receipt(run_to_deadline(chain, task_id), RoundOutcome.FINALIZED)
