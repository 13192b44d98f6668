"""Each kind of storage that the tests of the store run on: files, and memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from store.database import Database
from tests.store.disks import (
    DatabaseDisk,
    FileLogDisk,
    FilePayloadDisk,
    LevelDisk,
    LogDisk,
    MemoryDisk,
    MemoryLogDisk,
    MemoryPayloadDisk,
    PayloadDisk,
)


@pytest.fixture(params=["file", "memory"])
def log_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LogDisk]:
    if request.param == "memory":
        yield MemoryLogDisk()
        return
    disk = FileLogDisk(tmp_path)
    yield disk
    disk.close()


@pytest.fixture(params=["level", "memory"])
def database_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DatabaseDisk]:
    disk: DatabaseDisk = (
        LevelDisk(tmp_path / "database") if request.param == "level" else MemoryDisk()
    )
    yield disk
    disk.close()


@pytest.fixture
def database(database_disk: DatabaseDisk) -> Database:
    return database_disk.reopen()


@pytest.fixture(params=["file", "memory"])
def payload_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PayloadDisk]:
    disk: PayloadDisk = (
        FilePayloadDisk(tmp_path) if request.param == "file" else MemoryPayloadDisk()
    )
    yield disk
    disk.close()
