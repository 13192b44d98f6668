"""Recordings that the tests of this folder share."""

import pytest

from tests.node.durability.recordings import Recording, record_lock, record_training


@pytest.fixture(scope="session")
def training_run(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return record_training(tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="session")
def locked_run(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return record_lock(tmp_path_factory.mktemp("locked"))
