"""The command line in this process, with nothing of the machine's own settings."""

from pathlib import Path

import pytest

from tests.cli.console import Console


@pytest.fixture
def quorate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Console:
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    for name in ("QUORATE_HOME", "QUORATE_NODE", "QUORATE_KEYRING"):
        monkeypatch.delenv(name, raising=False)
    return Console(monkeypatch, capsys)
