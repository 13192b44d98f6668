"""Tasks: their creation and their status.

Owns what a valid task is. Never judges updates, and ends no training round but the one that
completing a task cuts short.
"""

from msgspec.structs import replace
from quorate.chain.errors import ErrorCode, PendingError, TransactionError
from quorate.chain.ids import Address, Hash
from quorate.chain.merkle import EMPTY_ROOT
from quorate.chain.task import PARAMETERS_MAX, TaskSpec, UpdateCodec
from quorate.chain.transaction import (
    PAYLOAD_BYTES_MAX,
    ChangeTaskStatus,
    CreateTask,
    Role,
    TaskStatus,
)

from aggregation import RuleError, is_weightable, validate_optimizer, validate_rule
from ledger.activity import make_activity
from ledger.aggregates import compute_state_bytes
from ledger.environment import Environment
from ledger.indexes import TASKS_MAX
from ledger.keys import (
    get_task_key,
    get_task_name_key,
    get_task_spec_key,
)
from ledger.membership import validate_member, validate_role
from ledger.quotas import change_usage, validate_created_count, validate_task_count
from ledger.records import (
    TaskNameRecord,
    TaskRecord,
    TaskSpecRecord,
)
from ledger.round_ends import complete, void_if_completed


def validate_create_task(env: Environment, sender: Address, body: CreateTask) -> None:
    """Check a new task's specification and its initial weights.

    Raises
    ------
    TransactionError
        `not_admitted`, `not_authorized`, `already_exists`, `invalid_task`, `quota_exceeded` or
        `payload_mismatch`.
    PendingError
        If everything else is right and the initial weights are not here.
    """
    validate_role(env, sender, Role.MODEL_USER)
    spec = body.spec
    if env.view.get(get_task_name_key(spec.name), TaskNameRecord) is not None:
        raise TransactionError(
            ErrorCode.ALREADY_EXISTS,
            f"A task named {spec.name!r} exists on this chain: choose another name.",
        )
    if env.view.state.indexes.task_count + env.view.created_task_count >= TASKS_MAX:
        raise TransactionError(
            ErrorCode.QUOTA_EXCEEDED, f"The chain has {TASKS_MAX} tasks, its limit."
        )
    validate_task_count(env, sender)
    validate_created_count(env, sender)
    fault = find_fault(spec)
    if fault is not None:
        raise TransactionError(ErrorCode.INVALID_TASK, fault)
    _validate_initial_weights(env, body)


def find_fault(spec: TaskSpec) -> str | None:
    """Return what is wrong with a specification and what to do about it, or None."""
    policy = spec.policy
    names = [tensor.name for tensor in spec.tensors]
    if len(set(names)) != len(names):
        return "Two tensors of the task have the same name: name each differently."
    if spec.dimension > PARAMETERS_MAX:
        return (
            f"The model has {spec.dimension} parameters, the limit is {PARAMETERS_MAX}: split it"
            " into several tasks."
        )
    if policy.updates_max < policy.updates_min:
        return (
            f"A training round's maximum of {policy.updates_max} updates is below its minimum of"
            f" {policy.updates_min}: raise updates_max."
        )
    if spec.codec is not UpdateCodec.TOP_K_INT16:
        if spec.top_k:
            return f"The codec {spec.codec.name.lower()} names no parameters: set top_k to 0."
    elif not 1 <= spec.top_k <= spec.dimension:
        return (
            f"The codec names {spec.top_k} of the model's {spec.dimension} parameters: choose"
            f" top_k from 1 to {spec.dimension}."
        )
    try:
        validate_rule(spec.rule, policy.updates_min)
    except RuleError as error:
        return f"The aggregation rule cannot be used: {error}."
    if spec.example_count_max and not is_weightable(spec.rule):
        return (
            "The aggregation rule ignores example counts: set example_count_max to 0, or use mean"
            " without nnm."
        )
    optimizer_fault = _find_optimizer_fault(spec)
    if optimizer_fault is not None:
        return optimizer_fault
    if spec.reward_pool:
        return "Rewards are not paid on this chain yet: set reward_pool to 0."
    return None


