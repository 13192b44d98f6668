"""The set of updates that a training round was sealed with, and its aggregate.

Owns the canonical order of updates, how stale each is, the root and the seed of a set, and how its
result is asked for. Never decides when a set is sealed or what follows from the result.
"""

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
from quorate.chain.codec import encode
from quorate.chain.errors import InvariantError, PendingError
from quorate.chain.ids import Hash
from quorate.chain.merkle import compute_root
from quorate.chain.round_policy import compute_staleness_factor
from quorate.chain.task import RoundPolicy, TaskSpec

from aggregation import PayloadBytes
from ledger.aggregates import AggregateInputs, AggregateOutput, AggregateUpdate, compute_aggregate
from ledger.environment import Environment
from ledger.keys import get_update_key
from ledger.overlay import Overlay
from ledger.records import TaskRecord, UpdateRecord, get_update_layout
from ledger.state import State


def get_updates(view: Overlay | State, task_id: Hash, task: TaskRecord) -> list[UpdateRecord]:
    """Return the updates of the open training round in canonical order: by participant."""
    return _get_updates(view, task_id, task.training_round, task.update_count)


def get_frozen_updates(
    view: Overlay | State, task_id: Hash, task: TaskRecord
) -> list[UpdateRecord]:
    """Return the updates of the frozen training round in canonical order; none without one."""
    if task.frozen is None:
        return []
    return _get_updates(view, task_id, task.frozen.training_round, task.frozen.update_count)


def _get_updates(
    view: Overlay | State, task_id: Hash, training_round: int, count: int
) -> list[UpdateRecord]:
    found = (
        view.get(get_update_key(task_id, training_round, slot), UpdateRecord)
        for slot in range(count)
    )
    updates = [update for update in found if update is not None]
    if len(updates) != count:
        raise InvariantError(f"task {task_id.hex()} lacks {count - len(updates)} of its updates")
    return sorted(updates, key=lambda update: update.participant)


def compute_staleness(task: TaskRecord, update: UpdateRecord) -> int:
    """Return how many training rounds an update's base weights are behind the task's weights."""
    return task.rounds_finalized - update.base_version


def compute_factor(task: TaskRecord, policy: RoundPolicy, update: UpdateRecord) -> int:
    """Return what an update is scaled by for its staleness, with 16 fraction bits."""
    return compute_staleness_factor(policy.staleness_weighting, compute_staleness(task, update))


def compute_set_root(task: TaskRecord, updates: Sequence[UpdateRecord]) -> Hash:
    """Return the Merkle root over participant, payload hash, example count and staleness."""
    return compute_root(
        [
            encode((u.participant, u.payload_hash, u.example_count, compute_staleness(task, u)))
            for u in updates
        ]
    )


def compute_seed(env: Environment, task_id: Hash, task: TaskRecord) -> Hash:
    """Return what a training round that is sealed in this block permutes its updates by.

    It follows from the block before, which was decided before this one's proposer chose the set,
    and differs between tasks and training rounds.
    """
    seed = (env.context.last_block_hash, task_id, task.training_round)
    return Hash(sha256(encode(seed)).digest())


def make_aggregate_inputs(
    task_id: Hash,
    task: TaskRecord,
    spec: TaskSpec,
    updates: Sequence[UpdateRecord],
    training_round: int,
    seed: Hash,
) -> AggregateInputs:
    """Return what the result of a sealed set depends on, added to the task's weights."""
    return AggregateInputs(
        task_id,
        training_round,
        spec.rule,
        seed,
        spec.optimizer,
        spec.tensors,
        get_update_layout(task, spec),
        task.weights_root,
        task.optimizer_root,
        tuple(
            AggregateUpdate(
                u.participant,
                u.payload_hash,
                u.example_count,
                compute_factor(task, spec.policy, u),
            )
            for u in updates
        ),
        is_weighted=spec.example_count_max > 0,
    )


def make_frozen_inputs(
    view: Overlay | State, task_id: Hash, task: TaskRecord, spec: TaskSpec
) -> AggregateInputs | None:
    """Return what the result of a task's frozen training round depends on, or None without one."""
    frozen = task.frozen
    if frozen is None:
        return None
    updates = get_frozen_updates(view, task_id, task)
    return make_aggregate_inputs(task_id, task, spec, updates, frozen.training_round, frozen.seed)


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

    def size(self, payload_hash: Hash, /) -> int | None:
        """Return how many bytes there are, or None."""
        artifact = self._artifacts.get(payload_hash)
        return self._payloads.size(payload_hash) if artifact is None else len(artifact)

    def open_memmap(self, payload_hash: Hash, /) -> PayloadBytes | None:
        """Return the bytes by slices, or None."""
        artifact = self._artifacts.get(payload_hash)
        if artifact is None:
            return self._payloads.open_memmap(payload_hash)
        return np.frombuffer(artifact, np.uint8)
