"""The commands for a stopped node: what they ask, what they print, and their exit codes."""

import json
import os
import socket
import time
from pathlib import Path

import pytest

from node.config import Config, P2pSection, write_config
from node.home import Home
from node.maintenance import surroundings
from node.maintenance.doctor import diagnose
from node.maintenance.findings import Level
from tests.cli.console import Console

DESTRUCTIVE = (("rollback",), ("reset-state",), ("unsafe-reset-all",))


@pytest.fixture
def home(quorate: Console, tmp_path: Path) -> Home:
    folder = tmp_path / "home"
    assert quorate("init", "--home", folder).code == 0
    return Home(folder)


def get_results(quorate: Console, home: Home) -> tuple[int, dict[str, tuple[str, str]]]:
    done = quorate("--output", "json", "doctor", "--home", home.folder)
    return done.code, {row["check"]: (row["result"], row["detail"]) for row in done.data["checks"]}


@pytest.mark.parametrize("command", DESTRUCTIVE)
def test_what_cannot_be_undone_is_asked_first(
    quorate: Console, home: Home, command: tuple[str, ...]
) -> None:
    (home.data_folder / "blocks").mkdir()
    refused = quorate(*command, "--home", home.folder)
    assert refused.code == 1
    assert "say --yes to go on without asking" in refused.sentence
    assert (home.data_folder / "blocks").exists()


@pytest.mark.parametrize(
    "command",
    [
        ("inspect",),
        ("backup", "elsewhere"),
        ("rollback", "--yes"),
        ("replay",),
        ("reset-state", "--yes"),
        ("unsafe-reset-all", "--yes"),
    ],
)
def test_a_running_node_is_left_alone(
    quorate: Console, home: Home, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home.folder.parent)
    with home.lock():
        refused = quorate(*command, "--home", home.folder)
    assert refused.code == 1
    assert refused.sentence.startswith("This works on a stopped node only.")
    assert f"pid {os.getpid()}" in refused.sentence


@pytest.mark.parametrize(
    "command",
    [
        ("inspect",),
        ("backup", "elsewhere"),
        ("rollback", "--yes"),
        ("replay",),
        ("reset-state", "--yes"),
        ("unsafe-reset-all", "--yes"),
    ],
)
def test_a_folder_that_is_no_home(
    quorate: Console, tmp_path: Path, command: tuple[str, ...]
) -> None:
    refused = quorate(*command, "--home", tmp_path / "nothing")
    assert refused.code == 1
    assert "is no home folder of a node" in refused.sentence
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("command", [("backup", "elsewhere"), ("rollback", "--yes"), ("replay",)])
def test_nothing_decided_yet(
    quorate: Console, home: Home, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home.folder.parent)
    refused = quorate(*command, "--home", home.folder)
    assert refused.code == 1
    assert "has not decided anything yet" in refused.sentence
    assert not (home.folder.parent / "elsewhere").exists()


def test_inspect_in_both_forms(quorate: Console, home: Home) -> None:
    shown = quorate("inspect", "--home", home.folder)
    assert shown.code == 0
    assert "height 0" in shown.out
    document = quorate("--output", "json", "inspect", "--home", home.folder).data
    assert document["chain"]["height"] == 0
    assert document["signer"] == document["signer"] | {"is_validator": True, "record": "missing"}


def test_inspect_of_a_damaged_home_exits_with_one(quorate: Console, home: Home) -> None:
    home.genesis_file.write_text("{}")
    done = quorate("--output", "json", "inspect", "--home", home.folder)
    assert done.code == 1
    assert "cannot be used" in done.data["genesis"]["problem"]


def test_resets_print_what_is_gone(quorate: Console, home: Home) -> None:
    home.validator_state_file.write_text("{}")
    (home.data_folder / "blocks").mkdir()
    (home.data_folder / "addresses").write_text("x")
    done = quorate("--output", "json", "reset-state", "--yes", "--home", home.folder)
    assert done.data == {
        "dropped": [str(home.data_folder / "blocks")],
        "is_sign_record_kept": True,
    }
    done = quorate("--output", "json", "unsafe-reset-all", "--yes", "--home", home.folder)
    assert done.data["dropped"] == [str(home.data_folder / "addresses")]
    assert done.data["is_sign_record_kept"] is True
    options = ("--yes", "--drop-sign-record", "--home", home.folder)
    done = quorate("--output", "json", "unsafe-reset-all", *options)
    assert done.data["is_sign_record_kept"] is False
    assert home.validator_key_file.exists()


# --- doctor ---------------------------------------------------------------------------------------


