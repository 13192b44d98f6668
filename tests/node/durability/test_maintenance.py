"""The works on a stopped node's data: each does what it says, and leaves alone what it says."""

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from quorate.chain.block import Block
from quorate.chain.codec import decode
from quorate.chain.errors import StorageError
from quorate.chain.transaction import SignedTransaction, SubmitUpdate

from node.errors import HomeInUse, MaintenanceError, ReplayDiffers
from node.home import Home
from node.maintenance import going_back
from node.maintenance.backups import back_up
from node.maintenance.going_back import go_back
from node.maintenance.inspection import find_problems, inspect
from node.maintenance.replay import replay
from node.maintenance.resets import reset_all, reset_state
from node.storage import open_storage
from store import layout
from store.chain_store import ChainStore
from store.database import Batch
from store.errors import NothingToUndo
from store.undo import UNDO_HEIGHTS_MAX
from tests.node.cluster import make_key
from tests.node.durability.file_cluster import (
    assert_nothing_signed_twice,
    open_file_cluster,
)
from tests.node.durability.recordings import Recording


@pytest.fixture
def home(training_run: Recording, tmp_path: Path) -> Home:
    return training_run.copy(tmp_path / "net" / "0")


def read_tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "LOCK"
    }


def read_blocks(home: Home, recording: Recording) -> dict[int, bytes | None]:
    with open_storage(home, recording.config) as storage:
        chain = storage.chain
        return {height: chain.load_block(height) for height in range(1, chain.height + 1)}


def get_works(home: Home, elsewhere: Path) -> Iterator[object]:
    yield lambda: inspect(home)
    yield lambda: go_back(home)
    yield lambda: replay(home)
    yield lambda: reset_state(home)
    yield lambda: reset_all(home)
    yield lambda: back_up(home, elsewhere)


@pytest.mark.parametrize("number", range(6))
def test_nothing_works_on_a_running_node(home: Home, tmp_path: Path, number: int) -> None:
    before = read_tree(home.folder)
    work = list(get_works(home, tmp_path / "elsewhere"))[number]
    with home.lock(), pytest.raises(HomeInUse, match=r"on a stopped node only.*stop that one"):
        work()  # type: ignore[operator]
    assert read_tree(home.folder) == before
    assert not (tmp_path / "elsewhere").exists()


# --- rollback -------------------------------------------------------------------------------------


async def go_on(
    recording: Recording, folder: Path, height: int, *, is_fresh: bool = False
) -> dict[int, bytes | None]:
    """Let the node of a home go on to a height; return its blocks."""
    async with open_file_cluster(folder, 0, genesis=recording.genesis) as cluster:
        if not is_fresh:
            cluster.signed = recording.copy_signed()
        member = cluster.add(make_key(1))
        await cluster.start(member)
        await cluster.wait_for_height(height)
        await cluster.stop(member)
        assert_nothing_signed_twice(cluster.signed)
    return read_blocks(member.home, recording)


async def test_after_a_rollback_the_node_decides_the_same_block_again(
    home: Home, training_run: Recording, tmp_path: Path
) -> None:
    height = training_run.height
    before, record = read_blocks(home, training_run), home.validator_state_file.read_bytes()
    done = go_back(home)
    assert (done.height_before, done.height) == (height, height - 1)
    assert home.validator_state_file.read_bytes() == record
    assert set(read_blocks(home, training_run)) == set(range(1, height))
    after = await go_on(training_run, tmp_path / "net", height + 2)
    assert {h: after[h] for h in before} == before


async def test_a_block_with_updates_is_executed_again_without_peers(
    home: Home, training_run: Recording, tmp_path: Path
) -> None:
    """The updates' payloads are named by no state and no pending transaction, but by that block."""
    before = read_blocks(home, training_run)
    height = max(h for h, raw in before.items() if raw is not None and has_update(raw))
    for _ in range(training_run.height - height):
        go_back(home, drop_block=True)
    go_back(home)
    with pytest.raises(MaintenanceError, match=r"gone back to height .* already"):
        go_back(home)
    after = await go_on(training_run, tmp_path / "net", height)
    assert after == {h: before[h] for h in range(1, height + 1)}


