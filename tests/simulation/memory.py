"""Bounded memory: every container that a node holds is within a maximum that has a name.

Owns the walk over a node's objects, and the table of maxima. What is not in the table must stay
small, so that a queue or a map that somebody adds without a limit is found by the first run that
fills it. Never looks into what a container holds.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any

from quorate.chain.errors import ErrorCode
from quorate.chain.parameters import BLOCK_BYTES_MAX

from node.agreement.following import GROUP_BYTES_MAX
from node.composition import Node
from tests.simulation.checks import Violation
from tests.simulation.narrow import get_limit
from tests.simulation.virtual_trio import MemoryReceiveChannel, MemorySendChannel

SMALL_MAX = 40
"""More than the peers, validators, tasks or rounds of any run: what has one entry for each."""

PACKAGES = ("aggregation.", "consensus.", "ledger.", "node.", "p2p.", "store.")
DISKS = frozenset({"MemoryDatabase", "MemoryPayloadStore", "MemorySegmentFolder"})
"""What stands for a disk, whose limits are in bytes."""

LIMITS = {
    "ConsensusRunner._early_parts": "node.agreement.consensus_runner:EARLY_PARTS_MAX",
    "EvidencePool._pending": "node.agreement.evidence_pool:PENDING_EVIDENCE_MAX",
    "EvidencePool._decided": "node.agreement.evidence_pool:PENDING_EVIDENCE_MAX",
    "HeightLog._early": "node.agreement.height_log:EARLY_INPUTS_MAX",
    "Judge._refusals": "node.agreement.judging:RESULTS_MAX",
    "Judge._whole": "node.exchange.block_assembly:ASSEMBLIES_MAX",
    "BlockAssembly._sets": "node.exchange.block_assembly:ASSEMBLIES_MAX",
    "CatchUp._fetched": "node.exchange.catching_up:WINDOW_BLOCKS",
    "CatchUp._in_flight": "node.exchange.catching_up:WINDOW_BLOCKS",
    "PayloadAnnouncements._by_payload": "node.exchange.announcements:PAYLOADS_MAX",
    "PayloadAnnouncements._quorate": "node.exchange.announcements:PAYLOADS_MAX",
    "PayloadAnnouncements._to_verifier": "node.exchange.announcements:QUEUED_MAX",
    "PayloadAnnouncements._to_verify": "node.exchange.announcements:QUEUED_MAX",
    "PayloadExchange._wanted": "node.exchange.payload_exchange:WANTED_MAX",
    "PayloadsAhead._looked": "node.exchange.payloads_ahead:BLOCKS_AHEAD_MAX",
    "TransactionGossip._batches": "node.exchange.transaction_gossip:BATCHES_QUEUED_MAX",
    "TransactionGossip._to_worker": "node.exchange.transaction_gossip:BATCHES_QUEUED_MAX",
    "TransactionGossip._pulls": "node.exchange.transaction_gossip:PULLS_QUEUED_MAX",
    "TransactionGossip._to_puller": "node.exchange.transaction_gossip:PULLS_QUEUED_MAX",
    "BackgroundAggregates._results": "node.execution.aggregates:CACHED_MAX",
    "BackgroundAggregates._pending": "node.execution.aggregates:CACHED_MAX",
    "BackgroundAggregates._quick": "node.execution.aggregates:JOBS_MAX",
    "BackgroundAggregates._slow": "node.execution.aggregates:JOBS_MAX",
    "Executor._results": "node.execution.executor:RESULTS_MAX",
    "HeldTransactions._held": "node.mempool.held:HELD_MAX",
    "HeldTransactions._by_sender": "node.mempool.held:HELD_MAX",
    "HeldTransactions._by_payload": "node.mempool.held:HELD_MAX",
    "TransactionVerifier._verified": "node.mempool.verifier:VERIFIED_MAX",
    "Verdicts._by_block": "consensus.verdicts:VERDICTS_MAX",
    "SignatureVerifier._verified": "consensus.verifier:VERIFIED_MESSAGES_MAX",
    "State.valid_updates": "ledger.training:CHECKED_PAYLOADS_MAX",
    "StateIndexes._created": "ledger.indexes:TASKS_MAX",
    "StateIndexes._leaves": "ledger.indexes:TASKS_MAX",
    "StateIndexes._pending": "ledger.indexes:TASKS_MAX",
    "StateIndexes._references": "ledger.indexes:OPEN_UPDATES_MAX",
    "State._records": "ledger.state:RECORDS_CACHED_MAX",
    "State._large_records": "ledger.state:LARGE_RECORDS_CACHED_MAX",
}
"""Container, and the module and constant that limit it."""

LIMITED_IN_BYTES = frozenset({"HeldWrites._held"})
INBOX = frozenset({"Inbox._send", "Inbox._receive"})
INBOX_LIMITS = ("node.agreement.inbox:INBOX_MAX", "node.agreement.inbox:OWN_ITEMS_MAX")
POOLED = frozenset(
    {
        "Journal._keys",
        "Journal._in_flight",
        "Journal._doomed",
        "Settlement._recheck_due",
        "TransactionPool._conditional",
        "TransactionPool._entries",
        "TransactionPool._senders",
        "TransactionPool._unsent",
    }
)
"""What the setting `transactions_max` limits."""


def check_memory(number: int, node: Node) -> None:
    """Check every container that a node holds against its maximum, and the bytes of some."""
    mempool = node.services.config.mempool
    for name, size in iterate_containers(node):
        if name in LIMITED_IN_BYTES:
            continue
        if name in LIMITS:
            limit = get_limit(LIMITS[name])
        elif name in INBOX:
            limit = sum(map(get_limit, INBOX_LIMITS))
        elif name in POOLED:
            limit = mempool.transactions_max
        elif name == "DecidedTransactions._hashes":
            limit = mempool.cache_max
        elif name == "Mempool.refused":
            limit = len(ErrorCode)
        else:
            limit = SMALL_MAX
        if size > limit:
            raise Violation(f"node {number} holds {size} in {name}, and the maximum is {limit}")
    held = node.services.mempool.bytes_total, node.services.executor.held_bytes
    if held[0] > mempool.bytes_max or held[1] > GROUP_BYTES_MAX + BLOCK_BYTES_MAX:
        raise Violation(f"node {number} holds {held} bytes in its mempool and of followed blocks")


def iterate_containers(root: object) -> Iterator[tuple[str, int]]:
    """Yield each container that attributes lead to, by class and attribute, and its size."""
    seen = {id(root)}
    waiting: deque[object] = deque([root])
    while waiting:
        owner = waiting.popleft()
        for name, value in _iterate_attributes(owner):
            size = _measure(value)
            if size is not None:
                yield f"{type(owner).__name__}.{name}", size
            elif _is_looked_into(value) and id(value) not in seen:
                seen.add(id(value))
                waiting.append(value)


def _is_looked_into(value: object) -> bool:
    kinds = type(value).__mro__
    return kinds[0].__module__.startswith(PACKAGES) and DISKS.isdisjoint(k.__name__ for k in kinds)


def _iterate_attributes(owner: object) -> Iterator[tuple[str, Any]]:
    yield from list(getattr(owner, "__dict__", {}).items())
    for kind in type(owner).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(owner, name):
                yield name, getattr(owner, name)


def _measure(value: object) -> int | None:
    if isinstance(value, dict | list | set | deque):
        return len(value)
    if isinstance(value, MemorySendChannel | MemoryReceiveChannel):
        return value.statistics().current_buffer_used
    return None
