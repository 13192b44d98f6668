"""The benchmark of the rules runs, prints a line a rule, and writes the same figures as JSON.

Owns that it works. Never asserts a time.
"""

import json
from pathlib import Path

import pytest

from bench.aggregation import find_memory_cause, main
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
    assert "wants 0 GB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("errors", "cause"),
    [
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 30000000000 bytes.",
         "wants 30 GB"),
        ("numpy._core._exceptions._ArrayMemoryError: Unable to allocate 27.9 GiB for an array",
         "wants 30 GB"),
        ("MemoryError", "over 12 GiB"),
        ("TypeError: no number", None),
    ],
)  # fmt: skip
def test_what_a_case_lacked_is_told(errors: str, cause: str | None) -> None:
    assert find_memory_cause(errors, 12 << 10) == cause
