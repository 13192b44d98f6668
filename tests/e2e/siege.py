"""A network under attack: four validators of five as processes, the attackers in others.

Owns the network, what is measured of it from outside (heights through the RPC, memory from the
system) and the attackers' processes.

``python -m tests.e2e.siege --seconds 20 --out FILE.svg`` runs every attack one after the other,
prints a table and draws memory and blocks a second.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from quorate.chain.keys import PrivateKey

from node.key_files import read_validator_key
from tests.e2e.attacks import ATTACKS, READY, Target, write_target
from tests.e2e.campaign import make_test_environment
from tests.e2e.network import CHAIN_ID, CONFIG, Network, make_key, open_network
from tests.e2e.plot import Panel, draw_panels
from tests.e2e.workers import TASK_NAME, create_task, make_author

HONEST = range(4)
INSIDER = 4
"""The validator that is killed at once; attackers have its key."""
HOSTILE_PARTICIPANTS = 3
SETTLE_S = 6.0
STOP_S = 60.0
SAMPLE_S = 0.5
# Waiting for the insider's turns shall not be what the figures show.
SIEGE_CONFIG = replace(
    CONFIG,
    log_level="warning",
    consensus=replace(
        CONFIG.consensus,
        timeout_propose_ms=400,
        timeout_prevote_ms=100,
        timeout_precommit_ms=100,
    ),
)


def read_memory_mb(pid: int) -> float:
    """Return the resident memory of a process, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ProcessLookupError(pid)


@dataclass
class Sample:
    """One look at the network: seconds, height of node 0, memory of each honest node in MB."""

    seconds: float
    height: int
    memory_mb: list[float]


