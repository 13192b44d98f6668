"""Aggregates that take their time, on the virtual clock.

Owns what makes an aggregate slow: where the node would use a thread, or would not bother to, is
decided by a plan. Never changes a result.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ledger.aggregates import AggregateInputs, AggregateOutput
from node import composition
from node.execution import aggregates
from node.execution.aggregates import BackgroundAggregates
from tests.simulation import virtual_trio

INLINE_COST_MAX = aggregates.INLINE_COST_MAX


@dataclass(frozen=True)
class Computation:
    """An aggregate that a thread is to compute."""

    compute: Callable[[], AggregateOutput]

    def __call__(self) -> AggregateOutput:
        """Compute it."""
        return self.compute()


class SimAggregates(BackgroundAggregates):
    """The node's aggregates, marked as such for whoever runs the threads."""

    def get(
        self, inputs: AggregateInputs, compute: Callable[[], AggregateOutput], /
    ) -> AggregateOutput | None:
        """Return the result for `inputs`, or None while the worker is at it."""
        return super().get(inputs, Computation(compute))


def slow_down(longest_s: float, *, is_inline: bool) -> None:
    """Let aggregates of this run take up to `longest_s` in a thread, small ones too if not inline.

    To be called inside the run, before its nodes are made.
    """
    composition.BackgroundAggregates = SimAggregates  # type: ignore[attr-defined]
    aggregates.INLINE_COST_MAX = INLINE_COST_MAX if is_inline else -1
    virtual_trio.scheduler().thread_s = lambda work: (
        longest_s if isinstance(work, Computation) else virtual_trio.THREAD_S
    )
