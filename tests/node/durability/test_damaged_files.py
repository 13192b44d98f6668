"""Each file of a node's data damaged in turn: it goes on from what was, or says what to do."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from quorate.chain.errors import QuorateError
from quorate.chain.transaction import Transfer

from ledger.state import State
from node.home import Home
from node.mempool.journal import Journal, JournalRecord
from node.storage import open_storage
from store.database import LevelDatabase
from store.errors import DatabaseDamaged
from tests.node.cluster import USERS, make_key, sign
from tests.node.durability.file_cluster import assert_nothing_signed_twice, open_file_cluster
from tests.node.durability.recordings import DIMENSION, Recording
from tests.node.test_training import Trainer

Harm = Callable[[Path], None]
DAMAGED = b"refused to its reader"


def flip_first(path: Path) -> None:
    _flip(path, 0)


def flip_middle(path: Path) -> None:
    _flip(path, path.stat().st_size // 2)


def flip_last(path: Path) -> None:
    _flip(path, path.stat().st_size - 1)


def cut_in_half(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    path.unlink()


HARMS: tuple[Harm, ...] = (flip_first, flip_middle, flip_last, cut_in_half, empty, remove)


def _flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x5A
    path.write_bytes(data)


def list_files(home: Home, folder: Path) -> list[str]:
    """The files of a folder that hold something, by their path in the home."""
    found = [
        str(path.relative_to(home.folder))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.stat().st_size and not path.name.startswith("LOG")
    ]
    assert found
    return found


async def start_harmed(recording: Recording, folder: Path) -> str | None:
    """Start the node of a home, let it go on for two heights, and return why it refused."""
    async with open_file_cluster(folder, 0, genesis=recording.genesis) as cluster:
        cluster.signed = recording.copy_signed()
        member = cluster.add(make_key(1))
        try:
            await cluster.start(member)
            await cluster.wait_for_height(recording.height + 2)
            await cluster.stop(member)
        except QuorateError as error:
            # Also what it says when it stops; a defect of the program is none of these.
            return str(error)
        finally:
            assert_nothing_signed_twice(cluster.signed)
        assert member.failure is None, member.failure
        return None


async def try_all(
    recording: Recording, files: list[str], harms: tuple[Harm, ...], folder: Path
) -> dict[tuple[str, str], str | None]:
    before = read_blocks(Home(recording.folder / "0"), recording, folder / "untouched")
    outcomes: dict[tuple[str, str], str | None] = {}
    for name in files:
        for harm in harms:
            home = recording.copy(folder / "net" / "0")
            harm(home.folder / name)
            sentence = await start_harmed(recording, folder / "net")
            outcomes[name, harm.__name__] = sentence
            if sentence is None:
                after = read_blocks(home, recording, folder / "after")
                assert len(after) >= len(before) + 2
                # What nobody has read since may be damaged still; it is told to who reads it.
                for height, block in before.items():
                    assert after[height] in (block, DAMAGED), (name, harm)
            shutil.rmtree(folder / "net")
    return outcomes


def read_blocks(home: Home, recording: Recording, scratch: Path) -> dict[int, bytes | None]:
    shutil.copytree(home.folder, scratch)
    with open_storage(Home(scratch), recording.config) as storage:
        chain = storage.chain
        blocks: dict[int, bytes | None] = {}
        for height in range(1, chain.height + 1):
            try:
                blocks[height] = chain.load_block(height)
            except DatabaseDamaged:
                blocks[height] = DAMAGED
    shutil.rmtree(scratch)
    return blocks


def assert_way_out(outcomes: dict[tuple[str, str], str | None]) -> None:
    for case, sentence in outcomes.items():
        if sentence is not None:
            ways = ("restore", "remove the file", "start the node with the version", "remove the")
            assert any(way in sentence for way in ways), (case, sentence)


async def test_each_file_of_the_database(training_run: Recording, tmp_path: Path) -> None:
    home = Home(training_run.folder / "0")
    files = list_files(home, home.blocks_folder)
    outcomes = await try_all(training_run, files, HARMS, tmp_path)
    assert_way_out(outcomes)
    # A database that has lost something is never taken for a shorter chain or an empty one.
    went_on = {case for case, sentence in outcomes.items() if sentence is None}
    assert not {case for case in went_on if case[1] in {"cut_in_half", "empty", "remove"}}


def test_a_damaged_table_is_never_read_as_if_it_were_whole(
    training_run: Recording, tmp_path: Path
) -> None:
    home = training_run.copy(tmp_path / "0")
    whole = read_entries(home.blocks_folder, tmp_path / "scratch")
    tables = list(home.blocks_folder.glob("*.ldb"))
    assert tables
    refused = 0
    for table in tables:
        size = table.stat().st_size
        for offset in range(0, size, max(1, size // 60)):
            _flip(table, offset)
            try:
                assert read_entries(home.blocks_folder, tmp_path / "scratch") == whole
            except DatabaseDamaged as error:
                refused += 1
                assert_way_out({(table.name, str(offset)): str(error)})
            _flip(table, offset)
    assert refused > 50


def read_entries(folder: Path, scratch: Path) -> list[tuple[bytes, bytes]]:
    shutil.copytree(folder, scratch)
    try:
        database = LevelDatabase(scratch)
        try:
            return list(database.iterate(b"", b"\xff"))
        finally:
            database.close()
    finally:
        shutil.rmtree(scratch)


async def test_each_file_of_the_journal(training_run: Recording, tmp_path: Path) -> None:
    home = Home(training_run.folder / "0")
    files = list_files(home, home.mempool_folder)
    outcomes = await try_all(training_run, files, HARMS[:4], tmp_path)
    assert_way_out(outcomes)
    # Nobody else has what it holds: whoever moves it away is told what that means.
    refusals = [sentence for sentence in outcomes.values() if sentence is not None]
    assert len(refusals) > 4
    assert all("must then be submitted again" in sentence for sentence in refusals)


@pytest.mark.parametrize("harm", HARMS)
async def test_a_journal_with_pending_transactions(
    training_run: Recording, tmp_path: Path, harm: Harm
) -> None:
    """What was accepted is pending again, or the node refuses: it is never lost in silence."""
    pending = 3
    home = training_run.copy(tmp_path / "net" / "0")
    with open_storage(home, training_run.config) as storage:
        records = [
            JournalRecord(sign(USERS[7], nonce, Transfer(USERS[6].address, 1)), None)
            for nonce in range(pending)
        ]
        await Journal(storage.journal).append(records)
    files = list_files(home, home.mempool_folder)
    shutil.copytree(home.folder, tmp_path / "whole")
    refused = 0
    for name in files:
        harm(home.folder / name)
        sentence = await start_harmed(training_run, tmp_path / "net")
        if sentence is None:
            assert get_nonce(home, training_run) == pending
        else:
            refused += 1
            assert "must then be submitted again" in sentence
        shutil.rmtree(home.folder)
        shutil.copytree(tmp_path / "whole", home.folder)
    assert refused


def get_nonce(home: Home, recording: Recording) -> int:
    with open_storage(home, recording.config) as storage:
        state = State(storage.chain, recording.genesis)
        return state.get_account(USERS[7].address).nonce


async def test_each_payload_file(training_run: Recording, tmp_path: Path) -> None:
    """Past rounds' updates are needed by nothing; the weights in force are, at the next round."""
    home = Home(training_run.folder / "0")
    files = list_files(home, home.payloads_folder)
    outcomes = await try_all(training_run, files, (flip_middle, remove), tmp_path)
    assert_way_out(outcomes)


