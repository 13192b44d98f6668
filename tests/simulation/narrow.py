"""Narrow nodes: the limits of queues, caches and lists, so small that a run reaches them.

Owns the table of limits that a narrow run lowers. What overflows is dropped, forgotten or refused
as with the real limits; the network must decide all the same.
"""

import importlib
from dataclasses import replace

from node.config import Config

LIMITS = {
    "node.agreement.consensus_runner:EARLY_PARTS_MAX": 2,
    "node.agreement.evidence_pool:PENDING_EVIDENCE_MAX": 1,
    "node.agreement.following:GROUP_BLOCKS_MAX": 3,
    "node.agreement.inbox:INBOX_MAX": 24,
    "node.agreement.judging:RESULTS_MAX": 2,
    "node.events:EVENTS_KEPT_MAX": 4,
    "node.exchange.block_assembly:ASSEMBLIES_MAX": 3,
    "node.exchange.catching_up:WINDOW_BLOCKS": 6,
    "node.exchange.catching_up:BATCH_BLOCKS": 2,
    "node.exchange.transaction_gossip:BATCHES_QUEUED_MAX": 2,
    "node.exchange.transaction_gossip:PULLS_QUEUED_MAX": 2,
    "node.exchange.transaction_gossip:PULLS_PER_PEER_MAX": 1,
    "node.exchange.transaction_gossip:ANNOUNCED_MAX": 8,
    "node.execution.aggregates:JOBS_MAX": 1,
    "node.execution.executor:RESULTS_MAX": 2,
    "node.mempool.held:HELD_MAX": 6,
    "node.mempool.held:HELD_PER_SENDER_MAX": 3,
    "node.mempool.intake:RETRIES_PER_UPDATE_MAX": 2,
    "node.mempool.settlement:RECHECKS_PER_UPDATE_MAX": 2,
    "node.reactor:REPAIR_MESSAGES_MAX": 8,
    "consensus.verdicts:VERDICTS_MAX": 6,
    "consensus.verifier:VERIFIED_MESSAGES_MAX": 16,
    "ledger.training:CHECKED_PAYLOADS_MAX": 2,
    "ledger.state:RECORDS_CACHED_MAX": 16,
    "ledger.state:LARGE_RECORDS_CACHED_MAX": 2,
}
"""Module, constant, and what it is lowered to."""

_usual: dict[str, int] = {}


def get_limit(name: str) -> int:
    """Return a limit as it is now, by module and constant."""
    module, constant = name.split(":")
    value: int = getattr(importlib.import_module(module), constant)
    return value


def set_limits(*, is_narrow: bool) -> None:
    """Lower the limits of all nodes made from now on, or raise them again."""
    for name, narrow in LIMITS.items():
        module, constant = name.split(":")
        usual = _usual.setdefault(name, get_limit(name))
        setattr(importlib.import_module(module), constant, narrow if is_narrow else usual)


def narrow_config(config: Config) -> Config:
    """Return settings with a small mempool."""
    return replace(
        config,
        mempool=replace(config.mempool, transactions_max=24, per_sender_max=8, cache_max=16),
    )
