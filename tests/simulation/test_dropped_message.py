"""Losing any one message never stops a decision: every message of a height, one run each."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def enumerate_drops(*arguments: str) -> subprocess.CompletedProcess[str]:
    # A process of its own: the simulation stands in trio's place, and forks.
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation.dropping", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}", "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        timeout=230,
        check=False,
    )


def read_kinds(output: str) -> dict[str, int]:
    found = re.findall(r"without one (\w+): (\d+) runs", output)
    return {kind: int(runs) for kind, runs in found}


CONSENSUS = {"ProposalMessage", "PartMessage", "VotesMessage"}


@pytest.mark.parametrize(
    ("scenario", "kinds", "bound_s"),
    [
        # The lost part comes with the next round's block, or is sent again after a heartbeat.
        ("transfer", CONSENSUS | {"TransactionsMessage"}, 0.8),
        # With one of four off, the height takes a round more, and each vote of the others counts.
        ("three_of_four", CONSENSUS | {"TransactionsMessage", "Status"}, 1.3),
        # Who waits for a payload in vain asks the next peer; the others decide meanwhile.
        ("large_update", CONSENSUS | {"PayloadAnnouncementsMessage", "Request", "Answer"}, 21.0),
        # What the block needs comes with its transaction a moment later: nobody waits for a peer.
        ("sealing_update", CONSENSUS | {"TransactionsMessage", "Request", "Answer"}, 1.0),
    ],
)
def test_no_message_is_needed(scenario: str, kinds: set[str], bound_s: float) -> None:
    done = enumerate_drops(scenario)
    assert done.returncode == 0, done.stdout + done.stderr
    lost = read_kinds(done.stdout)
    assert kinds <= set(lost), done.stdout
    faultless = re.search(r"faultless: (\d+) messages", done.stdout)
    summary = re.search(r"(\d+) losses, 0 undecided, slowest ([\d.]+) s", done.stdout)
    assert faultless is not None
    assert summary is not None
    # Each message was lost once: four validators send 3 x 4 prevotes and precommits at the least.
    assert sum(lost.values()) == int(faultless[1]) == int(summary[1]) >= 30
    assert float(summary[2]) < bound_s, done.stdout


def test_without_repair_one_lost_vote_stops_three_of_four() -> None:
    done = enumerate_drops("three_of_four", "--plant", "never_repair")
    assert done.returncode == 1, done.stdout + done.stderr
    summary = re.search(r"losses, (\d+) undecided", done.stdout)
    assert summary is not None
    assert int(summary[1]) > 0


def test_without_repair_of_parts_a_lost_part_costs_a_round() -> None:
    done = enumerate_drops("three_of_four", "--plant", "never_repair_parts")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = re.search(r"slowest ([\d.]+) s", done.stdout)
    assert summary is not None
    # More than `test_no_message_is_needed` allows.
    assert float(summary[1]) > 1.3
