"""Running ``quorate``: in this process, which is fast, or in one of its own, which is real."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import cli

ROOT = Path(__file__).resolve().parent.parent.parent
PROCESS_SECONDS_MAX = 90


@dataclass(frozen=True)
class Outcome:
    """What a run of the command line came to."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """What was printed as JSON."""
        return json.loads(self.out)

    @property
    def sentence(self) -> str:
        """The one line that an error ends with; there must be no traceback."""
        assert "Traceback" not in self.err, self.err
        last = self.err.rstrip("\n").splitlines()[-1]
        assert last.startswith("Error: "), self.err
        return last.removeprefix("Error: ")


@dataclass(frozen=True)
class Console:
    """The command line, called in this process."""

    monkeypatch: pytest.MonkeyPatch
    capture: pytest.CaptureFixture[str]

    def __call__(self, *arguments: object) -> Outcome:
        self.monkeypatch.setattr(sys, "argv", ["quorate", *map(str, arguments)])
        self.capture.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        written = self.capture.readouterr()
        return Outcome(code, written.out, written.err)


def make_environment(**changes: str) -> dict[str, str]:
    """The environment of a process of its own, without settings of whoever runs the tests."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("QUORATE_")}
    path = [str(ROOT), str(ROOT / "sdk"), os.environ.get("PYTHONPATH", "")]
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, path))} | changes


def get_command(*arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)]


def run_process(*arguments: object, **environment: str) -> Outcome:
    """Run the command line in a process of its own."""
    done = subprocess.run(
        get_command(*arguments),
        env=make_environment(**environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PROCESS_SECONDS_MAX,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)
