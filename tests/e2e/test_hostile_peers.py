"""Hostile peers against real nodes: honest ones go on deciding, and their memory stays flat."""

import xml.etree.ElementTree as ET
from collections.abc import Iterator

import pytest

from tests.e2e import attacks
from tests.e2e.attacks import ATTACKS
from tests.e2e.plot import Panel, draw_panels
from tests.e2e.siege import Siege, open_siege

QUICK = {
    "garbage": "sockets",
    "forged_votes": "said",
    "unserved_payloads": "said",
    "slow_readers": "subscriptions",
}
"""Some attacks, and what each must have done at least once."""
QUICK_S = 7.0
SLOW_S = 30.0
BOUND_S = 150.0
"""For attacks that are over when they have done what they are bound to."""
BASE_S = 8.0
SHARE_MIN = 0.5
MEMORY_GROWTH_MB_MAX = 40.0
"""What filling the bounded caches and queues of a node may take, whatever the attack."""

# What each attack must have done at least, so that a test which attacks nobody fails.
DONE = {
    "churn": {"peers": attacks.PEERS, "dropped": 800, "linked": 80},
    "garbage": {
        "messages": 8,
        "sockets": 4,
        "quorate/e2e/link/1": 4,
        "quorate/e2e/request/1": 4,
        "meshsub/1.1.0": 4,
        "tried": 24,
    },
    "slow_readers": {"links": 8, "subscriptions": 8},
    "streams": {"streams": attacks.STREAMS, "connections": 40},
    "far_votes": {"said": 20_000},
    "forged_votes": {"said": 100, "peers": 2},
    "unknown_senders": {"said": 5_000},
    "unserved_payloads": {"said": 20_000, "peers": 1},
}
BOUND = {"churn", "streams"}


@pytest.fixture(scope="module")
def siege(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    with open_siege(tmp_path_factory.mktemp("siege")) as running:
        yield running


@pytest.mark.e2e
def test_several_attacks_at_once(siege: Siege) -> None:
    """A short one for every day: nodes decide, agree and do not grow."""
    before = siege.read_memory_mb()
    rate, counts = siege.attack(list(QUICK), QUICK_S)
    assert rate > 0.5
    for name, what in QUICK.items():
        assert counts[name].get(what, 0) > 0, counts
    siege.check_unharmed()
    grown = max(b - a for a, b in zip(before, siege.read_memory_mb(), strict=True))
    assert grown < MEMORY_GROWTH_MB_MAX


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_attack(siege: Siege, name: str) -> None:
    """Blocks come at half the rate of before, or faster, and memory stays within its caches."""
    base = siege.watch(BASE_S)
    before = siege.read_memory_mb()
    rate, counts = siege.attack([name], BOUND_S if name in BOUND else SLOW_S)
    for what, least in DONE[name].items():
        assert counts[name][what] >= least, counts
    assert rate >= SHARE_MIN * base
    siege.check_unharmed()
    grown = max(b - a for a, b in zip(before, siege.read_memory_mb(), strict=True))
    assert grown < MEMORY_GROWTH_MB_MAX


def test_every_attack_is_held_to_what_it_must_do() -> None:
    assert DONE.keys() == ATTACKS.keys()
    assert attacks.PEERS == 1_000
    assert attacks.STREAMS == 10_000


def test_a_gap_is_not_drawn_over() -> None:
    curve = [(0, 1), (1, 1), (9, 1), (10, 1), (11, 1)]
    for gap, lengths in ((5, [2, 3]), (20, [5])):
        root = ET.fromstring(draw_panels([Panel("", {"": curve}, gap=gap)]))
        pieces = [each.attrib["points"] for each in root.iter() if "points" in each.attrib]
        assert [len(piece.split()) for piece in pieces] == lengths


def test_panels_are_drawn_as_a_document() -> None:
    drawn = draw_panels(
        [
            Panel("blocks & co", {"node0": [(0, 0), (5, 2), (10, 4)]}, [(5, "churn")]),
            Panel("empty", {"": []}),
        ]
    )
    root = ET.fromstring(drawn)
    (points,) = (
        each.attrib["points"].split() for each in root.iter() if "points" in each.attrib
        if each.attrib["points"]
    )  # fmt: skip
    across = [float(point.split(",")[0]) for point in points]
    down = [float(point.split(",")[1]) for point in points]
    assert across[1] - across[0] == pytest.approx(across[2] - across[1], abs=0.2)
    assert down[0] > down[1] > down[2] > 0
    texts = [each.text for each in root.iter() if each.text]
    assert "blocks & co" in texts
    assert "churn" in texts
