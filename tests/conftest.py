"""What every test shares: Hypothesis without a stopwatch, and end-to-end tests in series."""

import os

import pytest
from hypothesis import settings

from node import localnet

# A busy machine is no failure of the code, so an example may take as long as it takes.
settings.register_profile("quorate", deadline=None)
settings.load_profile("quorate")


@pytest.fixture(scope="session", autouse=True)
def _ports_of_its_own() -> None:
    """Let no other test process take a port between its choice and its use."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
    first, last = localnet._PORTS_FIRST, localnet._PORTS_LAST
    share = (last - first) // 8
    localnet._PORTS_FIRST = first + worker * share
    localnet._PORTS_LAST = first + (worker + 1) * share


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests that start real networks on one test process.

    Two networks at once on two processors would measure each other's patience; the fast tests
    fill the other process meanwhile.
    """
    for item in items:
        if item.get_closest_marker("e2e") is not None:
            item.add_marker(pytest.mark.xdist_group("e2e"))
