"""The benchmark of the rules runs, prints a line a rule, and writes the same figures as JSON.

Owns that it works. Never asserts a time.
"""

import json
from pathlib import Path

import pytest

from bench.aggregation import main
from bench.aggregation_cases import OURS


def test_figures_are_printed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "figures.json"
    rules = ["mean", "multi_krum", "default"]
    main(["--n", "2", "8", "--dim", "100", "--rules", *rules, "--json", str(target)])
    cases = json.loads(target.read_text())["cases"]
    ours = [case for case in cases if case["library"] == OURS]
    # Two updates are too few for multi-Krum, which is left out rather than reported wrongly.
    assert [(case["n_updates"], case["rule"]) for case in ours] == [
        (2, "mean"), (2, "default"), (8, "mean"), (8, "multi_krum"), (8, "default")
    ]  # fmt: skip
    assert all(case["cpu_ms"] > 0 and case["wall_ms"] > 0 for case in cases)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(ours) + 1
    assert lines[-1].startswith("default")


def test_a_case_that_wants_too_much_memory_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--n", "8", "--dim", "4000000", "--rules", "mean", "--memory-mib", "10"])
    assert "over 0 GiB" in capsys.readouterr().out
