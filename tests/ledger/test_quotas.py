"""Quotas of accounts: each limit is reached, named, and free again when what took it is gone."""

import pytest
from quorate.chain.errors import ErrorCode, TransactionError
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.receipt import RoundOutcome
from quorate.chain.transaction import (
    ChangeTaskStatus,
    FinalizeTrainingRound,
    RegisterParticipant,
    RevokeParticipant,
    TaskStatus,
    Transfer,
)

from ledger.execution import BlockExecution
from ledger.indexes import TASKS_EVER_PER_ACCOUNT_MAX, TASKS_MAX
from ledger.state import State
from tests.ledger.chain import (
    AUTHORITY,
    DIMENSION,
    PARTICIPANTS,
    VALIDATORS,
    Chain,
    get_receipt,
    hash_of,
    make_policy,
    make_spec,
)

ONES = [1] * DIMENSION
UPDATE_BYTES = 2 * DIMENSION


def make_chain(**parameters: int) -> Chain:
    return Chain(parameters=ConsensusParameters(**parameters))


def test_a_block_holds_so_many_transactions_of_one_sender() -> None:
    chain = make_chain(transactions_per_sender_max=3)
    flooder, other = PARTICIPANTS[0], PARTICIPANTS[1]
    pay = Transfer(AUTHORITY.address, 1)
    flood = [chain.sign(flooder, pay, ahead=ahead) for ahead in range(4)]
    execution = chain.begin(chain.make_context())
    for signed in flood[:3]:
        execution.apply_transaction(hash_of(signed), signed)
    with pytest.raises(TransactionError, match="transactions_per_sender_max = 3") as caught:
        execution.apply_transaction(hash_of(flood[3]), flood[3])
    assert caught.value.code is ErrorCode.QUOTA_EXCEEDED
    mine = chain.sign(other, pay)
    execution.apply_transaction(hash_of(mine), mine)
    chain.commit(execution.finish())
    # A later block may hold it, so that the door keeps it.
    chain.ask_door(flood[3])
    chain.run_block(flood[3])


def test_what_is_refused_does_not_count_and_results_do_not_either() -> None:
    chain = make_chain(transactions_per_sender_max=1, aggregation_cost_block_max=0)
    proposer = VALIDATORS[0]
    ids = [chain.create_task(make_spec(name, policy=make_policy(updates_max=2))) for name in "ab"]
    for task_id in ids:
        get_receipt(chain.submit(task_id, 1, 2), RoundOutcome.FROZEN)
    results = [
        chain.sign(proposer, FinalizeTrainingRound(task_id, 0), ahead=ahead)
        for ahead, task_id in enumerate(ids)
    ]
    assert len(chain.run_block(*results, proposer=0).receipts.rounds) == 2
    execution: BlockExecution = chain.begin(chain.make_context())
    wrong = chain.sign(PARTICIPANTS[0], RegisterParticipant(ids[0]))
    with pytest.raises(TransactionError, match="registered for this task already"):
        execution.apply_transaction(hash_of(wrong), wrong)
    right = chain.sign(PARTICIPANTS[0], Transfer(AUTHORITY.address, 1))
    execution.apply_transaction(hash_of(right), right)


def test_an_account_is_registered_for_so_many_tasks() -> None:
    chain = make_chain(registrations_per_account_max=2)
    ids = [chain.create_task(make_spec(name), participants=0) for name in "abc"]
    key = PARTICIPANTS[0]
    chain.register(ids[0], key)
    second = chain.sign(key, RegisterParticipant(ids[1]))
    third = chain.sign(key, RegisterParticipant(ids[2]), ahead=1)
    words = "registrations_per_account_max = 2"
    chain.assert_refused(third, ErrorCode.QUOTA_EXCEEDED, words, second)
    chain.run_block(second)
    third = chain.sign(key, RegisterParticipant(ids[2]))
    chain.assert_refused(third, ErrorCode.QUOTA_EXCEEDED, words)
    chain.run_block(chain.sign(key, RevokeParticipant(ids[0], key.address)))
    chain.register(ids[2], key)


