"""Figures of a node for Prometheus: ``quorate_`` names, a ``chain_id`` label on each.

Owns the registry, the names and what each figure means. Never measures anything: those who do,
say so here, and each call costs microseconds. Labels are bounded: a task beyond the first
`TASKS_LABELED_MAX` counts under ``other``.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from quorate.chain.errors import ErrorCode
from quorate.chain.receipt import RoundOutcome, RoundReceipt
from quorate.chain.vote import Commit

from node.execution.executor import ExecutedBlock
from p2p.network import PeerInfo

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""The content type of `Metrics.render`."""

TASKS_LABELED_MAX: Final = 64
"""Tasks with figures of their own."""

OTHER_TASKS: Final = "other"

_INTERVAL_BUCKETS: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_SIZE_BUCKETS: Final = (1 << 10, 1 << 13, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24)


class Metrics:
    """The figures of one node.

    Parameters
    ----------
    chain_id : str
        The label that every figure carries.
    """

    def __init__(self, chain_id: str) -> None:
        self._chain_id = chain_id
        self._registry = CollectorRegistry()
        self._task_labels: dict[bytes, str] = {}
        self._last_time_ms: int | None = None
        self._refused_seen: dict[ErrorCode, int] = {}
        self._pulled_seen = self._wrong_seen = 0
        self._make_consensus_figures()
        self._make_flow_figures()
        self._make_training_figures()

    def on_decided(self, executed: ExecutedBlock, commit: Commit) -> None:
        """Count a decided block."""
        block = executed.block
        header = block.header
        self._height.set(header.height)
        self._block_bytes.observe(len(executed.raw))
        self._block_transactions.set(len(block.transactions))
        self._transactions.inc(len(block.transactions))
        self._decided_round.observe(commit.round)
        missing = sum(not signature for signature in commit.signatures)
        self._validators.set(len(commit.signatures))
        self._validators_missing.set(missing)
        self._evidence.inc(len(executed.evidence))
        if self._last_time_ms is not None:
            self._interval.observe(max(0, header.time_ms - self._last_time_ms) / 1_000)
        self._last_time_ms = header.time_ms

    def on_round(self, height: int, round_: int) -> None:  # noqa: ARG002 - the round alone counts.
        """Take note of a consensus round that begins."""
        self._round.set(round_)
        if round_ > 0:
            self._rounds_failed.inc()

    def on_training_round(self, receipt: RoundReceipt) -> None:
        """Count the end of a training round."""
        task = self._get_task_label(receipt.task_id)
        self._training_round.labels(self._chain_id, task).set(receipt.training_round)
        self._training_rounds.labels(self._chain_id, task, receipt.outcome.name.lower()).inc()
        if receipt.outcome is not RoundOutcome.FINALIZED:
            return
        set_aside = sum(update.is_set_aside for update in receipt.updates)
        counted = len(receipt.updates) - set_aside
        self._updates.labels(self._chain_id, task, "counted").inc(counted)
        self._updates.labels(self._chain_id, task, "set_aside").inc(set_aside)
        self._saturated.labels(self._chain_id, task).inc(receipt.saturated)
        self._clamped.labels(self._chain_id, task).inc(receipt.clamped)

    def set_seconds_to_deadline(self, task_id: bytes, seconds: float) -> None:
        """Say how far the deadline of a task's training round is, in seconds of block time."""
        task = self._get_task_label(task_id)
        self._deadline.labels(self._chain_id, task).set(seconds)

    def set_mempool(
        self, *, transactions: int, size: int, refused: Mapping[ErrorCode, int]
    ) -> None:
        """Say how full the mempool is, and how much it has refused since the start.

        Parameters
        ----------
        transactions, size : int
            Pending transactions, and their bytes.
        refused : mapping of ErrorCode to int
            Refused transactions by reason, ever growing.
        """
        self._mempool_size.set(transactions)
        self._mempool_bytes.set(size)
        for code, total in refused.items():
            new = total - self._refused_seen.get(code, 0)
            if new > 0:
                self._mempool_refused.labels(self._chain_id, code.value).inc(new)
                self._refused_seen[code] = total

    def set_payloads(
        self, *, unannounced: int, wanted: int, missing_bytes: int, pulled_bytes: int, wrong: int
    ) -> None:
        """Say how far large payloads have come.

        Parameters
        ----------
        unannounced : int
            Pending transactions whose payloads too few validators have announced.
        wanted, missing_bytes : int
            Payloads that are being pulled, and their bytes that are not here.
        pulled_bytes, wrong : int
            Bytes that peers have sent, and chunks with another hash, since the start.
        """
        self._unannounced.set(unannounced)
        self._payloads_wanted.set(wanted)
        self._payload_bytes_missing.set(missing_bytes)
        self._pulled_bytes.inc(max(0, pulled_bytes - self._pulled_seen))
        self._wrong_chunks.inc(max(0, wrong - self._wrong_seen))
        self._pulled_seen, self._wrong_seen = pulled_bytes, wrong

    def set_network(self, peers: Sequence[PeerInfo]) -> None:
        """Say who is linked."""
        outbound = sum(peer.outbound for peer in peers)
        self._peers.labels(self._chain_id, "out").set(outbound)
        self._peers.labels(self._chain_id, "in").set(len(peers) - outbound)
        latencies = [peer.latency_ms for peer in peers if peer.latency_ms is not None]
        self._latency.set(max(latencies, default=0.0) / 1_000)

    def set_catching_up(self, *, is_catching_up: bool) -> None:
        """Say whether blocks are being fetched."""
        self._catching_up.set(is_catching_up)

    def render(self) -> bytes:
        """Return all figures as Prometheus reads them (`CONTENT_TYPE`)."""
        return generate_latest(self._registry)

    def _make_consensus_figures(self) -> None:
        self._height = self._gauge("consensus_height", "Height of the last decided block.")
        self._round = self._gauge("consensus_round", "Round of the height under decision.")
        self._rounds_failed = self._counter(
            "consensus_rounds_failed", "Rounds after the first, over all heights."
        )
        self._interval = self._histogram(
            "consensus_block_interval_seconds", "Block time between blocks.", _INTERVAL_BUCKETS
        )
        self._decided_round = self._histogram(
            "consensus_decided_round", "Round in which blocks were decided.", (0, 1, 2, 4, 8)
        )
        self._validators = self._gauge("consensus_validators", "Validators of the last block.")
        self._validators_missing = self._gauge(
            "consensus_missing_validators", "Validators whose vote the last commit lacks."
        )
        self._evidence = self._counter(
            "consensus_evidence", "Pieces of evidence of misbehaviour in decided blocks."
        )
        self._block_bytes = self._histogram(
            "consensus_block_size_bytes", "Bytes of decided blocks.", _SIZE_BUCKETS
        )
        self._block_transactions = self._gauge(
            "consensus_num_txs", "Transactions in the last block."
        )
        self._transactions = self._counter("consensus_txs", "Transactions in decided blocks.")
        self._catching_up = self._gauge(
            "consensus_catching_up", "1 while decided blocks are fetched from peers."
        )

    def _make_flow_figures(self) -> None:
        self._mempool_size = self._gauge("mempool_size", "Pending transactions.")
        self._mempool_bytes = self._gauge("mempool_size_bytes", "Bytes of them.")
        self._mempool_refused = Counter(
            "quorate_mempool_refused_txs",
            "Transactions refused at the door, by reason.",
            ["chain_id", "code"],
            registry=self._registry,
        )
        self._unannounced = self._gauge(
            "mempool_unannounced_txs",
            "Pending transactions whose payloads too few validators have announced.",
        )
        self._payloads_wanted = self._gauge("payload_wanted", "Payloads that are being pulled.")
        self._payload_bytes_missing = self._gauge(
            "payload_missing_bytes", "Bytes of them that are not here."
        )
        self._pulled_bytes = self._counter(
            "payload_pulled_bytes", "Bytes of payloads that peers have sent."
        )
        self._wrong_chunks = self._counter(
            "payload_wrong_chunks", "Chunks that peers have sent with another hash."
        )
        self._peers = Gauge(
            "quorate_p2p_peers",
            "Linked peers, by who dialed.",
            ["chain_id", "direction"],
            registry=self._registry,
        )
        self._latency = self._gauge(
            "p2p_latency_max_seconds", "Longest round trip of a heartbeat to a linked peer."
        )

    def _make_training_figures(self) -> None:
        per_task = ["chain_id", "task"]
        self._training_round = Gauge(
            "quorate_training_round",
            "The training round that ended last.",
            per_task,
            registry=self._registry,
        )
        self._training_rounds = Counter(
            "quorate_training_rounds",
            "Training rounds that ended, by outcome.",
            [*per_task, "outcome"],
            registry=self._registry,
        )
        self._updates = Counter(
            "quorate_training_updates",
            "Updates of finalized training rounds, by whether the rule set them aside.",
            [*per_task, "outcome"],
            registry=self._registry,
        )
        self._saturated = Counter(
            "quorate_training_saturated_values",
            "Values of updates at the end of their range.",
            per_task,
            registry=self._registry,
        )
        self._clamped = Counter(
            "quorate_training_clamped_weights",
            "Weights that were clamped to their range.",
            per_task,
            registry=self._registry,
        )
        self._deadline = Gauge(
            "quorate_training_seconds_to_deadline",
            "Block time until the open training round may seal; negative when it is due.",
            per_task,
            registry=self._registry,
        )

    def _gauge(self, name: str, about: str) -> Gauge:
        figure = Gauge(f"quorate_{name}", about, ["chain_id"], registry=self._registry)
        return figure.labels(self._chain_id)

    def _counter(self, name: str, about: str) -> Counter:
        figure = Counter(f"quorate_{name}", about, ["chain_id"], registry=self._registry)
        return figure.labels(self._chain_id)

    def _histogram(self, name: str, about: str, buckets: Sequence[float]) -> Histogram:
        figure = Histogram(
            f"quorate_{name}", about, ["chain_id"], buckets=buckets, registry=self._registry
        )
        return figure.labels(self._chain_id)

    def _get_task_label(self, task_id: bytes) -> str:
        label = self._task_labels.get(task_id)
        if label is None:
            if len(self._task_labels) >= TASKS_LABELED_MAX:
                return OTHER_TASKS
            label = self._task_labels[task_id] = task_id.hex()
        return label
