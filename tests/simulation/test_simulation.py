"""The simulation itself: seeds pass, one seed gives one trace, and planted faults are found."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def simulate(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    # A process of its own: the simulation stands in trio's place.
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}",
        "PYTHONHASHSEED": hash_seed,
    }
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=230,
        check=False,
    )


BATCH = 50


@pytest.mark.parametrize("first", range(0, 6 * BATCH, BATCH))
def test_seeds_pass(first: int) -> None:
    done = simulate("--seeds", str(BATCH), "--first", str(first))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{BATCH} seeds passed" in done.stdout


@pytest.mark.parametrize("seed", [2, 81])
def test_one_seed_gives_one_trace_whatever_the_hash_seed(seed: int) -> None:
    traces = set()
    for hash_seed in ("0", "0", "1"):
        done = simulate("--seed", str(seed), hash_seed=hash_seed)
        assert done.returncode == 0, done.stdout + done.stderr
        found = re.search(r"trace (\w+) heights (\d+)", done.stdout)
        assert found is not None
        traces.add(found.groups())
    assert len(traces) == 1


@pytest.mark.parametrize("plant", ["create_coins", "no_catching_up", "drop_timeouts"])
def test_a_planted_fault_is_found_and_its_seed_is_named(plant: str) -> None:
    done = simulate("--seeds", "40", "--plant", plant)
    assert done.returncode == 1
    # A fault that crashes the program would be found by anything.
    assert "Violation: " in done.stderr
    assert re.search(r"seed \d+ FAILED; reproduce: python -m tests.simulation", done.stdout)