@pytest.mark.parametrize("harm", [flip_middle, cut_in_half, remove])
async def test_the_weights_in_force(tmp_path: Path, harm: Harm) -> None:
    """Damaged ones stop the node that needs them; what it is told to do brings them back."""
    async with open_file_cluster(tmp_path, 4) as cluster:
        for member in cluster.members:
            await cluster.start(member)
        trainer = Trainer(cluster, DIMENSION)  # type: ignore[arg-type]
        await trainer.begin()
        await trainer.run_round(0)
        victim = cluster.members[3]
        weights = victim.home.payloads_folder / trainer.tasks()[0].record.weights_root.hex()
        await cluster.stop(victim)
        harm(weights)
        await cluster.start(victim)
        for user in range(5):
            await trainer.update(user, np.arange(DIMENSION) % 5 + user)
        if harm is not remove:
            sentence = str(await cluster.fail(victim))
            assert f"{weights} is damaged" in sentence
            assert "remove the file, and start the node again to fetch it" in sentence
            weights.unlink()
            await cluster.start(victim)
        await trainer.wait_for_round(2)
        assert len({task.record.weights_root for task in trainer.tasks()}) == 1


@pytest.mark.parametrize("harm", [flip_first, flip_last, cut_in_half, empty])
def test_no_reader_is_given_a_damaged_payload(
    training_run: Recording, tmp_path: Path, harm: Harm
) -> None:
    home = training_run.copy(tmp_path / "0")
    names = {path.name for path in home.payloads_folder.iterdir()}
    for name in names:
        harm(home.payloads_folder / name)
    with open_storage(home, training_run.config) as storage:
        held = [name for name in storage.payloads.iterate_hashes() if name.hex() in names]
        assert len(held) > 2
        for name in held:
            for read in (storage.payloads.get, storage.payloads.open_memmap):
                with pytest.raises(QuorateError, match="is damaged: check the disk, remove"):
                    read(name)


@pytest.mark.parametrize("harm", HARMS)
async def test_the_last_signed_record(training_run: Recording, tmp_path: Path, harm: Harm) -> None:
    home = training_run.copy(tmp_path / "net" / "0")
    harm(home.validator_state_file)
    sentence = await start_harmed(training_run, tmp_path / "net")
    if harm in (flip_first, flip_middle, flip_last):
        # The record is there twice; `start_harmed` has seen that nothing was signed again.
        assert sentence is None
    else:
        assert sentence is not None
        assert "restore it from" in sentence


async def test_what_is_left_by_crashes_is_swept(training_run: Recording, tmp_path: Path) -> None:
    home = training_run.copy(tmp_path / "net" / "0")
    left = [home.payloads_folder / ("ab" * 32 + ".1.tmp"), home.log_folder / "000000000009.wal.tmp"]
    for path in left:
        path.write_bytes(b"half")
    (home.data_folder / "validator_state.json.tmp").write_bytes(b"{")
    assert await start_harmed(training_run, tmp_path / "net") is None
    assert not any(path.exists() for path in left)
