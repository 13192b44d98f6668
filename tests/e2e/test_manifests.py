"""Networks of real processes under faults, as manifests describe them and as seeds draw them."""

import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from node.config import Config
from tests.e2e.campaign import open_campaign, run_campaign, run_in_namespace
from tests.e2e.manifest import (
    Fault,
    Manifest,
    ManifestError,
    generate,
    read_manifest,
    write_manifest,
)
from tests.e2e.network import open_network
from tests.e2e.wiring import why_no_namespaces

MANIFESTS = {path.stem: path for path in sorted(Path(__file__).parent.glob("manifests/*.toml"))}
QUICK = "quick"
SEEDS = range(4)
SEED_S = 20.0


def read(name: str) -> Manifest:
    return read_manifest(MANIFESTS[name])


# --- manifests themselves ------------------------------------------------------------------------


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_manifest_reads_as_it_is_written(name: str, tmp_path: Path) -> None:
    manifest = read(name)
    copy = tmp_path / f"{name}.toml"
    copy.write_text(write_manifest(manifest))
    assert read_manifest(copy) == manifest


def count_faulty(manifest: Manifest, now_s: float) -> int:
    down = {fault.node for fault in manifest.faults if fault.at_s <= now_s < fault.ends_s}
    return len(
        {number for number in down if number < manifest.validators} | set(manifest.byzantine)
    )


def test_seeds_draw_networks_that_can_go_on() -> None:
    drawn = [generate(seed, 60) for seed in range(300)]
    assert drawn == [generate(seed, 60) for seed in range(300)]
    for manifest in drawn:
        moments = [fault.at_s for fault in manifest.faults]
        worst = max((count_faulty(manifest, moment) for moment in moments), default=0)
        assert worst <= (manifest.validators - 1) // 3, manifest.name
    kinds = {fault.kind for manifest in drawn for fault in manifest.faults}
    assert kinds == {"kill", "freeze", "restart", "disconnect", "delay"}
    assert {how for manifest in drawn for how in manifest.byzantine.values()} == {
        "equivocate", "withhold", "wrong_root", "false_status", "everything",
    }  # fmt: skip
    assert {manifest.topology for manifest in drawn} == {"mesh", "ring"}
    assert any(manifest.late for manifest in drawn)
    for has_liar in (True, False):
        chosen = [generate(seed, 60, has_liar=has_liar) for seed in range(50)]
        assert all(bool(manifest.byzantine) == has_liar for manifest in chosen)
        assert all(manifest.faults for manifest in chosen)
    spaced = [generate(seed, 60, "namespaces") for seed in range(100)]
    assert kinds | {"loss"} == {fault.kind for manifest in spaced for fault in manifest.faults}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("validaters = 4", "Manifest knows no ['validaters']"),
        ("[[faults]]\nat_s = 0.5\nnode = 0\nkind = 'explode'", "no fault 'explode'"),
        ("[[faults]]\nat_s = 0.5\nnode = 0\nkind = 'kill'\nfor = 1", "Fault knows no ['for']"),
        ("[[faults]]\nat_s = 0.5\nnode = 7\nkind = 'kill'", "is of no node"),
        ("[[faults]]\nat_s = 9.5\nnode = 0\nkind = 'kill'", "ends too late"),
        ("[[faults]]\nat_s = 0.5\nnode = 0\nkind = 'loss'", "lost in namespaces alone"),
        ("[byzantine]\n0 = 'sleep'", "no behaviour {'sleep'}"),
        ("[byzantine]\n0 = 'withhold'\n1 = 'withhold'", "at most 1 of 4"),
        ("validators = 11", "11 nodes"),
    ],
)
def test_what_cannot_be_is_named(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ManifestError, match=re.escape(sentence)):
        read_manifest(path)


def test_topologies_link_everybody() -> None:
    def links(**changes: object) -> list[tuple[int, int]]:
        return Manifest(name="x", **changes).list_links()  # type: ignore[arg-type]

    assert links(topology="mesh") == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert links(topology="line") == [(0, 1), (1, 2), (2, 3)]
    assert links(topology="ring") == [(0, 1), (0, 3), (1, 2), (2, 3)]
    assert links(topology="star") == [(0, 1), (0, 2), (0, 3)]
    assert links(topology="line", late_joiners=1)[1:] == [(0, 4), (1, 2), (1, 4), (2, 3)]


