"""Running cases: side by side, resumed, and stopped in the middle."""

from pathlib import Path

import pytest

from node.robustness import running
from node.robustness.attacks import Attack
from node.robustness.case import Case, Outcome
from node.robustness.learning import Hyperparameters
from node.robustness.running import RESULTS_BYTES_MAX, ResultsError, read_results, run_cases

SHORT = Hyperparameters(steps=2)
CASES = tuple(Case("median", 4, 1.0, attack, 0) for attack in list(Attack)[:5])


def run(path: Path | None, cases: tuple[Case, ...] = CASES, jobs: int = 1) -> dict[Case, Outcome]:
    told: dict[Case, Outcome] = {}
    outcomes = run_cases(cases, SHORT, jobs=jobs, path=path, on_outcome=told.__setitem__)
    assert told == outcomes
    return outcomes


def test_processes_side_by_side_come_to_the_same(tmp_path: Path) -> None:
    alone = run(None)
    assert list(alone) == list(CASES)
    assert run(tmp_path / "r.jsonl", jobs=2) == alone
    assert read_results(tmp_path / "r.jsonl", SHORT) == alone


def test_what_is_in_the_file_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deep" / "r.jsonl"
    first = run(path, CASES[:2])
    ran: list[Case] = []

    def note(case: Case, _parameters: Hyperparameters, _server: object) -> Outcome:
        ran.append(case)
        return Outcome(0.5, 0)

    monkeypatch.setattr(running, "run_case", note)
    outcomes = run(path)
    assert ran == list(CASES[2:])
    assert {case: outcomes[case] for case in CASES[:2]} == first
    assert len(path.read_text().splitlines()) == len(CASES)
    # Other hyper-parameters are another measurement.
    assert read_results(path, Hyperparameters(steps=3)) == {}


def test_an_interruption_keeps_what_had_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.jsonl"

    def stop(case: Case, _parameters: Hyperparameters, _server: object) -> Outcome:
        if case == CASES[3]:
            raise KeyboardInterrupt
        return Outcome(0.5, 0)

    monkeypatch.setattr(running, "run_case", stop)
    with pytest.raises(KeyboardInterrupt):
        run(path)
    assert list(read_results(path, SHORT)) == list(CASES[:3])


def test_a_line_that_was_cut_off_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    whole = run(path, CASES[:3])
    data = path.read_bytes()
    path.write_bytes(data[:-20])
    assert len(read_results(path, SHORT)) == 2
    assert run(path, CASES[:3]) == whole
    assert path.read_bytes() == data


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"name": "another"}\n{}\n')
    with pytest.raises(ResultsError, match=r"Line 1 of .* is no result"):
        run(path)
    with path.open("wb") as file:
        file.truncate(RESULTS_BYTES_MAX + 1)
    with pytest.raises(ResultsError, match="it is another file"):
        run(path)
