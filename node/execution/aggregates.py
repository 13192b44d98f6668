"""Aggregates: small ones on the spot, large ones in a background thread, each computed once.

Owns the cache of results by their inputs and two workers: a quick one for what takes about a second
at most, which blocks wait for, and a slow one, so that one task's hours are nobody else's. Never
decides when a round seals; a result that is not ready yet is simply None, and no verdict.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from weakref import WeakValueDictionary

import structlog
import trio
from quorate.chain.errors import PendingError
from quorate.chain.ids import Hash

from aggregation import compute_cost
from ledger.aggregates import (
    RESULT_BYTES_PER_BLOCK_MAX,
    RESULTS_PER_BLOCK_MAX,
    AggregateInputs,
    AggregateOutput,
)
from node.execution.low_priority import compute_at_low_priority
from store.errors import PayloadRefused

CACHED_MAX = 3 * RESULTS_PER_BLOCK_MAX
"""Results remembered: all of a block's, and of a few candidates that differ in theirs."""
CACHED_BYTES_MAX = 4 * RESULT_BYTES_PER_BLOCK_MAX
"""Bytes of these together; a larger one is remembered until the next. What is held elsewhere, as
`FrozenRounds` holds what waits for a block, is found again whatever these limits are."""
JOBS_MAX = 64
"""Computations that wait for a worker; one more is asked for again later."""
QUICK_COST_MAX = 1_000_000_000
"""Costs above this are the slow worker's."""
INLINE_COST_MAX = 5_000_000
"""Costs (updates x parameters x weight) up to this take about a millisecond: not worth a thread."""

_log = structlog.get_logger("aggregates")


def is_quick(inputs: AggregateInputs) -> bool:
    """Tell whether the quick worker computes a result, or the slow one."""
    return _compute_cost(inputs) <= QUICK_COST_MAX


@dataclass(frozen=True, slots=True)
class _Job:
    key: Hash
    compute: Callable[[], AggregateOutput]


class BackgroundAggregates:
    """The ledger's source of aggregates, as `ledger.aggregates.AggregateSource` asks for it.

    Parameters
    ----------
    store : callable, optional
        Called in the worker's thread with the weights and the optimizer's state of a result before
        anybody sees it, so that what takes long about storing them is over when a block decides
        them: the event loop then finds them stored. What has no room is a result all the same;
        a disk that fails stops the node.
    on_stored : callable, optional
        Told on the event loop what was stored, by address: it may never be decided.
    """

    def __init__(
        self,
        store: Callable[[bytes | memoryview], object] | None = None,
        on_stored: Callable[[Hash], object] | None = None,
    ) -> None:
        self._store = store
        self._on_stored = on_stored
        self._results: dict[Hash, AggregateOutput] = {}
        self._held: WeakValueDictionary[Hash, AggregateOutput] = WeakValueDictionary()
        self._pending: dict[Hash, PendingError] = {}
        self._running: set[Hash] = set()
        self._to_quick, self._quick = trio.open_memory_channel[_Job](JOBS_MAX)
        self._to_slow, self._slow = trio.open_memory_channel[_Job](JOBS_MAX)
        self.done = trio.Event()

    def get(
        self, inputs: AggregateInputs, compute: Callable[[], AggregateOutput], /
    ) -> AggregateOutput | None:
        """Return the result for `inputs`, or None while a worker is at it.

        Raises
        ------
        PendingError
            If a payload it needs is not here.
        """
        known = self._held.get(inputs.key)
        if known is not None:
            return known
        cost = _compute_cost(inputs)
        if cost <= INLINE_COST_MAX:
            return self._keep(inputs.key, compute())
        if inputs.key in self._pending:
            raise self._pending.pop(inputs.key)
        if inputs.key not in self._running:
            to_worker = self._to_quick if cost <= QUICK_COST_MAX else self._to_slow
            try:
                to_worker.send_nowait(_Job(inputs.key, compute))
            except trio.WouldBlock:
                return None
            self._running.add(inputs.key)
        return None

    def get_roots(self) -> frozenset[Hash]:
        """Return the addresses of what a block may still bring: all results that are here."""
        results = list(self._held.values())
        return frozenset(root for each in results for root, _ in _get_artifacts(each))

    async def run(self) -> None:
        """Compute until cancelled, and until the computations in progress are done."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._work, self._quick)
            nursery.start_soon(self._work, self._slow)

    async def _work(self, jobs: trio.MemoryReceiveChannel[_Job]) -> None:
        async for job in jobs:
            await self._perform(job)
            self.done.set()
            self.done = trio.Event()

    async def _perform(self, job: _Job) -> None:
        try:
            work = partial(self._compute_and_store, job.compute)
            result, stored = await trio.to_thread.run_sync(compute_at_low_priority, work)
            self._keep(job.key, result)
            if self._on_stored is not None:
                for root in stored:
                    self._on_stored(root)
        except PendingError as error:
            self._pending[job.key] = error
            while len(self._pending) > CACHED_MAX:
                del self._pending[next(iter(self._pending))]
        finally:
            self._running.discard(job.key)

    def _compute_and_store(
        self, compute: Callable[[], AggregateOutput]
    ) -> tuple[AggregateOutput, list[Hash]]:
        """Return a result, and the addresses of what of it was stored."""
        result, stored = compute(), []
        if self._store is not None:
            for root, data in _get_artifacts(result):
                try:
                    self._store(data)
                except PayloadRefused as error:
                    # No block has decided it, and room may be made until one does.
                    _log.warning("result_not_stored", payload=root.hex(), reason=str(error))
                else:
                    stored.append(root)
        return result, stored

    def _keep(self, key: Hash, result: AggregateOutput) -> AggregateOutput:
        self._results[key] = self._held[key] = result
        while len(self._results) > CACHED_MAX or (
            len(self._results) > 1 and self._cached_bytes() > CACHED_BYTES_MAX
        ):
            del self._results[next(iter(self._results))]
        return result

    def _cached_bytes(self) -> int:
        return sum(len(r.weights) + len(r.optimizer_state) for r in self._results.values())


def _compute_cost(inputs: AggregateInputs) -> int:
    return compute_cost(inputs.rule, len(inputs.updates), inputs.dimension)


def _get_artifacts(result: AggregateOutput) -> list[tuple[Hash, bytes | memoryview]]:
    """Return the payloads of a result, with their addresses; an empty state is none."""
    both = (
        (result.weights_root, result.weights),
        (result.optimizer_root, result.optimizer_state),
    )
    return [(root, data) for root, data in both if data]
