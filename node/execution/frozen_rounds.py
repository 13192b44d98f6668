"""The frozen training rounds, and which of them have a result that a block could carry now.

Owns the asking for their aggregates: as soon as a block has sealed a set too costly for it, every
node computes, so that whoever proposes later has the result, and whoever judges it too. Never
decides what a result is, and never waits: a round whose result is not here stays frozen, and holds
up neither other rounds nor blocks.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from quorate.chain.errors import PendingError
from quorate.chain.ids import Hash

from ledger.aggregates import AggregateInputs, AggregateSource, compute_aggregate
from ledger.context import PayloadSource
from ledger.queries import get_frozen_inputs
from node.execution.executor import Executor

READY_MAX: Final = 4
"""Results that wait for a block at a time; while there are as many, no others are asked for, so
that they are still remembered when their block comes."""
GRACE_SHARE: Final = 4
"""A result is proposed after one part in so many of the time it took here, once more: by then most
of the others, who began at the same time, have it as well and can judge the block at once."""
GRACE_MAX_S: Final = 10.0
RETRY_S: Final = 1.0
"""How long a round whose payload is missing here is not asked for again."""


@dataclass(slots=True)
class _Round:
    """A frozen round; `ready_at` is infinite as long as there is no result.

    `asked_at` is when it was first asked for, and `paused_until` when it may be asked for again.
    """

    inputs: AggregateInputs
    asked_at: float
    paused_until: float = -math.inf
    ready_at: float = field(default=math.inf)


class FrozenRounds:
    """Follows the frozen training rounds of the committed state.

    Parameters
    ----------
    executor : Executor
        Knows which rounds are frozen.
    aggregates : AggregateSource
        Computes and remembers results.
    payloads : PayloadSource
        What results are computed from.
    clock : callable
        Seconds, never going back.
    """

    def __init__(
        self,
        executor: Executor,
        aggregates: AggregateSource,
        payloads: PayloadSource,
        clock: Callable[[], float],
    ) -> None:
        self._executor = executor
        self._aggregates = aggregates
        self._payloads = payloads
        self._clock = clock
        self._rounds: dict[tuple[Hash, int], _Round] = {}

    def get_ready(self) -> list[tuple[Hash, int]]:
        """Return the (task id, training round) whose result a block could carry now."""
        self.follow()
        now = self._clock()
        return [key for key, frozen in self._rounds.items() if frozen.ready_at <= now]

    def get_time(self) -> float:
        """Return from when on, in the clock's time, a block could carry a result; maybe never."""
        self.follow()
        return min((frozen.ready_at for frozen in self._rounds.values()), default=math.inf)

    def follow(self) -> None:
        """Ask for what is newly frozen, and look which results have come."""
        due = self._executor.finalizations_due
        if not due and not self._rounds:
            return
        # Those that are frozen for longest come first.
        still_frozen = frozenset(due)
        for key in [known for known in self._rounds if known not in still_frozen]:
            del self._rounds[key]
        for task_id, number in due:
            if (task_id, number) not in self._rounds:
                inputs = get_frozen_inputs(self._executor.state, task_id)
                if inputs is not None:
                    self._rounds[task_id, number] = _Round(inputs, self._clock())
        ready_count = sum(frozen.ready_at < math.inf for frozen in self._rounds.values())
        for frozen in self._rounds.values():
            if ready_count >= READY_MAX:
                return
            if frozen.ready_at == math.inf and self._is_here(frozen):
                took_s = self._clock() - frozen.asked_at
                frozen.ready_at = self._clock() + min(took_s / GRACE_SHARE, GRACE_MAX_S)
                ready_count += 1

    def _is_here(self, frozen: _Round) -> bool:
        inputs, payloads = frozen.inputs, self._payloads
        if frozen.paused_until > self._clock():
            return False
        try:
            output = self._aggregates.get(inputs, lambda: compute_aggregate(inputs, payloads))
        except PendingError:
            # A payload is missing here. Somebody else carries the result, and judging that block
            # pulls the payload. Each failure wakes the node, so that it is not repeated at once.
            frozen.paused_until = self._clock() + RETRY_S
            return False
        return output is not None
