"""What the execution of a block results in.

Owns the type. Never computes its contents and never applies them: `execution` and `State` do.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from quorate.chain.ids import Hash
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.receipt import BlockReceipts
from quorate.chain.validators import ValidatorUpdate

from ledger.records import Record
from ledger.tree import TreePatch


@dataclass(frozen=True)
class ExecutionResult:
    """Everything that follows from a block, still nowhere applied.

    Attributes
    ----------
    height, time_ms : int
    writes : mapping of bytes to bytes or None
        The state's new values by key, sorted; None deletes.
    tree_patch : TreePatch
    state_root, receipts_root, model_root : bytes, 32
        For the header of this very block.
    receipts : BlockReceipts
    validator_updates : tuple of ValidatorUpdate
        None before staking.
    parameters : ConsensusParameters
        In force from the next height on.
    next_due_time_ms : int or None
        The block time at which the ledger needs a block, even an empty one.
    artifacts : mapping of bytes to bytes
        New weights and optimizer states by SHA-256, to be stored before the block is committed.
    released_payloads : tuple of bytes, 32
        Payloads and superseded weights that the state needs no more. The node may drop each
        `payload_retain_ms` later, if `State.is_payload_needed` still denies it then.
    finalizations_due : tuple of (task id, training round)
        Frozen rounds that wait for a proposer to carry their result, in the order of task ids.
    records : mapping of bytes to Record or None
        The writes, decoded: for the caches of `State`.
    payload_references : mapping of bytes to int
        By how much the number of places that need a payload changes.
    """

    height: int
    time_ms: int
    writes: Mapping[bytes, bytes | None]
    tree_patch: TreePatch
    state_root: Hash
    receipts: BlockReceipts
    receipts_root: Hash
    model_root: Hash
    validator_updates: tuple[ValidatorUpdate, ...]
    parameters: ConsensusParameters
    next_due_time_ms: int | None
    artifacts: Mapping[Hash, bytes | memoryview]
    released_payloads: tuple[Hash, ...]
    finalizations_due: tuple[tuple[Hash, int], ...]
    records: Mapping[bytes, Record | None] = field(repr=False, compare=False)
    payload_references: Mapping[Hash, int] = field(repr=False, compare=False)
