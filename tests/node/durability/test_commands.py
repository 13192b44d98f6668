"""The commands for a stopped node, as an operator gives them, on a chain that has been decided."""

import json
from pathlib import Path

import pytest

from node.agreement.sign_record import read_sign_record
from node.home import Home
from tests.cli.console import Console
from tests.node.durability.recordings import Recording


@pytest.fixture
def quorate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Console:
    return Console(monkeypatch, capsys)


@pytest.fixture
def home(training_run: Recording, tmp_path: Path) -> Home:
    return training_run.copy(tmp_path / "home")


def give(quorate: Console, home: Home, *command: object) -> dict[str, object]:
    done = quorate("--output", "json", *command, "--home", home.folder)
    assert done.code == 0, done.err
    data = done.data
    assert isinstance(data, dict)
    return data


def get_height(quorate: Console, home: Home) -> object:
    chain = give(quorate, home, "inspect")["chain"]
    assert isinstance(chain, dict)
    return chain["height"]


def test_one_after_the_other(quorate: Console, home: Home, training_run: Recording) -> None:
    height, record = training_run.height, home.validator_state_file.read_bytes()
    backup = home.folder.parent / "backup"
    assert give(quorate, home, "backup", backup)["height"] == height
    assert json.loads((backup / "backup.json").read_text())["height"] == height
    assert give(quorate, home, "replay")["last"] == height
    assert give(quorate, home, "rollback", "--yes")["height"] == height - 1
    assert get_height(quorate, home) == height - 1
    assert give(quorate, home, "replay", "--from-height", height - 2)["last"] == height - 1
    give(quorate, home, "reset-state", "--yes")
    assert get_height(quorate, home) == 0
    give(quorate, home, "unsafe-reset-all", "--yes")
    assert home.validator_state_file.read_bytes() == record
    signer = give(quorate, home, "inspect")["signer"]
    assert isinstance(signer, dict)
    last = read_sign_record(home.validator_state_file)
    assert last is not None
    assert signer["height"] == last.height


def test_a_replay_that_differs_exits_with_one(
    quorate: Console, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.execution.apply_transfer", lambda *_: None)
    done = quorate("replay", "--home", home.folder)
    assert done.code == 1
    assert "compare versions" in done.sentence
