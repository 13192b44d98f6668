"""Payloads that arrive chunk by chunk: verified one by one, resumed after any crash, bounded."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quorate.chain.content import CHUNK_BYTES, compute_chunk_hashes, compute_content_hash
from quorate.chain.ids import Hash
from quorate.chain.merkle import hash_node

from store import chunk_lists, disk, partial_payload, payload_files
from store.database import Batch, LevelDatabase
from store.errors import (
    DiskFull,
    PayloadAbandoned,
    PayloadDamaged,
    PayloadIncomplete,
    PayloadMismatch,
    PayloadSpaceExhausted,
    PayloadTooLarge,
)
from store.payload_contract import Payloads
from store.payloads import PayloadStore
from tests.store.disks import FilePayloadDisk, PayloadDisk, run_python, start_python

SIZE = 3 * CHUNK_BYTES + 5


def make_bytes(seed: int = 0, size: int = SIZE) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def get_chunk(data: bytes, index: int) -> bytes:
    return data[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]


def begin(payloads: Payloads, data: bytes) -> partial_payload.PartialPayload:
    return payloads.begin(compute_content_hash(data), len(data), compute_chunk_hashes(data))


def complete(partial: partial_payload.PartialPayload, data: bytes) -> None:
    for index in partial.missing():
        partial.write(index, get_chunk(data, index))
    partial.finish()


@pytest.mark.parametrize("size", [1, 100, 101, CHUNK_BYTES, CHUNK_BYTES + 1, SIZE])
def test_chunks_come_in_any_order(payload_disk: PayloadDisk, size: int) -> None:
    payloads, data = payload_disk.reopen(), make_bytes(1, size)
    partial = begin(payloads, data)
    assert payloads.get_partial(partial.payload_hash) is partial
    assert begin(payloads, data) is partial
    count = -(-size // CHUNK_BYTES)
    assert partial.missing() == tuple(range(count))
    for index in reversed(range(count)):
        assert not payloads.has(partial.payload_hash)
        assert partial.write(index, get_chunk(data, index))
        assert not partial.write(index, memoryview(get_chunk(data, index)))
        assert partial.missing() == tuple(range(index))
    assert payloads.bytes_total == size
    for _ in range(2):
        partial.finish()
    assert partial.is_finished
    assert payloads.get_partial(partial.payload_hash) is None
    for _ in range(2):
        assert payloads.get(partial.payload_hash) == data
        assert payloads.bytes_total == size
        payloads = payload_disk.reopen()


def test_a_wrong_chunk_costs_that_chunk_alone(payload_disk: PayloadDisk) -> None:
    payloads, data = payload_disk.reopen(), make_bytes()
    partial = begin(payloads, data)
    partial.write(2, get_chunk(data, 2))
    for index, wrong in (
        (0, get_chunk(data, 1)),
        (0, get_chunk(data, 0)[:-1]),
        (3, get_chunk(data, 3) + b"\0"),
        (4, b""),
        (-1, get_chunk(data, 3)),
    ):
        with pytest.raises(PayloadMismatch):
            partial.write(index, wrong)
    assert partial.missing() == (0, 1, 3)
    with pytest.raises(PayloadIncomplete, match="3 chunks"):
        partial.finish()
    complete(partial, data)
    assert payloads.get(partial.payload_hash) == data


def test_a_list_must_belong_to_address_and_size(payload_disk: PayloadDisk) -> None:
    payloads, data = payload_disk.reopen(), make_bytes()
    hashes, name = compute_chunk_hashes(data), compute_content_hash(data)
    inner = (Hash(hash_node(*hashes[:2])), Hash(hash_node(*hashes[2:])))
    for size, wrong in (
        (SIZE, hashes[::-1]),
        (SIZE, hashes[:3]),
        (SIZE, inner),
        (3 * CHUNK_BYTES, hashes),
        (0, ()),
    ):
        with pytest.raises(PayloadMismatch):
            payloads.begin(name, size, wrong)
    # These inner nodes even pass for a payload of two chunks, of which none can ever arrive.
    impostor = payloads.begin(name, 2 * CHUNK_BYTES, inner)
    for index in range(2):
        with pytest.raises(PayloadMismatch):
            impostor.write(index, get_chunk(data, index))
    impostor.abandon()
    assert payloads.bytes_total == 0


def test_a_lie_about_the_size_makes_way(payload_disk: PayloadDisk) -> None:
    """What nobody can ever finish does not keep the payload itself out."""
    payloads, data = payload_disk.reopen(), make_bytes()
    hashes, name = compute_chunk_hashes(data), compute_content_hash(data)
    inner = (Hash(hash_node(*hashes[:2])), Hash(hash_node(*hashes[2:])))
    impostor = payloads.begin(name, 2 * CHUNK_BYTES, inner)
    complete(begin(payloads, data), data)
    assert payloads.get(name) == data
    assert payloads.bytes_total == SIZE
    with pytest.raises(PayloadAbandoned):
        impostor.write(0, get_chunk(data, 0))
    assert [payloads.read_chunk(name, index) for index in range(4)] == [
        get_chunk(data, index) for index in range(4)
    ]


def test_what_has_begun_well_gives_way_to_a_sure_size_alone(payload_disk: PayloadDisk) -> None:
    payloads, data = payload_disk.reopen(), make_bytes()
    hashes, name = compute_chunk_hashes(data), compute_content_hash(data)
    longer = payloads.begin(name, SIZE + 1, hashes)
    longer.write(0, get_chunk(data, 0))
    payloads = payload_disk.reopen()
    with pytest.raises(PayloadMismatch, match=f"{SIZE + 1} bytes arrives"):
        payloads.begin(name, SIZE, hashes)
    sure = payloads.begin(name, SIZE, hashes, is_size_sure=True)
    assert sure.missing() == (0, 1, 2, 3)
    assert payloads.bytes_total == SIZE
    complete(sure, data)
    assert payloads.get(name) == data


def test_a_list_that_lies_is_forgotten_when_the_payload_is_put(tmp_path: Path) -> None:
    database = LevelDatabase(tmp_path / "database")
    payloads, data = PayloadStore(database, tmp_path / "payloads"), make_bytes()
    hashes, name = compute_chunk_hashes(data), compute_content_hash(data)
    inner = (Hash(hash_node(*hashes[:2])), Hash(hash_node(*hashes[2:])))
    payloads.begin(name, 2 * CHUNK_BYTES, inner)
    # Somebody asks for the hashes, which are kept at hand from then on.
    assert payloads.get_chunk_hashes(name) is None
    payloads.put(data)
    assert payloads.get_chunk_hashes(name) == hashes
    assert payloads.read_chunk(name, 1) == get_chunk(data, 1)
    database.close()


def test_a_list_that_lies_comes_too_late_for_a_payload_that_is_being_put(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = LevelDatabase(tmp_path / "database")
    payloads, data = PayloadStore(database, tmp_path / "payloads"), make_bytes()
    hashes, name = compute_chunk_hashes(data), compute_content_hash(data)
    inner = (Hash(hash_node(*hashes[:2])), Hash(hash_node(*hashes[2:])))
    write = disk.write_temporary

    def lie_meanwhile(*arguments: Any) -> None:
        write(*arguments)
        payloads.begin(name, 2 * CHUNK_BYTES, inner)

    monkeypatch.setattr(payload_files, "write_temporary", lie_meanwhile)
    payloads.put(data)
    assert payloads.get_chunk_hashes(name) == hashes
    assert payloads.read_chunk(name, 3) == get_chunk(data, 3)
    assert payloads.bytes_total == SIZE
    database.close()


def test_what_begins_again_is_not_taken_for_what_is_thrown_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = LevelDatabase(tmp_path / "database")
    payloads, data = PayloadStore(database, tmp_path / "payloads"), make_bytes()
    discard, begun = payloads._files.discard, []
    beginner = threading.Thread(target=lambda: begun.append(begin(payloads, data)))

    def discard_slowly(partial: Any) -> None:
        beginner.start()
        beginner.join(0.2)
        discard(partial)

    old = begin(payloads, data)
    monkeypatch.setattr(payloads._files, "discard", discard_slowly)
    old.abandon()
    beginner.join(10)
    monkeypatch.undo()
    complete(begun[0], data)
    assert payloads.get(old.payload_hash) == data
    database.close()


def test_what_has_arrived_survives_a_restart(payload_disk: PayloadDisk) -> None:
    payloads, data = payload_disk.reopen(), make_bytes()
    partial = begin(payloads, data)
    partial.write(1, get_chunk(data, 1))
    partial.write(3, get_chunk(data, 3))
    payloads = payload_disk.reopen()
    restored = payloads.get_partial(partial.payload_hash)
    assert restored is not None
    assert begin(payloads, data) is restored
    assert payloads.bytes_total == SIZE
    assert restored.missing() == (0, 2)
    complete(restored, data)
    payloads = payload_disk.reopen()
    assert payloads.get(partial.payload_hash) == data
    assert payloads.get_partial(partial.payload_hash) is None


def test_limits(payload_disk: PayloadDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial_payload, "PARTIALS_MAX", 2)
    payloads = payload_disk.reopen(payload_bytes_max=1000, total_bytes_max=2500)
    with pytest.raises(PayloadTooLarge):
        begin(payloads, make_bytes(0, 1001))
    first = begin(payloads, make_bytes(1, 1000))
    begin(payloads, make_bytes(2, 1000))
    with pytest.raises(PayloadSpaceExhausted, match="arriving already"):
        begin(payloads, make_bytes(3, 10))
    with pytest.raises(PayloadSpaceExhausted, match="limit of 2500"):
        payloads.put(make_bytes(4, 501))
    first.abandon()
    assert payloads.bytes_total == 1000
    payloads.put(make_bytes(4, 501))
    with pytest.raises(PayloadSpaceExhausted, match="limit of 2500"):
        begin(payloads, make_bytes(5, 1000))
    assert payloads.bytes_total == 1501
    with pytest.raises(PayloadAbandoned):
        first.write(0, make_bytes(1, 1000))
    with pytest.raises(PayloadAbandoned):
        first.finish()


def test_what_nobody_continues_is_swept(payload_disk: PayloadDisk) -> None:
    payloads = payload_disk.reopen()
    idle, busy = make_bytes(1), make_bytes(2)
    begin(payloads, idle)
    begin(payloads, busy)
    payloads = payload_disk.reopen()
    assert payloads.sweep_partials() == 0
    kept = payloads.get_partial(compute_content_hash(busy))
    assert kept is not None
    kept.write(0, get_chunk(busy, 0))
    assert payloads.sweep_partials() == 1
    assert payloads.get_partial(compute_content_hash(idle)) is None
    assert payloads.bytes_total == SIZE
    begin(payloads, busy)
    assert payloads.sweep_partials() == 0
    assert payloads.sweep_partials() == 1
    payloads = payload_disk.reopen()
    assert payloads.get_partial(compute_content_hash(busy)) is None
    assert payloads.bytes_total == 0


def test_deleting_takes_what_is_arriving(payload_disk: PayloadDisk) -> None:
    payloads, data = payload_disk.reopen(), make_bytes()
    begin(payloads, data).write(0, get_chunk(data, 0))
    assert not payloads.delete(compute_content_hash(data))
    assert payloads.get_partial(compute_content_hash(data)) is None
    assert payloads.bytes_total == 0


@pytest.mark.parametrize("size", [50, SIZE])
def test_a_payload_may_be_put_while_it_arrives(payload_disk: PayloadDisk, size: int) -> None:
    payloads, data = payload_disk.reopen(), make_bytes(1, size)
    partial = begin(payloads, data)
    payloads.put(data)
    assert partial.is_finished
    assert partial.missing() == ()
    assert not partial.write(0, get_chunk(data, 0))
    partial.finish()
    late = begin(payloads, data)
    assert late.is_finished
    assert payloads.get_partial(late.payload_hash) is None
    for _ in range(2):
        assert payloads.bytes_total == size
        assert payloads.get(late.payload_hash) == data
        payloads = payload_disk.reopen()


def test_one_chunk_is_read_and_verified_by_itself(payload_disk: PayloadDisk) -> None:
    payloads, data = payload_disk.reopen(), make_bytes()
    for name, expected in ((payloads.put(data), data), (payloads.put(b"small"), b"small")):
        assert payloads.get_chunk_hashes(name) == compute_chunk_hashes(expected)
        count = len(compute_chunk_hashes(expected))
        for index in range(count):
            assert payloads.read_chunk(name, index) == get_chunk(expected, index)
        assert payloads.read_chunk(name, count) is None
        assert payloads.read_chunk(name, -1) is None
    assert payloads.read_chunk(bytes(32), 0) is None
    assert payloads.get_chunk_hashes(bytes(32)) is None
    arriving = begin(payloads, make_bytes(7))
    assert payloads.read_chunk(arriving.payload_hash, 0) is None
    assert payloads.get_chunk_hashes(arriving.payload_hash) is None


def test_damage_is_told_of_the_damaged_chunk_alone(tmp_path: Path) -> None:
    disk, data = FilePayloadDisk(tmp_path), make_bytes()
    payloads = disk.reopen()
    name = payloads.put(data)
    with (disk.folder / name.hex()).open("r+b") as file:
        file.seek(CHUNK_BYTES + 9)
        file.write(bytes([data[CHUNK_BYTES + 9] ^ 1]))
    assert payloads.read_chunk(name, 0) == get_chunk(data, 0)
    with pytest.raises(PayloadDamaged, match=name.hex()):
        payloads.read_chunk(name, 1)
    with (disk.folder / name.hex()).open("r+b") as file:
        file.truncate(CHUNK_BYTES + 1)
    with pytest.raises(PayloadDamaged, match=name.hex()):
        payloads.read_chunk(name, 1)
    disk.close()


def test_a_lost_list_is_made_again_from_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunk_lists, "CACHED_MAX", 1)
    data = make_bytes()
    database = LevelDatabase(tmp_path / "database")
    payloads = PayloadStore(database, tmp_path / "payloads")
    name, other = payloads.put(data), payloads.put(make_bytes(1))
    for action in (payloads.get_chunk_hashes, lambda name: payloads.read_chunk(name, 2)):
        batch = Batch()
        batch.delete(b"L" + name)
        database.write(batch, sync=False)
        payloads.read_chunk(other, 0)
        action(name)
        assert database.get(b"L" + name) is not None
        assert payloads.get_chunk_hashes(name) == compute_chunk_hashes(data)
    payloads.delete(name)
    assert database.get(b"L" + name) is None
    database.close()


@pytest.mark.parametrize("damage", ["torn chunk", "short file", "list lost", "file lost"])
def test_a_damaged_partial_costs_what_is_damaged(tmp_path: Path, damage: str) -> None:
    disk, data = FilePayloadDisk(tmp_path), make_bytes()
    partial = begin(disk.reopen(), data)
    partial.write(0, get_chunk(data, 0))
    partial.write(2, get_chunk(data, 2))
    file = disk.folder / f"{partial.payload_hash.hex()}.part"
    match damage:
        case "torn chunk":
            with file.open("r+b") as opened:
                opened.seek(2 * CHUNK_BYTES + 100)
                opened.write(bytes(1000))
        case "short file":
            os.truncate(file, 2 * CHUNK_BYTES)
        case "file lost":
            file.unlink()
        case _:
            disk.close()
            database = LevelDatabase(tmp_path / "database")
            batch = Batch()
            batch.delete(b"L" + partial.payload_hash)
            database.write(batch, sync=True)
            database.close()
    payloads = disk.reopen()
    if damage in ("list lost", "file lost"):
        assert payloads.get_partial(partial.payload_hash) is None
        assert payloads.bytes_total == 0
    resumed = begin(payloads, data)
    whole = damage in ("torn chunk", "short file")
    assert resumed.missing() == ((1, 2, 3) if whole else (0, 1, 2, 3))
    complete(resumed, data)
    assert payloads.get(partial.payload_hash) == data
    assert sorted(path.name for path in disk.folder.iterdir()) == [partial.payload_hash.hex()]
    disk.close()


class Killed(BaseException):
    """The process ends here."""


def stop_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the write to the disk after `count` others end the process."""
    rest = [count]

    def wrap(action: Callable[..., Any]) -> Callable[..., Any]:
        def act(*args: Any, **options: Any) -> Any:
            if rest[0] == 0:
                raise Killed
            rest[0] -= 1
            return action(*args, **options)

        return act

    for name in ("pwrite", "posix_fallocate", "fdatasync", "fsync"):
        monkeypatch.setattr(os, name, wrap(getattr(os, name)))
    monkeypatch.setattr(Path, "rename", wrap(Path.rename))
    monkeypatch.setattr(Path, "unlink", wrap(Path.unlink))
    monkeypatch.setattr(LevelDatabase, "write", wrap(LevelDatabase.write))


