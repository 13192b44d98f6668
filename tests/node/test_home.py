"""The home folder: its modes, its lock across processes, its genesis file."""

import os
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from quorate.chain.genesis import Admission, Genesis, GenesisValidator
from quorate.chain.keys import PrivateKey

from node.errors import GenesisError, HomeError, HomeInUse
from node.home import Home

ROOT = Path(__file__).parents[2]
GENESIS = Genesis(
    "home-test",
    0,
    Admission.OPEN,
    (GenesisValidator("one", PrivateKey(bytes(32)).public_key, 1),),
)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.create()
    return home


def test_folders_are_the_owners_alone(home: Home) -> None:
    home.create()
    for folder in (home.folder, home.config_folder, home.data_folder):
        assert mode_of(folder) == 0o700
    with home.lock():
        assert mode_of(home.data_folder / "LOCK") == 0o600


def test_the_layout(home: Home) -> None:
    inside = [
        home.config_file,
        home.genesis_file,
        home.node_key_file,
        home.validator_key_file,
        home.blocks_folder,
        home.mempool_folder,
        home.payloads_folder,
        home.log_folder,
        home.validator_state_file,
    ]
    assert [str(path.relative_to(home.folder)) for path in inside] == [
        "config/config.toml",
        "config/genesis.json",
        "config/node_key.json",
        "config/validator_key.json",
        "data/blocks",
        "data/mempool",
        "data/payloads",
        "data/consensus.wal",
        "data/validator_state.json",
    ]


def test_the_environment_names_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUORATE_HOME", str(tmp_path / "named"))
    assert Home.find().folder == tmp_path / "named"
    monkeypatch.delenv("QUORATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Home.find().folder == tmp_path / ".quorate"


def test_what_is_no_home(tmp_path: Path) -> None:
    with pytest.raises(HomeError, match=r"is no home folder.*quorate init --home"):
        Home(tmp_path).lock()
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    with pytest.raises(HomeError, match="cannot be used"):
        Home(blocked / "home").create()


_HOLDER = """
    import sys, time
    from pathlib import Path
    from node.home import Home
    lock = Home(Path(sys.argv[1])).lock()
    print("locked", flush=True)
    time.sleep(60)
"""


def test_another_process_holds_the_lock_until_it_dies(home: Home) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_HOLDER), str(home.folder)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}"},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        with pytest.raises(HomeInUse, match=rf"in use by another process \(pid {process.pid}\)"):
            home.lock()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    with home.lock():
        pass


def test_a_released_lock_is_free(home: Home) -> None:
    lock = home.lock()
    with pytest.raises(HomeInUse, match=str(os.getpid())):
        home.lock()
    lock.release()
    lock.release()
    with home.lock():
        pass


def test_a_lock_file_without_a_number_is_no_reason_to_fail(home: Home) -> None:
    with home.lock():
        (home.data_folder / "LOCK").write_text("nonsense")
        with pytest.raises(HomeInUse, match="in use by another process: stop"):
            home.lock()


def test_a_lock_file_that_cannot_be_opened(home: Home) -> None:
    (home.data_folder / "LOCK").mkdir()
    with pytest.raises(HomeError, match="cannot be opened"):
        home.lock()


def test_genesis_is_written_and_read(home: Home) -> None:
    home.write_genesis(GENESIS)
    assert home.read_genesis() == GENESIS
    assert mode_of(home.genesis_file) == 0o600


def test_genesis_files_that_cannot_be_used(home: Home) -> None:
    with pytest.raises(GenesisError, match="There is no genesis file"):
        home.read_genesis()
    home.genesis_file.write_text('{"chain_id": "x"}')
    with pytest.raises(GenesisError, match="cannot be used"):
        home.read_genesis()
    home.genesis_file.unlink()
    home.genesis_file.mkdir()
    with pytest.raises(GenesisError, match="cannot be read"):
        home.read_genesis()
    with pytest.raises(HomeError):
        home.write_genesis(GENESIS)
