"""Aggregates that take their time, on the virtual clock.

Owns how long the thread of an aggregate takes, and whether small ones get one. Never changes a
result.
"""

from collections.abc import Callable
from typing import TypeVar

from node.execution import aggregates
from tests.simulation import virtual_trio

T = TypeVar("T")

INLINE_COST_MAX = aggregates.INLINE_COST_MAX


def compute_in_no_thread(compute: Callable[[], T]) -> T:
    """Run a computation in the place of the node's thread of low priority."""
    return compute()


def slow_down(longest_s: float, *, is_inline: bool) -> None:
    """Let aggregates of this run take up to `longest_s` in a thread, small ones too if not inline.

    To be called inside the run.
    """
    aggregates.INLINE_COST_MAX = INLINE_COST_MAX if is_inline else -1
    aggregates.compute_at_low_priority = compute_in_no_thread  # type: ignore[attr-defined]
    virtual_trio.scheduler().thread_s = lambda work: (
        longest_s if work is compute_in_no_thread else virtual_trio.THREAD_S
    )
