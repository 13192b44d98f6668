"""The end of training rounds: sealing, aggregating, freezing, voiding, and the next round.

Owns when a training round ends and what follows. Never judges an update (it was judged when it was
accepted) and never reads a clock: deadlines are in block time.

A training round ends at the end of a block when its maximum is reached, when everyone registered
has been counted, or when its deadline has passed; the first two only with its minimum. Below the
minimum the deadline extends or voids it. Unless the task waives that, nothing of this happens
before proposers with more than a third of the power have had a block since its first update, that
one included, so that no proposer picks the set alone.
"""

from collections.abc import Sequence
from hashlib import sha256
from operator import itemgetter

import numpy as np
from msgspec.structs import replace
from quorate.chain.codec import encode
from quorate.chain.errors import PendingError
from quorate.chain.ids import Hash
from quorate.chain.merkle import compute_root
from quorate.chain.receipt import RoundOutcome, RoundReceipt, UpdateReceipt
from quorate.chain.task import RoundPolicy, TaskSpec
from quorate.chain.transaction import TaskStatus

from aggregation import PayloadBytes, compute_cost
from ledger.aggregates import AggregateInputs, AggregateOutput, AggregateUpdate, compute_aggregate
from ledger.deadlines import (
    compute_wake,
    is_below_minimum,
    is_collecting,
    is_extendable,
    is_over,
)
from ledger.environment import Environment
from ledger.evaluations import compute_best_weights, compute_medians, take_evaluations
from ledger.keys import get_proposer_key, get_task_key, get_update_key
from ledger.overlay import Overlay
from ledger.records import FrozenRound, ProposerRecord, TaskRecord, UpdateRecord
from ledger.state import State

# --- who had a block ------------------------------------------------------------------------------


def process_proposer(env: Environment) -> None:
    """Note that the block's proposer had a block at this height."""
    env.view.put(get_proposer_key(env.context.proposer), ProposerRecord(env.context.height))


def has_proposer_spread(env: Environment, task: TaskRecord, policy: RoundPolicy) -> bool:
    """Tell whether enough proposers have had a block since the round's first update."""
    if policy.waive_proposer_spread:
        return True
    power = sum(
        power for height, power in _get_last_blocks(env) if height >= task.first_update_height
    )
    return env.context.validators.is_one_honest(power)


def _get_last_blocks(env: Environment) -> list[tuple[int, int]]:
    """Return (height of the last block, power) of the validators that have had one."""
    if env.last_blocks is None:
        found = (
            (env.view.get(get_proposer_key(validator.address), ProposerRecord), validator.power)
            for validator in env.context.validators.validators
        )
        env.last_blocks = [(last.height, power) for last, power in found if last is not None]
    return env.last_blocks


# --- the end of a block ---------------------------------------------------------------------------


def process_training_rounds(env: Environment) -> None:
    """End the training rounds whose time has come.

    Those that have been open for longest come first, then the order is that of task ids, so that
    none waits forever for its share of the block's aggregation cost.
    """
    changed = env.view.get_changed_tasks()
    awake = env.view.state.indexes.get_awake_task_ids(env.context.time_ms)
    tasks = {task_id: env.view.get_task(task_id) for task_id in (*changed, *awake)}
    collecting = [
        (task.opened_height, task_id, task)
        for task_id, task in tasks.items()
        if task is not None and is_collecting(task)
    ]
    for _, task_id, task in sorted(collecting, key=itemgetter(0, 1)):
        _process_training_round(env, task_id, task)


def _process_training_round(env: Environment, task_id: Hash, task: TaskRecord) -> None:
    spec = env.view.get_task_spec(task_id)
    policy, time_ms = spec.policy, env.context.time_ms
    if not is_over(task, policy, time_ms):
        return
    if is_extendable(task, policy):
        extended = replace(task, deadline_time_ms=time_ms + policy.deadline_ms)
        env.view.put(get_task_key(task_id), extended)
    elif not has_proposer_spread(env, task, policy):
        return
    elif is_below_minimum(task, policy):
        void_training_round(env, task_id, task)
    else:
        seal_training_round(env, task_id, task, spec)


def compute_next_due_time(env: Environment) -> int | None:
    """Return the block time at which a training round needs a block, or None.

    A round that is complete but for the spread of proposers needs one at once.
    """
    view, time_ms = env.view, env.context.time_ms
    changed = view.get_changed_tasks()
    wakes = [
        compute_wake(task, view.get_task_spec(task_id).policy, time_ms)
        for task_id, task in changed.items()
    ]
    due = [wake.time_ms for wake in wakes if wake is not None and wake.needs_block]
    unchanged = view.state.indexes.get_next_wake_time(changed)
    if unchanged is not None:
        due.append(max(unchanged, time_ms))
    return min(due, default=None)


