"""Who is waited for: participants that have been silent for long enough are excused.

Owns the counts by which a training round knows how many participants it waits for, kept so that
neither a training round's end nor an update looks at everybody. Never lists participants.

A participant is active in the training round in which it registers and in each that it has an
update in. After `silent_rounds_max` training rounds in a row without one it is excused: a round is
complete without it, though it may still send, and is waited for again from then on. A task's record
counts participants by how long ago they were last active; the counts move on by one place when a
training round opens, and those that fall off the end are excused.
"""

from msgspec.structs import replace
from quorate.chain.task import RoundPolicy

from ledger.records import RegistrationRecord, TaskRecord


def make_activity(policy: RoundPolicy) -> tuple[int, ...]:
    """Return the counts of a task without participants; none if nobody is ever excused."""
    return (0,) * (policy.silent_rounds_max + 1) if policy.silent_rounds_max else ()


def get_awaited_count(task: TaskRecord) -> int:
    """Return how many participants the open training round waits for until its deadline."""
    return sum(task.activity) if task.activity else task.registered_count


def is_awaited(task: TaskRecord, registration: RegistrationRecord) -> bool:
    """Tell whether the open training round waits for a participant."""
    silent_rounds = task.training_round - registration.active_round
    return not task.activity or silent_rounds < len(task.activity)


def open_round(activity: tuple[int, ...]) -> tuple[int, ...]:
    """Return the counts in the next training round."""
    return (0, *activity[:-1]) if activity else ()


def note_registered(task: TaskRecord) -> TaskRecord:
    """Count a new participant as active in the open training round."""
    return _change(task, 0, 1)


def note_update(task: TaskRecord, registration: RegistrationRecord) -> TaskRecord:
    """Count a participant as active again, before its record says so."""
    return _change(note_left(task, registration), 0, 1)


def note_left(task: TaskRecord, registration: RegistrationRecord) -> TaskRecord:
    """Count a participant no more."""
    if not is_awaited(task, registration):
        return task
    return _change(task, task.training_round - registration.active_round, -1)


def _change(task: TaskRecord, place: int, by: int) -> TaskRecord:
    if not task.activity:
        return task
    activity = list(task.activity)
    activity[place] += by
    return replace(task, activity=tuple(activity))
