"""The ends of training rounds: which ones are over at the end of a block, and what follows.

Owns when a training round ends. Never judges an update (it was judged when it was accepted) and
never reads a clock: deadlines are in block time.

A training round ends at the end of a block when its maximum is reached, when everyone awaited has
been counted, or when its deadline has passed; the first two only with its minimum. Below the
minimum the deadline extends it, a bounded number of times, or voids it. Unless the task waives
that, none ends before proposers with more than a third of the power have had a block since its
first update, that one included, so that no proposer picks the set alone.

No participant is waited for beyond the deadline, and nothing but blocks is needed to reach it.
"""

from operator import itemgetter

from msgspec.structs import replace
from quorate.chain.ids import Hash
from quorate.chain.receipt import SealCause
from quorate.chain.task import BelowMinimum, RoundPolicy, TaskSpec

from aggregation import compute_cost
from ledger.aggregates import (
    RESULT_BYTES_PER_BLOCK_MAX,
    RESULTS_PER_BLOCK_MAX,
    compute_result_bytes,
)
from ledger.deadlines import compute_wake, extend, find_cause, is_below_minimum, is_collecting
from ledger.environment import Environment
from ledger.keys import get_proposer_key, get_task_key
from ledger.records import ProposerRecord, TaskRecord
from ledger.round_ends import finalize_training_round, freeze_training_round, void_training_round
from ledger.round_receipts import SealedSet, make_seal
from ledger.sealed_sets import (
    compute_seed,
    get_aggregate,
    get_updates,
    make_aggregate_inputs,
)

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
    cause = find_cause(task, policy, time_ms)
    if cause is None:
        return
    extended = extend(task, policy, time_ms)
    if extended is not None:
        env.view.put(get_task_key(task_id), extended)
    elif not has_proposer_spread(env, task, policy):
        return
    elif is_below_minimum(task, policy):
        if policy.below_minimum is BelowMinimum.EXTEND:
            # Its periods are used up, those included that nobody made a block in.
            task = replace(task, extension_count=policy.extensions_max)
        void_training_round(env, task_id, task, cause)
    else:
        seal_training_round(env, task_id, task, spec, cause)


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
    due = [wake.block_time_ms for wake in wakes if wake is not None]
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
            frozen[task_id] = task.frozen.training_round
    return tuple(sorted(frozen.items()))


# --- sealing and finalizing -----------------------------------------------------------------------


def seal_training_round(
    env: Environment, task_id: Hash, task: TaskRecord, spec: TaskSpec, cause: SealCause
) -> None:
    """Close the set, and aggregate it now if that is cheap enough, else freeze it.

    A set that is cheap enough for a block, but not for what this block has left, stays as it is
    and is looked at again in the next block. Whoever judges the block needs all of its results at
    the same time, so that these are limited as well.

    Raises
    ------
    PendingError
        If the result is being computed.
    """
    cost = compute_cost(spec.rule, task.update_count, task.dimension)
    cost_max = env.context.parameters.aggregation_cost_block_max
    is_cheap = cost <= cost_max
    if is_cheap and (
        env.aggregation_cost + cost > cost_max or not has_room_for_result(env, task, spec)
    ):
        return
    updates = get_updates(env.view, task_id, task)
    seed = compute_seed(env, task_id, task)
    seal = make_seal(env, task_id, task, cause)
    sealed = SealedSet(task.training_round, updates, seed, seal)
    if is_cheap:
        env.aggregation_cost += cost
        inputs = make_aggregate_inputs(task_id, task, spec, updates, task.training_round, seed)
        finalize_training_round(env, task_id, task, sealed, get_aggregate(env, inputs))
    else:
        freeze_training_round(env, task_id, task, spec, sealed)


def has_room_for_result(env: Environment, task: TaskRecord, spec: TaskSpec) -> bool:
    """Tell whether the block may bring another training round's result, this task's."""
    size = compute_result_bytes(spec.rule, spec.optimizer, task.dimension)
    return env.result_count == 0 or (
        env.result_count < RESULTS_PER_BLOCK_MAX
        and env.result_bytes + size <= RESULT_BYTES_PER_BLOCK_MAX
    )
