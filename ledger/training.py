"""Updates: what a participant may submit to an open training round.

Owns the door that an update passes, in an order that looks at the payload last: whoever gets as
far as `PendingError` may pull it. Never aggregates.
"""

from msgspec.structs import replace
from quorate.chain.errors import ErrorCode, InvariantError, PendingError, TransactionError
from quorate.chain.ids import Address, Hash
from quorate.chain.task import TaskSpec, UpdateLayout
from quorate.chain.transaction import Role, SubmitUpdate, TaskStatus

from aggregation import UpdateError, decode_update
from ledger.activity import note_update
from ledger.deadlines import renew_deadline
from ledger.environment import Environment
from ledger.indexes import OPEN_UPDATES_MAX
from ledger.keys import get_registration_key, get_task_key, get_update_key
from ledger.membership import validate_role
from ledger.quotas import change_usage, validate_update_bytes
from ledger.records import RegistrationRecord, TaskRecord, UpdateRecord, get_update_layout
from ledger.state import CHECKED_PAYLOADS_MAX


def validate_submit_update(env: Environment, sender: Address, body: SubmitUpdate) -> None:
    """Check that the open training round takes an update.

    Raises
    ------
    TransactionError
        `not_admitted`, `not_authorized`, `unknown_task`, `task_not_open`,
        `wrong_training_round`, `stale_weights`, `duplicate_update`, `round_full`,
        `quota_exceeded`, `wrong_codec`, `wrong_shape`, `value_out_of_range` or
        `payload_mismatch`.
    PendingError
        If everything else is right and the payload is not here.
    """
    validate_role(env, sender, Role.DATA_PROVIDER)
    task = env.get_task(body.task_id)
    spec = env.view.get_task_spec(body.task_id)
    _validate_training_round(task, spec, body)
    _validate_slot(env, sender, task, spec, body)
    layout = get_update_layout(task, spec)
    _validate_form(spec, layout, body)
    _validate_payload(env, layout, body)


def _validate_training_round(task: TaskRecord, spec: TaskSpec, body: SubmitUpdate) -> None:
    if task.status is not TaskStatus.OPEN:
        raise TransactionError(
            ErrorCode.TASK_NOT_OPEN,
            f"The task is {task.status.name.lower()} and takes no updates.",
        )
    # An asynchronous task's update names the round it was made in, and counts in the open one.
    is_early = body.training_round > task.training_round
    if is_early or (not spec.policy.is_asynchronous and body.training_round < task.training_round):
        raise TransactionError(
            ErrorCode.WRONG_TRAINING_ROUND,
            f"The update is for training round {body.training_round}, open is"
            f" {task.training_round}: train again from its weights.",
        )
    if find_base_version(task, body.base_weights_root) is None:
        raise TransactionError(
            ErrorCode.STALE_WEIGHTS,
            f"The update is based on the weights {body.base_weights_root.hex()}, the training"
            f" round on {task.weights_root.hex()}, and those of at most"
            f" {spec.policy.staleness_max} training rounds before: fetch these and train again.",
        )


def find_base_version(task: TaskRecord, root: Hash) -> int | None:
    """Return how many training rounds had been finalized when the task had these weights.

    None if an update may not be based on them. Of equal weights the newest count.
    """
    if root == task.weights_root:
        return task.rounds_finalized
    for age, recent in enumerate(reversed(task.recent_roots), 1):
        if recent == root:
            return task.rounds_finalized - age
    return None


def _validate_slot(
    env: Environment, sender: Address, task: TaskRecord, spec: TaskSpec, body: SubmitUpdate
) -> None:
    registration = env.view.get_registration(body.task_id, sender)
    if registration is None:
        raise TransactionError(
            ErrorCode.NOT_ADMITTED,
            f"The sender {sender.hex()} is not registered for this task: register it first, and"
            " wait until that is decided.",
        )
    if registration.counted_round == task.training_round:
        raise TransactionError(
            ErrorCode.DUPLICATE_UPDATE,
            f"The sender has an update in training round {task.training_round} already, and may"
            " have 1: wait for the next one.",
        )
    if task.is_sealed or task.update_count >= spec.policy.updates_max:
        raise TransactionError(
            ErrorCode.ROUND_FULL,
            f"Training round {task.training_round} takes no more updates: wait for the next one.",
        )
    if env.view.state.indexes.open_update_count + env.view.opened_update_count >= OPEN_UPDATES_MAX:
        raise TransactionError(
            ErrorCode.QUOTA_EXCEEDED,
            f"The open training rounds of this chain hold {OPEN_UPDATES_MAX} updates, its limit:"
            " try again when some have ended.",
        )
    validate_update_bytes(env, sender, body.payload_size)


