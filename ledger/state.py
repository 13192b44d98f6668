"""The committed state: typed reads, its roots, and the few indexes that are kept in memory.

Owns the state between blocks: the Merkle tree, bounded caches of records and buckets, the tasks'
leaves of the model root, which tasks have something pending, and how many places need a payload.
All of it follows from the reader's entries. Never executes a transaction and never writes to the
store: the caller commits a result's writes first, then hands the result to `State.commit`.

Between the two, and while a block is executed, nobody else may call `commit`; reads are safe at
any time, from any thread that the reader allows.
"""

from collections.abc import Mapping
from typing import TypeVar

from quorate.chain.codec import encode
from quorate.chain.errors import InvariantError, StorageError
from quorate.chain.genesis import Genesis
from quorate.chain.ids import NO_HASH, Address, Hash
from quorate.chain.merkle import (
    MerkleProof,
    compute_proof_of_hashes,
    compute_root_of_hashes,
    hash_leaf,
)
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.task import TaskSpec
from quorate.chain.weights import ModelLeaf

from ledger.keys import (
    CHAIN_KEY,
    PARAMETERS_KEY,
    Prefix,
    get_account_key,
    get_task_key,
    get_task_name_key,
    get_task_spec_key,
)
from ledger.reader import DictReader, StateReader
from ledger.records import (
    NO_TIME,
    AccountRecord,
    ChainRecord,
    ParametersRecord,
    Record,
    TaskNameRecord,
    TaskRecord,
    TaskSpecRecord,
    UpdateRecord,
    decode_record,
)
from ledger.result import ExecutionResult
from ledger.tree import (
    Bucket,
    BucketTree,
    TreePatch,
    compute_bucket,
    iterate_buckets,
    make_bucket,
)

__all__ = [
    "BucketTree",
    "DictReader",
    "State",
    "StateReader",
    "TreePatch",
    "compute_bucket",
]

RECORDS_CACHED_MAX = 1 << 16
LARGE_RECORDS_CACHED_MAX = 256
"""Tasks and their specifications may have many kilobytes each."""
BUCKET_ENTRIES_CACHED_MAX = 1 << 16
CHECKED_PAYLOADS_MAX = 1 << 14
TASKS_MAX = 1 << 16
MEMBERS_MAX = 1 << 16
OPEN_UPDATES_MAX = 1 << 18
"""The most updates that all open training rounds of the chain hold together."""

NO_ACCOUNT = AccountRecord(0, 0)

_LARGE = (Prefix.TASK, Prefix.TASK_SPEC)

R = TypeVar("R", bound=Record)


