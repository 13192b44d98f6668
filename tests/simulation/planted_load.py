"""Faults planted into what becomes of transactions, training rounds and memory.

Owns one function per fault, each changing the running program and nothing on disk.
"""

# A fault takes what the function in its place takes, and ignores it.
# ruff: noqa: ARG005

from collections.abc import Callable
from typing import Any

from ledger import rounds
from ledger.records import UpdateRecord
from node.execution import aggregates
from node.execution.admission import LedgerDoor
from node.mempool.decided import DecidedTransactions
from node.mempool.settlement import Settlement
from node.reporting import Reporter

Plant = Callable[[], None]


def never_tell_refusals() -> None:
    """Nobody is told that an accepted transaction was refused."""
    Reporter.on_dropped = lambda self, entry, error: None  # type: ignore[method-assign]


def never_judge_anew() -> None:
    """What a block has made impossible stays pending."""
    Settlement.mark_passed_over = lambda self: None  # type: ignore[method-assign]


def settle_too_early() -> None:
    """Followed blocks are settled one by one, with the state of the last of them."""
    LedgerDoor.height = property(lambda self: 0)  # type: ignore[method-assign, assignment]


def remember_everything() -> None:
    """The memory of decided transactions has no limit."""

    def add(self: Any, transaction_hash: Any) -> None:
        self._hashes[transaction_hash] = None

    DecidedTransactions.add = add  # type: ignore[method-assign]


def forget_results() -> None:
    """One result of a training round is held at a time, though a block may bring two."""
    aggregates.CACHED_MAX = 1


def lose_updates() -> None:
    """A training round ends without its third update."""
    honest = rounds.get_updates  # type: ignore[attr-defined]

    def lose(*args: Any) -> list[UpdateRecord]:
        updates: list[UpdateRecord] = honest(*args)
        return updates[:2]

    rounds.get_updates = lose  # type: ignore[attr-defined, assignment]


LOAD_PLANTS: tuple[Plant, ...] = (
    never_tell_refusals,
    never_judge_anew,
    settle_too_early,
    remember_everything,
    forget_results,
    lose_updates,
)
