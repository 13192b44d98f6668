"""What follows from a decided block inside the node: mempool, retention, events, figures.

Owns the order of these steps and the content of events. Never delays consensus: everything here
returns at once.
"""

import structlog
from quorate.chain.errors import TransactionError
from quorate.chain.receipt import RoundReceipt
from quorate.chain.vote import Commit

from node.events import EventBus, EventType
from node.execution.executor import ExecutedBlock
from node.execution.retention import Retention
from node.mempool.door import PendingTransaction
from node.mempool.mempool import Mempool
from node.metrics import Metrics
from node.views import to_object

_log = structlog.get_logger("chain")


class Reporter:
    """Tells the rest of the node what was decided.

    Parameters
    ----------
    events : EventBus
        Where clients listen.
    metrics : Metrics
        Figures for operators.
    """

    def __init__(self, events: EventBus, metrics: Metrics) -> None:
        self._events = events
        self.metrics = metrics
        self._mempool: Mempool | None = None
        self._retention: Retention | None = None
        self._weights_retain_ms = 0

    def follow(self, mempool: Mempool, retention: Retention, weights_retain_ms: int) -> None:
        """Let these two follow every decided block, too.

        Parameters
        ----------
        mempool : Mempool
        retention : Retention
        weights_retain_ms : int
            How long superseded weights are kept; never shorter than other payloads.
        """
        self._mempool, self._retention = mempool, retention
        self._weights_retain_ms = weights_retain_ms

    def on_decided(self, executed: ExecutedBlock, commit: Commit) -> None:
        """Follow a decided block, once it is durable and the state shows it."""
        header, result = executed.block.header, executed.result
        if self._mempool is not None:
            self._mempool.update(
                header.height,
                executed.transaction_hashes,
                has_closed_training_round=bool(result.receipts.rounds),
            )
        if self._retention is not None:
            self._release(self._retention, executed)
            self._retention.drop_due(header.time_ms)
        block_hash = commit.block_id.hash
        _log.info(
            "decided",
            height=header.height,
            round=commit.round,
            transactions=len(executed.transaction_hashes),
            hash=block_hash.hex()[:16],
            model_root=header.model_root.hex()[:16],
        )
        height = str(header.height)
        self._events.publish(
            EventType.BLOCK,
            {
                "height": height,
                "hash": block_hash.hex(),
                "time_ms": str(header.time_ms),
                "transactions": len(executed.transaction_hashes),
                "model_root": header.model_root.hex(),
                "proposer": header.proposer.hex(),
            },
        )
        for receipt in result.receipts.rounds:
            self._publish_round(height, receipt)
        for transaction_hash in executed.transaction_hashes:
            # Thousands a second are decided; whoever asks later finds them by their hash.
            if self._events.is_followed(transaction_hash):
                self._events.publish(
                    EventType.TRANSACTION,
                    {"height": height, "hash": transaction_hash.hex(), "status": "decided"},
                    transaction_hash=transaction_hash,
                )
        self.metrics.on_decided(executed, commit)

    def on_dropped(self, entry: PendingTransaction, error: TransactionError) -> None:
        """Tell that a pending transaction will not be decided, and why."""
        _log.info("transaction_dropped", hash=entry.hash.hex(), code=error.code.value)
        self._events.publish(
            EventType.TRANSACTION,
            {
                "hash": entry.hash.hex(),
                "status": "refused",
                "code": error.code.value,
                "detail": error.message,
            },
            transaction_hash=entry.hash,
        )

    def on_round(self, height: int, round_: int) -> None:
        """Take note of a consensus round; those after the first are told."""
        self.metrics.on_round(height, round_)
        if round_ > 0:
            _log.info("new_round", height=height, round=round_)
            self._events.publish(EventType.ROUND, {"height": str(height), "round": round_})

    def _release(self, retention: Retention, executed: ExecutedBlock) -> None:
        """Let go what the state needs no more: payloads soon, superseded weights later."""
        result, time_ms = executed.result, executed.block.header.time_ms
        superseded = {receipt.base_weights_root for receipt in result.receipts.rounds}
        payloads = [each for each in result.released_payloads if each not in superseded]
        weights = [each for each in result.released_payloads if each in superseded]
        retain_ms = result.parameters.payload_retain_ms
        retention.release(payloads, time_ms + retain_ms)
        retention.release_weights(weights, time_ms + max(retain_ms, self._weights_retain_ms))

    def _publish_round(self, height: str, receipt: RoundReceipt) -> None:
        set_aside = sum(update.is_set_aside for update in receipt.updates)
        _log.info(
            "training_round",
            task=receipt.task_id.hex()[:16],
            training_round=receipt.training_round,
            outcome=receipt.outcome.name.lower(),
            updates=len(receipt.updates),
            set_aside=set_aside,
            weights_root=receipt.weights_root.hex()[:16],
        )
        self._events.publish(EventType.TRAINING_ROUND, {"height": height, **to_object(receipt)})
        self.metrics.on_training_round(receipt)
