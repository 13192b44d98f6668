"""Nonces, fees, balances, transfers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quorate.chain.errors import ErrorCode, TransactionError
from quorate.chain.genesis import Admission, GenesisMember
from quorate.chain.ids import INT64_MAX
from quorate.chain.keys import PrivateKey
from quorate.chain.transaction import RegisterParticipant, Role, SignedTransaction, Transfer

from ledger.accounts import validate_envelope
from ledger.execution import BlockExecution
from tests.ledger.chain import (
    AUTHORITY,
    COINS,
    PARTICIPANTS,
    STRANGER,
    VALIDATORS,
    Chain,
    assert_sentence,
    hash_of,
)
from tests.ledger.reference import DumbLedger

ALICE, BOB = PARTICIPANTS[:2]


def test_a_transfer_moves_coins_and_pays_the_proposer() -> None:
    chain = Chain(fee_min=2)
    chain.run_block(chain.sign(ALICE, Transfer(BOB.address, 50), fee=3), proposer=1)
    get = chain.state.get_account
    assert (get(ALICE.address).nonce, get(ALICE.address).balance) == (1, COINS - 53)
    assert (get(BOB.address).nonce, get(BOB.address).balance) == (0, COINS + 50)
    assert get(VALIDATORS[1].address).balance == 3


def test_a_transfer_to_oneself_costs_the_fee_alone() -> None:
    chain = Chain()
    chain.run_block(chain.sign(ALICE, Transfer(ALICE.address, COINS - 1), fee=1))
    assert chain.state.get_account(ALICE.address).balance == COINS - 1


def test_a_proposer_pays_its_fee_to_itself() -> None:
    chain = Chain(funded=dict.fromkeys(VALIDATORS, COINS))
    chain.run_block(chain.sign(VALIDATORS[0], Transfer(BOB.address, 7), fee=5), proposer=0)
    assert chain.state.get_account(VALIDATORS[0].address).balance == COINS - 7


def test_coins_received_can_be_spent_in_the_same_block() -> None:
    chain = Chain()
    chain.run_block(
        chain.sign(ALICE, Transfer(STRANGER.address, 10)),
        chain.sign(STRANGER, Transfer(BOB.address, 10)),
        chain.sign(ALICE, Transfer(BOB.address, 1), ahead=1),
    )
    assert chain.state.get_account(STRANGER.address).balance == 0
    assert chain.state.get_account(BOB.address).balance == COINS + 11


def test_no_account_is_created_for_nothing() -> None:
    chain = Chain()
    before = len(chain.entries)
    chain.run_block(chain.sign(ALICE, Transfer(STRANGER.address, 0)), proposer=0)
    # The proposer's last height is all that is new.
    assert len(chain.entries) == before + 1


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"chain_id": "other"}, ErrorCode.WRONG_CHAIN_ID, "'other', this one is 'ledger-test'"),
        ({"nonce": 1}, ErrorCode.WRONG_NONCE, "nonce 1, the sender's next one is 0"),
        ({"fee": 4}, ErrorCode.FEE_TOO_LOW, "fee is 4, this chain asks for at least 5"),
        ({"fee": COINS}, ErrorCode.INSUFFICIENT_BALANCE, "spends 1 and a fee of 1000000"),
    ],
)
def test_the_envelope_is_checked(changes: dict[str, object], code: ErrorCode, words: str) -> None:
    chain = Chain(fee_min=5)
    signed = chain.sign(ALICE, Transfer(BOB.address, 1), **changes)  # type: ignore[arg-type]
    chain.assert_refused(signed, code, words)
    chain.assert_refused(signed, code, words, chain.sign(BOB, Transfer(STRANGER.address, 1)))


def test_a_nonce_is_used_once_and_in_order() -> None:
    chain = Chain()
    first = chain.sign(ALICE, Transfer(BOB.address, 1))
    chain.assert_refused(first, ErrorCode.WRONG_NONCE, "next one is 1", first)
    chain.run_block(first)
    chain.assert_refused(first, ErrorCode.WRONG_NONCE, "nonce 0, the sender's next one is 1")


def test_spending_more_than_there_is_is_refused() -> None:
    chain = Chain()
    most = chain.sign(ALICE, Transfer(BOB.address, COINS - 1), fee=1)
    chain.ask_door(most)
    more = chain.sign(ALICE, Transfer(BOB.address, COINS), fee=1)
    chain.assert_refused(more, ErrorCode.INSUFFICIENT_BALANCE, "lower the amount")
    again = chain.sign(ALICE, Transfer(BOB.address, 1), ahead=1)
    chain.assert_refused(again, ErrorCode.INSUFFICIENT_BALANCE, "has 0 to spend", most)
    vast = chain.sign(ALICE, Transfer(BOB.address, INT64_MAX), fee=INT64_MAX)
    chain.assert_refused(vast, ErrorCode.INSUFFICIENT_BALANCE, "lower the amount")


def test_a_fee_is_due_for_every_kind_of_transaction() -> None:
    chain = Chain(fee_min=5)
    task_id = chain.create_task()
    signed = chain.sign(PARTICIPANTS[5], RegisterParticipant(task_id), fee=4)
    chain.assert_refused(signed, ErrorCode.FEE_TOO_LOW, "raise the fee")
    poor = chain.sign(STRANGER, RegisterParticipant(task_id))
    chain.assert_refused(poor, ErrorCode.INSUFFICIENT_BALANCE, "has 0 to spend")


def test_the_door_counts_what_is_pending() -> None:
    chain = Chain()
    env = chain.begin(chain.make_context())._env
    transaction = chain.sign(ALICE, Transfer(BOB.address, 10), nonce=3, fee=1).transaction
    validate_envelope(env, transaction, nonce=3, spendable=11)
    with pytest.raises(TransactionError) as caught:
        validate_envelope(env, transaction, nonce=3, spendable=10)
    assert caught.value.code is ErrorCode.INSUFFICIENT_BALANCE
    with pytest.raises(TransactionError) as caught:
        validate_envelope(env, transaction, nonce=2, spendable=11)
    assert caught.value.code is ErrorCode.WRONG_NONCE


def test_a_permissioned_chain_has_no_coins() -> None:
    member = GenesisMember(ALICE.public_key, "clinic", Role.DATA_PROVIDER)
    chain = Chain(admission=Admission.PERMISSIONED, members=[member])
    chain.run_block(chain.sign(ALICE, Transfer(BOB.address, 0)))
    with_fee = chain.sign(ALICE, Transfer(BOB.address, 0), fee=1)
    chain.assert_refused(with_fee, ErrorCode.INSUFFICIENT_BALANCE, "has no coins")
    with_amount = chain.sign(ALICE, Transfer(BOB.address, 1))
    chain.assert_refused(with_amount, ErrorCode.INSUFFICIENT_BALANCE, "has no coins")


KEYS = [AUTHORITY, *PARTICIPANTS[:2], STRANGER, VALIDATORS[0], VALIDATORS[1]]
TRANSFERS = st.tuples(
    st.sampled_from(KEYS),
    st.sampled_from(KEYS),
    st.one_of(st.integers(0, 40), st.just(INT64_MAX)),
    st.integers(0, 5),
    st.sampled_from([0, 0, 0, 0, 1, -1]),
)
BLOCKS = st.lists(
    st.tuples(st.integers(0, 3), st.lists(TRANSFERS, max_size=8)), min_size=1, max_size=5
)


def apply(execution: BlockExecution, signed: SignedTransaction) -> ErrorCode | None:
    try:
        execution.apply_transaction(hash_of(signed), signed)
    except TransactionError as error:
        assert_sentence(error.message)
        return error.code
    return None


@given(BLOCKS, st.integers(0, 2))
def test_random_transfers_agree_with_a_dumb_ledger(
    blocks: list[tuple[int, list[tuple[PrivateKey, PrivateKey, int, int, int]]]], fee_min: int
) -> None:
    chain = Chain(fee_min=fee_min, funded={AUTHORITY: 100, STRANGER: 30})
    dumb = DumbLedger(fee_min, {AUTHORITY.address: 100, STRANGER.address: 30})
    for proposer, transfers in blocks:
        context = chain.make_context(proposer=proposer)
        execution = chain.begin(context)
        for sender, to, amount, fee, shift in transfers:
            nonce = max(0, dumb.nonces.get(sender.address, 0) + shift)
            signed = chain.sign(sender, Transfer(to.address, amount), nonce=nonce, fee=fee)
            code = dumb.transfer(context.proposer, sender.address, nonce, fee, to.address, amount)
            assert apply(execution, signed) is code
        chain.commit(execution.finish())
    assert chain.count_coins() == 130 == sum(dumb.balances.values())
    for key in KEYS:
        account = chain.state.get_account(key.address)
        assert account.balance == dumb.balances.get(key.address, 0)
        assert account.nonce == dumb.nonces.get(key.address, 0)
