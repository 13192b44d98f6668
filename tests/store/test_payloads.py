"""Payloads: stored under their hash, within limits, whole after a crash, swept when orphaned."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quorate.chain.content import compute_content_hash

from store.database import LevelDatabase, MemoryDatabase
from store.errors import (
    DiskFull,
    PayloadDamaged,
    PayloadMismatch,
    PayloadRefused,
    PayloadSpaceExhausted,
    PayloadTooLarge,
    StorageInaccessible,
)
from store.memory_payloads import MemoryPayloadStore
from store.payload_contract import Payloads, sweep_payloads
from store.payloads import STAGED_BYTES_MAX, PayloadStore
from tests.store.disks import (
    FilePayloadDisk,
    ObservedDatabase,
    PayloadDisk,
    flip,
    run_python,
    start_python,
)

# The files of these tests begin at 101 bytes.
SIZES = [0, 1, 99, 100, 101, 102, 5000]


def test_a_payload_is_stored_under_its_hash(payload_disk: PayloadDisk) -> None:
    payloads = payload_disk.reopen()
    for size in SIZES:
        data = os.urandom(size)
        assert not payloads.has(compute_content_hash(data))
        payload_hash = payloads.put(data)
        assert payload_hash == compute_content_hash(data)
        for _ in range(2):
            assert payloads.has(payload_hash)
            assert payloads.get(payload_hash) == data
            assert payloads.size(payload_hash) == size
            payloads = payload_disk.reopen()
    assert payloads.bytes_total == sum(SIZES)


def test_what_is_not_stored_is_none(payload_disk: PayloadDisk) -> None:
    payloads = payload_disk.reopen()
    absent = compute_content_hash(b"absent")
    assert not payloads.has(absent)
    assert payloads.get(absent) is None
    assert payloads.size(absent) is None
    assert payloads.open_memmap(absent) is None
    assert not payloads.delete(absent)


@pytest.mark.parametrize("size", SIZES)
def test_columns_are_read_from_an_array(payload_disk: PayloadDisk, size: int) -> None:
    payloads = payload_disk.reopen()
    data = os.urandom(size)
    payload_hash = payloads.put(data)
    array = payloads.open_memmap(payload_hash)
    assert array is not None
    assert array.dtype == np.uint8
    assert array.shape == (size,)
    assert array.tobytes() == data
    assert not array.flags.writeable
    payloads.delete(payload_hash)
    assert array.tobytes() == data


def test_a_large_payload_is_mapped_and_not_read(tmp_path: Path) -> None:
    payloads = FilePayloadDisk(tmp_path).reopen()
    assert isinstance(payloads.open_memmap(payloads.put(bytes(101))), np.memmap)
    assert not isinstance(payloads.open_memmap(payloads.put(bytes(100))), np.memmap)


@pytest.mark.parametrize("size", SIZES)
def test_any_bytes_can_be_put(payload_disk: PayloadDisk, size: int) -> None:
    payloads = payload_disk.reopen()
    data = np.arange(size, dtype=np.int16)
    for form in (data.tobytes(), bytearray(data.tobytes()), data.data):
        payload_hash = payloads.put(form)
        assert payloads.get(payload_hash) == data.tobytes()
    assert payloads.bytes_total == 2 * size


@pytest.mark.parametrize("size", SIZES)
def test_a_payload_with_another_hash_is_refused(payload_disk: PayloadDisk, size: int) -> None:
    payloads = payload_disk.reopen()
    data = os.urandom(size)
    announced = compute_content_hash(b"something else")
    with pytest.raises(PayloadMismatch, match=announced.hex()):
        payloads.put_expected(announced, data)
    assert not payloads.has(announced)
    assert list(payloads.iterate_hashes()) == []
    assert payloads.bytes_total == 0
    payloads.put_expected(compute_content_hash(data), data)
    assert payloads.get(compute_content_hash(data)) == data


def test_storing_again_changes_nothing(payload_disk: PayloadDisk) -> None:
    payloads = payload_disk.reopen()
    for size in SIZES:
        for sync in (False, True, False):
            payloads.put(bytes(size), sync=sync)
    assert payloads.bytes_total == sum(SIZES)
    assert len(list(payloads.iterate_hashes())) == len(SIZES)


@pytest.mark.parametrize("size", [100, 5000])
def test_one_payload_has_a_limit_of_bytes(payload_disk: PayloadDisk, size: int) -> None:
    payloads = payload_disk.reopen(payload_bytes_max=size)
    payloads.put(bytes(size))
    with pytest.raises(PayloadTooLarge, match=f"may have {size}"):
        payloads.put(bytes(size + 1))
    with pytest.raises(PayloadTooLarge):
        payloads.put_expected(bytes(32), np.zeros(size, dtype=np.int16).data)
    assert payloads.bytes_total == size


@pytest.mark.parametrize("size", [100, 1000])
def test_all_payloads_together_have_a_limit_of_bytes(payload_disk: PayloadDisk, size: int) -> None:
    payloads = payload_disk.reopen(total_bytes_max=3 * size)
    hashes = [payloads.put(bytes([number]) * size) for number in range(3)]
    refused = bytes([3]) * size
    with pytest.raises(PayloadSpaceExhausted, match=f"limit of {3 * size}"):
        payloads.put(refused)
    assert not payloads.has(compute_content_hash(refused))
    assert payloads.put(bytes([2]) * size) == hashes[2]
    payloads.delete(hashes[0])
    payloads.put(refused)
    payloads = payload_disk.reopen(total_bytes_max=3 * size)
    assert payloads.bytes_total == 3 * size
    with pytest.raises(PayloadSpaceExhausted):
        payloads.put(bytes([4]))


def test_a_refusal_is_nobodys_storage_error() -> None:
    for refusal in (PayloadMismatch, PayloadTooLarge, PayloadSpaceExhausted):
        assert issubclass(refusal, PayloadRefused)


def test_deleting(payload_disk: PayloadDisk) -> None:
    payloads = payload_disk.reopen()
    for size in SIZES:
        for sync in (True, False):
            payload_hash = payloads.put(bytes(size), sync=sync)
            assert payloads.delete(payload_hash)
            assert not payloads.has(payload_hash)
            assert not payloads.delete(payload_hash)
            assert payloads.bytes_total == 0
    assert list(payload_disk.reopen().iterate_hashes()) == []


def test_orphans_are_swept(payload_disk: PayloadDisk) -> None:
    payloads = payload_disk.reopen()
    hashes = [
        payloads.put(bytes([number]) * (20 * number), sync=number % 3 > 0) for number in range(12)
    ]
    assert list(payloads.iterate_hashes()) == sorted(hashes)
    kept = set(hashes[::2])
    assert sweep_payloads(payloads, lambda payload_hash: payload_hash in kept) == 6
    assert sweep_payloads(payloads, lambda payload_hash: payload_hash in kept) == 0
    payloads.sync()
    for _ in range(2):
        assert list(payloads.iterate_hashes()) == sorted(kept)
        assert payloads.bytes_total == sum(20 * number for number in range(0, 12, 2))
        payloads = payload_disk.reopen()


def test_staged_payloads_are_read_at_once_and_durable_after_sync(
    payload_disk: PayloadDisk,
) -> None:
    payloads = payload_disk.reopen()
    lost = payloads.put(b"lost", sync=False)
    assert payloads.get(lost) == b"lost"
    assert payloads.size(lost) == 4
    assert list(payloads.iterate_hashes()) == [lost]
    payloads = payload_disk.reopen()
    assert not payloads.has(lost)
    assert payloads.bytes_total == 0
    kept = payloads.put(b"kept", sync=False)
    payloads.sync()
    payloads.sync()
    assert payload_disk.reopen().get(kept) == b"kept"


def test_putting_a_staged_payload_again_with_sync_makes_it_durable(
    payload_disk: PayloadDisk,
) -> None:
    payloads = payload_disk.reopen()
    payload_hash = payloads.put(b"first only staged", sync=False)
    payloads.put(b"first only staged")
    assert payload_disk.reopen().has(payload_hash)


def test_staging_has_a_limit_of_bytes(tmp_path: Path) -> None:
    disk = FilePayloadDisk(tmp_path)
    payloads = PayloadStore(disk._database.reopen(), disk.folder)
    size = 65_536
    for number in range(STAGED_BYTES_MAX // size):
        assert payloads._staged_bytes == number * size
        payloads.put(number.to_bytes(4, "big") * (size // 4), sync=False)
    assert payloads._staged_bytes == 0
    assert disk.reopen().bytes_total == STAGED_BYTES_MAX


def test_staged_payloads_are_one_synced_batch(tmp_path: Path) -> None:
    database = ObservedDatabase()
    payloads = PayloadStore(database, tmp_path)
    for number in range(100):
        payloads.put(b"%d" % number, sync=False)
    assert database.syncs == []
    payloads.sync()
    payloads.sync()
    assert database.syncs == [True]
    payloads.put(b"at once")
    assert database.syncs == [True, True]


def test_a_deleted_payload_is_no_longer_staged(tmp_path: Path) -> None:
    payloads = PayloadStore(MemoryDatabase(), tmp_path)
    payloads.delete(payloads.put(bytes(100), sync=False))
    assert payloads._staged_bytes == 0


def test_a_full_batch_of_staged_payloads_fits_the_database(tmp_path: Path) -> None:
    database = LevelDatabase(tmp_path / "database")
    payloads = PayloadStore(database, tmp_path / "payloads")
    hashes = [payloads.put(b"%d" % number, sync=False) for number in range(5000)]
    payloads.sync()
    assert all(payloads.has(payload_hash) for payload_hash in hashes)
    database.close()


@pytest.mark.parametrize("damage", ["changed", "cut", "empty", "longer"])
def test_a_damaged_file_is_told_with_the_way_out(tmp_path: Path, damage: str) -> None:
    disk = FilePayloadDisk(tmp_path)
    payloads = disk.reopen()
    data = os.urandom(1000)
    payload_hash = payloads.put(data)
    path = disk.folder / payload_hash.hex()
    assert path.read_bytes() == data
    harmed = {"changed": flip(data, 500), "cut": data[:-1], "empty": b"", "longer": data + b"x"}
    path.write_bytes(harmed[damage])
    with pytest.raises(PayloadDamaged, match="remove the file, and start the node again"):
        payloads.get(payload_hash)
    with pytest.raises(PayloadDamaged, match=payload_hash.hex()):
        payloads.open_memmap(payload_hash)
    if damage != "empty":
        array = payloads.open_memmap(payload_hash, verify=False)
        assert array is not None
        assert array.tobytes() == harmed[damage]


def test_what_is_only_looked_at_is_not_hashed(tmp_path: Path) -> None:
    disk = FilePayloadDisk(tmp_path)
    payloads = disk.reopen()
    payload_hash = payloads.put(bytes(500))
    file = disk.folder / payload_hash.hex()
    file.write_bytes(flip(file.read_bytes(), 3))
    assert payloads.get(payload_hash, verify=False) not in (None, bytes(500))
    with pytest.raises(PayloadDamaged):
        payloads.get(payload_hash)


def test_what_a_crashed_put_left_is_swept_and_other_files_are_not(tmp_path: Path) -> None:
    disk = FilePayloadDisk(tmp_path)
    payload_hash = disk.reopen().put(bytes(1000))
    (disk.folder / f"{'ab' * 32}.3.tmp").write_bytes(b"half a payload")
    (disk.folder / "note.txt").write_bytes(b"somebody's note")
    (disk.folder / ("AB" * 32)).write_bytes(b"not a name this store gives")
    payloads = disk.reopen()
    names = {path.name for path in disk.folder.iterdir()}
    assert names == {payload_hash.hex(), "note.txt", "AB" * 32}
    assert list(payloads.iterate_hashes()) == [payload_hash]
    assert payloads.bytes_total == 1000


def test_payload_files_are_private(tmp_path: Path) -> None:
    disk = FilePayloadDisk(tmp_path)
    payload_hash = disk.reopen().put(bytes(1000))
    assert (disk.folder / payload_hash.hex()).stat().st_mode & 0o777 == 0o600
    assert disk.folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_used_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageInaccessible, match="cannot be used"):
        PayloadStore(MemoryDatabase(), tmp_path / "file")


def test_a_folder_that_is_lost_is_told_in_a_sentence(tmp_path: Path) -> None:
    payloads = PayloadStore(MemoryDatabase(), tmp_path / "payloads", inline_bytes_max=0)
    payload_hash = payloads.put(b"data")
    (tmp_path / "payloads").rename(tmp_path / "elsewhere")
    (tmp_path / "payloads").write_bytes(b"")
    for use in (payloads.has, payloads.get, payloads.open_memmap, payloads.delete):
        with pytest.raises(StorageInaccessible, match="cannot be used"):
            use(payload_hash)


CHILD_WITH_A_FILE_LIMIT = """
import resource, sys
from pathlib import Path
from store.database import LevelDatabase
from store.errors import DiskFull
from store.payloads import PayloadStore

