"""The frozen training rounds, and which of them have a result that a block could carry now.

Owns the asking for their aggregates: as soon as a block has sealed a set too costly for it, every
node computes, so that whoever proposes later has the result, and whoever judges it too. Holds each
result until a block has carried it: results that push each other out of a cache would be computed
for ever, and at each moment every node would have another one. Never decides what a result is, and
never waits: a round whose result is not here stays frozen, and holds up neither other rounds nor
blocks.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from quorate.chain.errors import PendingError
from quorate.chain.ids import Hash

from ledger.aggregates import (
    RESULT_BYTES_PER_BLOCK_MAX,
    AggregateInputs,
    AggregateOutput,
    AggregateSource,
    compute_aggregate,
    compute_result_bytes,
)
from ledger.context import PayloadSource
from ledger.queries import get_frozen_inputs
from node.execution.aggregates import is_quick
from node.execution.executor import Executor

READY_MAX: Final = 4
"""Results that wait for a block at a time; while there are as many, no others are asked for. Of
those over `RESULT_BYTES_PER_BLOCK_MAX`, of which a block carries one, each of the two workers is
asked for one at a time; the others take at most `READY_MAX` times as many bytes together."""
GRACE_SHARE: Final = 4
"""A result is proposed after one part in so many of the time it took here, once more: by then most
of the others, who began at the same time, have it as well and can judge the block at once."""
GRACE_MAX_S: Final = 10.0
RETRY_S: Final = 1.0
"""How long a round whose payload is missing here is not asked for again."""


@dataclass(slots=True)
class _Round:
    """A frozen round; `ready_at` is infinite as long as there is no `output`.

    `asked_at` is when it was first asked for, and `paused_until` when it may be asked for again.
    """

    inputs: AggregateInputs
    asked_at: float
    paused_until: float = -math.inf
    ready_at: float = field(default=math.inf)
    output: AggregateOutput | None = None

    @property
    def is_large(self) -> bool:
        inputs = self.inputs
        size = compute_result_bytes(inputs.rule, inputs.optimizer, inputs.dimension)
        return size > RESULT_BYTES_PER_BLOCK_MAX


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
        still_frozen = frozenset(due)
        for key in [known for known in self._rounds if known not in still_frozen]:
            del self._rounds[key]
        # Those that are frozen for longest come first, also where several are found at once, after
        # a restart or many blocks: all nodes ask in one order.
        new = [key for key in due if key not in self._rounds]
        for task_id, number in sorted(new, key=self._get_frozen_height):
            inputs = get_frozen_inputs(self._executor.state, task_id)
            if inputs is not None:
                self._rounds[task_id, number] = _Round(inputs, self._clock())
        self._ask()

    def _get_frozen_height(self, due: tuple[Hash, int]) -> int:
        task = self._executor.state.get_task(due[0])
        return 0 if task is None or task.frozen is None else task.frozen.height

    def _ask(self) -> None:
        """Ask for results, and hold those that have come."""
        rounds = self._rounds.values()
        ready_count = sum(frozen.output is not None for frozen in rounds)
        # The workers with a large one, told apart by whether they are the quick one.
        busy = {
            is_quick(frozen.inputs)
            for frozen in rounds
            if frozen.output is not None and frozen.is_large
        }
        now = self._clock()
        for frozen in rounds:
            if ready_count >= READY_MAX:
                return
            if frozen.output is not None or frozen.paused_until > now:
                continue
            if frozen.is_large and is_quick(frozen.inputs) in busy:
                continue
            frozen.output = self._get_output(frozen)
            if frozen.output is not None:
                frozen.ready_at = now + min((now - frozen.asked_at) / GRACE_SHARE, GRACE_MAX_S)
                ready_count += 1
            if frozen.is_large and frozen.paused_until <= now:
                busy.add(is_quick(frozen.inputs))

    def _get_output(self, frozen: _Round) -> AggregateOutput | None:
        inputs, payloads = frozen.inputs, self._payloads
        try:
            return self._aggregates.get(inputs, lambda: compute_aggregate(inputs, payloads))
        except PendingError:
            # A payload is missing here. Somebody else carries the result, and judging that block
            # pulls the payload. Each failure wakes the node, so that it is not repeated at once.
            frozen.paused_until = self._clock() + RETRY_S
            return None
