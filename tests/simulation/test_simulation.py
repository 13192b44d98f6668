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
        timeout=600,
        check=False,
    )


BATCH = 50


@pytest.mark.parametrize("first", range(0, 6 * BATCH, BATCH))
def test_seeds_pass(first: int) -> None:
    done = simulate("--seeds", str(BATCH), "--first", str(first))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{BATCH} seeds passed" in done.stdout


# An ordinary seed with byzantine validators, and two that play a schedule.
@pytest.mark.parametrize("seed", [2, 3, 18])
def test_one_seed_gives_one_trace_whatever_the_hash_seed(seed: int) -> None:
    traces = set()
    for hash_seed in ("0", "0", "1"):
        done = simulate("--seed", str(seed), hash_seed=hash_seed)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "\n1 seed passed in " in done.stdout
        found = re.search(r"trace (\w+) heights (\d+)", done.stdout)
        assert found is not None
        traces.add(found.groups())
    assert len(traces) == 1


QUICKLY_FOUND = [
    "create_coins",
    "no_catching_up",
    "drop_timeouts",
    "creator_must_propose",
    "never_repair_parts",
    "wrong_parent_state",
]


@pytest.mark.parametrize("plant", QUICKLY_FOUND)
def test_a_planted_fault_is_found_and_its_seed_repeats_it(plant: str) -> None:
    done = simulate("--seeds", "40", "--plant", plant)
    assert done.returncode == 1
    # A fault that crashes the program would be found by anything.
    found = re.search(r"^(found: Violation: .*)$", done.stdout, re.MULTILINE)
    assert found is not None, done.stdout + done.stderr
    named = re.search(r"FAILED; reproduce: python -m tests.simulation (.*)$", done.stdout)
    assert named is not None
    again = simulate(*named[1].split())
    assert found[1] in again.stdout


def test_processes_share_the_seeds() -> None:
    done = simulate("--seeds", "8", "--jobs", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 seeds passed" in done.stdout