@pytest.mark.parametrize("size", [70, 2 * CHUNK_BYTES + 1])
def test_a_crash_between_any_two_writes_costs_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    data, disk = make_bytes(3, size), FilePayloadDisk(tmp_path)
    payloads = disk.reopen()
    is_finished, count, had = False, 0, 0
    while not is_finished:
        with monkeypatch.context() as patched:
            stop_after(count, patched)
            try:
                complete(begin(payloads, data), data)
                is_finished = True
            except Killed:
                count += 1
        payloads = disk.reopen()
        partial = payloads.get_partial(compute_content_hash(data))
        if partial is not None:
            arrived = len(partial.chunk_hashes) - len(partial.missing())
            assert arrived >= had
            had = arrived
            assert payloads.bytes_total == size
            # Each crash is one of a payload that has arrived as far as it ever had.
            assert not payloads.has(partial.payload_hash)
        else:
            assert payloads.bytes_total in (0, size)
    assert count > 3
    assert payloads.get(compute_content_hash(data)) == data
    assert payloads.bytes_total == size
    left = [path.name for path in disk.folder.iterdir()]
    assert left == ([] if size == 70 else [compute_content_hash(data).hex()])
    disk.close()


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSPC])
def test_room_is_kept_by_the_file_system_if_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    disk, data = FilePayloadDisk(tmp_path), make_bytes()
    payloads = disk.reopen()
    begin(payloads, data)
    file = disk.folder / f"{compute_content_hash(data).hex()}.part"
    assert file.stat().st_blocks * 512 >= SIZE
    payloads.delete(compute_content_hash(data))

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    if number == errno.EOPNOTSUPP:
        complete(begin(payloads, data), data)
        assert payloads.get(compute_content_hash(data)) == data
    else:
        with pytest.raises(DiskFull):
            begin(payloads, data)
        assert payloads.bytes_total == 0
        assert payloads.get_partial(compute_content_hash(data)) is None
        assert list(disk.folder.iterdir()) == []
        assert disk.reopen().get_partial(compute_content_hash(data)) is None
    disk.close()