def _validate_form(spec: TaskSpec, layout: UpdateLayout, body: SubmitUpdate) -> None:
    if body.codec != spec.codec:
        raise TransactionError(
            ErrorCode.WRONG_CODEC,
            f"The update has codec {int(body.codec)}, the task takes {spec.codec.name.lower()}"
            f" ({int(spec.codec)}): encode it so.",
        )
    if body.payload_size != layout.size:
        raise TransactionError(
            ErrorCode.WRONG_SHAPE,
            f"The update has {body.payload_size} bytes; {layout.dimension} parameters in"
            f" {spec.codec.name.lower()} take {layout.size}: send all tensors of the task, in"
            " order.",
        )
    if 0 < spec.example_count_max < body.example_count:
        raise TransactionError(
            ErrorCode.VALUE_OUT_OF_RANGE,
            f"The update counts {body.example_count} examples, the task at most"
            f" {spec.example_count_max}: state at most that.",
        )


def _validate_payload(env: Environment, layout: UpdateLayout, body: SubmitUpdate) -> None:
    size = env.get_payload_size(body.payload_hash)
    if size is not None and size != body.payload_size:
        raise TransactionError(
            ErrorCode.PAYLOAD_MISMATCH,
            f"The payload has {size} bytes, the transaction says {body.payload_size}:"
            " build it from the bytes you send.",
        )
    # The bytes belong to the hash, so that what was found valid once stays so. Large ones are not
    # read again: a block that names many of them would take seconds. What is read is read by
    # slices, so that a large update never stands in memory whole.
    valid_updates, found = env.view.state.valid_updates, (body.payload_hash, layout)
    if size is not None and found in valid_updates:
        return
    payload = None if size is None else env.open_payload(body.payload_hash)
    if payload is None:
        raise PendingError(
            f"the payload {body.payload_hash.hex()} is not here", (body.payload_hash,)
        )
    try:
        decode_update(payload, layout)
    except UpdateError as error:
        raise TransactionError(error.code, f"The update cannot be used: {error}.") from error
    if len(valid_updates) >= CHECKED_PAYLOADS_MAX:
        valid_updates.clear()
    valid_updates[found] = None


def apply_submit_update(env: Environment, sender: Address, body: SubmitUpdate) -> None:
    """Count the update in the open training round."""
    task_id, view = body.task_id, env.view
    task = env.get_task(task_id)
    slot = task.update_count
    base_version = find_base_version(task, body.base_weights_root)
    if base_version is None:
        raise InvariantError("an update with an unknown base was to be counted")
    view.put(
        get_update_key(task_id, task.training_round, slot),
        UpdateRecord(
            sender,
            body.payload_hash,
            body.payload_size,
            body.codec,
            body.example_count,
            env.context.height,
            base_version,
        ),
    )
    key = get_registration_key(task_id, sender)
    registration = view.get_existing(key, RegistrationRecord)
    training_round = task.training_round
    view.put(
        key,
        replace(
            registration,
            counted_round=training_round,
            update_slot=slot,
            active_round=training_round,
        ),
    )
    policy = view.get_task_spec(task_id).policy
    renewed = renew_deadline(note_update(task, registration), policy, env.context.time_ms)
    counted = replace(
        renewed,
        update_count=slot + 1,
        first_update_height=task.first_update_height if slot else env.context.height,
    )
    view.put(get_task_key(task_id), counted)
    view.opened_update_count += 1
    change_usage(view, sender, update_bytes=body.payload_size)
    env.need_payload(body.payload_hash)
