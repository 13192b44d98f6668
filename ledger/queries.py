"""Read models over the committed state, for whoever shows it to people and programs.

Owns what an account, a task, a training round, participants, members and proofs look like from
outside. Never changes anything and sees nothing of a block that is not decided.
"""

from dataclasses import dataclass

from quorate.chain.ids import Address, Hash
from quorate.chain.merkle import MerkleProof
from quorate.chain.task import TaskSpec
from quorate.chain.transaction import TaskStatus
from quorate.chain.weights import ModelLeaf

from ledger.activity import get_awaited_count, is_awaited
from ledger.aggregates import AggregateInputs
from ledger.evaluations import compute_best_weights
from ledger.indexes import get_model_leaf
from ledger.keys import (
    get_evaluation_key,
    get_member_key,
    get_participant_key,
    get_registration_key,
)
from ledger.records import (
    AccountRecord,
    BestWeights,
    EvaluationRecord,
    MemberRecord,
    ParticipantRecord,
    RegistrationRecord,
    TaskRecord,
    UpdateRecord,
)
from ledger.sealed_sets import (
    compute_staleness,
    get_frozen_updates,
    get_updates,
    make_frozen_inputs,
)
from ledger.state import State

PAGE_ITEMS_MAX = 1000
"""The most tasks or participants that one call returns."""


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task: what was specified, where it stands, and its best weights so far."""

    task_id: Hash
    spec: TaskSpec
    record: TaskRecord
    best: BestWeights | None


@dataclass(frozen=True, slots=True)
class TrainingRoundView:
    """A training round of a task that has not ended: the open one, or the frozen one.

    Attributes
    ----------
    is_frozen : bool
        Whether its set is sealed and its aggregate is being computed. Of a frozen round behind an
        open one, times, counts and evaluations are those of the open one.
    deadline_time_ms : int
        A deadline in the past means that the round is empty or below its minimum: the next
        update begins a new period.
    registered_count, awaited_count, extension_count : int
        How many participants the task has, how many of them the round waits for until its
        deadline, and how often that has been moved.
    updates : tuple of UpdateRecord
        In canonical order: by participant.
    staleness : tuple of int
        By how many training rounds the base weights of each are older than the task's.
    """

    task_id: Hash
    training_round: int
    is_frozen: bool
    opened_height: int
    opened_time_ms: int
    deadline_time_ms: int
    base_weights_root: Hash
    registered_count: int
    awaited_count: int
    extension_count: int
    updates: tuple[UpdateRecord, ...]
    staleness: tuple[int, ...]
    evaluations: tuple[EvaluationRecord, ...]


@dataclass(frozen=True, slots=True)
class ParticipantView:
    """A registered participant.

    `has_update` and `is_awaited` tell about the open training round: whether it has an update of
    the participant, and whether it waits for one until its deadline. `active_round` is the one in
    which the participant registered or last sent an update.
    """

    address: Address
    registered_height: int
    has_update: bool
    is_awaited: bool
    active_round: int


@dataclass(frozen=True, slots=True)
class MemberView:
    """A member of a permissioned chain."""

    address: Address
    record: MemberRecord


@dataclass(frozen=True, slots=True)
class ModelProof:
    """A task's leaf, and the proof that it is in the model root."""

    leaf: ModelLeaf
    proof: MerkleProof


def get_account(state: State, address: Address) -> AccountRecord:
    """Return an account; one that does not exist has nonce 0 and no coins."""
    return state.get_account(address)


def find_task_by_name(state: State, name: str) -> Hash | None:
    """Return the id of the task that has this name, or None."""
    return state.find_task(name)


def get_task(state: State, task_id: Hash) -> TaskView | None:
    """Return a task, or None."""
    record, spec = state.get_task(task_id), state.get_task_spec(task_id)
    if record is None or spec is None:
        return None
    best = record.best
    if record.status is TaskStatus.COMPLETED:
        # No training round follows whose receipt would settle how good the last weights are.
        best = compute_best_weights(record, _get_evaluations(state, task_id, record))
    return TaskView(task_id, spec, record, best)


