"""A disk that is full or fails, from every single write on: the node stops, and starts again later.

The seam is below everything that the project writes itself: bytes handed to the operating system,
names, syncs, and the batches of the databases. From one write on, all of them fail, as on a full
disk.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from quorate.chain.errors import StorageError, TransactionError
from quorate.chain.transaction import Transfer

from node.errors import HomeError
from store import disk, segment_folder
from store.database import LevelDatabase
from store.disk import translate_os_error
from store.errors import DiskFull, StorageInaccessible
from tests.node.cluster import USERS, make_key, sign
from tests.node.durability.file_cluster import assert_nothing_signed_twice, open_file_cluster
from tests.node.durability.recordings import Recording

WRITES_MAX = 10_000


@dataclass
class FailingDisk:
    """Counts writes, and lets all of them fail from one on."""

    fails_from: int = WRITES_MAX
    code: int = errno.ENOSPC
    count: int = 0
    failed: list[str] = field(default_factory=list)

    def touch(self, what: str) -> None:
        self.count += 1
        if self.count >= self.fails_from:
            self.failed.append(what)
            raise OSError(self.code, os.strerror(self.code))


@contextmanager
def installed(failing: FailingDisk) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:

        def fail_before(call: Callable[..., Any], what: str) -> Callable[..., Any]:
            def attempt(*arguments: Any, **options: Any) -> Any:
                failing.touch(what)
                return call(*arguments, **options)

            return attempt

        def write_half(descriptor: int, data: Any) -> None:
            """A disk that fills up takes part of what it is given."""
            view = memoryview(data).cast("B")
            try:
                failing.touch("write")
            except OSError:
                os.write(descriptor, view[: len(view) // 2])
                raise
            whole(descriptor, data)

        whole = disk.write_all
        patched.setattr(disk, "write_all", write_half)
        patched.setattr(segment_folder, "write_all", write_half)
        patched.setattr(os, "fdatasync", fail_before(os.fdatasync, "fdatasync"))
        patched.setattr(os, "fsync", fail_before(os.fsync, "fsync"))
        patched.setattr(os, "ftruncate", fail_before(os.ftruncate, "truncate"))
        # What `Path.rename` and `Path.replace` call; a folder may have no room for a name.
        patched.setattr(os, "rename", fail_before(os.rename, "rename"))
        patched.setattr(os, "replace", fail_before(os.replace, "rename"))
        level_write = LevelDatabase.write

        def write_batch(self: LevelDatabase, batch: Any, *, sync: bool) -> None:
            try:
                failing.touch("batch")
            except OSError as error:
                self._is_writable = False
                raise translate_os_error(error, self._folder) from error
            level_write(self, batch, sync=sync)

        patched.setattr(LevelDatabase, "write", write_batch)
        yield


async def run_on(
    recording: Recording, folder: Path, failing: FailingDisk, heights: int
) -> BaseException | None:
    """Let the node of a home go on, with a transfer on the way; return what it failed with."""
    async with open_file_cluster(folder, 0, genesis=recording.genesis) as cluster:
        cluster.signed = recording.copy_signed()
        member = cluster.add(make_key(1))
        with installed(failing):
            try:
                await cluster.start(member)
                await submit_transfer(member)
            except (StorageError, HomeError) as error:
                if member.node is None or not failing.failed:
                    return error
            while not member.stopped.is_set() and member.height < recording.height + heights:
                await cluster.pause()
            await cluster.stop(member)
            assert_nothing_signed_twice(cluster.signed)
            recording.signed.update(cluster.signed)
            return member.failure
    raise AssertionError


async def submit_transfer(member: Any) -> None:
    """Submit a transfer, unless it is pending or decided since an earlier start."""
    services = member.running.services
    account = services.executor.state.get_account(USERS[7].address)
    raw = sign(USERS[7], 0, Transfer(USERS[6].address, 5))
    if account.nonce == 0:
        try:
            await services.mempool.submit_local(raw, None)
        except TransactionError:
            # It was journaled before the disk failed, and is pending again.
            assert services.mempool.count


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
async def test_from_every_write_on(training_run: Recording, tmp_path: Path, code: int) -> None:
    measured = FailingDisk()
    training_run.copy(tmp_path / "measured" / "0")
    recording = replace(training_run, signed=training_run.copy_signed())
    assert await run_on(recording, tmp_path / "measured", measured, 2) is None
    assert measured.count > 30
    kind = DiskFull if code == errno.ENOSPC else StorageInaccessible
    places = set()
    # Both kinds of failure together meet every write; each alone every other one.
    for number in range(1 + (code == errno.EIO), measured.count - 5, 2):
        folder = tmp_path / str(number)
        home = training_run.copy(folder / "0")
        recording = replace(training_run, folder=folder, signed=training_run.copy_signed())
        failing = FailingDisk(number, code)
        failure = await run_on(recording, folder, failing, 2)
        places.add(failing.failed[0])
        if isinstance(failure, HomeError):
            # Who has locked the home could not be noted in it: nothing else had begun.
            assert "keep it on a local disk with free space" in str(failure)
            assert number == 1 + (code == errno.EIO)
        else:
            assert isinstance(failure, StorageError), (number, failure)
            assert isinstance(failure, kind) or "earlier write to it failed" in str(failure)
            assert "start the node again" in str(failure)
        # There is room again.
        assert await run_on(recording, folder, FailingDisk(), 3) is None
        assert not list(home.data_folder.glob("*.tmp"))
    # Others are few in a life of a node's that is as short as this, so that one code may miss them.
    assert places - {"rename", "truncate"} == {"write", "fdatasync", "fsync", "batch"}
