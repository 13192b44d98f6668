"""Long computations in threads that give way: consensus keeps its rhythm beside them.

Owns the priority of such a thread. Never knows what is computed.

numpy releases the interpreter's lock while it computes, so what an aggregation takes from the
event loop is a processor. On a machine with fewer processors than busy threads the loop would wait
for its turn behind them; with a lower priority they wait for the loop.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, TypeVar

NICENESS: Final = 15
"""Linux gives a thread of this niceness about a thirtieth of what one of the event loop's gets,
when both want a processor all the time; so it cannot starve."""

T = TypeVar("T")


def compute_at_low_priority(compute: Callable[[], T]) -> T:
    """Run a computation in a thread of its own with a low priority, and wait for it.

    The thread ends with it: a priority once lowered could not be raised again by an ordinary user.
    """
    with ThreadPoolExecutor(1, "aggregation", _lower_priority) as pool:
        return pool.submit(compute).result()


def _lower_priority() -> None:
    # Where priorities belong to processes alone, the thread keeps the process's.
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
