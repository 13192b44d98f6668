"""The ends of training rounds: frozen, finalized or void, and the next one open.

Owns what follows from a sealed set: receipts, new weights, what is deleted and released. Never
decides that a training round is over: `rounds` does, and who completes a task.
"""

from msgspec.structs import replace
from quorate.chain.errors import InvariantError
from quorate.chain.ids import NO_HASH, Hash
from quorate.chain.merkle import EMPTY_ROOT
from quorate.chain.receipt import RoundOutcome, SealCause
from quorate.chain.task import RoundPolicy, TaskSpec
from quorate.chain.transaction import TaskStatus

from ledger.activity import open_round
from ledger.aggregates import AggregateOutput, compute_state_bytes
from ledger.environment import Environment
from ledger.evaluations import compute_best_weights, take_evaluations
from ledger.keys import get_seal_key, get_task_key, get_update_key
from ledger.quotas import change_usage
from ledger.records import FrozenRound, SealRecord, TaskRecord
from ledger.round_receipts import SealedSet, make_round_receipt, make_seal
from ledger.sealed_sets import compute_set_root, get_frozen_updates, get_updates


def freeze_training_round(
    env: Environment, task_id: Hash, task: TaskRecord, spec: TaskSpec, sealed: SealedSet
) -> None:
    """Commit to the set of the open training round until its result is here.

    In an asynchronous task the next training round opens at once, from the same weights.
    """
    set_root = compute_set_root(task, sealed.updates)
    frozen = FrozenRound(
        sealed.training_round, len(sealed.updates), set_root, env.context.height, sealed.seed
    )
    receipt = make_round_receipt(task_id, task, spec, sealed, RoundOutcome.FROZEN)
    env.round_receipts.append(receipt)
    env.view.put(get_seal_key(task_id), sealed.seal)
    following = replace(task, frozen=frozen, update_count=0)
    if spec.policy.is_asynchronous:
        following = _open_next(env, following, spec.policy)
    env.view.put(get_task_key(task_id), following)


def get_frozen_set(env: Environment, task_id: Hash, task: TaskRecord) -> SealedSet | None:
    """Return the set of a task's frozen training round, or None without one."""
    if task.frozen is None:
        return None
    return SealedSet(
        task.frozen.training_round,
        get_frozen_updates(env.view, task_id, task),
        task.frozen.seed,
        env.view.get_existing(get_seal_key(task_id), SealRecord),
    )


def finalize_training_round(
    env: Environment, task_id: Hash, task: TaskRecord, sealed: SealedSet, output: AggregateOutput
) -> None:
    """Let the result be the task's weights; training rounds that follow start from them.

    Raises
    ------
    InvariantError
        If the result's state is not as long as the task's rule and optimizer keep it. An empty one
        would let the next training round start from the beginning.
    """
    spec = env.view.get_task_spec(task_id)
    state_bytes = compute_state_bytes(spec.rule, spec.optimizer, task.dimension)
    is_empty = output.optimizer_root == EMPTY_ROOT
    if len(output.optimizer_state) != state_bytes or is_empty is not (state_bytes == 0):
        raise InvariantError(
            f"a result of task {task_id.hex()} leaves a state of {len(output.optimizer_state)}"
            f" bytes under {output.optimizer_root.hex()}, not one of {state_bytes}"
        )
    env.result_count += 1
    env.result_bytes += len(output.weights) + len(output.optimizer_state)
    policy = spec.policy
    finalized = replace(
        task,
        weights_root=output.weights_root,
        optimizer_root=output.optimizer_root,
        rounds_finalized=task.rounds_finalized + 1,
        recent_roots=_keep_last((*task.recent_roots, task.weights_root), policy.staleness_max),
    )
    if finalized.rounds_finalized == policy.rounds_max:
        finalized = complete(env, finalized)
    env.keep_artifact(output.weights_root, output.weights)
    env.keep_artifact(output.optimizer_root, output.optimizer_state)
    env.need_payload(output.weights_root)
    env.need_payload(output.optimizer_root)
    env.release_payload(task.weights_root)
    env.release_payload(task.optimizer_root)
    _end_training_round(env, task_id, task, finalized, sealed, RoundOutcome.FINALIZED, output)
    void_if_completed(env, task_id)