def has_update(raw: bytes) -> bool:
    block = decode(Block, raw, len(raw))
    signed = [decode(SignedTransaction, each, len(each)) for each in block.transactions]
    return any(isinstance(each.transaction.body, SubmitUpdate) for each in signed)


def test_several_rollbacks_go_back_over_a_training_round(
    home: Home, training_run: Recording
) -> None:
    before = read_blocks(home, training_run)
    roots = [go_back(home, drop_block=True).state_root for _ in range(6)]
    assert len(set(roots)) == 6
    # The validator will not sign a second time what it has signed, and alone it cannot go on.
    left = read_blocks(home, training_run)
    assert left == {h: before[h] for h in range(1, training_run.height - 5)}
    assert replay(home).last == training_run.height - 6


async def test_a_dropped_block_comes_from_a_peer(locked_run: Recording, tmp_path: Path) -> None:
    folder = locked_run.copy_all(tmp_path / "net")
    before = read_blocks(Home(folder / "1"), locked_run)
    assert not go_back(Home(folder / "1"), drop_block=True).is_block_kept
    async with open_file_cluster(folder, 4, genesis=locked_run.genesis) as cluster:
        cluster.signed = locked_run.copy_signed()
        for member in cluster.members:
            await cluster.start(member)
        await cluster.wait_for_height(locked_run.height + 2)
        for member in cluster.members:
            await cluster.stop(member)
        assert_nothing_signed_twice(cluster.signed)
    after = read_blocks(Home(folder / "1"), locked_run)
    assert {h: after[h] for h in before} == before


async def test_a_crash_between_log_and_database_leaves_the_block_where_it_was(
    home: Home, training_run: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_blocks(home, training_run)

    def crash(_: ChainStore) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ChainStore, "rollback", crash)
        with pytest.raises(KeyboardInterrupt):
            go_back(home)
    assert read_blocks(home, training_run) == before
    after = await go_on(training_run, tmp_path / "net", training_run.height + 2)
    assert {h: after[h] for h in before} == before


def test_rollback_ends_where_nothing_is_kept(home: Home, training_run: Recording) -> None:
    reachable = min(UNDO_HEIGHTS_MAX, training_run.height)
    for _ in range(reachable):
        go_back(home, drop_block=True)
    before = read_tree(home.folder)
    with pytest.raises((NothingToUndo, MaintenanceError), match=r"reset-state|not decided"):
        go_back(home, drop_block=True)
    assert read_tree(home.validator_state_file.parent / "payloads") == {
        name.removeprefix("data/payloads/"): raw
        for name, raw in before.items()
        if name.startswith("data/payloads/")
    }


# --- replay ---------------------------------------------------------------------------------------


def test_replay_gives_every_result_again(home: Home, training_run: Recording) -> None:
    before = read_tree(home.payloads_folder)
    told: list[tuple[int, int]] = []
    done = replay(home, progress=lambda height, last: told.append((height, last)))
    height = training_run.height
    assert (done.first, done.last) == (1, height)
    assert told == [(each, height) for each in range(1, height + 1)]
    summary = json.loads(json.dumps(inspect(home), default=bytes.hex))
    assert done.state_root.hex() == summary["chain"]["state_root"]
    assert read_tree(home.payloads_folder) == before
    assert not list(home.data_folder.glob("replay-*"))


def test_replay_of_the_last_blocks(home: Home, training_run: Recording) -> None:
    height = training_run.height
    for first in (height, height - 5):
        assert replay(home, first).first == first
    with pytest.raises(MaintenanceError, match=f"no block {height + 1}"):
        replay(home, height + 1)