def _find_optimizer_fault(spec: TaskSpec) -> str | None:
    try:
        validate_optimizer(spec.optimizer)
    except RuleError as error:
        return f"The server optimizer cannot be used: {error}."
    state_bytes = compute_state_bytes(spec.rule, spec.optimizer, spec.dimension)
    if state_bytes > PAYLOAD_BYTES_MAX:
        # No node could store it: all would stop at the first result of the task.
        return (
            f"The server optimizer, and the aggregate that the rule keeps, take {state_bytes} bytes"
            f" for {spec.dimension} parameters, and a payload has at most {PAYLOAD_BYTES_MAX}:"
            " choose an optimizer that keeps less (sgd keeps nothing), or split the model into"
            " several tasks."
        )
    return None


def _validate_initial_weights(env: Environment, body: CreateTask) -> None:
    size = env.get_payload_size(body.payload_hash)
    if size is None:
        raise PendingError(
            f"the initial weights {body.payload_hash.hex()} are not here", (body.payload_hash,)
        )
    if size != body.payload_size:
        raise TransactionError(
            ErrorCode.PAYLOAD_MISMATCH,
            f"The initial weights have {size} bytes; {body.spec.dimension} parameters take"
            f" {body.payload_size}: send all tensors as little-endian int32, in order.",
        )


def apply_create_task(env: Environment, sender: Address, task_id: Hash, body: CreateTask) -> None:
    """Write the task down, with its first training round open.

    Its state is empty whatever its rule and optimizer are: the first result brings one, so that a
    transaction of a few bytes makes nobody compute or store what a whole model takes.
    """
    spec, context = body.spec, env.context
    task = TaskRecord(
        authority=sender,
        name=spec.name,
        dimension=spec.dimension,
        status=TaskStatus.OPEN,
        created_height=context.height,
        weights_root=spec.initial_weights_root,
        optimizer_root=EMPTY_ROOT,
        training_round=0,
        rounds_finalized=0,
        opened_height=context.height,
        opened_time_ms=context.time_ms,
        first_update_height=0,
        deadline_time_ms=context.time_ms + spec.policy.deadline_ms,
        update_count=0,
        evaluation_count=0,
        registered_count=0,
        recent_roots=(),
        frozen=None,
        best=None,
        activity=make_activity(spec.policy),
    )
    env.view.put(get_task_key(task_id), task)
    env.view.put(get_task_spec_key(task_id), TaskSpecRecord(spec))
    env.view.put(get_task_name_key(spec.name), TaskNameRecord(task_id))
    env.view.created_task_count += 1
    env.created_counts[sender] = env.created_counts.get(sender, 0) + 1
    change_usage(env.view, sender, tasks=1)
    env.need_payload(body.payload_hash)


def validate_change_task_status(env: Environment, sender: Address, body: ChangeTaskStatus) -> None:
    """Check that the task's authority changes a status that can change.

    Raises
    ------
    TransactionError
        `not_admitted`, `unknown_task`, `not_authorized`, `task_not_open` or `already_exists`.
    """
    validate_member(env, sender)
    task = env.get_task(body.task_id)
    if sender != task.authority:
        raise TransactionError(
            ErrorCode.NOT_AUTHORIZED,
            f"Only the task's authority {task.authority.hex()} may change its status.",
        )
    if task.status is TaskStatus.COMPLETED:
        raise TransactionError(
            ErrorCode.TASK_NOT_OPEN,
            "The task is completed for good: create a new one from its weights.",
        )
    if task.status is body.status:
        raise TransactionError(
            ErrorCode.ALREADY_EXISTS, f"The task is {body.status.name.lower()} already."
        )


def apply_change_task_status(env: Environment, body: ChangeTaskStatus) -> None:
    """Pause, resume or complete a task.

    A resumed task's training round has a whole period again. Completing a task voids its open
    training round; a frozen one still gets its result.
    """
    task = env.get_task(body.task_id)
    if body.status is TaskStatus.OPEN:
        spec = env.view.get_task_spec(body.task_id)
        deadline = env.context.time_ms + spec.policy.deadline_ms
        task = replace(task, deadline_time_ms=deadline, extension_count=0)
    is_completed = body.status is TaskStatus.COMPLETED
    task = complete(env, task) if is_completed else replace(task, status=body.status)
    env.view.put(get_task_key(body.task_id), task)
    void_if_completed(env, body.task_id)
