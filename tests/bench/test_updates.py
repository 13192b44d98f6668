"""The benchmark of large updates: its arithmetic, its files, and one small round for real."""

import json
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from quorate.chain.content import compute_content_hash

from bench.errors import BenchError
from bench.large_round_figures import CpuSampler, make_phase
from bench.updates import require_disk
from bench.uploading import make_participants
from bench.watching import Arrival
from tests.cli.console import ROOT, make_environment


def test_updates_are_the_same_in_every_run_and_differ(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first, again = (make_participants(tmp_path / name, 3, 1_500_000) for name in ("a", "b"))
    assert [each.payload_hash for each in first] == [each.payload_hash for each in again]
    assert len({each.payload_hash for each in first}) == 3
    for each in first:
        data = each.path.read_bytes()
        assert compute_content_hash(data) == each.payload_hash
        assert np.frombuffer(data, "<i2").min() > -(2**15)


def test_a_phase_counts_blocks_and_gaps() -> None:
    sampler = CpuSampler.__new__(CpuSampler)
    sampler._samples = [(0.0, 10.0, 1.0), (10.0, 20.0, 2.0)]
    # The second node is late with a block, and never tells of another.
    first = [Arrival(height, 0, 0, float(height)) for height in (1, 2, 3, 6, 9)]
    second = [Arrival(1, 0, 0, 1.0), Arrival(2, 0, 0, 1.9), Arrival(6, 0, 0, 7.0)]
    phase = make_phase([first, second], sampler, 1.0, 8.0)
    assert phase.seconds == 7
    assert phase.blocks_per_s == pytest.approx(3 / 7)
    assert phase.longest_gap_s == 3
    assert phase.longest_node_gap_s == pytest.approx(5.1)
    assert (phase.nodes_cpu_s, phase.load_cpu_s) == (pytest.approx(7), pytest.approx(0.7))


def test_too_little_disk_is_told_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _place: usage(10**12, 0, 10**9))
    require_disk(100_000, 16, 4)
    with pytest.raises(BenchError, match=r"has 1,000 MB free, and this takes 3,120 MB"):
        require_disk(10_000_000, 16, 4)


@pytest.mark.e2e
def test_a_small_round_is_measured_and_verified(tmp_path: Path) -> None:
    figures_file = tmp_path / "figures.json"
    done = subprocess.run(
        [
            sys.executable, "-m", "bench.updates", "--dimension", "150000", "--participants", "4",
            "--nodes", "2", "--freeze", "--json", str(figures_file),
        ],
        cwd=ROOT,
        env=make_environment(TMPDIR=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads(figures_file.read_text())["figures"]
    assert figures["is_frozen"] is True
    assert figures["committed_mb_per_s"] > 0
    assert len(figures["memory"]) == 2
    assert figures["weights_root"][:16] in done.stdout
    # Nothing is left of the nodes and the updates.
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]