def test_doctor_finds_a_new_home_in_order(quorate: Console, home: Home) -> None:
    code, results = get_results(quorate, home)
    wrong = {check for check, (result, _) in results.items() if result == "wrong"}
    # Another node of this machine may have the default ports.
    assert wrong <= {"p2p port", "rpc port", "metrics port"}
    assert code == (1 if wrong else 0)
    assert {
        "settings",
        "genesis",
        "node key",
        "validator key",
        "database",
        "log",
        "sign record",
    } <= {check for check, (result, _) in results.items() if result == "good"}


def test_doctor_without_a_home(quorate: Console, tmp_path: Path) -> None:
    done = quorate("doctor", "--home", tmp_path)
    assert done.code == 1
    assert "is no home folder" in done.out


@pytest.mark.parametrize(
    ("check", "words"),
    [
        ("settings", "did you mean"),
        ("genesis", "copy there the one"),
        ("node key", "no key file"),
        ("validator key", "open to other users"),
        ("database", "is damaged"),
        ("log", "is damaged at byte 0"),
        ("sign record", "restore it"),
        ("home", "chmod 700"),
    ],
)
def test_doctor_finds_what_is_wrong(quorate: Console, home: Home, check: str, words: str) -> None:
    match check:
        case "settings":
            text = home.config_file.read_text()
            home.config_file.write_text(text.replace("moniker =", "monicker ="))
        case "genesis":
            home.genesis_file.write_text("{}")
        case "node key":
            home.node_key_file.unlink()
        case "validator key":
            home.validator_key_file.chmod(0o640)
        case "database":
            home.blocks_folder.mkdir()
            (home.blocks_folder / "MANIFEST-000002").write_bytes(b"x")
        case "log":
            home.log_folder.mkdir()
            (home.log_folder / "000000000001.wal").write_bytes(b"x" * 50)
        case "sign record":
            home.validator_state_file.write_text("{}")
        case _:
            home.data_folder.chmod(0o755)
    code, results = get_results(quorate, home)
    result, detail = results[check]
    assert result == ("warning" if check == "home" else "wrong")
    assert words in detail
    assert code == 1 or check == "home"


def test_doctor_leaves_a_running_node_alone(quorate: Console, home: Home) -> None:
    with home.lock():
        _, results = get_results(quorate, home)
    assert results["data"][0] == "skipped"
    assert "database" not in results
    assert "the node runs" in results["rpc port"][1]


def use(home: Home, **p2p: object) -> None:
    write_config(home, Config(p2p=P2pSection(**p2p)))  # type: ignore[arg-type]


def test_doctor_looks_at_ports_and_peers(quorate: Console, home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as there, socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))
        port, closed = there.getsockname()[1], gone.getsockname()[1]
        peer_id = json.loads(home.node_key_file.read_text())["peer_id"]
        use(
            home,
            listen=f"/ip4/127.0.0.1/tcp/{port}",
            persistent_peers=(f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer_id}",),
            bootstrap_peers=(f"/ip4/127.0.0.1/tcp/{closed}/p2p/{peer_id}",),
        )
        done = quorate("--output", "json", "doctor", "--home", home.folder)
    rows = done.data["checks"]
    found = {row["check"]: row for row in rows if row["check"] == "p2p port"}
    assert found["p2p port"]["result"] == "wrong"
    assert "change the port" in found["p2p port"]["detail"]
    peers = [row["result"] for row in rows if row["check"] == "peer"]
    assert peers == ["good", "warning"]
    assert done.code == 1


def test_a_clock_before_the_last_block_is_wrong() -> None:
    now_ms = time.time_ns() // 1_000_000
    assert surroundings.check_clock(now_ms + 60_000, None).level is Level.WRONG
    assert surroundings.check_clock(None, now_ms + 60_000).level is Level.WRONG
    assert surroundings.check_clock(now_ms - 1, now_ms - 2).level is not Level.WRONG


def test_too_little_room_and_too_few_files(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "DISK_BYTES_MIN", 1 << 62)
    monkeypatch.setattr(surroundings, "FILES_NEEDED", 1 << 40)
    found = {each.check: each for each in diagnose(home)}
    assert found["disk"].level is Level.WRONG
    assert "make room" in found["disk"].detail
    assert found["open files"].level is not Level.GOOD
    assert "ulimit -n" in found["open files"].detail
    monkeypatch.setattr(surroundings, "DISK_BYTES_MIN", 0)
    monkeypatch.setattr(surroundings, "DISK_BYTES_LOW", 1 << 62)
    assert surroundings.check_disk(home).level is Level.WARNING