home = Path(sys.argv[1])
payloads = PayloadStore(LevelDatabase(home / "database"), home / "payloads", inline_bytes_max=10)
payloads.put(bytes(1000))
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    payloads.put(bytes(8192))
except DiskFull as error:
    print(error)
print(payloads.bytes_total, sorted(path.name for path in (home / "payloads").iterdir()))
payloads.put(bytes(4096))
print(payloads.bytes_total)
"""


def test_a_file_size_limit_is_a_full_disk_and_leaves_nothing(tmp_path: Path) -> None:
    output, errors = run_python(CHILD_WITH_A_FILE_LIMIT, tmp_path)
    assert errors == ""
    sentence, rest, after = output.splitlines()
    assert "no room" in sentence
    assert rest == f"1000 ['{compute_content_hash(bytes(1000)).hex()}']"
    assert after == "5096"


CHILD_THAT_IS_KILLED = """
import os, sys
from pathlib import Path
from store.database import LevelDatabase
from store.payloads import PayloadStore

home = Path(sys.argv[1])
payloads = PayloadStore(LevelDatabase(home / "database"), home / "payloads", inline_bytes_max=100)
size = 0
while True:
    size = (size * 7 + 13) % 300_000
    print(payloads.put(os.urandom(size)).hex(), flush=True)