class State:
    """The state after the last committed block.

    Parameters
    ----------
    reader : StateReader
        Holds the entries of `build_genesis_state(genesis)` at least.
    genesis : Genesis
        Gives the settings that never change: chain id, admission, fees, number of buckets.

    Raises
    ------
    StorageError
        If the reader has no state, or one that this program cannot read.
    """

    def __init__(self, reader: StateReader, genesis: Genesis) -> None:
        self.genesis = genesis
        self._reader = reader
        self._bucket_count = genesis.bucket_count
        self._records: dict[bytes, Record | None] = {}
        self._large_records: dict[bytes, Record | None] = {}
        self._buckets: dict[int, Bucket] = {}
        self._bucket_entries = 0
        self._leaves: dict[Hash, bytes] = {}
        self._pending: dict[Hash, int] = {}
        self._members: dict[Address, None] = {}
        self._open_update_count = 0
        self._references: dict[Hash, int] = {}
        self.valid_updates: dict[tuple[Hash, int], None] = {}
        """Payloads found valid for a dimension; at most `CHECKED_PAYLOADS_MAX`."""
        self.weights_roots: dict[Hash, Hash] = {}
        """Roots of initial weights by payload hash; at most `CHECKED_PAYLOADS_MAX`."""
        roots = []
        for bucket, entries in iterate_buckets(reader.iterate_state()):
            listed = list(entries)
            roots.append((bucket, make_bucket(listed).root))
            for key, value in listed:
                self._index_stored(key, value)
        self._tree = BucketTree.build(genesis.bucket_count, roots)
        self._chain = self._require(CHAIN_KEY, ChainRecord)
        self._model_root = self.compute_model_root({})

    # --- what every block needs -------------------------------------------------------------------

    @property
    def root(self) -> Hash:
        """The state root."""
        return self._tree.root

    @property
    def model_root(self) -> Hash:
        """The root over all tasks' weights and optimizer states."""
        return self._model_root

    @property
    def height(self) -> int:
        """The height of the last committed block; one below the initial height before the first."""
        return self._chain.height

    @property
    def time_ms(self) -> int:
        """The block time of the last committed block."""
        return self._chain.time_ms

    @property
    def next_due_time_ms(self) -> int | None:
        """The block time at which the ledger needs a block, if it does."""
        due = self._chain.next_due_time_ms
        return None if due == NO_TIME else due

    @property
    def parameters(self) -> ConsensusParameters:
        """The consensus parameters in force at the next height."""
        return self.get_parameters_record().parameters

    def get_parameters_record(self) -> ParametersRecord:
        """Return the parameters with the number of their changes."""
        return self._require(PARAMETERS_KEY, ParametersRecord)

    # --- records ----------------------------------------------------------------------------------

    def get_record(self, key: bytes) -> Record | None:
        """Return a record, or None."""
        cache, limit = self._get_cache(key)
        try:
            return cache[key]
        except KeyError:
            raw = self._reader.get_state(compute_bucket(key, self._bucket_count), key)
            record = None if raw is None else decode_record(key, raw)
            if len(cache) >= limit:
                cache.clear()
            cache[key] = record
            return record

    def get(self, key: bytes, kind: type[R]) -> R | None:
        """Return a record of a known kind, or None."""
        record = self.get_record(key)
        if record is None or isinstance(record, kind):
            return record
        raise InvariantError(f"the state has a {type(record).__name__} under {key.hex()}")

    def get_account(self, address: Address) -> AccountRecord:
        """Return an account; one that does not exist has nonce 0 and no coins."""
        return self.get(get_account_key(address), AccountRecord) or NO_ACCOUNT

    def get_task(self, task_id: Hash) -> TaskRecord | None:
        """Return the changing part of a task, or None."""
        return self.get(get_task_key(task_id), TaskRecord)

    def get_task_spec(self, task_id: Hash) -> TaskSpec | None:
        """Return a task's specification, or None."""
        record = self.get(get_task_spec_key(task_id), TaskSpecRecord)
        return None if record is None else record.spec

    def find_task(self, name: str) -> Hash | None:
        """Return the id of the task that has this name, or None."""
        record = self.get(get_task_name_key(name), TaskNameRecord)
        return None if record is None else record.task_id

    # --- indexes ----------------------------------------------------------------------------------

    @property
    def task_ids(self) -> list[Hash]:
        """All tasks, in order."""
        return sorted(self._leaves)

    @property
    def member_addresses(self) -> list[Address]:
        """All members of a permissioned chain, in order."""
        return sorted(self._members)

    @property
    def task_count(self) -> int:
        """The number of tasks."""
        return len(self._leaves)

    @property
    def member_count(self) -> int:
        """The number of members."""
        return len(self._members)

    @property
    def open_update_count(self) -> int:
        """The number of updates in all training rounds that have not ended."""
        return self._open_update_count

    @property
    def pending_task_ids(self) -> list[Hash]:
        """The tasks whose training round has an update or is frozen, in order."""
        return sorted(self._pending)

    def get_payload_references(self, payload_hash: Hash) -> int:
        """Return how many places of the state need a payload."""
        return self._references.get(payload_hash, 0)

    def is_payload_needed(self, payload_hash: Hash) -> bool:
        """Tell whether the next blocks may need a payload, or a task's weights are in it."""
        return payload_hash in self._references

    # --- roots and proofs -------------------------------------------------------------------------

    def get_bucket(self, bucket: int) -> Bucket:
        """Return the keys and leaf hashes of a bucket."""
        known = self._buckets.get(bucket)
        if known is None:
            known = make_bucket(self._reader.iterate_bucket(bucket))
            self._keep_bucket(bucket, known)
        return known

    def compute_patch(self, writes: Mapping[bytes, bytes | None]) -> TreePatch:
        """Return what `writes` change in the tree, changing nothing."""
        by_bucket: dict[int, list[tuple[bytes, bytes | None]]] = {}
        for key, value in writes.items():
            bucket = compute_bucket(key, self._bucket_count)
            by_bucket.setdefault(bucket, []).append((key, value))
        buckets = {
            bucket: self.get_bucket(bucket).apply(entries) for bucket, entries in by_bucket.items()
        }
        roots = {bucket: contents.root for bucket, contents in buckets.items()}
        return self._tree.compute_update(roots, buckets)

    def compute_model_root(self, changed: Mapping[Hash, ModelLeaf]) -> Hash:
        """Return the model root with some tasks' leaves changed or added."""
        leaves = self._leaves | {
            task_id: hash_leaf(encode(leaf)) for task_id, leaf in changed.items()
        }
        return compute_root_of_hashes([leaves[task_id] for task_id in sorted(leaves)])

    def get_model_proof(self, task_id: Hash) -> MerkleProof:
        """Return the proof of an existing task's leaf in `model_root`."""
        order = self.task_ids
        return compute_proof_of_hashes([self._leaves[i] for i in order], order.index(task_id))

    def get_entry_proofs(self, key: bytes) -> tuple[MerkleProof, MerkleProof]:
        """Return the proofs of an existing entry in its bucket, and of the bucket in the state."""
        bucket = compute_bucket(key, self._bucket_count)
        contents = self.get_bucket(bucket)
        entry = compute_proof_of_hashes(contents.hashes, contents.keys.index(key))
        return entry, self._tree.get_proof(bucket)

    # --- advancing --------------------------------------------------------------------------------

    def commit(self, result: ExecutionResult) -> None:
        """Advance to the state after a block whose writes the reader already has.

        Raises
        ------
        InvariantError
            If the result is not that of the next block, or the reader does not have its writes.
        """
        if result.height != self.height + 1:
            raise InvariantError(f"height {result.height} does not follow {self.height}")
        stored = self._reader.get_state(compute_bucket(CHAIN_KEY, self._bucket_count), CHAIN_KEY)
        if stored != result.writes[CHAIN_KEY]:
            raise InvariantError("a block's writes must be in the store before its commit")
        self._tree.apply(result.tree_patch)
        for bucket, contents in result.tree_patch.buckets.items():
            self._keep_bucket(bucket, contents)
        for key, record in result.records.items():
            cache, limit = self._get_cache(key)
            if len(cache) >= limit:
                cache.clear()
            cache[key] = record
            self._index_changed(key, record)
        for payload_hash, change in result.payload_references.items():
            self._count_reference(payload_hash, change)
        self._chain = self._require(CHAIN_KEY, ChainRecord)
        self._model_root = result.model_root

    def _require(self, key: bytes, kind: type[R]) -> R:
        record = self.get(key, kind)
        if record is None:
            raise StorageError(
                f"The store has no {kind.__name__}: it holds no state. Initialize it from the"
                " genesis document."
            )
        return record

    def _get_cache(self, key: bytes) -> tuple[dict[bytes, Record | None], int]:
        if key[0] in _LARGE:
            return self._large_records, LARGE_RECORDS_CACHED_MAX
        return self._records, RECORDS_CACHED_MAX

    def _keep_bucket(self, bucket: int, contents: Bucket) -> None:
        # A bucket counts one more than its entries, so that empty ones are bounded, too.
        if self._bucket_entries >= BUCKET_ENTRIES_CACHED_MAX:
            self._buckets.clear()
            self._bucket_entries = 0
        known = self._buckets.get(bucket)
        self._bucket_entries += len(contents.keys) - (-1 if known is None else len(known.keys))
        self._buckets[bucket] = contents

    def _index_stored(self, key: bytes, value: bytes) -> None:
        match key[0]:
            case Prefix.TASK | Prefix.MEMBER:
                record = decode_record(key, value)
                self._index_changed(key, record)
                if isinstance(record, TaskRecord):
                    for payload_hash in get_task_payloads(record):
                        self._count_reference(payload_hash, 1)
            case Prefix.UPDATE:
                record = decode_record(key, value)
                if isinstance(record, UpdateRecord):
                    self._count_reference(record.payload_hash, 1)
            case _:
                pass

    def _index_changed(self, key: bytes, record: Record | None) -> None:
        if key[0] == Prefix.MEMBER:
            address = Address(key[1:])
            if record is None:
                self._members.pop(address, None)
            else:
                self._members[address] = None
        elif isinstance(record, TaskRecord):
            task_id = Hash(key[1:])
            before = self._pending.pop(task_id, 0)
            self._open_update_count += record.update_count - before
            if record.update_count or record.frozen is not None:
                self._pending[task_id] = record.update_count
            self._leaves[task_id] = hash_leaf(encode(get_model_leaf(task_id, record)))

    def _count_reference(self, payload_hash: Hash, change: int) -> None:
        count = self._references.get(payload_hash, 0) + change
        if count < 0:
            raise InvariantError(f"payload {payload_hash.hex()} is needed {count} times")
        if count:
            self._references[payload_hash] = count
        else:
            self._references.pop(payload_hash, None)


def get_model_leaf(task_id: Hash, task: TaskRecord) -> ModelLeaf:
    """Return what the model root holds for a task."""
    return ModelLeaf(task_id, task.weights_root, task.optimizer_root)


def get_task_payloads(task: TaskRecord) -> tuple[Hash, ...]:
    """Return what a task needs beside its updates: weights, optimizer state, best weights."""
    state = () if task.optimizer_hash == NO_HASH else (task.optimizer_hash,)
    best = () if task.best is None else (task.best.weights_hash,)
    return (task.weights_hash, *state, *best)
