"""The benchmark of the rules runs, prints a line a rule, and writes the same figures as JSON.

Owns that it works. Never asserts a time.
"""

import json
from pathlib import Path

import pytest

from bench.aggregation import COMPOSITIONS, main


def test_figures_are_printed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "figures.json"
    main(["--n", "2", "8", "--dim", "100", "--json", str(target)])
    timings = json.loads(target.read_text())["timings"]
    # Two updates are too few for multi-Krum, which is left out rather than reported wrongly.
    assert [timing["n_updates"] for timing in timings] == [2] * (len(COMPOSITIONS) - 1) + [8] * len(
        COMPOSITIONS
    )
    assert all(timing["best_ms"] > 0 for timing in timings)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(timings) + 2
    assert lines[-2].startswith("clip > nnm > trimmed_mean")
