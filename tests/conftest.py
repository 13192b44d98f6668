"""What every test shares: Hypothesis without a stopwatch, a virtual clock that waits for threads,
ports that no other test process takes, Ctrl-C that arrives, and end-to-end tests in series.
"""

import math
import os
import signal
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import settings

from node import localnet

# A busy machine is no failure of the code, so an example may take as long as it takes.
settings.register_profile("quorate", deadline=None)
settings.load_profile("quorate")

# A shell lets what it starts in the background ignore Ctrl-C, and so would every process that a
# test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _ports_of_its_own() -> None:
    """Let no other test process take a port between its choice and its use."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
    first, last = localnet._PORTS_FIRST, localnet._PORTS_LAST
    share = (last - first) // 8
    localnet._PORTS_FIRST = first + worker * share
    localnet._PORTS_LAST = first + (worker + 1) * share


@pytest.fixture
def autojump_clock(monkeypatch: pytest.MonkeyPatch) -> trio.testing.MockClock:
    """Return a virtual clock that jumps to what is due next, but not while a thread works.

    trio's own would: to it a task that waits for a thread is idle, so that a timeout of minutes
    passes in the milliseconds of a write, and how much was done meanwhile is chance.
    """
    clock = trio.testing.MockClock(autojump_threshold=0)
    run_in_thread = trio.to_thread.run_sync
    working = 0

    async def run_sync(*arguments: Any, **options: Any) -> Any:
        nonlocal working
        working += 1
        clock.autojump_threshold = math.inf
        try:
            return await run_in_thread(*arguments, **options)
        finally:
            working -= 1
            if not working:
                clock.autojump_threshold = 0

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    return clock


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests that start real networks on one test process.

    Two networks at once on two processors would measure each other's patience; the fast tests
    fill the other process meanwhile.
    """
    for item in items:
        if item.get_closest_marker("e2e") is not None:
            item.add_marker(pytest.mark.xdist_group("e2e"))