CHILD_THAT_IS_KILLED = """
import sys
from pathlib import Path
import numpy as np
from quorate.chain.content import CHUNK_BYTES, compute_chunk_hashes, compute_content_hash
from store.database import LevelDatabase
from store.payloads import PayloadStore

home = Path(sys.argv[1])
payloads = PayloadStore(LevelDatabase(home / "database"), home / "payloads")
data = np.random.default_rng(0).bytes(40 * CHUNK_BYTES)
partial = payloads.begin(compute_content_hash(data), len(data), compute_chunk_hashes(data))
for index in partial.missing():
    partial.write(index, data[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])
    print(index, flush=True)
partial.finish()
print("finished", flush=True)
"""


def test_every_chunk_that_was_written_survives_kill_9(tmp_path: Path) -> None:
    with start_python(CHILD_THAT_IS_KILLED, tmp_path) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(7)]
        child.kill()
        lines += child.stdout.readlines()
    written = {int(line) for line in lines if line.strip().isdigit() and line.endswith("\n")}
    assert len(written) >= 7
    output, errors = run_python(CHILD_THAT_IS_KILLED, tmp_path)
    assert errors == ""
    again = {int(line) for line in output.split() if line.isdigit()}
    assert not again & written
    data = np.random.default_rng(0).bytes(40 * CHUNK_BYTES)
    payloads = PayloadStore(LevelDatabase(tmp_path / "database"), tmp_path / "payloads")
    assert payloads.get(compute_content_hash(data)) == data


def test_several_threads_may_write_the_same_chunks(tmp_path: Path) -> None:
    disk, data = FilePayloadDisk(tmp_path), make_bytes(5, 6 * CHUNK_BYTES)
    payloads = disk.reopen()
    barrier, failures = threading.Barrier(4), list[BaseException]()

    def write(place: int) -> None:
        barrier.wait()
        try:
            if place == 3:
                payloads.put(data)
            partial = begin(payloads, data)
            for index in range(6):
                partial.write((index + place) % 6, get_chunk(data, (index + place) % 6))
            partial.finish()
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=write, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert payloads.get(compute_content_hash(data)) == data
    assert payloads.bytes_total == len(data)
    assert [path.name for path in disk.folder.iterdir()] == [compute_content_hash(data).hex()]
    disk.close()
