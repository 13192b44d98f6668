"""What is kept in memory beside the committed entries, and follows from them alone.

Owns the tasks' leaves of the model root, the training rounds that have updates, the members, and
how many places of the state need a payload. Never reads the store: `State` feeds it.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass

from quorate.chain.codec import encode
from quorate.chain.errors import InvariantError
from quorate.chain.ids import Address, Hash
from quorate.chain.merkle import (
    EMPTY_ROOT,
    MerkleProof,
    compute_proof_of_hashes,
    compute_root_of_hashes,
    hash_leaf,
)
from quorate.chain.task import RoundPolicy
from quorate.chain.weights import ModelLeaf

from ledger.deadlines import Wake, compute_wake
from ledger.keys import Prefix
from ledger.records import Record, TaskRecord, UpdateRecord, decode_record

TASKS_MAX = 1 << 16
TASKS_EVER_PER_ACCOUNT_MAX = TASKS_MAX // 16
"""The most tasks of one account, completed ones included: they stay in the model root, and so no
account alone takes all of `TASKS_MAX` by creating and completing tasks."""
MEMBERS_MAX = 1 << 16
OPEN_UPDATES_MAX = 1 << 18
"""The most updates that all open training rounds of the chain hold together."""


@dataclass(slots=True)
class _PendingRound:
    """What a task has in training rounds that have not ended.

    `frozen_round` is the number of the one that is frozen, or None; `wake` is filled in once the
    task's policy is known.
    """

    update_count: int
    frozen_round: int | None
    wake: Wake | None


class StateIndexes:
    """The indexes of a committed state.

    Their size is bounded by `TASKS_MAX`, `MEMBERS_MAX` and `OPEN_UPDATES_MAX`, which the rules of
    the ledger hold.
    """

    def __init__(self) -> None:
        self._leaves: dict[Hash, bytes] = {}
        self._created: dict[Address, int] = {}
        self._pending: dict[Hash, _PendingRound] = {}
        self._members: dict[Address, None] = {}
        self._references: dict[Hash, int] = {}
        self.open_update_count = 0
        """The number of updates in all training rounds that have not ended."""

    # --- members and tasks ------------------------------------------------------------------------

    @property
    def task_ids(self) -> list[Hash]:
        """All tasks, in order."""
        return sorted(self._leaves)

    @property
    def task_count(self) -> int:
        """The number of tasks."""
        return len(self._leaves)

    def get_created_count(self, authority: Address) -> int:
        """Return how many tasks an account has created, completed ones included."""
        return self._created.get(authority, 0)

    @property
    def member_addresses(self) -> list[Address]:
        """All members of a permissioned chain, in order."""
        return sorted(self._members)

    @property
    def member_count(self) -> int:
        """The number of members."""
        return len(self._members)

    # --- training rounds --------------------------------------------------------------------------

    @property
    def pending_task_ids(self) -> list[Hash]:
        """The tasks whose training round has an update or is frozen, in order."""
        return sorted(self._pending)

    def get_awake_task_ids(self, time_ms: int) -> list[Hash]:
        """Return the tasks whose training round a block of `time_ms` must look at, in order."""
        return sorted(
            task_id
            for task_id, pending in self._pending.items()
            if pending.wake is not None and pending.wake.time_ms <= time_ms
        )

    def get_next_wake_time(self, changed: Container[Hash]) -> int | None:
        """Return the earliest block time that a training round needs, those `changed` aside."""
        return min(
            (
                pending.wake.block_time_ms
                for task_id, pending in self._pending.items()
                if pending.wake is not None and task_id not in changed
            ),
            default=None,
        )

    def get_frozen_rounds(self) -> dict[Hash, int]:
        """Return the training round of each task whose round is frozen."""
        return {
            task_id: pending.frozen_round
            for task_id, pending in self._pending.items()
            if pending.frozen_round is not None
        }

    # --- payloads ---------------------------------------------------------------------------------

    def get_payload_references(self, payload_hash: Hash) -> int:
        """Return how many places of the state need a payload."""
        return self._references.get(payload_hash, 0)

    def count_reference(self, payload_hash: Hash, change: int) -> None:
        """Take over by how much the number of places that need a payload has changed.

        Raises
        ------
        InvariantError
            If it falls below 0.
        """
        count = self._references.get(payload_hash, 0) + change
        if count < 0:
            raise InvariantError(f"payload {payload_hash.hex()} is needed {count} times")
        if count:
            self._references[payload_hash] = count
        else:
            self._references.pop(payload_hash, None)

    # --- the model root ---------------------------------------------------------------------------

    def compute_model_root(self, changed: Mapping[Hash, ModelLeaf]) -> Hash:
        """Return the model root with some tasks' leaves changed or added."""
        leaves = self._leaves | {
            task_id: hash_leaf(encode(leaf)) for task_id, leaf in changed.items()
        }
        return compute_root_of_hashes([leaves[task_id] for task_id in sorted(leaves)])

    def get_model_proof(self, task_id: Hash) -> MerkleProof:
        """Return the proof of an existing task's leaf in the model root."""
        order = self.task_ids
        return compute_proof_of_hashes([self._leaves[i] for i in order], order.index(task_id))

    # --- following the state ----------------------------------------------------------------------

    def take_stored(self, key: bytes, value: bytes) -> None:
        """Take an entry in that the store holds: references to payloads are counted from it."""
        if key[0] not in (Prefix.TASK, Prefix.MEMBER, Prefix.UPDATE):
            return
        record = decode_record(key, value)
        self.take_changed(key, record)
        if isinstance(record, TaskRecord):
            for payload_hash in get_task_payloads(record):
                self.count_reference(payload_hash, 1)
        elif isinstance(record, UpdateRecord):
            self.count_reference(record.payload_hash, 1)

    def take_changed(self, key: bytes, record: Record | None) -> None:
        """Take a committed change in; the block has counted its references itself."""
        if key[0] == Prefix.MEMBER:
            address = Address(key[1:])
            if record is None:
                self._members.pop(address, None)
            else:
                self._members[address] = None
        elif isinstance(record, TaskRecord):
            self._take_task(Hash(key[1:]), record)

    def _take_task(self, task_id: Hash, task: TaskRecord) -> None:
        before = self._pending.pop(task_id, None)
        frozen = task.frozen
        count = task.update_count + (0 if frozen is None else frozen.update_count)
        self.open_update_count += count - (before.update_count if before else 0)
        if count:
            frozen_round = None if frozen is None else frozen.training_round
            self._pending[task_id] = _PendingRound(count, frozen_round, None)
        if task_id not in self._leaves:
            authority = Address(task.authority)
            self._created[authority] = self._created.get(authority, 0) + 1
        self._leaves[task_id] = hash_leaf(encode(get_model_leaf(task_id, task)))

    def set_wake(self, task_id: Hash, task: TaskRecord, policy: RoundPolicy, time_ms: int) -> None:
        """Note when a pending training round is looked at next, after a block of `time_ms`."""
        pending = self._pending.get(task_id)
        if pending is not None:
            pending.wake = compute_wake(task, policy, time_ms)


def get_model_leaf(task_id: Hash, task: TaskRecord) -> ModelLeaf:
    """Return what the model root holds for a task."""
    return ModelLeaf(task_id, task.weights_root, task.optimizer_root)


def get_task_payloads(task: TaskRecord) -> tuple[Hash, ...]:
    """Return what a task needs beside its updates: weights, optimizer state, best weights."""
    state = () if task.optimizer_root == EMPTY_ROOT else (task.optimizer_root,)
    best = () if task.best is None else (task.best.weights_root,)
    return (task.weights_root, *state, *best)