"""


def test_every_payload_that_was_put_survives_kill_9(tmp_path: Path) -> None:
    with start_python(CHILD_THAT_IS_KILLED, tmp_path) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(40)]
        child.kill()
        lines += child.stdout.readlines()
    hashes = [bytes.fromhex(line) for line in lines if line.endswith("\n")]
    payloads = FilePayloadDisk(tmp_path).reopen()
    for payload_hash in hashes:
        data = payloads.get(payload_hash)
        assert data is not None
        assert compute_content_hash(data) == payload_hash
    assert list((tmp_path / "payloads").glob("*.tmp")) == []
    assert len(list(payloads.iterate_hashes())) - len(hashes) in (0, 1)


@pytest.mark.parametrize("size", [50, 20_000])
def test_several_threads_may_put_the_same_payloads(tmp_path: Path, size: int) -> None:
    disk = FilePayloadDisk(tmp_path)
    payloads = disk.reopen()
    barrier = threading.Barrier(4)
    failures: list[BaseException] = []

    def put() -> None:
        barrier.wait()
        try:
            for number in range(15):
                payloads.put(bytes([number]) * size, sync=number % 2 == 0)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=put) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert payloads.bytes_total == 15 * size
    payloads.sync()
    payloads = disk.reopen()
    assert payloads.bytes_total == 15 * size
    assert len(list(payloads.iterate_hashes())) == 15
    assert list(disk.folder.glob("*.tmp")) == []


def test_a_sync_covers_a_name_that_another_thread_has_just_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    payloads = FilePayloadDisk(tmp_path).reopen()
    payloads.sync()
    data = bytes(1000)
    is_named, may_go_on = threading.Event(), threading.Event()
    synced_by: list[str] = []

    def observe(_: Path) -> None:
        synced_by.append(threading.current_thread().name)
        if threading.current_thread().name == "putting":
            is_named.set()
            assert may_go_on.wait(10)

    monkeypatch.setattr("store.payload_files.sync_folder", observe)
    putting = threading.Thread(target=payloads.put, args=(data,), name="putting")
    putting.start()
    assert is_named.wait(10)
    # The payload is there, but a power failure could still take its name.
    assert payloads.has(compute_content_hash(data))
    payloads.sync()
    assert synced_by == ["putting", "MainThread"]
    may_go_on.set()
    putting.join()
    payloads.sync()
    assert synced_by == ["putting", "MainThread"]


def test_the_first_sync_covers_names_that_an_earlier_process_gave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FilePayloadDisk(tmp_path)
    disk.reopen().put(bytes(1000))
    payloads = disk.reopen()
    synced: list[Path] = []
    monkeypatch.setattr("store.payload_files.sync_folder", synced.append)
    payloads.sync()
    payloads.sync()
    assert synced == [disk.folder]


def test_a_failed_put_gives_its_space_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    payloads = FilePayloadDisk(tmp_path).reopen(total_bytes_max=1000)

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("store.payload_files.write_temporary", refuse)
        with pytest.raises(DiskFull):
            payloads.put(bytes(1000))
    assert payloads.bytes_total == 0
    payloads.put(bytes(1000))


STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "stage", "delete", "sync", "reopen"]), st.integers(0, 9)),
    max_size=30,
)


@settings(max_examples=25, deadline=None)
@given(steps=STEPS)
def test_both_stores_against_a_dict(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    disk = FilePayloadDisk(tmp_path_factory.mktemp("payloads"))
    stores: list[Payloads] = [disk.reopen(), MemoryPayloadStore()]
    stored: dict[bytes, bytes] = {}
    durable: dict[bytes, bytes] = {}
    for step, number in steps:
        data = bytes([number]) * (11 * number)
        payload_hash = compute_content_hash(data)
        match step:
            case "put" | "stage":
                for store in stores:
                    assert store.put(data, sync=step == "put") == payload_hash
                stored[payload_hash] = data
                durable = dict(stored) if step == "put" else durable
            case "delete":
                answers = [store.delete(payload_hash) for store in stores]
                assert answers == [payload_hash in stored] * 2
                stored.pop(payload_hash, None)
                durable.pop(payload_hash, None)
            case "sync":
                for store in stores:
                    store.sync()
                durable = dict(stored)
            case _:
                for store in stores:
                    store.sync()
                durable = dict(stored)
                stores = [disk.reopen(), stores[1].reopen()]  # type: ignore[attr-defined]
        for store in stores:
            assert list(store.iterate_hashes()) == sorted(stored)
            assert store.bytes_total == sum(map(len, stored.values()))
            assert all(store.get(key) == value for key, value in stored.items())
    disk.close()