def get_tasks(state: State, start: int = 0, limit: int = PAGE_ITEMS_MAX) -> list[TaskView]:
    """Return up to `limit` tasks in the order of their ids, from the `start`-th on."""
    page = state.task_ids[start : start + min(limit, PAGE_ITEMS_MAX)]
    views = (get_task(state, task_id) for task_id in page)
    return [view for view in views if view is not None]


def get_training_round(
    state: State, task_id: Hash, training_round: int | None = None
) -> TrainingRoundView | None:
    """Return a training round of a task that has not ended, by default the open one, or None."""
    task = state.get_task(task_id)
    if task is None:
        return None
    number = task.training_round if training_round is None else training_round
    is_frozen = task.frozen is not None and task.frozen.training_round == number
    if not is_frozen and number != task.training_round:
        return None
    get = get_frozen_updates if is_frozen else get_updates
    updates = get(state, task_id, task)
    return TrainingRoundView(
        task_id,
        number,
        is_frozen,
        task.opened_height,
        task.opened_time_ms,
        task.deadline_time_ms,
        task.weights_root,
        task.registered_count,
        get_awaited_count(task),
        task.extension_count,
        tuple(updates),
        tuple(compute_staleness(task, update) for update in updates),
        _get_evaluations(state, task_id, task),
    )


def get_participants(
    state: State, task_id: Hash, start: int = 0, limit: int = PAGE_ITEMS_MAX
) -> list[ParticipantView]:
    """Return up to `limit` participants of a task from slot `start` on; none of no task."""
    task = state.get_task(task_id)
    if task is None:
        return []
    views = []
    for slot in range(start, min(task.registered_count, start + min(limit, PAGE_ITEMS_MAX))):
        holder = state.get(get_participant_key(task_id, slot), ParticipantRecord)
        if holder is None:
            continue
        address = holder.participant
        registration = state.get(get_registration_key(task_id, address), RegistrationRecord)
        if registration is not None:
            has_update = registration.counted_round == task.training_round
            views.append(
                ParticipantView(
                    address,
                    registration.height,
                    has_update,
                    is_awaited(task, registration),
                    registration.active_round,
                )
            )
    return views


def get_members(state: State) -> list[MemberView]:
    """Return the members of a permissioned chain, in the order of their addresses."""
    found = (
        (address, state.get(get_member_key(address), MemberRecord))
        for address in state.member_addresses
    )
    return [MemberView(address, record) for address, record in found if record is not None]


def get_model_leaves(state: State) -> list[ModelLeaf]:
    """Return what the model root commits to, in the order of task ids."""
    tasks = ((task_id, state.get_task(task_id)) for task_id in state.task_ids)
    return [get_model_leaf(task_id, task) for task_id, task in tasks if task is not None]


def get_model_proof(state: State, task_id: Hash) -> ModelProof | None:
    """Return a task's leaf with the proof that it is in `state.model_root`, or None."""
    task = state.get_task(task_id)
    if task is None:
        return None
    return ModelProof(get_model_leaf(task_id, task), state.indexes.get_model_proof(task_id))


def get_finalizations_due(state: State) -> tuple[tuple[Hash, int], ...]:
    """Return the frozen training rounds, as (task id, training round)."""
    return tuple(sorted(state.indexes.get_frozen_rounds().items()))


def get_frozen_inputs(state: State, task_id: Hash) -> AggregateInputs | None:
    """Return what a node aggregates in the background for a frozen training round, or None."""
    task, spec = state.get_task(task_id), state.get_task_spec(task_id)
    if task is None or spec is None:
        return None
    return make_frozen_inputs(state, task_id, task, spec)


def _get_evaluations(state: State, task_id: Hash, task: TaskRecord) -> tuple[EvaluationRecord, ...]:
    found = (
        state.get(get_evaluation_key(task_id, slot), EvaluationRecord)
        for slot in range(task.evaluation_count)
    )
    return tuple(evaluation for evaluation in found if evaluation is not None)
