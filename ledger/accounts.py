"""Accounts: who may send a transaction, what it costs, and transfers.

Owns nonces, balances and fees. Coins are only moved here, never made or destroyed: a fee goes to
the account of the block's proposer.
"""

from quorate.chain.errors import ErrorCode, TransactionError
from quorate.chain.genesis import Admission
from quorate.chain.ids import Address
from quorate.chain.transaction import FinalizeTrainingRound, Transaction, Transfer

from ledger.environment import Environment
from ledger.overlay import Account


def validate_envelope(
    env: Environment, transaction: Transaction, nonce: int, spendable: int
) -> None:
    """Check what holds for every transaction: chain, order, fee and balance.

    Parameters
    ----------
    env : Environment
    transaction : Transaction
    nonce : int
        The nonce the sender's next transaction must carry.
    spendable : int
        The coins the sender has left.

    Raises
    ------
    TransactionError
        `wrong_chain_id`, `wrong_nonce`, `fee_too_low` or `insufficient_balance`.
    """
    if transaction.chain_id != env.context.chain_id:
        raise TransactionError(
            ErrorCode.WRONG_CHAIN_ID,
            f"The transaction is for the chain {transaction.chain_id!r}, this one is"
            f" {env.context.chain_id!r}: sign it for the chain you send it to.",
        )
    if transaction.nonce != nonce:
        raise TransactionError(
            ErrorCode.WRONG_NONCE,
            f"The transaction has nonce {transaction.nonce}, the sender's next one is {nonce}:"
            " ask for the account's nonce and sign again.",
        )
    body, fee = transaction.body, transaction.fee
    amount = body.amount if isinstance(body, Transfer) else 0
    genesis = env.view.state.genesis
    # A proposer without coins must still be able to carry the result of a frozen training round.
    if fee < genesis.fee_min and not isinstance(body, FinalizeTrainingRound):
        raise TransactionError(
            ErrorCode.FEE_TOO_LOW,
            f"The fee is {fee}, this chain asks for at least {genesis.fee_min}: raise the fee.",
        )
    if genesis.admission is Admission.PERMISSIONED and (fee or amount):
        raise TransactionError(
            ErrorCode.INSUFFICIENT_BALANCE,
            "This chain is permissioned and has no coins: set the fee and the amount to 0.",
        )
    if fee + amount > spendable:
        raise TransactionError(
            ErrorCode.INSUFFICIENT_BALANCE,
            f"The transaction spends {amount} and a fee of {fee}, the sender has {spendable} to"
            " spend: lower the amount or fund the account.",
        )


def apply_envelope(env: Environment, sender: Account, fee: int) -> None:
    """Count the nonce, and let the sender pay the proposer."""
    sender.nonce += 1
    sender.is_changed = True
    if fee:
        sender.balance -= fee
        proposer = env.view.get_account(env.context.proposer)
        proposer.balance += fee
        proposer.is_changed = True


def apply_transfer(env: Environment, sender: Address, transfer: Transfer) -> None:
    """Move coins; an amount of 0 creates no account."""
    if transfer.amount:
        source = env.view.get_account(sender)
        source.balance -= transfer.amount
        source.is_changed = True
        target = env.view.get_account(transfer.to)
        target.balance += transfer.amount
        target.is_changed = True
