"""What the handlers of one block share: the view of the state and what the block results in.

Owns the bookkeeping of artifacts, needed payloads and receipts. Never decides a rule.
"""

from dataclasses import dataclass, field

import numpy as np
from quorate.chain.errors import ErrorCode, TransactionError
from quorate.chain.ids import Address, Hash
from quorate.chain.merkle import EMPTY_ROOT
from quorate.chain.receipt import RoundReceipt

from aggregation import PayloadBytes
from ledger.aggregates import AggregateSource
from ledger.context import BlockContext, PayloadSource
from ledger.overlay import Overlay
from ledger.records import TaskRecord


@dataclass(slots=True)
class Environment:
    """One block under execution, or the committed state that the mempool checks against.

    Attributes
    ----------
    view : Overlay
    context : BlockContext
    payloads : PayloadSource
    aggregates : AggregateSource
    round_receipts : list of RoundReceipt
        In the order in which training rounds ended.
    artifacts : dict
        New weights and optimizer states by content address.
    references : dict
        By how much the number of places that need a payload has changed.
    released : dict
        The payloads that some place has let go, in that order; the values mean nothing.
    aggregation_cost : int
        What the block has spent of `aggregation_cost_block_max`.
    result_count, result_bytes : int
        How many results of training rounds the block brings, and their bytes.
    registrations_listed : int
        How many participants have been looked at to tell who was silent.
    sender_counts : dict
        How many transactions of each sender the block holds, but those that carry results.
    created_counts : dict
        How many tasks of each account the block creates.
    last_blocks : list of (height, power), or None
        Each validator's last block and its power, once somebody has asked for them.
    """

    view: Overlay
    context: BlockContext
    payloads: PayloadSource
    aggregates: AggregateSource
    round_receipts: list[RoundReceipt] = field(default_factory=list)
    artifacts: dict[Hash, bytes | memoryview] = field(default_factory=dict)
    references: dict[Hash, int] = field(default_factory=dict)
    released: dict[Hash, None] = field(default_factory=dict)
    aggregation_cost: int = 0
    result_count: int = 0
    result_bytes: int = 0
    registrations_listed: int = 0
    sender_counts: dict[Address, int] = field(default_factory=dict)
    created_counts: dict[Address, int] = field(default_factory=dict)
    last_blocks: list[tuple[int, int]] | None = None

    def get_task(self, task_id: Hash) -> TaskRecord:
        """Return a task that a transaction names.

        Raises
        ------
        TransactionError
            `unknown_task`.
        """
        task = self.view.get_task(task_id)
        if task is None:
            raise TransactionError(
                ErrorCode.UNKNOWN_TASK,
                f"There is no task {task_id.hex()} on this chain: check its id, or wait until the"
                " block that creates it is decided.",
            )
        return task

    def open_payload(self, payload_hash: Hash) -> PayloadBytes | None:
        """Return a payload by slices, or weights that this very block has made, or None."""
        artifact = self.artifacts.get(payload_hash)
        if artifact is None:
            return self.payloads.open_memmap(payload_hash)
        return np.frombuffer(artifact, np.uint8)

    def get_payload_size(self, payload_hash: Hash) -> int | None:
        """Return how many bytes a payload has, without reading them, or None."""
        artifact = self.artifacts.get(payload_hash)
        return self.payloads.size(payload_hash) if artifact is None else len(artifact)

    def keep_artifact(self, artifact_hash: Hash, data: bytes | memoryview) -> None:
        """Let the block result in new weights or an optimizer state; an empty one is not kept."""
        if artifact_hash != EMPTY_ROOT:
            self.artifacts[artifact_hash] = data

    def need_payload(self, payload_hash: Hash) -> None:
        """Note that one more place of the state needs a payload."""
        if payload_hash != EMPTY_ROOT:
            self.references[payload_hash] = self.references.get(payload_hash, 0) + 1

    def release_payload(self, payload_hash: Hash) -> None:
        """Note that one place needs it no more."""
        if payload_hash != EMPTY_ROOT:
            self.references[payload_hash] = self.references.get(payload_hash, 0) - 1
            self.released[payload_hash] = None

    def get_released_payloads(self) -> tuple[Hash, ...]:
        """Return what no place of the state needs any more after this block."""
        indexes = self.view.state.indexes
        return tuple(
            payload_hash
            for payload_hash in self.released
            if indexes.get_payload_references(payload_hash) + self.references[payload_hash] == 0
        )