def void_training_round(
    env: Environment, task_id: Hash, task: TaskRecord, cause: SealCause
) -> None:
    """End the open training round without a result; the next one starts from the same weights."""
    sealed = SealedSet(
        task.training_round,
        get_updates(env.view, task_id, task),
        NO_HASH,
        make_seal(env, task_id, task, cause),
    )
    _end_training_round(env, task_id, task, task, sealed, RoundOutcome.VOID, None)


def complete(env: Environment, task: TaskRecord) -> TaskRecord:
    """Return a task that takes no more updates; what it took of its authority's quota is free."""
    if task.status is not TaskStatus.COMPLETED:
        change_usage(env.view, task.authority, tasks=-1)
    return replace(task, status=TaskStatus.COMPLETED)


def void_if_completed(env: Environment, task_id: Hash) -> None:
    """End the open training round of a completed task if it has updates nobody will aggregate."""
    task = env.get_task(task_id)
    if task.status is TaskStatus.COMPLETED and task.update_count:
        void_training_round(env, task_id, task, SealCause.TASK_COMPLETED)


def _end_training_round(
    env: Environment,
    task_id: Hash,
    task: TaskRecord,
    following: TaskRecord,
    sealed: SealedSet,
    outcome: RoundOutcome,
    output: AggregateOutput | None,
) -> None:
    """Write the receipt, delete updates and evaluations, and open the next round if none is."""
    view = env.view
    spec = view.get_task_spec(task_id)
    # The open round of an asynchronous task may be void while the one before, which evaluations of
    # these weights belong to, is frozen.
    is_evaluated = task.evaluated_round == sealed.training_round
    evaluations = take_evaluations(env, task_id, task) if is_evaluated else ()
    receipt = make_round_receipt(
        task_id,
        task,
        spec,
        sealed,
        outcome,
        weights_root=following.weights_root,
        output=output,
        evaluations=evaluations,
    )
    env.round_receipts.append(receipt)
    best = compute_best_weights(task, evaluations)
    if best is not None and best is not task.best:
        env.need_payload(best.weights_root)
        if task.best is not None:
            env.release_payload(task.best.weights_root)
    for slot, update in enumerate(sealed.updates):
        view.delete(get_update_key(task_id, sealed.training_round, slot))
        change_usage(view, update.participant, update_bytes=-update.payload_size)
        env.release_payload(update.payload_hash)
    view.opened_update_count -= len(sealed.updates)
    following = replace(
        following, best=best, evaluation_count=0 if is_evaluated else task.evaluation_count
    )
    frozen = task.frozen
    if frozen is not None and frozen.training_round == sealed.training_round:
        view.delete(get_seal_key(task_id))
        following = replace(following, frozen=None)
    if task.training_round == sealed.training_round:
        following = _open_next(env, following, spec.policy)
    view.put(get_task_key(task_id), following)


def _open_next(env: Environment, task: TaskRecord, policy: RoundPolicy) -> TaskRecord:
    context = env.context
    return replace(
        task,
        training_round=task.training_round + 1,
        opened_height=context.height,
        opened_time_ms=context.time_ms,
        first_update_height=0,
        deadline_time_ms=context.time_ms + policy.deadline_ms,
        update_count=0,
        extension_count=0,
        activity=open_round(task.activity),
        withdrawn_count=0,
        withdrawn=(),
    )


def _keep_last(roots: tuple[Hash, ...], count: int) -> tuple[Hash, ...]:
    return roots[len(roots) - count :] if count < len(roots) else roots