def get_finalizations_due(env: Environment) -> tuple[tuple[Hash, int], ...]:
    """Return the frozen training rounds, as (task id, training round), in order."""
    frozen = env.view.state.indexes.get_frozen_rounds()
    for task_id, task in env.view.get_changed_tasks().items():
        frozen.pop(task_id, None)
        if task.frozen is not None:
            frozen[task_id] = task.training_round
    return tuple(sorted(frozen.items()))


# --- sealing and finalizing -----------------------------------------------------------------------


def seal_training_round(env: Environment, task_id: Hash, task: TaskRecord, spec: TaskSpec) -> None:
    """Close the set, and aggregate it now if that is cheap enough, else freeze it.

    A set that is cheap enough for a block, but not for what this block has left, stays as it is
    and is looked at again in the next block.

    Raises
    ------
    PendingError
        If the result is being computed.
    """
    cost = compute_cost(spec.rule, task.update_count, task.dimension)
    cost_max = env.context.parameters.aggregation_cost_block_max
    if cost > cost_max:
        _freeze_training_round(env, task_id, task)
    elif env.aggregation_cost + cost <= cost_max:
        env.aggregation_cost += cost
        updates = get_updates(env.view, task_id, task)
        seed = compute_seed(env, task_id, task)
        inputs = make_aggregate_inputs(task_id, task, spec, updates, seed)
        finalize_training_round(env, task_id, task, get_aggregate(env, inputs))


def _freeze_training_round(env: Environment, task_id: Hash, task: TaskRecord) -> None:
    updates = get_updates(env.view, task_id, task)
    set_root = compute_set_root(updates)
    seed = compute_seed(env, task_id, task)
    frozen = replace(task, frozen=FrozenRound(set_root, env.context.height, seed))
    env.view.put(get_task_key(task_id), frozen)
    env.round_receipts.append(
        RoundReceipt(
            task_id=task_id,
            training_round=task.training_round,
            outcome=RoundOutcome.FROZEN,
            base_weights_root=task.weights_root,
            weights_root=task.weights_root,
            set_root=set_root,
            updates=_make_unscored_receipts(updates),
            saturated=0,
            clamped=0,
            evaluation_count=0,
            evaluations=(),
        )
    )


def compute_seed(env: Environment, task_id: Hash, task: TaskRecord) -> Hash:
    """Return what a training round that is sealed in this block permutes its updates by.

    It follows from the block before, which was decided before this one's proposer chose the set,
    and differs between tasks and training rounds.
    """
    seed = (env.context.last_block_hash, task_id, task.training_round)
    return Hash(sha256(encode(seed)).digest())


def get_updates(view: Overlay | State, task_id: Hash, task: TaskRecord) -> list[UpdateRecord]:
    """Return the updates of the current training round in canonical order: by participant."""
    found = (
        view.get(get_update_key(task_id, slot), UpdateRecord) for slot in range(task.update_count)
    )
    updates = [update for update in found if update is not None]
    return sorted(updates, key=lambda update: update.participant)


def compute_set_root(updates: Sequence[UpdateRecord]) -> Hash:
    """Return the Merkle root over (participant, payload hash, example count) of a sealed set."""
    return compute_root([encode((u.participant, u.payload_hash, u.example_count)) for u in updates])


def make_aggregate_inputs(
    task_id: Hash, task: TaskRecord, spec: TaskSpec, updates: Sequence[UpdateRecord], seed: Hash
) -> AggregateInputs:
    """Return what the result of a training round depends on."""
    return AggregateInputs(
        task_id,
        task.training_round,
        spec.rule,
        seed,
        spec.optimizer,
        spec.tensors,
        spec.update_layout,
        task.weights_root,
        task.optimizer_root,
        tuple(AggregateUpdate(u.participant, u.payload_hash, u.example_count) for u in updates),
        is_weighted=spec.example_count_max > 0,
    )


def get_aggregate(env: Environment, inputs: AggregateInputs) -> AggregateOutput:
    """Return the result for a sealed set.

    Raises
    ------
    PendingError
        If it is being computed, or a payload is not here.
    """
    # Weights that this very block has made are not in the store yet.
    sources = _BlockPayloads(env)
    output = env.aggregates.get(inputs, lambda: compute_aggregate(inputs, sources))
    if output is None:
        raise PendingError(
            f"training round {inputs.training_round} of task {inputs.task_id.hex()} is being"
            " aggregated"
        )
    return output


