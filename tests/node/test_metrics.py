"""Figures: named, labeled, bounded, and following what is reported."""

from typing import cast

import pytest
from prometheus_client.parser import text_string_to_metric_families
from quorate.chain.block import Block, Header, Version
from quorate.chain.codec import encode
from quorate.chain.errors import ErrorCode
from quorate.chain.ids import Address, Hash, Height, Round, Signature
from quorate.chain.receipt import RoundOutcome, RoundReceipt, UpdateReceipt
from quorate.chain.vote import BlockId, Commit

from ledger.result import ExecutionResult
from node.execution.executor import ExecutedBlock
from node.metrics import OTHER_TASKS, TASKS_LABELED_MAX, Metrics
from p2p.network import PeerId, PeerInfo

CHAIN_ID = "metrics-test"
TASK = Hash(b"\x0a" * 32)


def read(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """All figures by name and the values of their labels in order, but the chain's."""
    figures = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("chain_id") == CHAIN_ID
            assert sample.name.startswith("quorate_")
            figures[(sample.name, *(labels[name] for name in sorted(labels)))] = sample.value
    return figures


def make_executed(height: int, time_ms: int, transactions: int) -> ExecutedBlock:
    root = Hash(bytes(32))
    header = Header(
        CHAIN_ID,
        Version(1, 1),
        Height(height),
        time_ms,
        None,
        Hash(b""),
        *(root,) * 8,
        Address(bytes(20)),
    )
    block = Block(header, (b"transaction",) * transactions, (), None)
    # The figures do not look at what executing it did.
    result = cast("ExecutionResult", None)
    return ExecutedBlock(block, BlockId(header.hash, 1, root), encode(block), result, (), ())


def make_commit(*signatures: bytes) -> Commit:
    block_id = BlockId(Hash(bytes(32)), 1, Hash(bytes(32)))
    return Commit(Height(1), Round(2), block_id, tuple(map(Signature, signatures)))


def make_receipt(
    task_id: Hash = TASK, outcome: RoundOutcome = RoundOutcome.FINALIZED
) -> RoundReceipt:
    updates = tuple(
        UpdateReceipt(Address(bytes([n]) * 20), Hash(bytes(32)), 0, is_set_aside=n == 0)
        for n in range(4)
    )
    root = Hash(bytes(32))
    return RoundReceipt(task_id, 7, outcome, root, root, root, updates, 11, 3, 0, ())


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CHAIN_ID)


def test_blocks(metrics: Metrics) -> None:
    executed = [make_executed(4, 1_000, 10), make_executed(5, 1_040, 20)]
    metrics.on_decided(executed[0], make_commit(b"s", b"s", b"", b"s"))
    assert read(metrics)["quorate_consensus_missing_validators",] == 1
    metrics.on_decided(executed[1], make_commit(b"s", b"s", b"s", b"s"))
    figures = read(metrics)
    assert figures["quorate_consensus_height",] == 5
    assert figures["quorate_consensus_txs_total",] == 30
    assert figures["quorate_consensus_num_txs",] == 20
    assert figures["quorate_consensus_validators",] == 4
    assert figures["quorate_consensus_missing_validators",] == 0
    assert figures["quorate_consensus_block_interval_seconds_count",] == 1
    assert figures["quorate_consensus_block_interval_seconds_sum",] == pytest.approx(0.04)
    assert figures["quorate_consensus_block_size_bytes_sum",] == sum(len(e.raw) for e in executed)
    metrics.on_round(6, 0)
    metrics.on_round(6, 1)
    figures = read(metrics)
    assert figures["quorate_consensus_round",] == 1
    assert figures["quorate_consensus_rounds_failed_total",] == 1


def test_training(metrics: Metrics) -> None:
    metrics.on_training_round(make_receipt(outcome=RoundOutcome.FROZEN))
    metrics.on_training_round(make_receipt())
    metrics.set_seconds_to_deadline(TASK, 12.5)
    figures = read(metrics)
    task = TASK.hex()
    assert figures["quorate_training_round", task] == 7
    assert figures["quorate_training_rounds_total", "frozen", task] == 1
    assert figures["quorate_training_rounds_total", "finalized", task] == 1
    # A frozen round's updates count when it is finalized, once.
    assert figures["quorate_training_updates_total", "counted", task] == 3
    assert figures["quorate_training_updates_total", "set_aside", task] == 1
    assert figures["quorate_training_saturated_values_total", task] == 11
    assert figures["quorate_training_clamped_weights_total", task] == 3
    assert figures["quorate_training_seconds_to_deadline", task] == 12.5


def test_tasks_with_labels_are_bounded(metrics: Metrics) -> None:
    for number in range(TASKS_LABELED_MAX + 5):
        metrics.on_training_round(make_receipt(Hash(number.to_bytes(32, "big"))))
    figures = read(metrics)
    labels = {key[1] for key in figures if key[0] == "quorate_training_round"}
    assert len(labels) == TASKS_LABELED_MAX + 1
    assert figures["quorate_training_rounds_total", "finalized", OTHER_TASKS] == 5


def test_mempool_and_network(metrics: Metrics) -> None:
    refused = {ErrorCode.WRONG_NONCE: 3, ErrorCode.MEMPOOL_FULL: 1}
    metrics.set_mempool(transactions=5, size=600, refused=refused)
    refused[ErrorCode.WRONG_NONCE] = 5
    metrics.set_mempool(transactions=6, size=700, refused=refused)
    peers = [
        PeerInfo(PeerId(name), "", outbound, 0.0, 0, 0, 100, latency)
        for name, outbound, latency in (("a", True, 5.0), ("b", False, None), ("c", True, 20.0))
    ]
    metrics.set_network(peers)
    metrics.set_catching_up(is_catching_up=True)
    figures = read(metrics)
    assert figures["quorate_mempool_size",] == 6
    assert figures["quorate_mempool_size_bytes",] == 700
    assert figures["quorate_mempool_refused_txs_total", "wrong_nonce"] == 5
    assert figures["quorate_mempool_refused_txs_total", "mempool_full"] == 1
    assert figures["quorate_p2p_peers", "out"] == 2
    assert figures["quorate_p2p_peers", "in"] == 1
    assert figures["quorate_p2p_latency_max_seconds",] == pytest.approx(0.02)
    assert figures["quorate_consensus_catching_up",] == 1
