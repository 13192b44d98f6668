"""When an open training round is over, and when it next asks for attention.

Owns the arithmetic of counts, minimum, maximum, deadline and extensions, in block time. Never reads
the state or ends a round.
"""

from dataclasses import dataclass

from msgspec.structs import replace
from quorate.chain.receipt import SealCause
from quorate.chain.task import BelowMinimum, RoundPolicy
from quorate.chain.transaction import TaskStatus

from ledger.activity import get_awaited_count
from ledger.records import TaskRecord


@dataclass(frozen=True, slots=True)
class Wake:
    """When a training round that nobody touches must be looked at again.

    Attributes
    ----------
    time_ms : int
        The block time from which a block looks at it.
    block_time_ms : int
        The block time from which a block must be made for it, even an empty one. That is later for
        a round that would only be extended: the update that completes its minimum brings a block
        anyway.
    """

    time_ms: int
    block_time_ms: int


def is_collecting(task: TaskRecord) -> bool:
    """Tell whether a training round has updates and may end.

    While the result of another one is being computed, it may not: it starts from that result.
    """
    return task.status is TaskStatus.OPEN and task.frozen is None and task.update_count > 0


def is_below_minimum(task: TaskRecord, policy: RoundPolicy) -> bool:
    """Tell whether a training round has fewer updates than it needs."""
    return task.update_count < policy.updates_min


def find_cause(task: TaskRecord, policy: RoundPolicy, time_ms: int) -> SealCause | None:
    """Return why a round that is collecting is over: maximum, everyone, deadline; or None."""
    if task.update_count >= policy.updates_max:
        return SealCause.MAXIMUM
    is_enough = not is_below_minimum(task, policy)
    if is_enough and task.update_count >= get_awaited_count(task):
        return SealCause.EVERYONE
    return SealCause.DEADLINE if time_ms >= task.deadline_time_ms else None


def extend(task: TaskRecord, policy: RoundPolicy, time_ms: int) -> TaskRecord | None:
    """Return a round whose deadline has passed below its minimum with a new period, or None.

    None means that it may not be extended any more. A period that nobody made a block in counts,
    too, so that the time a round takes is bounded whether blocks are made or not.
    """
    if not is_below_minimum(task, policy) or policy.below_minimum is not BelowMinimum.EXTEND:
        return None
    passed = 1 + (time_ms - task.deadline_time_ms) // policy.deadline_ms
    count = task.extension_count + passed
    if count > policy.extensions_max:
        return None
    return replace(task, deadline_time_ms=time_ms + policy.deadline_ms, extension_count=count)


def compute_wake(task: TaskRecord, policy: RoundPolicy, time_ms: int) -> Wake | None:
    """Return when a round must be looked at again after a block of `time_ms`, or None.

    One that is over already waits for blocks of other proposers, or for its share of a block's
    aggregation cost, as soon as may be.
    """
    if not is_collecting(task):
        return None
    if find_cause(task, policy, time_ms) is not None:
        return Wake(time_ms, time_ms)
    deadline_ms = task.deadline_time_ms
    if is_below_minimum(task, policy) and policy.below_minimum is BelowMinimum.EXTEND:
        left = policy.extensions_max - task.extension_count
        return Wake(deadline_ms, deadline_ms + left * policy.deadline_ms)
    return Wake(deadline_ms, deadline_ms)


def renew_deadline(task: TaskRecord, policy: RoundPolicy, time_ms: int) -> TaskRecord:
    """Return the training round with the deadline that an update arriving now finds.

    A training round that nobody needs asks for no blocks, so that its deadline may have passed
    unseen: while it was empty, or below a minimum that it is to be extended for. Then a new
    period begins with this update.
    """
    if time_ms < task.deadline_time_ms:
        return task
    if task.update_count == 0:
        return replace(task, deadline_time_ms=time_ms + policy.deadline_ms)
    return extend(task, policy, time_ms) or task
