"""Everything at random, for as long as one likes: ``python -m tests.e2e.soak --minutes 10``.

Owns the course of a soak: one network and its users, faults drawn from a seed and attacks drawn
likewise, one after the other and together, and what is drawn at the end. Judges like a campaign:
same blocks, same roots, everything acknowledged decided once.

Writes ``soak.svg``, ``soak.json`` and the manifest; prints where, and the command that repeats the
same faults and attacks.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from quorate.client import Client
from quorate.errors import ConnectionFailedError, RpcError

from node.config import Config
from tests.e2e.attacks import ATTACKS, Target, write_target
from tests.e2e.campaign import Campaign, Verdict, make_test_environment, open_campaign
from tests.e2e.manifest import Manifest, generate, write_manifest
from tests.e2e.network import CHAIN_ID, CONFIG
from tests.e2e.plot import Panel, draw_panels
from tests.e2e.siege import read_memory_mb

SAMPLE_S = 1.0
ANSWER_S = 0.5
"""Who takes longer to tell its height is not asked any longer."""
ATTACK_S = (5.0, 15.0)
PAUSE_S = (2.0, 10.0)
MINUTES_MAX = 9.0
"""A manifest lasts no longer than ten; a longer soak is several networks in a row."""
WITHOUT_AN_INSIDER = [name for name in ATTACKS if name != "far_votes"]
# Logs of hours stay readable, and the disk figure shows the chain.
SOAK_CONFIG = replace(CONFIG, log_level="warning")


@dataclass
class Observations:
    """What was seen from outside, a list per node: seconds and value.

    Attributes
    ----------
    memory_mb, disk_mb, rate : dict of str to list of (float, float)
        Resident memory; bytes of the home folder; blocks a second since the last look.
    latency_s : list of (float, float)
        From a worker's first attempt to the acknowledgement.
    marks : list of (float, str)
        When an attack began.
    """

    memory_mb: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    disk_mb: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    rate: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    latency_s: list[tuple[float, float]] = field(default_factory=list)
    marks: list[tuple[float, str]] = field(default_factory=list)

    def draw(self) -> str:
        return draw_panels(
            [
                Panel("memory of a node, MB", dict(self.memory_mb), self.marks),
                Panel("disk of a node, MB", dict(self.disk_mb)),
                Panel("blocks a second", dict(self.rate)),
                Panel("submission to acknowledgement, s", {"": self.latency_s}),
            ]
        )


class Attackers:
    """Attacks one after the other, each in a process of its own, on the nodes that run.

    Parameters
    ----------
    campaign : Campaign
    folder : Path
        Where the target's description goes.
    seed : int
    mark : callable
        Told the name of each attack that begins.
    """

    def __init__(
        self, campaign: Campaign, folder: Path, seed: int, mark: Callable[[float, str], None]
    ) -> None:
        self._draw = random.Random(seed)
        self._mark = mark
        self._process: subprocess.Popen[bytes] | None = None
        self._next_s = self._draw.uniform(*PAUSE_S)
        self._target_file = folder / "target.json"
        honest = campaign.honest[:4]
        status = honest[0].client.status()
        addresses = [campaign.wiring.addresses[member.number] for member in honest]
        target = Target(
            chain_id=CHAIN_ID,
            addresses=[
                address.get_p2p_address(member.node.peer_id)
                for address, member in zip(addresses, honest, strict=True)
            ],
            rpc_urls=[address.rpc_url for address in addresses],
            genesis_hash=status.genesis_hash.hex(),
            protocol_version=1,
            validators=[member.node.validator_address for member in honest],
        )
        write_target(self._target_file, target)

    def tick(self, now_s: float) -> None:
        if now_s < self._next_s:
            return
        self.stop()
        name, seconds = self._draw.choice(WITHOUT_AN_INSIDER), self._draw.uniform(*ATTACK_S)
        command = [sys.executable, "-P", "-m", "tests.e2e.attacks", name, str(seconds)]
        self._process = subprocess.Popen(
            [*command, str(self._target_file)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=make_test_environment(),
        )
        self._mark(now_s, name)
        self._next_s = now_s + seconds + self._draw.uniform(*PAUSE_S)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Observer:
    """Looks at a campaign once a second."""

    def __init__(self, campaign: Campaign, seen: Observations, began_s: float) -> None:
        self._campaign = campaign
        self._seen = seen
        self._began_s = began_s
        self._next_s = 0.0
        self._last: tuple[float, int] | None = None
        self._n_latencies = [0] * len(campaign.workers)
        self._clients = [
            Client(member.client_url, timeout_s=ANSWER_S, retries=0) for member in campaign.honest
        ]

    def close(self) -> None:
        for client in self._clients:
            client.close()

    def tick(self, now_s: float) -> None:
        if now_s < self._next_s:
            return
        self._next_s = now_s + SAMPLE_S
        at_s = self._began_s + now_s
        for member in self._campaign.honest:
            name = f"node{member.number}"
            if member.process is not None and member.process.poll() is None:
                # A process that ends just now has no memory to speak of.
                with suppress(OSError, ProcessLookupError):
                    memory = (at_s, read_memory_mb(member.process.pid))
                    self._seen.memory_mb.setdefault(name, []).append(memory)
            disk = (at_s, _measure_disk(member.node.home.data_folder))
            self._seen.disk_mb.setdefault(name, []).append(disk)
        self._note_rate(at_s)
        for i, worker in enumerate(self._campaign.workers):
            new = worker.latencies_s[self._n_latencies[i] :]
            self._n_latencies[i] += len(new)
            self._seen.latency_s += [(at_s, latency_s) for latency_s in new]

    def _note_rate(self, at_s: float) -> None:
        """Ask the first that answers at once: a frozen node must not hold up the faults."""
        heights = []
        for client in self._clients:
            with suppress(ConnectionFailedError, RpcError):
                heights.append(client.status().height)
                break
        if not heights:
            return
        if self._last is not None and heights[0] >= self._last[1]:
            rate = (heights[0] - self._last[1]) / max(at_s - self._last[0], 0.1)
            self._seen.rate.setdefault("", []).append((at_s, rate))
        self._last = (at_s, heights[0])


def _measure_disk(folder: Path) -> float:
    total = 0
    for path in folder.rglob("*"):
        # LevelDB removes files at any time.
        with suppress(OSError):
            total += path.stat().st_size
    return total / 1e6


def soak(
    manifest: Manifest, folder: Path, seed: int, seen: Observations, began_s: float
) -> Verdict:
    """Run one network under its faults and under attacks; what is seen goes into `seen`."""
    config: Config = SOAK_CONFIG
    with open_campaign(manifest, folder, config) as campaign:
        observer = Observer(campaign, seen, began_s)
        attackers = Attackers(
            campaign, folder, seed, lambda now_s, name: seen.marks.append((began_s + now_s, name))
        )

        def tick(now_s: float) -> None:
            observer.tick(now_s)
            attackers.tick(now_s)

        campaign.on_tick = tick
        try:
            campaign.run()
        finally:
            attackers.stop()
            observer.close()
        return campaign.judge()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.randrange(2**31))
    parser.add_argument("--out", type=Path, default=Path("out/soak"))
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    print(f"python -m tests.e2e.soak --minutes {chosen.minutes:g} --seed {chosen.seed}")
    seen, verdicts = Observations(), []
    began, seed, ends_s = time.monotonic(), chosen.seed, chosen.minutes * 60
    try:
        while (now_s := time.monotonic() - began) < ends_s - 5:
            seconds = min(ends_s - now_s, MINUTES_MAX * 60)
            manifest = replace(generate(seed, max(seconds, 10.0)), wiring="relay")
            (chosen.out / f"{manifest.name}.toml").write_text(write_manifest(manifest))
            with tempfile.TemporaryDirectory(prefix="quorate-soak-") as folder:
                verdict = soak(manifest, Path(folder), seed, seen, now_s)
            print(f"{manifest.name}: {verdict}", flush=True)
            verdicts.append({"name": manifest.name} | asdict(verdict))
            seed += 1
    finally:
        (chosen.out / "soak.svg").write_text(seen.draw())
        document = {"verdicts": verdicts, "observations": asdict(seen)}
        (chosen.out / "soak.json").write_text(json.dumps(document))
        print(f"figures: {chosen.out / 'soak.svg'}, {chosen.out / 'soak.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
