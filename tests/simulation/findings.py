"""What a failing seed shows, in a sentence, and the table of planted faults.

Owns the form of both. Each fault is planted in a process of its own, since it changes the program.
"""

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from quorate.chain.errors import QuorateError

from tests.simulation.checks import Violation

PAGE = Path(__file__).parents[2] / "docs" / "simulation.md"
BEGIN, END = "<!-- planted faults -->", "<!-- end of planted faults -->"
SENTENCE_MAX = 90
BROKEN = "BROKEN PROGRAM"
"""What a finding begins with if the program broke, which anything would have found."""


@dataclass(frozen=True, slots=True)
class Row:
    """One planted fault, the seed that found it, and what it saw."""

    name: str
    meaning: str
    seed: int | None
    finding: str


def get_leaves(error: BaseException) -> list[BaseException]:
    """Return the errors in a group of groups."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in get_leaves(each)]
    return [error]


def describe_finding(error: BaseException) -> str:
    """Return in a sentence what a failed seed saw: a broken promise first, if there is one."""
    leaves = get_leaves(error)
    leaves.sort(key=lambda leaf: (not isinstance(leaf, Violation), type(leaf).__name__))
    first = leaves[0]
    kind = "found" if isinstance(first, Violation | QuorateError) else BROKEN
    sentence = str(first).splitlines()[0] if str(first) else ""
    return f"{kind}: {type(first).__name__}: {sentence}"


def find_plant(name: str, seeds: int) -> tuple[int | None, str]:
    """Return the first seed that finds a planted fault, and what it saw."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--plant", name, "--seeds", str(seeds)],
        capture_output=True,
        text=True,
        check=False,
    )
    failed = re.search(r"^(.*)\nseed (\d+) FAILED", done.stdout, re.MULTILINE)
    if failed is not None:
        return int(failed[2]), failed[1]
    return None, "" if done.returncode == 0 else f"{BROKEN}: {done.stderr[-200:]}"


def make_table(planted: Mapping[str, Callable[[], None]], seeds: int, jobs: int) -> list[Row]:
    """Plant each fault in turn; print and return what found it."""
    rows: list[Row] = []
    with ThreadPoolExecutor(jobs) as pool:
        found = pool.map(lambda name: find_plant(name, seeds), planted)
        for (name, plant), (seed, finding) in zip(planted.items(), found, strict=True):
            meaning = (plant.__doc__ or "").strip().rstrip(".")
            row = Row(name, meaning, seed, finding)
            rows.append(row)
            print(f"{name}: {'NOT FOUND' if seed is None else seed} {finding}", flush=True)
    return sorted(rows, key=lambda row: (row.seed is None, row.seed))


def write_table(rows: list[Row], page: Path = PAGE) -> None:
    """Replace the table in the documentation."""
    lines = [
        "| fault | what is broken | found at seed | what was seen |",
        "| --- | --- | --- | --- |",
    ]
    for row in rows:
        seed = "not found" if row.seed is None else str(row.seed)
        lines.append(f"| `{row.name}` | {row.meaning} | {seed} | {_shorten(row.finding)} |")
    text = page.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    page.write_text(before + BEGIN + "\n" + "\n".join(lines) + "\n" + END + after)


def _shorten(finding: str) -> str:
    """Return a sentence without what differs from run to run: hashes and paths."""
    said = finding.removeprefix("found: ").removeprefix("Violation: ")
    said = re.sub(r"/\S+", "...", re.sub(r"\b[0-9a-f]{16,}\b", "...", said)).replace("|", "/")
    return said if len(said) <= SENTENCE_MAX else said[: SENTENCE_MAX - 3] + "..."
