"""The aggregation benchmark goes on where it was interrupted, and keeps what had ended."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import aggregation, aggregation_results
from bench.aggregation import BROKEN, KILLED, main, make_rows, run_all, run_case
from bench.aggregation_cases import Figures
from bench.aggregation_results import Case, Failure, Limits, Outcome, Results, get_case
from bench.errors import BenchError

LIMITS = Limits()
CHILD_SECONDS_MAX = 10.0
ROWS: list[list[Case]] = [
    [("quorate", "mean", 4, 100)],
    [("quorate", "median", 4, 100), ("flower", "median", 4, 100)],
]
CASES = [case for row in ROWS for case in row]


class Cases:
    """Stands for the processes of the cases, and notes which were asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop_at: Case | None = None) -> None:
        self.ran: list[Case] = []
        self.cause: str | None = None
        self._stop_at = stop_at
        monkeypatch.setattr(aggregation, "run_case", self.run)

    def run(self, *arguments: object) -> Outcome:
        *case, limits = arguments
        assert isinstance(limits, Limits)
        library, rule, n_updates, dimension = case
        found = (str(library), str(rule), int(str(n_updates)), int(str(dimension)))
        if found == self._stop_at:
            raise KeyboardInterrupt
        self.ran.append(found)
        if self.cause is not None:
            return Failure(*found, self.cause)
        return Figures(*found, 1, float(len(self.ran)), 2.0, 1.5)


def test_an_interrupted_run_goes_on_at_the_case_it_was_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results.jsonl"
    stopped = Cases(monkeypatch, stop_at=CASES[1])
    with pytest.raises(KeyboardInterrupt):
        run_all(ROWS, LIMITS, path)
    assert stopped.ran == CASES[:1]
    again = Cases(monkeypatch)
    outcomes = run_all(ROWS, LIMITS, path)
    assert again.ran == CASES[1:]
    assert [get_case(outcome) for outcome in outcomes] == CASES
    last = Cases(monkeypatch)
    assert run_all(ROWS, LIMITS, path) == outcomes
    assert last.ran == []


def test_figures_hold_for_their_threads_and_failures_for_their_limits(
    tmp_path: Path,
) -> None:
    path = tmp_path / "results.jsonl"
    Results(LIMITS, path).add(Figures(*CASES[0], 0, 1.0, 1.0, 1.0))
    Results(LIMITS, path).add(Failure(*CASES[1], "over 60 s"))
    assert Results(LIMITS, path).find(CASES[1]) == Failure(*CASES[1], "over 60 s")
    longer = Results(Limits(case_seconds=600), path)
    assert longer.find(CASES[0]) is not None
    assert longer.find(CASES[1]) is None
    assert Results(Limits(threads=2), path).find(CASES[0]) is None


@pytest.mark.parametrize("cause", [KILLED, BROKEN])
def test_a_failure_that_says_nothing_of_cost_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    path = tmp_path / "results.jsonl"
    cases = Cases(monkeypatch)
    cases.cause = cause
    run_all(ROWS, LIMITS, path)
    run_all(ROWS, LIMITS, path)
    assert cases.ran == CASES * 2


def test_a_line_that_was_cut_off_counts_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    for case in CASES[:2]:
        Results(LIMITS, path).add(Figures(*case, 0, 1.0, 1.0, 1.0))
    os.truncate(path, path.stat().st_size - 9)
    results = Results(LIMITS, path)
    assert results.find(CASES[0]) is not None
    assert results.find(CASES[1]) is None
    results.add(Figures(*CASES[2], 0, 1.0, 1.0, 1.0))
    again = Results(LIMITS, path)
    assert [again.find(case) is not None for case in CASES] == [True, False, True]


def test_another_file_is_refused_and_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes\n")
    with pytest.raises(BenchError, match=r"Line 1 of .*notes\.txt is no result"):
        Results(LIMITS, path)
    assert main(["--n", "4", "--dim", "100", "--results", str(path)]) == 1
    assert capsys.readouterr().err.startswith("Error: Line 1 of")
    assert path.read_text() == "my notes\n"
    monkeypatch.setattr(aggregation_results, "RESULTS_BYTES_MAX", 8)
    with pytest.raises(BenchError, match="it is another file"):
        Results(LIMITS, path)


def test_the_whole_grid_has_every_rule_at_every_size() -> None:
    rows = make_rows([32, 100], [10**5, 10**6, 10**7], list(aggregation.RULES))
    ours = [row[0] for row in rows]
    assert len(set(ours)) == 2 * 3 * len(aggregation.RULES)
    assert make_rows([32, 32], [100], ["mean", "mean"]) == make_rows([32], [100], ["mean"])


def test_a_case_over_its_time_is_a_failure_that_ends() -> None:
    outcome = run_case("quorate", "default", 64, 10**7, Limits(case_seconds=1))
    assert outcome == Failure("quorate", "default", 64, 10**7, "over 1 s")


def test_a_peer_that_fails_does_not_end_the_run_and_a_defect_of_ours_does(
    capsys: pytest.CaptureFixture[str],
) -> None:
    # It has no such rule, and may not be installed either.
    assert run_case("flower", "default", 4, 100, LIMITS) == Failure(
        "flower", "default", 4, 100, BROKEN
    )
    assert "flower failed: " in capsys.readouterr().err
    with pytest.raises(BenchError, match="no such rule"):
        run_case("quorate", "no such rule", 4, 100, LIMITS)


def find_child(pid: int) -> int:
    """Return the process of the case at work."""
    deadline = time.monotonic() + CHILD_SECONDS_MAX
    while time.monotonic() < deadline:
        if found := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            return int(found[0])
        time.sleep(0.01)
    raise AssertionError("no case was started")


def is_running(pid: int) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return fields[0] != "Z"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_leaves_no_process_and_says_how_to_go_on(
    tmp_path: Path, number: signal.Signals
) -> None:
    path = tmp_path / "results.jsonl"
    options = ["--n", "64", "--dim", "30000000", "--rules", "default"]
    command = [sys.executable, "-m", "bench.aggregation", *options, "--results", str(path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("bench: 1 of")
        case = find_child(process.pid)
        process.send_signal(number)
        errors = process.stderr.read()
    deadline = time.monotonic() + CHILD_SECONDS_MAX
    while is_running(case):
        assert time.monotonic() < deadline, "the case is still at work"
        time.sleep(0.01)
    assert process.returncode == 130
    assert errors == f"Interrupted; the same command goes on with what is in {path}.\n"
