"""The command line in this process, with nothing of the machine's own settings."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from tests.cli.console import Console


@pytest.fixture
def quorate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Console:
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    for name in ("QUORATE_HOME", "QUORATE_NODE", "QUORATE_KEYRING"):
        monkeypatch.delenv(name, raising=False)
    return Console(monkeypatch, capsys)


@pytest.fixture
def quiet_node() -> Iterator[None]:
    """Keep the node's log, which is in this process, out of what the commands print."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.fixture
def keyring(quorate: Console, tmp_path: Path) -> None:
    quorate.monkeypatch.setenv("QUORATE_KEYRING", str(tmp_path / "ring"))
