"""When the next height begins: as soon as there is a reason to make a block.

Owns the reasons. Never starts a height itself. A block without transactions is made only at the
configured interval, or when the ledger needs one because a training round is due.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import trio

from consensus.driver import Driver
from node.agreement.evidence_pool import EvidencePool
from node.exchange.catching_up import CatchUp
from node.execution.executor import Executor
from node.execution.frozen_rounds import FrozenRounds


@dataclass(frozen=True, slots=True)
class EmptyBlocks:
    """When to make blocks without transactions: never, or `interval_s` after the last block."""

    is_enabled: bool
    interval_s: float


class HeightStart:
    """Tells whether a height may begin, and when to look again.

    Parameters
    ----------
    executor : Executor
        Knows what the ledger is waiting for.
    driver : Driver
        Knows whether others have begun.
    catch_up : CatchUp
        Knows whether others have decided.
    evidence : EvidencePool
        Evidence is a reason for a block.
    frozen_rounds : FrozenRounds
        Knows whether a block could carry the result of a frozen training round. As long as none
        could, a frozen round is no reason for one: no block would hasten its result.
    has_transactions : callable
        Whether a block would hold transactions.
    empty_blocks : EmptyBlocks
        When to make blocks without any.
    now_ms : callable
        The wall clock, in milliseconds.
    """

    def __init__(
        self,
        executor: Executor,
        driver: Driver,
        catch_up: CatchUp,
        evidence: EvidencePool,
        frozen_rounds: FrozenRounds,
        has_transactions: Callable[[], bool],
        empty_blocks: EmptyBlocks,
        now_ms: Callable[[], int],
    ) -> None:
        self._executor = executor
        self._driver = driver
        self._catch_up = catch_up
        self._evidence = evidence
        self._frozen_rounds = frozen_rounds
        self._has_transactions = has_transactions
        self._empty_blocks = empty_blocks
        self._now_ms = now_ms
        self._decided_at = trio.current_time()

    def note_decision(self) -> None:
        """Begin to wait: a height was decided just now."""
        self._decided_at = trio.current_time()
        # Every node computes, whether its turn to propose comes or not.
        self._frozen_rounds.follow()

    def is_due(self) -> bool:
        """Tell whether there is a reason to begin now."""
        position, due_ms = self._executor.position, self._executor.next_due_time_ms
        # The first block follows at once: it shows that the network is alive.
        has_work = position.block_id is None or self._has_transactions() or len(self._evidence) > 0
        return (
            has_work
            or trio.current_time() >= self._frozen_rounds.get_time()
            or self._driver.has_messages_for(position.next_height)
            or self._catch_up.get(position.next_height) is not None
            or (due_ms is not None and self._now_ms() >= due_ms)
            or trio.current_time() >= self._get_empty_block_time()
        )

    def get_time(self) -> float:
        """Return when, in trio's time, a height begins though nothing arrives; maybe never."""
        due_ms, due = self._executor.next_due_time_ms, math.inf
        if due_ms is not None:
            due = trio.current_time() + max(0, due_ms - self._now_ms()) / 1000
        return min(due, self._frozen_rounds.get_time(), self._get_empty_block_time())

    def _get_empty_block_time(self) -> float:
        if not self._empty_blocks.is_enabled:
            return math.inf
        return self._decided_at + self._empty_blocks.interval_s