def test_replay_finds_a_wrong_state(home: Home, training_run: Recording) -> None:
    """What an older program would have left: receipts and state that blocks do not lead to."""
    height = training_run.height - 1
    change(home, training_run, layout.RECEIPTS + layout.encode_height(height))
    with pytest.raises(ReplayDiffers, match=f"receipts of block {height}"):
        replay(home, height)


def test_replay_finds_a_wrong_block(home: Home, training_run: Recording) -> None:
    change(home, training_run, layout.BLOCK + layout.encode_height(3))
    with pytest.raises((ReplayDiffers, StorageError)):
        replay(home)


def test_replay_finds_another_result(
    home: Home, training_run: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    del training_run
    monkeypatch.setattr("ledger.accounts.apply_transfer", lambda *_: None)
    monkeypatch.setattr("ledger.execution.apply_transfer", lambda *_: None)
    with pytest.raises(ReplayDiffers, match=r"state_root is .*, computed .*compare versions"):
        replay(home)


def test_replay_tells_which_payload_was_dropped(home: Home) -> None:
    for path in home.payloads_folder.iterdir():
        path.unlink()
    with pytest.raises(MaintenanceError, match=r"dropped after its training round.*--from-height"):
        replay(home)


def change(home: Home, recording: Recording, key: bytes) -> None:
    """Change a stored value as no disk would: with its checksums right."""
    with open_storage(home, recording.config) as storage:
        database = storage.chain._database
        value = database.get(key)
        assert value is not None
        batch = Batch()
        batch.put(key, value[:-1] + bytes([value[-1] ^ 1]))
        database.write(batch, sync=True)


# --- inspect --------------------------------------------------------------------------------------


def test_inspect_tells_and_changes_nothing(home: Home, training_run: Recording) -> None:
    tail = sorted(home.log_folder.iterdir())[-1]
    with tail.open("ab") as file:
        file.write(b"torn")
    before = read_tree(home.folder)
    summary = json.loads(json.dumps(inspect(home), default=bytes.hex))
    assert read_tree(home.folder) == before
    assert not list(home.data_folder.glob("inspect-*"))
    chain, log = summary["chain"], summary["log"]
    assert (chain["base"], chain["height"]) == (1, training_run.height)
    assert chain["can_roll_back"] is True
    assert chain["payloads"] >= 7
    assert log["torn_bytes"] == 4
    assert log["last_mark"] == training_run.height
    assert summary["signer"]["height"] >= training_run.height
    assert summary["genesis"]["genesis_hash"] == training_run.genesis.hash.hex()
    assert summary["mempool"] == {"own_pending_transactions": 0}


def test_inspect_tells_of_damage_and_of_the_rest(home: Home) -> None:
    next(home.blocks_folder.glob("MANIFEST-*")).write_bytes(b"\xff" * 50)
    home.validator_state_file.write_bytes(b"{}")
    summary = inspect(home)
    problems = find_problems(summary)
    assert len(problems) == 2
    assert any("database" in problem and "restore" in problem for problem in problems)
    assert any("last-signed record" in problem for problem in problems)
    # The copy that was looked at is gone when somebody reads of it.
    assert any(f"{home.blocks_folder} is damaged" in problem for problem in problems)
    assert "inspect-" not in str(summary)
    assert summary["mempool"] == {"own_pending_transactions": 0}


# --- resets ---------------------------------------------------------------------------------------


async def test_reset_state_keeps_keys_and_record(locked_run: Recording, tmp_path: Path) -> None:
    folder = locked_run.copy_all(tmp_path / "net")
    home = Home(folder / "2")
    kept = read_tree(home.config_folder) | {"r": home.validator_state_file.read_bytes()}
    dropped = reset_state(home)
    assert dropped.is_sign_record_kept
    assert {path.name for path in dropped.paths} == {
        "blocks",
        "consensus.wal",
        "mempool",
        "payloads",
    }
    left = read_tree(home.config_folder) | {"r": home.validator_state_file.read_bytes()}
    assert left == kept
    # It fetches the chain, votes on, and never for another block than it was locked on.
    async with open_file_cluster(folder, 4, genesis=locked_run.genesis) as cluster:
        cluster.signed = locked_run.copy_signed()
        for member in cluster.members:
            await cluster.start(member)
        await cluster.wait_for_height(locked_run.height + 3)
        assert_nothing_signed_twice(cluster.signed)


def test_reset_all_drops_the_rest_but_not_the_record(home: Home) -> None:
    (home.data_folder / "addresses.json").write_text("[]")
    keys = read_tree(home.config_folder)
    record = home.validator_state_file.read_bytes()
    assert reset_all(home).is_sign_record_kept
    assert {path.name for path in home.data_folder.iterdir()} == {"LOCK", "validator_state.json"}
    assert home.validator_state_file.read_bytes() == record
    assert not reset_all(home, drop_sign_record=True).is_sign_record_kept
    assert {path.name for path in home.data_folder.iterdir()} == {"LOCK"}
    assert read_tree(home.config_folder) == keys


def test_a_reset_that_crashed_is_done_by_the_next(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    rename = Path.rename

    def crash(path: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", crash)
        with pytest.raises(KeyboardInterrupt):
            reset_state(home)
    reset_state(home)
    assert {path.name for path in home.data_folder.iterdir()} == {"LOCK", "validator_state.json"}


# --- backup ---------------------------------------------------------------------------------------


async def test_a_restored_backup_goes_on_where_it_was(
    home: Home, training_run: Recording, tmp_path: Path
) -> None:
    backup = tmp_path / "backups" / "first"
    made = back_up(home, backup)
    assert (made.height, made.has_keys, made.has_sign_record) == (
        training_run.height,
        False,
        False,
    )
    names = set(read_tree(backup))
    assert not {name for name in names if "key" in name or "validator_state" in name}
    contents = json.loads((backup / "backup.json").read_text())
    assert contents["height"] == training_run.height
    for name, facts in contents["files"].items():
        raw = (backup / name).read_bytes()
        assert (hashlib.sha256(raw).hexdigest(), len(raw)) == (facts["sha256"], facts["bytes"])
    assert names == set(contents["files"]) | {"backup.json"}
    # The disk is lost but for keys and record, which were kept elsewhere.
    before = read_blocks(home, training_run)
    reset_state(home)
    shutil.copytree(backup / "data", home.data_folder, dirs_exist_ok=True)
    after = await go_on(training_run, tmp_path / "net", training_run.height + 2)
    assert {h: after[h] for h in before} == before


def test_a_backup_with_everything_is_for_its_owner_alone(home: Home, tmp_path: Path) -> None:
    made = back_up(home, tmp_path / "all", with_keys=True, with_sign_record=True)
    copy = Home(tmp_path / "all")
    assert made.has_keys
    assert made.has_sign_record
    assert copy.validator_key_file.read_bytes() == home.validator_key_file.read_bytes()
    assert copy.validator_state_file.read_bytes() == home.validator_state_file.read_bytes()
    for path in (tmp_path / "all").rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077


def test_a_backup_overwrites_nothing(home: Home, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("x")
    with pytest.raises(MaintenanceError, match="something at"):
        back_up(home, tmp_path / "there")
    with pytest.raises(MaintenanceError, match="in the home folder itself"):
        back_up(home, home.folder / "backup")
    (tmp_path / "empty").mkdir()
    back_up(home, tmp_path / "empty")


def test_a_backup_that_fails_leaves_nothing(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(StorageError, match="no room"):
            back_up(home, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert not list(tmp_path.glob("*.tmp"))


def test_a_backup_needs_room(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(MaintenanceError, match="has 1000 left"):
        back_up(home, tmp_path / "new")


def test_going_back_before_anything_is_decided(tmp_path: Path, training_run: Recording) -> None:
    home = training_run.copy(tmp_path / "0")
    reset_state(home)
    with pytest.raises(MaintenanceError, match="not decided anything"):
        going_back.go_back(home)
