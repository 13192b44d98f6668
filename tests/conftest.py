"""What every test shares: Hypothesis without a stopwatch, and end-to-end tests in series."""

import pytest
from hypothesis import settings

# A busy machine is no failure of the code, so an example may take as long as it takes.
settings.register_profile("quorate", deadline=None)
settings.load_profile("quorate")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests that start real networks on one test process.

    Two networks at once on two processors would measure each other's patience; the fast tests
    fill the other process meanwhile.
    """
    for item in items:
        if item.get_closest_marker("e2e") is not None:
            item.add_marker(pytest.mark.xdist_group("e2e"))
