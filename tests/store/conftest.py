"""Each kind of storage that the tests of the store run on: files, and memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.disks import FileLogDisk, LogDisk, MemoryLogDisk


@pytest.fixture(params=["file", "memory"])
def log_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LogDisk]:
    if request.param == "memory":
        yield MemoryLogDisk()
        return
    disk = FileLogDisk(tmp_path)
    yield disk
    disk.close()
