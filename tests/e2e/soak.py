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
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from quorate.client import Client
from quorate.errors import ConnectionFailedError, RpcError

from node.config import Config
from node.key_files import read_validator_key
from tests.e2e.attacks import ATTACKS, READY, Target, write_target
from tests.e2e.campaign import Campaign, Verdict, make_test_environment, open_campaign
from tests.e2e.manifest import Manifest, generate, write_manifest
from tests.e2e.network import CHAIN_ID, CONFIG
from tests.e2e.plot import WINDOWS, Panel, draw_panels, summarize_by_window
from tests.e2e.siege import read_memory_mb
from tests.e2e.workers import TASK_NAME, make_worker_key

SAMPLE_S = 1.0
GAP_S = 5.0
"""A node that was away for longer, and two networks, are not joined in the figure."""
ANSWER_S = 0.5
"""Who takes longer to tell its height is not asked any longer."""
ATTACK_S = (5.0, 15.0)
PAUSE_S = (2.0, 10.0)
LATE_S = 20.0
"""So long an attacker that a busy machine holds up may take beyond its time."""
MINUTES_MAX = 9.0
"""A manifest lasts no longer than ten; a longer soak is several networks in a row."""
NETWORKS_MIN = 2
"""One has a byzantine validator, the next one faults of honest ones in its place, and so on."""
NETWORK_S_MIN = 40.0
HOSTILE_PARTICIPANTS = 3
HOSTILE_NUMBER = 190
"""Of the first worker's key that is a hostile participant's."""
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
        When a network or an attack began.
    done : dict of str to int
        What the attackers have done, and how often.
    """

    memory_mb: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    disk_mb: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    rate: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    latency_s: list[tuple[float, float]] = field(default_factory=list)
    marks: list[tuple[float, str]] = field(default_factory=list)
    done: dict[str, int] = field(default_factory=dict)

    def draw(self) -> str:
        last_s = max((at_s for at_s, _ in self.latency_s), default=0.0)
        return draw_panels(
            [
                Panel("memory of a node, MB", dict(self.memory_mb), self.marks, GAP_S),
                Panel("disk of a node, MB", dict(self.disk_mb), gap=GAP_S),
                Panel("blocks a second", dict(self.rate), gap=GAP_S),
                # One that waits for a node to come back takes a thousand times as long as others.
                Panel(
                    f"submission to acknowledgement, s, in {WINDOWS} windows of time",
                    summarize_by_window(self.latency_s),
                    gap=max(GAP_S, 2 * last_s / WINDOWS),
                    is_log=True,
                ),
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
    seen : Observations
        Takes the name of each attack that begins, and what it has done.
    began_s : float
        When the network began, in the time of what is seen.
    """

    def __init__(
        self, campaign: Campaign, folder: Path, seed: int, seen: Observations, began_s: float
    ) -> None:
        self._draw = random.Random(seed)
        self._seen = seen
        self._began_s = began_s
        self._process: subprocess.Popen[bytes] | None = None
        self._next_s = self._draw.uniform(*PAUSE_S)
        self._target_file = folder / "target.json"
        self._counts_file = folder / "counts.json"
        honest = campaign.honest[:4]
        client = honest[0].client
        status, task = client.status(), client.task(TASK_NAME)
        hostile = [make_worker_key(HOSTILE_NUMBER + i) for i in range(HOSTILE_PARTICIPANTS)]
        for key in hostile:
            client.wait_for_transaction(client.register(key, task.task_id).hash)
        liars = [campaign.members[number] for number in campaign.manifest.byzantine]
        insiders = [read_validator_key(each.node.home.validator_key_file) for each in liars]
        self._names = list(ATTACKS) if insiders else WITHOUT_AN_INSIDER
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
            insider_seed=insiders[0].seed.hex() if insiders else "",
            participant_seeds=tuple(key.seed.hex() for key in hostile),
            task_id=task.task_id.hex(),
            weights_root=task.weights_root.hex(),
        )
        write_target(self._target_file, target)

    def tick(self, now_s: float) -> None:
        is_late = self._process is not None and self._process.poll() is None
        if now_s < self._next_s + LATE_S * is_late:
            return
        self.stop()
        name, seconds = self._draw.choice(self._names), self._draw.uniform(*ATTACK_S)
        command = [sys.executable, "-P", "-m", "tests.e2e.attacks", name, str(seconds)]
        with self._counts_file.open("wb") as counts:
            self._process = subprocess.Popen(
                [*command, str(self._target_file)],
                stdin=subprocess.DEVNULL,  # It begins as soon as it is ready.
                stdout=counts,
                stderr=subprocess.DEVNULL,
                env=make_test_environment(),
            )
        self._seen.marks.append((self._began_s + now_s, name))
        self._next_s = now_s + seconds + self._draw.uniform(*PAUSE_S)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            # One that was cut short has not said what it did.
            with suppress(json.JSONDecodeError):
                said = self._counts_file.read_text().removeprefix(f"{READY}\n")
                for what, count in json.loads(said).items():
                    self._seen.done[what] = self._seen.done.get(what, 0) + count


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
        seen.marks.append((began_s, manifest.name))
        observer = Observer(campaign, seen, began_s)
        attackers = Attackers(campaign, folder, seed, seen, began_s)

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
    began, ends_s = time.monotonic(), chosen.minutes * 60
    network_s = min(max(ends_s / NETWORKS_MIN, NETWORK_S_MIN), MINUTES_MAX * 60)
    try:
        while (now_s := time.monotonic() - began) < ends_s - 5:
            seed = chosen.seed + len(verdicts)
            seconds = max(min(ends_s - now_s, network_s), 10.0)
            manifest = generate(seed, seconds, has_liar=len(verdicts) % 2 == 0)
            (chosen.out / f"{manifest.name}.toml").write_text(write_manifest(manifest))
            with tempfile.TemporaryDirectory(prefix="quorate-soak-") as folder:
                verdict = soak(manifest, Path(folder), seed, seen, now_s)
            print(f"{manifest.name}: {verdict}", flush=True)
            verdicts.append({"name": manifest.name} | asdict(verdict))
    finally:
        (chosen.out / "soak.svg").write_text(seen.draw())
        document = {"verdicts": verdicts, "observations": asdict(seen)}
        (chosen.out / "soak.json").write_text(json.dumps(document))
        print(f"figures: {chosen.out / 'soak.svg'}, {chosen.out / 'soak.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
