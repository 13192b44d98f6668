"""When an open training round is over, and when it next asks for attention.

Owns the arithmetic of counts, minimum, maximum and deadline, in block time. Never reads the state
or ends a round.
"""

from dataclasses import dataclass

from quorate.chain.task import BelowMinimum, RoundPolicy
from quorate.chain.transaction import TaskStatus

from ledger.records import TaskRecord


@dataclass(frozen=True, slots=True)
class Wake:
    """When a training round that nobody touches must be looked at again.

    Attributes
    ----------
    time_ms : int
        From this block time on.
    needs_block : bool
        Whether a block must be made for it, even an empty one. A round that would only be
        extended needs none: the update that completes its minimum brings a block.
    """

    time_ms: int
    needs_block: bool


def is_collecting(task: TaskRecord) -> bool:
    """Tell whether a training round has updates and may take more."""
    return task.status is TaskStatus.OPEN and task.frozen is None and task.update_count > 0


def is_below_minimum(task: TaskRecord, policy: RoundPolicy) -> bool:
    """Tell whether a training round has fewer updates than it needs."""
    return task.update_count < policy.updates_min


def is_extendable(task: TaskRecord, policy: RoundPolicy) -> bool:
    """Tell whether a passing deadline would only begin a new period."""
    return is_below_minimum(task, policy) and policy.below_minimum is BelowMinimum.EXTEND


def is_over(task: TaskRecord, policy: RoundPolicy, time_ms: int) -> bool:
    """Tell whether a round that is collecting has reached its deadline, maximum, or everyone."""
    if time_ms >= task.deadline_time_ms or task.update_count >= policy.updates_max:
        return True
    return not is_below_minimum(task, policy) and task.update_count >= task.registered_count


def compute_wake(task: TaskRecord, policy: RoundPolicy, time_ms: int) -> Wake | None:
    """Return when a round must be looked at again after a block of `time_ms`, or None.

    One that is over already waits for blocks of other proposers, as soon as may be.
    """
    if not is_collecting(task):
        return None
    wake_time_ms = time_ms if is_over(task, policy, time_ms) else task.deadline_time_ms
    return Wake(wake_time_ms, not is_extendable(task, policy))


def compute_deadline(task: TaskRecord, policy: RoundPolicy, time_ms: int) -> int:
    """Return the deadline that an update arriving now finds.

    A training round that nobody needs asks for no blocks, so that its deadline may have passed
    unseen: while it was empty, or below a minimum that it is to be extended for. Then a new
    period begins with this update.
    """
    is_waiting = task.update_count == 0 or is_extendable(task, policy)
    if is_waiting and time_ms >= task.deadline_time_ms:
        return time_ms + policy.deadline_ms
    return task.deadline_time_ms
