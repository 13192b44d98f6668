"""Decided blocks as clients see them: when they arrive, how much they hold, what is in them.

Owns one thread per watched node, which reads its events. Never asks a node for anything else while
a load runs; contents are read afterwards.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from quorate.chain.errors import QuorateError
from quorate.chain.ids import Hash
from quorate.chain.transaction import compute_transaction_hash
from quorate.client import Client
from quorate.rpc_types import Event

from bench.errors import BenchError

STOP_SECONDS_MAX: Final = 15.0
"""The longest that a thread waits for an event before it looks whether it shall stop."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A decided block, as an event told of it.

    Attributes
    ----------
    height : int
    time_ms : int
        The block's own time.
    transactions : int
        How many it holds.
    seconds : float
        When the event arrived, by this process's monotonic clock.
    """

    height: int
    time_ms: int
    transactions: int
    seconds: float


class EventThread:
    """Reads a node's events and hands each on, in a thread of its own.

    Works as a context manager.

    Parameters
    ----------
    url : str
        The node's RPC.
    types : sequence of str
        What events.
    receive : callable
        Called with each event in the thread.
    """

    def __init__(self, url: str, types: Sequence[str], receive: Callable[[Event], None]) -> None:
        self._url = url
        self._types = types
        self._receive = receive
        self._is_stopped = threading.Event()
        self._failure: QuorateError | None = None
        self._thread = threading.Thread(target=self._run, name=f"events {url}", daemon=True)

    def check(self) -> None:
        """Raise what ended the thread, if something did.

        Raises
        ------
        BenchError
            If the node does not tell its events any more.
        """
        if self._failure is not None:
            raise BenchError(f"The events of {self._url} have ended: {self._failure}")

    def __enter__(self) -> "EventThread":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_stopped.set()
        # A node that tells nothing any more keeps its thread waiting, which dies with the process.
        self._thread.join(STOP_SECONDS_MAX)

    def _run(self) -> None:
        try:
            with Client(self._url) as client:
                for event in client.events(self._types):
                    self._receive(event)
                    if self._is_stopped.is_set():
                        return
        except QuorateError as error:
            self._failure = error


class BlockWatch:
    """The decided blocks of one node, from now on.

    Works as a context manager.

    Parameters
    ----------
    url : str
        The node's RPC.
    on_block : callable, optional
        Called with each arrival, in the watching thread.
    """

    def __init__(self, url: str, on_block: Callable[[Arrival], None] = lambda _: None) -> None:
        self.url = url
        self._on_block = on_block
        self._arrivals: list[Arrival] = []
        self._events = EventThread(url, ("block",), self._receive)

    @property
    def arrivals(self) -> tuple[Arrival, ...]:
        """The blocks that have arrived so far."""
        self._events.check()
        return tuple(self._arrivals)

    def get_between(self, start: float, end: float) -> tuple[Arrival, ...]:
        """Return the blocks that arrived within these seconds of the monotonic clock."""
        return tuple(each for each in self.arrivals if start <= each.seconds <= end)

    def __enter__(self) -> "BlockWatch":
        self._events.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._events.__exit__()

    def _receive(self, event: Event) -> None:
        now = time.monotonic()
        data = event.data
        arrival = Arrival(
            int(str(data["height"])), int(str(data["time_ms"])), int(str(data["transactions"])), now
        )
        self._arrivals.append(arrival)
        self._on_block(arrival)


def read_transactions(url: str, heights: Sequence[int]) -> dict[Hash, int]:
    """Return the hashes of the transactions of some heights, with their heights.

    Raises
    ------
    BenchError
        If one is in two blocks.
    """
    found: dict[Hash, int] = {}
    with Client(url) as client:
        for height in heights:
            for raw in client.block(height).transactions:
                transaction_hash = compute_transaction_hash(raw)
                other = found.get(transaction_hash)
                if other is not None:
                    raise BenchError(
                        f"Transaction {transaction_hash.hex()} is in block {other} and in block "
                        f"{height}: this is a defect of the node."
                    )
                found[transaction_hash] = height
    return found
