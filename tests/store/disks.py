"""What lies under the storage that is tested, files or memory, and can be harmed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

from store.database import Batch, Database, LevelDatabase, MemoryDatabase
from store.memory_payloads import MemoryPayloadStore
from store.payload_contract import Payloads
from store.payloads import PayloadStore
from store.segment_folder import MemorySegmentFolder
from store.segmented_log import SegmentedLog
from store.write_ahead_log import MemoryWriteAheadLog, WriteAheadLog

ROOT = Path(__file__).parents[2]


class LogDisk(Protocol):
    """What lies under a log, and outlives it."""

    def open(self, **limits: Any) -> SegmentedLog: ...

    def crash(self) -> None:
        """Let the next opening find what a killed process would leave."""
        ...

    def read(self, index: int) -> bytes: ...

    def write(self, index: int, data: bytes) -> None: ...

    def get_indices(self) -> list[int]: ...


class FileLogDisk:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._generation = 0
        self._logs: list[SegmentedLog] = []

    @property
    def path(self) -> Path:
        return self._folder / str(self._generation)

    def open(self, **limits: Any) -> SegmentedLog:
        log = WriteAheadLog(self.path, **limits)
        self._logs.append(log)
        return log

    def crash(self) -> None:
        crashed = self.path
        self._generation += 1
        shutil.copytree(crashed, self.path)

    def read(self, index: int) -> bytes:
        return (self.path / f"{index:012d}.wal").read_bytes()

    def write(self, index: int, data: bytes) -> None:
        (self.path / f"{index:012d}.wal").write_bytes(data)

    def get_indices(self) -> list[int]:
        return sorted(int(path.stem) for path in self.path.glob("*.wal"))

    def close(self) -> None:
        for log in self._logs:
            log.close()


class MemoryLogDisk:
    def __init__(self) -> None:
        self._memory = MemorySegmentFolder()

    def open(self, **limits: Any) -> SegmentedLog:
        self._memory = self._memory.reopen()
        return MemoryWriteAheadLog(self._memory, **limits)

    def crash(self, *, power_failed: bool = False) -> None:
        self._memory = self._memory.reopen(power_failed=power_failed)

    def read(self, index: int) -> bytes:
        return self._memory.read(index)

    def write(self, index: int, data: bytes) -> None:
        self._memory._segments[index][:] = data

    def get_indices(self) -> list[int]:
        return self._memory.get_indices()


class DatabaseDisk(Protocol):
    """What lies under a database, and outlives it."""

    def reopen(self) -> Database: ...

    def close(self) -> None: ...


class LevelDisk:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._database: LevelDatabase | None = None

    def reopen(self) -> Database:
        self.close()
        self._database = LevelDatabase(self.folder)
        return self._database

    def close(self) -> None:
        if self._database is not None:
            self._database.close()


class MemoryDisk:
    def __init__(self) -> None:
        self._database = MemoryDatabase()

    def reopen(self) -> Database:
        self._database = self._database.reopen()
        return self._database

    def close(self) -> None:
        self._database.close()


class ObservedDatabase(MemoryDatabase):
    """Remembers of each batch whether it was synced."""

    def __init__(self) -> None:
        super().__init__()
        self.syncs: list[bool] = []

    def write(self, batch: Batch, *, sync: bool) -> None:
        self.syncs.append(sync)
        super().write(batch, sync=sync)


class PayloadDisk(Protocol):
    """What lies under payloads, and outlives the process that put them."""

    def reopen(self, **limits: int) -> Payloads: ...

    def close(self) -> None: ...


class FilePayloadDisk:
    def __init__(self, folder: Path) -> None:
        self.folder = folder / "payloads"
        self._database = LevelDisk(folder / "database")

    def reopen(self, **limits: int) -> Payloads:
        return PayloadStore(self._database.reopen(), self.folder, inline_bytes_max=100, **limits)

    def close(self) -> None:
        self._database.close()


class MemoryPayloadDisk:
    def __init__(self) -> None:
        self._payloads: MemoryPayloadStore | None = None

    def reopen(self, **limits: int) -> Payloads:
        if self._payloads is None:
            self._payloads = MemoryPayloadStore(**limits)
        else:
            self._payloads = self._payloads.reopen()
        return self._payloads

    def close(self) -> None:
        pass


def write_synced(log: SegmentedLog, *records: bytes) -> None:
    """Append records, each durable before the next."""
    for record in records:
        log.append(record)
        log.sync()


def flip(data: bytes, offset: int) -> bytes:
    """Return `data` with the byte at `offset` changed."""
    return data[:offset] + bytes([data[offset] ^ 0x5A]) + data[offset + 1 :]


def start_python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Start Python code in a process of its own, with the project on its path."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_python(code: str, *arguments: object) -> tuple[str, str]:
    """Run Python code in a process of its own; return what it wrote to stdout and stderr."""
    with start_python(code, *arguments) as process:
        return process.communicate(timeout=30)