# --- carried out ---------------------------------------------------------------------------------


@pytest.mark.e2e
def test_faults_one_after_the_other(tmp_path: Path) -> None:
    verdict = run_campaign(read(QUICK), tmp_path)
    assert verdict.heights > 8
    assert verdict.acknowledged > 50
    assert verdict.training_rounds > 0


ON_RELAYS = [name for name in MANIFESTS if read(name).wiring == "relay" and name != QUICK]


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("name", ON_RELAYS)
def test_manifest(name: str, tmp_path: Path) -> None:
    verdict = run_campaign(read(name), tmp_path)
    assert verdict.heights > 10
    assert verdict.acknowledged > 50
    assert verdict.training_rounds > 0
    assert (verdict.evidence > 0) == (name == "byzantine")


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_seed(seed: int, tmp_path: Path) -> None:
    verdict = run_campaign(generate(seed, SEED_S), tmp_path)
    assert verdict.heights > 10
    assert verdict.acknowledged > 50


def read_verdict(printed: str) -> dict[str, float]:
    """Read what a campaign in a process of its own has printed at its end."""
    assert printed.startswith("Verdict("), printed
    return {name: float(number) for name, number in re.findall(r"(\w+)=([\d.]+)", printed)}


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MANIFESTS if read(name).wiring == "namespaces"])
def test_namespaces(name: str, tmp_path: Path) -> None:
    if reason := why_no_namespaces():
        pytest.skip(f"{name}: {reason}")
    done = run_in_namespace(MANIFESTS[name], tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    verdict = read_verdict(done.stdout)
    assert verdict["heights"] > 10
    assert verdict["acknowledged"] > 50
    loses = any(fault.kind == "loss" for fault in read(name).faults)
    assert (verdict["lost"] > 0) == loses


LOSSY_SEED = 1


@pytest.mark.e2e
@pytest.mark.slow
def test_seed_in_namespaces(tmp_path: Path) -> None:
    if reason := why_no_namespaces():
        pytest.skip(reason)
    path = tmp_path / "drawn.toml"
    path.write_text(write_manifest(generate(LOSSY_SEED, SEED_S, "namespaces")))
    done = run_in_namespace(path, tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    verdict = read_verdict(done.stdout)
    assert verdict["heights"] > 10
    assert verdict["acknowledged"] > 50
    assert verdict["lost"] > 0


# --- one of four is dead -------------------------------------------------------------------------

BLOCKS_PER_S_MIN = 5.0
ADAPT_S, WATCH_S = 12.0, 8.0


@pytest.mark.e2e
@pytest.mark.slow
def test_one_of_four_is_dead_and_five_blocks_a_second_are_decided(tmp_path: Path) -> None:
    """With the default timeouts, under which a missed turn costs four seconds at first."""
    defaults = Config()
    config = replace(
        defaults,
        log_level="warning",
        consensus=replace(defaults.consensus, empty_block_interval_ms=0),
    )
    with open_network(tmp_path, config=config) as network:
        network.processes[3].kill()
        time.sleep(ADAPT_S)
        before = network.get_height(0)
        time.sleep(WATCH_S)
        assert (network.get_height(0) - before) / WATCH_S >= BLOCKS_PER_S_MIN


@pytest.mark.e2e
@pytest.mark.slow
def test_a_relay_holds_back_what_it_is_told_to(tmp_path: Path) -> None:
    """The faults are real: a network that is cut in two stands still, and goes on when healed."""
    manifest = Manifest(name="cut", participants=0, senders=0, seconds=1.0)
    with open_campaign(manifest, tmp_path) as campaign:
        for number in (2, 3):
            campaign.wiring.hold(number, is_held=True)
        time.sleep(1)
        height = campaign.members[0].get_height()
        time.sleep(3)
        assert campaign.members[0].get_height() <= height + 1
        for number in (2, 3):
            campaign.wiring.hold(number, is_held=False)
        assert campaign.judge().heights > height + 1


def test_a_fault_ends_when_it_says() -> None:
    assert Fault(at_s=2, node=0, kind="kill", lasting_s=3).ends_s == 5
