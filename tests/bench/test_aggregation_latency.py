"""What the latency benchmark makes of the blocks that arrived, and one small round for real."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.aggregation_latency import compute_busy_interval, get_span, main
from bench.errors import BenchError
from bench.watching import Arrival
from tests.cli.console import ROOT, make_environment


def make_arrivals(*seconds: float) -> list[Arrival]:
    return [Arrival(10 + i, 1_000 * i, 0, each) for i, each in enumerate(seconds)]


def test_a_span_goes_from_the_freezing_block_to_the_second_after_the_result() -> None:
    arrivals = make_arrivals(1.0, 2.0, 2.1, 2.2, 3.0, 3.1, 3.3, 3.4)
    # The round was frozen by the block that arrived at 2.0, and its result was in that of 3.0.
    span = get_span(arrivals, 2.001, 3.001)
    assert [each.seconds for each in span] == [2.0, 2.1, 2.2, 3.0, 3.1, 3.3]


def test_a_span_ends_with_what_has_arrived() -> None:
    span = get_span(make_arrivals(1.0, 2.0, 2.5), 1.001, 2.001)
    assert [each.seconds for each in span] == [1.0, 2.0, 2.5]


def test_a_round_that_is_over_at_once_has_a_span() -> None:
    arrivals = make_arrivals(1.0, 1.01, 1.02, 1.03, 1.04)
    span = get_span(arrivals, 1.0, 1.005)
    assert [each.seconds for each in span] == [1.0, 1.01, 1.02]


def test_the_time_between_spans_does_not_count() -> None:
    arrivals = make_arrivals(0.0, 0.1, 0.3, 9.0, 9.2, 9.3)
    figures = compute_busy_interval([arrivals[:3], arrivals[3:]])
    assert figures.blocks == 6
    assert figures.median_ms == pytest.approx(150)
    assert figures.p99_ms < 201
    assert figures.mean_block_time_ms == pytest.approx(1_000)


def test_blocks_that_no_event_told_of_make_no_figure() -> None:
    arrivals = make_arrivals(0.0, 0.1, 0.2)
    with pytest.raises(BenchError, match="left out"):
        compute_busy_interval([[arrivals[0], arrivals[2]]])


@pytest.mark.e2e
def test_a_small_round_is_frozen_measured_and_written(tmp_path: Path) -> None:
    figures_file = tmp_path / "figures.json"
    done = subprocess.run(
        [
            sys.executable, "-m", "bench.aggregation_latency", "--dim", "10000", "--updates", "4",
            "--codec", "int16", "--rounds", "1", "--seconds", "2", "--json", str(figures_file),
        ],
        cwd=ROOT,
        env=make_environment(TMPDIR=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(figures_file.read_text())
    assert document["settings"]["dimension"] == 10_000
    assert document["figures"]["idle"]["blocks"] > 1
    assert document["figures"]["aggregating"]["median_ms"] > 0
    assert len(document["figures"]["aggregation_s"]) == 1
    assert "aggregating" in done.stdout
    # Nothing is left of the nodes.
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


def test_fewer_parameters_than_a_sparse_update_names_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["--dim", "9999"])
    assert "A sparse update names 10,000 parameters" in capsys.readouterr().err
