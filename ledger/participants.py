"""Participants: who is registered for a task.

Owns the list of a task's participants, in slots without gaps, so that it can be read page by page.
Never judges updates; a registration that ends takes its update out of the open training round.
"""

from msgspec.structs import replace
from quorate.chain.errors import ErrorCode, InvariantError, TransactionError
from quorate.chain.ids import Address, Hash
from quorate.chain.receipt import Absence, AbsenceReason
from quorate.chain.transaction import RegisterParticipant, RevokeParticipant, Role, TaskStatus

from ledger.activity import note_left, note_registered
from ledger.environment import Environment
from ledger.keys import (
    get_participant_key,
    get_registration_key,
    get_task_key,
    get_update_key,
)
from ledger.membership import validate_member, validate_role
from ledger.quotas import change_usage, validate_registration_count
from ledger.records import (
    NO_TRAINING_ROUND,
    WITHDRAWALS_LISTED_MAX,
    ParticipantRecord,
    RegistrationRecord,
    TaskRecord,
    UpdateRecord,
)

REGISTRATIONS_MAX = 1 << 20


def validate_register_participant(
    env: Environment, sender: Address, body: RegisterParticipant
) -> None:
    """Check that the sender may take part and does not yet.

    Raises
    ------
    TransactionError
        `not_admitted`, `not_authorized`, `unknown_task`, `task_not_open`, `already_exists` or
        `quota_exceeded`.
    """
    validate_role(env, sender, Role.DATA_PROVIDER)
    task = env.get_task(body.task_id)
    if task.status is TaskStatus.COMPLETED:
        raise TransactionError(
            ErrorCode.TASK_NOT_OPEN, "The task is completed: take part in another one."
        )
    if env.view.get_registration(body.task_id, sender) is not None:
        raise TransactionError(
            ErrorCode.ALREADY_EXISTS, "The sender is registered for this task already."
        )
    if task.registered_count >= REGISTRATIONS_MAX:
        raise TransactionError(
            ErrorCode.QUOTA_EXCEEDED,
            f"The task has {REGISTRATIONS_MAX} participants, its limit: take part in another one.",
        )
    validate_registration_count(env, sender)


def apply_register_participant(
    env: Environment, sender: Address, body: RegisterParticipant
) -> None:
    """Give the sender the next slot among the participants.

    Whoever withdrew an update and comes back is counted or silent again, like anybody.
    """
    task = _forget_withdrawn(env.get_task(body.task_id), sender)
    slot = task.registered_count
    env.view.put(
        get_registration_key(body.task_id, sender),
        RegistrationRecord(slot, env.context.height, NO_TRAINING_ROUND, 0, task.training_round),
    )
    env.view.put(get_participant_key(body.task_id, slot), ParticipantRecord(sender))
    registered = replace(note_registered(task), registered_count=slot + 1)
    env.view.put(get_task_key(body.task_id), registered)
    change_usage(env.view, sender, registrations=1)


def validate_revoke_participant(env: Environment, sender: Address, body: RevokeParticipant) -> None:
    """Check that a participant leaves, or is revoked by the task's authority.

    Raises
    ------
    TransactionError
        `not_admitted`, `unknown_task`, `not_authorized` or `not_found`.
    """
    validate_member(env, sender)
    task = env.get_task(body.task_id)
    if sender not in (body.participant, task.authority):
        raise TransactionError(
            ErrorCode.NOT_AUTHORIZED,
            "Only the participant itself or the task's authority"
            f" {task.authority.hex()} may end this registration.",
        )
    if env.view.get_registration(body.task_id, body.participant) is None:
        raise TransactionError(
            ErrorCode.NOT_FOUND,
            f"The address {body.participant.hex()} is not registered for this task: check it.",
        )


def apply_revoke_participant(env: Environment, sender: Address, body: RevokeParticipant) -> None:
    """End a registration, and withdraw the participant's update from the open training round.

    A frozen training round keeps it: its set is committed.
    """
    task_id, view = body.task_id, env.view
    task = env.get_task(task_id)
    key = get_registration_key(task_id, body.participant)
    registration = view.get_existing(key, RegistrationRecord)
    if registration.counted_round == task.training_round and not task.is_sealed:
        task = _withdraw_update(env, task_id, task, registration.update_slot)
        is_own = sender == body.participant
        reason = AbsenceReason.LEFT if is_own else AbsenceReason.REVOKED
        task = _note_withdrawn(task, Absence(body.participant, reason))
    task = note_left(task, registration)
    last = task.registered_count - 1
    if registration.slot != last:
        # The last participant takes the free slot, so that slots stay without gaps.
        mover = view.get_existing(get_participant_key(task_id, last), ParticipantRecord)
        view.put(get_participant_key(task_id, registration.slot), mover)
        mover_key = get_registration_key(task_id, mover.participant)
        moved = view.get_existing(mover_key, RegistrationRecord)
        view.put(mover_key, replace(moved, slot=registration.slot))
    view.delete(get_participant_key(task_id, last))
    view.delete(key)
    view.put(get_task_key(task_id), replace(task, registered_count=last))
    change_usage(view, body.participant, registrations=-1)


def _note_withdrawn(task: TaskRecord, absence: Absence) -> TaskRecord:
    listed = (*task.withdrawn, absence)[:WITHDRAWALS_LISTED_MAX]
    return replace(task, withdrawn_count=task.withdrawn_count + 1, withdrawn=listed)


def _forget_withdrawn(task: TaskRecord, participant: Address) -> TaskRecord:
    withdrawn = tuple(each for each in task.withdrawn if each.participant != participant)
    count = task.withdrawn_count - (len(task.withdrawn) - len(withdrawn))
    return replace(task, withdrawn_count=count, withdrawn=withdrawn)


def _withdraw_update(env: Environment, task_id: Hash, task: TaskRecord, slot: int) -> TaskRecord:
    view, last = env.view, task.update_count - 1
    if last < 0:
        raise InvariantError(f"task {task_id.hex()} counts no update and has one to withdraw")
    number = task.training_round
    withdrawn = view.get_existing(get_update_key(task_id, number, slot), UpdateRecord)
    if slot != last:
        mover = view.get_existing(get_update_key(task_id, number, last), UpdateRecord)
        view.put(get_update_key(task_id, number, slot), mover)
        mover_key = get_registration_key(task_id, mover.participant)
        moved = view.get_existing(mover_key, RegistrationRecord)
        view.put(mover_key, replace(moved, update_slot=slot))
    view.delete(get_update_key(task_id, number, last))
    view.opened_update_count -= 1
    change_usage(view, withdrawn.participant, update_bytes=-withdrawn.payload_size)
    env.release_payload(withdrawn.payload_hash)
    return replace(task, update_count=last)