class _BlockPayloads:
    """The payloads as they stand when a computation is handed out; usable in another thread."""

    def __init__(self, env: Environment) -> None:
        self._artifacts = dict(env.artifacts)
        self._payloads = env.payloads

    def get(self, payload_hash: Hash, /) -> bytes | memoryview | None:
        """Return the bytes, or None."""
        artifact = self._artifacts.get(payload_hash)
        return self._payloads.get(payload_hash) if artifact is None else artifact

    def open_memmap(self, payload_hash: Hash, /) -> PayloadBytes | None:
        """Return the bytes by slices, or None."""
        artifact = self._artifacts.get(payload_hash)
        if artifact is None:
            return self._payloads.open_memmap(payload_hash)
        return np.frombuffer(artifact, np.uint8)


def finalize_training_round(
    env: Environment, task_id: Hash, task: TaskRecord, output: AggregateOutput
) -> None:
    """Let the result be the task's weights, and open the next training round from them."""
    spec = env.view.get_task_spec(task_id)
    updates = get_updates(env.view, task_id, task)
    scored = zip(updates, output.scores, output.set_aside, strict=True)
    receipts = tuple(
        UpdateReceipt(update.participant, update.payload_hash, score, is_set_aside)
        for update, score, is_set_aside in scored
    )
    finalized = replace(
        task,
        weights_root=output.weights_root,
        optimizer_root=output.optimizer_root,
        rounds_finalized=task.rounds_finalized + 1,
        recent_roots=_keep_last((*task.recent_roots, task.weights_root), spec.policy.staleness_max),
    )
    if finalized.rounds_finalized == spec.policy.rounds_max:
        finalized = replace(finalized, status=TaskStatus.COMPLETED)
    env.keep_artifact(output.weights_root, output.weights)
    env.keep_artifact(output.optimizer_root, output.optimizer_state)
    env.need_payload(output.weights_root)
    env.need_payload(output.optimizer_root)
    env.release_payload(task.weights_root)
    env.release_payload(task.optimizer_root)
    _close_training_round(env, task_id, task, finalized, RoundOutcome.FINALIZED, receipts, output)


def void_training_round(env: Environment, task_id: Hash, task: TaskRecord) -> None:
    """End a training round without a result; the next one starts from the same weights."""
    receipts = _make_unscored_receipts(get_updates(env.view, task_id, task))
    _close_training_round(env, task_id, task, task, RoundOutcome.VOID, receipts, None)


def _close_training_round(
    env: Environment,
    task_id: Hash,
    task: TaskRecord,
    following: TaskRecord,
    outcome: RoundOutcome,
    receipts: tuple[UpdateReceipt, ...],
    output: AggregateOutput | None,
) -> None:
    """Write the receipt, delete the round's updates and evaluations, and open the next round."""
    context = env.context
    updates = get_updates(env.view, task_id, task)
    evaluations = take_evaluations(env, task_id, task)
    env.round_receipts.append(
        RoundReceipt(
            task_id=task_id,
            training_round=task.training_round,
            outcome=outcome,
            base_weights_root=task.weights_root,
            weights_root=following.weights_root,
            set_root=compute_set_root(updates),
            updates=receipts,
            saturated=0 if output is None else output.saturated,
            clamped=0 if output is None else output.clamped,
            evaluation_count=len(evaluations),
            evaluations=compute_medians(evaluations),
        )
    )
    best = compute_best_weights(task, evaluations)
    if best is not None and best is not task.best:
        env.need_payload(best.weights_root)
        if task.best is not None:
            env.release_payload(task.best.weights_root)
    for slot, update in enumerate(updates):
        env.view.delete(get_update_key(task_id, slot))
        env.release_payload(update.payload_hash)
    env.view.opened_update_count -= len(updates)
    policy = env.view.get_task_spec(task_id).policy
    env.view.put(
        get_task_key(task_id),
        replace(
            following,
            training_round=task.training_round + 1,
            opened_height=context.height,
            opened_time_ms=context.time_ms,
            first_update_height=0,
            deadline_time_ms=context.time_ms + policy.deadline_ms,
            update_count=0,
            evaluation_count=0,
            frozen=None,
            best=best,
        ),
    )


def _make_unscored_receipts(updates: Sequence[UpdateRecord]) -> tuple[UpdateReceipt, ...]:
    return tuple(
        UpdateReceipt(u.participant, u.payload_hash, score=0, is_set_aside=False) for u in updates
    )


def _keep_last(roots: tuple[Hash, ...], count: int) -> tuple[Hash, ...]:
    return roots[len(roots) - count :] if count < len(roots) else roots