@dataclass
class Siege:
    """A running network and what attackers know of it."""

    network: Network
    target_file: Path
    began: float = field(default_factory=time.monotonic)
    samples: list[Sample] = field(default_factory=list)

    def watch(self, seconds: float, is_over: Callable[[], bool] = lambda: False) -> float:
        """Look for a while, or until something is over.

        Returns
        -------
        float
            How many blocks a second the slowest honest node decided.
        """
        ends = time.monotonic() + seconds
        first, began = self._get_heights(), time.monotonic()
        while (left_s := ends - time.monotonic()) > 0 and not is_over():
            self._sample()
            time.sleep(min(SAMPLE_S, left_s))
        elapsed = time.monotonic() - began
        return min(
            (last - first) / elapsed for first, last in zip(first, self._get_heights(), strict=True)
        )

    def attack(
        self, names: Sequence[str], seconds: float
    ) -> tuple[float, dict[str, dict[str, int]]]:
        """Attack in several ways at once; return blocks a second meanwhile, and what each did.

        Attacks that are bound to a number of peers or streams may be over sooner.
        """
        attackers = [self._start(name, seconds) for name in names]
        try:
            for name, attacker in zip(names, attackers, strict=True):
                assert attacker.stdout is not None
                is_ready = attacker.stdout.readline().rstrip() == READY
                assert is_ready, self._read_errors(name)
            for attacker in attackers:
                _set_going(attacker)
            rate = self.watch(
                seconds, lambda: all(attacker.poll() is not None for attacker in attackers)
            )
            counts: dict[str, dict[str, int]] = {}
            for name, attacker in zip(names, attackers, strict=True):
                out, _ = attacker.communicate(timeout=STOP_S)
                assert attacker.returncode == 0, self._read_errors(name)
                counts[name] = json.loads(out)
        finally:
            for attacker in attackers:
                attacker.kill()
                attacker.communicate()
        return rate, counts

    def check_unharmed(self) -> None:
        for number in HONEST:
            process = self.network.processes[number]
            log = process.read_log()
            assert process.is_running, log[-4000:]
            place = log.find("Traceback")
            assert place < 0, log[max(0, place - 1000) : place + 4000]
        last = max(self._get_heights())
        self.network.wait_for_height(last + 2, HONEST)
        blocks = [self.network.read_blocks(number, last + 2, last - 5) for number in HONEST]
        assert all(each == blocks[0] for each in blocks)

    def read_memory_mb(self) -> list[float]:
        return [read_memory_mb(self.network.processes[number].popen.pid) for number in HONEST]

    def _get_heights(self) -> list[int]:
        return [self.network.get_height(number) for number in HONEST]

    def _sample(self) -> None:
        now_s = time.monotonic() - self.began
        self.samples.append(Sample(now_s, self.network.get_height(0), self.read_memory_mb()))

    def _start(self, name: str, seconds: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-P", "-m", "tests.e2e.attacks", name, str(seconds)]
        # A pipe that nobody reads meanwhile would hold up an attacker that has much to complain of.
        with self._get_error_file(name).open("w") as errors:
            return subprocess.Popen(
                [*command, str(self.target_file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=make_test_environment(),
            )

    def _get_error_file(self, name: str) -> Path:
        return self.target_file.with_name(f"{name}.err")

    def _read_errors(self, name: str) -> str:
        return self._get_error_file(name).read_text()[-3000:]


def _set_going(attacker: subprocess.Popen[str]) -> None:
    """Let an attacker begin, once it is ready."""
    assert attacker.stdin is not None
    attacker.stdin.write("\n")
    attacker.stdin.flush()


@contextmanager
def open_siege(folder: Path) -> Iterator[Siege]:
    """Start the network with a task, register the hostile participants, kill the insider."""
    hostile = [make_key(700 + i) for i in range(HOSTILE_PARTICIPANTS)]
    accounts = [make_author(), *hostile]
    with open_network(folder, 5, config=SIEGE_CONFIG, accounts=accounts) as network:
        client = network.clients[0]
        create_task(client, 2)
        task = client.task(TASK_NAME)
        for key in hostile:
            client.wait_for_transaction(client.register(key, task.task_id).hash)
        network.processes[INSIDER].kill()
        status = client.status()
        insider = read_validator_key(network.nodes[INSIDER].home.validator_key_file)
        target = Target(
            chain_id=CHAIN_ID,
            addresses=[network.nodes[number].p2p_address for number in HONEST],
            rpc_urls=[network.nodes[number].address.rpc_url for number in HONEST],
            genesis_hash=status.genesis_hash.hex(),
            protocol_version=1,
            validators=[network.nodes[number].validator_address for number in HONEST],
            insider_seed=_get_seed(insider),
            participant_seeds=tuple(map(_get_seed, hostile)),
            task_id=task.task_id.hex(),
            weights_root=task.weights_root.hex(),
        )
        target_file = folder / "target.json"
        write_target(target_file, target)
        time.sleep(SETTLE_S)
        yield Siege(network, target_file)


def _get_seed(key: PrivateKey) -> str:
    return key.seed.hex()


REST_S = 4.0
RATE_SAMPLES = 4
"""Blocks a second are drawn as the mean over so many samples."""


def draw(siege: Siege, marks: Sequence[tuple[float, str]]) -> str:
    """Return the figure of a siege."""
    samples = siege.samples
    memory = {
        f"node{number}": [(each.seconds, each.memory_mb[number]) for each in samples]
        for number in HONEST
    }
    rate = [
        (later.seconds, (later.height - sooner.height) / (later.seconds - sooner.seconds))
        for sooner, later in zip(samples, samples[RATE_SAMPLES:], strict=False)
    ]
    return draw_panels(
        [
            Panel("resident memory of the honest nodes, MB", memory, marks),
            Panel("blocks a second", {"": rate}, [(at_s, "") for at_s, _ in marks]),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--attacks", nargs="+", choices=list(ATTACKS), default=list(ATTACKS))
    chosen = parser.parse_args()
    marks: list[tuple[float, str]] = []
    with tempfile.TemporaryDirectory() as folder, open_siege(Path(folder)) as siege:
        print("| attack | blocks/s before | blocks/s meanwhile | memory, MB | what was done |")
        print("| --- | --- | --- | --- | --- |")
        for name in chosen.attacks:
            base = siege.watch(REST_S)
            marks.append((time.monotonic() - siege.began, name))
            rate, counts = siege.attack([name], chosen.seconds)
            done = ", ".join(f"{count:,} {what}" for what, count in counts[name].items() if count)
            memory = max(siege.read_memory_mb())
            print(f"| `{name}` | {base:.1f} | {rate:.1f} | {memory:.0f} | {done} |", flush=True)
            siege.check_unharmed()
        siege.watch(REST_S)
        chosen.out.write_text(draw(siege, marks))


if __name__ == "__main__":
    main()