def test_an_account_has_so_many_tasks_at_a_time() -> None:
    chain = make_chain(tasks_per_account_max=2)
    first, _ = (chain.create_task(make_spec(name), participants=0) for name in "ab")
    third = chain.make_creation(make_spec("c"))
    words = "tasks_per_account_max = 2"
    chain.assert_refused(chain.sign(AUTHORITY, third), ErrorCode.QUOTA_EXCEEDED, words)
    chain.run_block(chain.sign(PARTICIPANTS[0], third))
    chain.run_block(chain.sign(AUTHORITY, ChangeTaskStatus(first, TaskStatus.COMPLETED)))
    chain.create_task(make_spec("d"), participants=0)


def test_no_account_takes_all_tasks_of_the_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A completed task frees its place in the quota, and stays on the chain."""
    monkeypatch.setattr("ledger.quotas.TASKS_EVER_PER_ACCOUNT_MAX", 3)
    chain = make_chain(tasks_per_account_max=2)
    words = "has created 3 tasks, completed ones included"
    for name in "ab":
        task_id = chain.create_task(make_spec(name), participants=0)
        chain.run_block(chain.sign(AUTHORITY, ChangeTaskStatus(task_id, TaskStatus.COMPLETED)))
    # The third and the fourth in one block, which the committed state does not count yet.
    third = chain.sign(AUTHORITY, chain.make_creation(make_spec("c")))
    fourth = chain.sign(AUTHORITY, chain.make_creation(make_spec("d")), ahead=1)
    chain.assert_refused(fourth, ErrorCode.QUOTA_EXCEEDED, words, third)
    chain.run_block(third)
    fourth = chain.sign(AUTHORITY, chain.make_creation(make_spec("d")))
    chain.assert_refused(fourth, ErrorCode.QUOTA_EXCEEDED, words)
    with pytest.raises(TransactionError, match=words):
        chain.ask_door(fourth)
    # Who starts again counts what is stored, and others have shares of their own.
    again = State(chain.reader, chain.genesis).indexes
    assert again.get_created_count(AUTHORITY.address) == 3
    assert again.get_created_count(PARTICIPANTS[0].address) == 0
    chain.run_block(chain.sign(PARTICIPANTS[0], chain.make_creation(make_spec("d"))))


def test_the_share_of_an_account_leaves_most_of_the_chain() -> None:
    assert 16 * TASKS_EVER_PER_ACCOUNT_MAX <= TASKS_MAX
    assert ConsensusParameters().tasks_per_account_max <= TASKS_EVER_PER_ACCOUNT_MAX


def test_a_task_that_completes_by_itself_frees_its_place() -> None:
    chain = make_chain(tasks_per_account_max=1)
    policy = make_policy(rounds_max=1)
    task_id = chain.create_task(make_spec(policy=policy), participants=2)
    chain.submit(task_id, 1, 2)
    assert chain.get_task(task_id).status is TaskStatus.COMPLETED
    chain.create_task(make_spec("next"), participants=0)


@pytest.mark.parametrize("cost_max", [0, 10**6])
def test_an_account_has_so_many_bytes_in_open_rounds(cost_max: int) -> None:
    chain = make_chain(
        update_bytes_per_account_max=2 * UPDATE_BYTES, aggregation_cost_block_max=cost_max
    )
    ids = [chain.create_task(make_spec(name), participants=3) for name in "abc"]
    key = PARTICIPANTS[0]
    for task_id in ids[:2]:
        chain.submit(task_id, 1)
    third = chain.sign(key, chain.make_update(ids[2], ONES))
    words = f"update_bytes_per_account_max = {2 * UPDATE_BYTES}.*have {2 * UPDATE_BYTES} bytes"
    chain.assert_refused(third, ErrorCode.QUOTA_EXCEEDED, words)
    # A frozen round still takes them; its end frees them.
    result = chain.submit(ids[0], 2, 3, first=1)
    if cost_max == 0:
        get_receipt(result, RoundOutcome.FROZEN)
        chain.assert_refused(
            chain.sign(key, chain.make_update(ids[2], ONES)), ErrorCode.QUOTA_EXCEEDED, words
        )
        body = FinalizeTrainingRound(ids[0], 0)
        chain.run_block(chain.sign(VALIDATORS[0], body), proposer=0)
    chain.submit(ids[2], 1)
    # So does leaving.
    chain.run_block(chain.sign(key, RevokeParticipant(ids[1], key.address)))
    chain.ask_door(chain.sign(key, chain.make_update(ids[0], ONES)))
