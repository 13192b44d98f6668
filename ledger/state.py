"""The committed state: typed reads, its roots, and how it advances.

Owns the state between blocks: the Merkle tree, bounded caches of records and buckets, and the
indexes. All of it follows from the reader's entries. Never executes a transaction and never writes
to the store: the caller commits a result's writes first, then hands the result to `State.commit`.

Between the two, and while a block is executed, nobody else may call `commit`; reads are safe at
any time, from any thread that the reader allows.
"""

from collections.abc import Mapping
from typing import TypeVar

from quorate.chain.errors import InvariantError, StorageError
from quorate.chain.genesis import Genesis
from quorate.chain.ids import Address, Hash
from quorate.chain.merkle import (
    MerkleProof,
    compute_proof_of_hashes,
)
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.task import TaskSpec, UpdateLayout

from ledger.indexes import StateIndexes
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
        self.indexes = StateIndexes()
        """What is kept in memory of all tasks, members, training rounds and payloads."""
        self.valid_updates: dict[tuple[Hash, UpdateLayout], None] = {}
        """Payloads found valid for a layout; at most `CHECKED_PAYLOADS_MAX`."""
        roots = []
        for bucket, entries in iterate_buckets(reader.iterate_state()):
            listed = list(entries)
            roots.append((bucket, make_bucket(listed).root))
            for key, value in listed:
                self.indexes.take_stored(key, value)
        self._tree = BucketTree.build(genesis.bucket_count, roots)
        self._chain = self._require(CHAIN_KEY, ChainRecord)
        for task_id in self.indexes.pending_task_ids:
            self._set_wake(task_id)
        self._model_root = self.indexes.compute_model_root({})

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
        return self.indexes.task_ids

    @property
    def task_count(self) -> int:
        """The number of tasks."""
        return self.indexes.task_count

    @property
    def pending_task_ids(self) -> list[Hash]:
        """The tasks whose training round has an update or is frozen, in order."""
        return self.indexes.pending_task_ids

    @property
    def member_addresses(self) -> list[Address]:
        """All members of a permissioned chain, in order."""
        return self.indexes.member_addresses

    def is_payload_needed(self, payload_hash: Hash) -> bool:
        """Tell whether the next blocks may need a payload, or a task's weights are in it."""
        return self.indexes.get_payload_references(payload_hash) > 0

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
            self.indexes.take_changed(key, record)
        for payload_hash, change in result.payload_references.items():
            self.indexes.count_reference(payload_hash, change)
        self._chain = self._require(CHAIN_KEY, ChainRecord)
        for key in result.records:
            if key[0] == Prefix.TASK:
                self._set_wake(Hash(key[1:]))
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

    def _set_wake(self, task_id: Hash) -> None:
        task, spec = self.get_task(task_id), self.get_task_spec(task_id)
        if task is not None and spec is not None:
            self.indexes.set_wake(task_id, task, spec.policy, self.time_ms)
