"""Quotas: how much of the chain's room one account may take.

Owns the counts of an account's registrations, tasks and update bytes, and the sentences about their
limits, which are consensus parameters. Never judges anything else about a transaction. That a
participant has one update in a training round at most is the training round's own rule.

An account that takes nothing has no record.
"""

from msgspec.structs import replace
from quorate.chain.errors import ErrorCode, TransactionError
from quorate.chain.ids import Address

from ledger.environment import Environment
from ledger.indexes import TASKS_EVER_PER_ACCOUNT_MAX
from ledger.keys import get_usage_key
from ledger.overlay import Overlay
from ledger.records import UsageRecord

NO_USAGE = UsageRecord(0, 0, 0)


def get_usage(view: Overlay, address: Address) -> UsageRecord:
    """Return what an account takes."""
    return view.get(get_usage_key(address), UsageRecord) or NO_USAGE


def change_usage(
    view: Overlay,
    address: Address,
    *,
    registrations: int = 0,
    tasks: int = 0,
    update_bytes: int = 0,
) -> None:
    """Count what an account takes more, or less."""
    usage = get_usage(view, address)
    changed = replace(
        usage,
        registration_count=usage.registration_count + registrations,
        task_count=usage.task_count + tasks,
        update_bytes=usage.update_bytes + update_bytes,
    )
    if changed == NO_USAGE:
        view.delete(get_usage_key(address))
    else:
        view.put(get_usage_key(address), changed)


def validate_transaction_count(env: Environment, sender: Address) -> None:
    """Check that a block has room for another transaction of its sender.

    Raises
    ------
    TransactionError
        `quota_exceeded`.
    """
    limit = env.context.parameters.transactions_per_sender_max
    if env.sender_counts.get(sender, 0) >= limit:
        raise _exceeded(
            "transactions_per_sender_max",
            limit,
            "the block holds as many of the sender",
            "it can be in a later block",
        )


def validate_registration_count(env: Environment, sender: Address) -> None:
    """Check that an account may register for another task.

    Raises
    ------
    TransactionError
        `quota_exceeded`.
    """
    limit = env.context.parameters.registrations_per_account_max
    if get_usage(env.view, sender).registration_count >= limit:
        raise _exceeded(
            "registrations_per_account_max",
            limit,
            "the sender is registered for as many tasks",
            "end the registration for one of them first",
        )


def validate_task_count(env: Environment, sender: Address) -> None:
    """Check that an account may create another task.

    Raises
    ------
    TransactionError
        `quota_exceeded`.
    """
    limit = env.context.parameters.tasks_per_account_max
    if get_usage(env.view, sender).task_count >= limit:
        raise _exceeded(
            "tasks_per_account_max",
            limit,
            "the sender has as many tasks that are not completed",
            "complete one of them first",
        )


def validate_created_count(env: Environment, sender: Address) -> None:
    """Check that an account has not created its share of all tasks of the chain.

    Completed tasks count, since they stay on the chain. The share is no parameter, as the chain's
    own limit is none.

    Raises
    ------
    TransactionError
        `quota_exceeded`.
    """
    created = env.view.state.indexes.get_created_count(sender) + env.created_counts.get(sender, 0)
    if created >= TASKS_EVER_PER_ACCOUNT_MAX:
        raise TransactionError(
            ErrorCode.QUOTA_EXCEEDED,
            f"The sender has created {created} tasks, completed ones included, its share of all"
            " that the chain may have: create the next one from another account.",
        )


def validate_update_bytes(env: Environment, sender: Address, size: int) -> None:
    """Check that an account may have an update of `size` bytes more in open training rounds.

    Raises
    ------
    TransactionError
        `quota_exceeded`.
    """
    limit = env.context.parameters.update_bytes_per_account_max
    used = get_usage(env.view, sender).update_bytes
    if used + size > limit:
        raise _exceeded(
            "update_bytes_per_account_max",
            limit,
            f"the sender's updates in open training rounds have {used} bytes, this one {size}",
            "wait until one of these rounds has ended",
        )


def _exceeded(quota: str, limit: int, why: str, way_out: str) -> TransactionError:
    return TransactionError(
        ErrorCode.QUOTA_EXCEEDED,
        f"The transaction exceeds the quota {quota} = {limit}: {why}; {way_out}.",
    )
