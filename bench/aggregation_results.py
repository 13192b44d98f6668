"""The file that the aggregation benchmark goes on from: what each case came to, a line a case.

Owns the file's form and what of it counts. Never measures.

Cases are added when they end, so that an interruption loses the one at work alone. A last line
that was cut off counts for nothing. Figures count for the same number of threads: that time and
memory were enough says nothing else about them. A failure counts for the same limits alone.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from quorate.chain.known_types import decode_json

from bench.aggregation_cases import Figures
from bench.errors import BenchError

CASE_SECONDS_MAX: Final = 60
MEMORY_MIB_DEFAULT: Final = 12 << 10
RESULTS_BYTES_MAX: Final = 1 << 24


@dataclass(frozen=True, slots=True)
class Limits:
    """What a case may take: threads, the memory of its updates and of its work, and time."""

    threads: int = 1
    memory_mib: int = MEMORY_MIB_DEFAULT
    case_seconds: int = CASE_SECONDS_MAX


@dataclass(frozen=True)
class Failure:
    """A case without figures: it took too long, or wanted too much memory."""

    library: str
    rule: str
    n_updates: int
    dimension: int
    cause: str


Outcome = Figures | Failure
Case = tuple[str, str, int, int]
"""Library, rule, updates, parameters."""


@dataclass(frozen=True, slots=True)
class _Line:
    """One of `figures` and `failure` is there."""

    limits: Limits
    figures: Figures | None = None
    failure: Failure | None = None


def get_case(outcome: Outcome) -> Case:
    """Return what an outcome is of."""
    return (outcome.library, outcome.rule, outcome.n_updates, outcome.dimension)


class Results:
    """Outcomes of before and of now.

    Parameters
    ----------
    limits : Limits
        Those of now.
    path : Path or None
        The file they are read from and added to; without one, nothing is kept.

    Raises
    ------
    BenchError
        If the file is none of results.
    """

    def __init__(self, limits: Limits, path: Path | None) -> None:
        self._limits = limits
        self._path = path
        self._known: dict[Case, Outcome] = {}
        for line in _read(path) if path is not None and path.exists() else ():
            if line.figures is not None and line.limits.threads == limits.threads:
                self._known[get_case(line.figures)] = line.figures
            elif line.failure is not None and line.limits == limits:
                self._known[get_case(line.failure)] = line.failure

    def find(self, case: Case) -> Outcome | None:
        """Return what a case came to before, if it is known."""
        return self._known.get(case)

    def add(self, outcome: Outcome) -> None:
        """Keep what a case came to."""
        self._known[get_case(outcome)] = outcome
        if self._path is None:
            return
        line = _Line(
            self._limits,
            figures=outcome if isinstance(outcome, Figures) else None,
            failure=outcome if isinstance(outcome, Failure) else None,
        )
        _drop_cut_line(self._path)
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")


def _read(path: Path) -> list[_Line]:
    if path.stat().st_size > RESULTS_BYTES_MAX:
        raise BenchError(f"{path} has more than {RESULTS_BYTES_MAX:,} bytes: it is another file.")
    lines, found = path.read_bytes().split(b"\n"), []
    # Behind the last newline is nothing, or what was cut off.
    for number, line in enumerate(lines[:-1], start=1):
        try:
            found.append(decode_json(line, _Line))
        except (msgspec.DecodeError, ValueError) as error:
            raise BenchError(f"Line {number} of {path} is no result: {error}.") from error
    return found


def _drop_cut_line(path: Path) -> None:
    data = path.read_bytes() if path.exists() else b""
    if data and not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)
