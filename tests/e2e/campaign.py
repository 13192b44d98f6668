"""A manifest carried out: nodes as processes, load and training, faults in their time, the verdict.

Owns the processes and the order of things. Sees the nodes through their RPC alone.

``python -m tests.e2e.campaign MANIFEST FOLDER`` runs one, ``--seed N --seconds S`` a drawn one. A
manifest whose nodes live in namespaces is run inside a namespace of its own.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from quorate.chain.codec import decode
from quorate.chain.evidence import DuplicateVoteEvidence
from quorate.chain.genesis import GenesisAccount
from quorate.chain.ids import Hash
from quorate.chain.transaction import compute_transaction_hash
from quorate.client import Client
from quorate.errors import ConnectionFailedError, RpcError

from node.config import Config, load_config, write_config
from node.home import Home
from node.key_files import make_node_key
from node.localnet import make_environment
from node.process import STOP_WITH_INPUT
from node.testnet import NetworkPlan, WrittenNode, write_home, write_network
from tests.e2e.manifest import Fault, Manifest, generate, read_manifest, write_manifest
from tests.e2e.network import BALANCE, CHAIN_ID, CONFIG, wait_until
from tests.e2e.wiring import NamespaceWiring, RelayWiring, Wiring
from tests.e2e.workers import (
    TASK_NAME,
    Participant,
    Sender,
    Worker,
    create_task,
    make_author,
    make_worker_key,
)

REPOSITORY = Path(__file__).parents[2]
HEAL_S = 60.0
BLOCKS_AFTER = 3
"""So many blocks every node must decide once everything is healed."""
DRAIN_S = 60.0
START_S = 10.0
"""A process may take so long on a busy machine before the node in it begins."""
EVIDENCE_BYTES_MAX = 4_096
_TICK_S = 0.05


def make_test_environment() -> dict[str, str]:
    """Return the environment of a node, which finds the repository wherever it is started."""
    found = os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "sdk")))
    return make_environment(os.environ) | {"PYTHONPATH": found}


@dataclass
class Member:
    """A node of the campaign: its home, its process, a client for it."""

    number: int
    node: WrittenNode
    client: Client
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0

    @property
    def client_url(self) -> str:
        return self.client.endpoint.url

    @property
    def log_file(self) -> Path:
        return self.node.home.folder / "node.log"

    def start(self) -> None:
        self.started_s = time.monotonic()
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=make_test_environment(),
                start_new_session=True,
            )

    def send_signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def end(self, number: signal.Signals, timeout_s: float = 15) -> None:
        """Stop the process with a signal, and make sure."""
        if self.process is None:
            return
        self.send_signal(number)
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()

    def get_height(self) -> int:
        """Return the height of the latest block; -1 while the node does not answer."""
        try:
            return self.client.status().height
        except (ConnectionFailedError, RpcError):
            return -1

    def check_running(self) -> None:
        log = self.log_file.read_text(errors="replace")
        is_running = self.process is not None and self.process.poll() is None
        assert is_running, f"node {self.number} has stopped: {log[-3000:]}"
        assert "Traceback" not in log, f"node {self.number}: {log[-6000:]}"


@dataclass
class Verdict:
    """What came of a campaign.

    Attributes
    ----------
    heights : int
        Blocks compared, on every honest node.
    acknowledged : int
        Transactions that a node took, each found in exactly one block.
    training_rounds : int
        Finalized.
    evidence : int
        Pieces of it in the blocks.
    seconds : float
        From the first block to the last one compared.
    lost : int
        Packets that cables between namespaces lost on purpose.
    """

    heights: int = 0
    acknowledged: int = 0
    training_rounds: int = 0
    evidence: int = 0
    seconds: float = 0.0
    lost: int = 0


@dataclass
class Campaign:
    """A running network and those who use it."""

    manifest: Manifest
    wiring: Wiring
    members: list[Member]
    workers: list[Worker] = field(default_factory=list)
    on_tick: Callable[[float], None] = lambda _now_s: None

    @property
    def honest(self) -> list[Member]:
        return [self.members[number] for number in self.manifest.honest]

    def start(self) -> None:
        for member in self.members:
            if member.number not in self.manifest.late:
                member.start()
        witness = self.honest[0]

        def has_begun() -> bool:
            for member in self.members:
                if member.number not in self.manifest.late:
                    member.check_running()
            return witness.get_height() > 0

        wait_until(has_begun, "the first block is decided")
        if self.manifest.participants:
            create_task(witness.client, self.manifest.participants)

    def make_workers(self) -> None:
        """Put senders and participants on honest nodes that are there from the start."""
        users = [each for each in self.honest if each.number not in self.manifest.late]
        urls = [f"http://{self.wiring.get_rpc(each.number)}" for each in users]
        for i in range(self.manifest.senders):
            self.workers.append(Sender(urls[i % len(urls)], make_worker_key(i)))
        for i in range(self.manifest.participants):
            key = make_worker_key(100 + i)
            self.workers.append(Participant(urls[i % len(urls)], key))

    def run(self) -> None:
        """Let the faults happen in their time, while the workers work."""
        started = time.monotonic()
        plan: list[tuple[float, Callable[[], None]]] = []
        for fault in self.manifest.faults:
            plan.append((fault.at_s, partial(self._begin, fault)))
            plan.append((fault.ends_s, partial(self._end, fault)))
        joins = self.manifest.late_join_s
        plan += [(joins, self.members[number].start) for number in self.manifest.late]
        plan.sort(key=lambda each: each[0])
        for worker in self.workers:
            worker.start()
        while (now_s := time.monotonic() - started) < self.manifest.seconds or plan:
            while plan and plan[0][0] <= now_s:
                plan.pop(0)[1]()
            for worker in self.workers:
                worker.check()
            self.on_tick(now_s)
            time.sleep(_TICK_S)

    def _begin(self, fault: Fault) -> None:
        member = self.members[fault.node]
        match fault.kind:
            case "kill":
                member.end(signal.SIGKILL)
            case "restart":
                member.end(signal.SIGTERM)
                assert member.process is not None
                code = member.process.returncode
                # One that is only just starting has not yet taken its signals over.
                is_early = time.monotonic() - member.started_s < START_S
                assert code == 0 or (is_early and code == -signal.SIGTERM), (
                    f"{code} at SIGTERM: {member.log_file.read_text()[-3000:]}"
                )
            case "freeze":
                member.send_signal(signal.SIGSTOP)
            case "disconnect":
                self.wiring.hold(fault.node, is_held=True)
            case "delay":
                self.wiring.impair(fault.node, fault.delay_ms, 0)
            case "loss":
                self.wiring.impair(fault.node, fault.delay_ms, fault.loss_percent)

    def _end(self, fault: Fault) -> None:
        match fault.kind:
            case "kill" | "restart":
                self.members[fault.node].start()
            case "freeze":
                self.members[fault.node].send_signal(signal.SIGCONT)
            case "disconnect":
                self.wiring.hold(fault.node, is_held=False)
            case "delay" | "loss":
                self.wiring.impair(fault.node, 0, 0)

    def judge(self) -> Verdict:
        """Heal, drain, and compare everything; an `AssertionError` says what is wrong."""
        verdict = Verdict(lost=self.wiring.n_lost)
        for worker in self.workers:
            worker.stop()
        witness = self.honest[0]
        target = max(member.get_height() for member in self.honest) + BLOCKS_AFTER
        for member in self.honest:
            wait_until(
                lambda member=member: member.get_height() >= target,  # type: ignore[misc]
                f"node {member.number} reaches height {target}",
                HEAL_S,
            )
            member.check_running()
        self._check_decided(witness, verdict)
        self._check_equal(witness, verdict)
        if self.manifest.participants:
            self._check_weights(verdict)
        return verdict

    def _check_decided(self, witness: Member, verdict: Verdict) -> None:
        """Every acknowledged transaction is in exactly one block."""
        acknowledged = {each for worker in self.workers for each in worker.acknowledged}
        counts: Counter[Hash] = Counter()
        liars = {self.members[number].node.validator_address for number in self.manifest.byzantine}

        def read() -> bool:
            while verdict.heights < witness.get_height():
                block = witness.client.block(verdict.heights + 1)
                counts.update(map(compute_transaction_hash, block.transactions))
                for raw in block.evidence:
                    evidence = decode(DuplicateVoteEvidence, raw, EVIDENCE_BYTES_MAX)
                    assert evidence.first.validator.hex() in liars, "an honest node is accused"
                    verdict.evidence += 1
                verdict.heights += 1
            return all(counts[each] for each in acknowledged)

        wait_until(read, "everything acknowledged is decided", DRAIN_S)
        assert set(counts.values()) <= {1}, "a transaction is decided twice"
        verdict.acknowledged = len(acknowledged)

    def _check_equal(self, witness: Member, verdict: Verdict) -> None:
        """The same block at each height on every honest node, and the roots that it names."""
        heights = range(1, verdict.heights + 1)
        blocks = [witness.client.block(height) for height in heights]
        for member in self.honest[1:]:
            wait_until(
                lambda member=member: member.get_height() >= verdict.heights,  # type: ignore[misc]
                f"node {member.number} reaches height {verdict.heights}",
            )
            for height, block in zip(heights, blocks, strict=True):
                assert member.client.block(height) == block, f"{member.number} at {height}"
        for member in self.honest:
            status = member.client.status()
            wait_until(
                lambda height=status.height: witness.get_height() >= height,  # type: ignore[misc]
                f"the witness reaches height {status.height}",
            )
            header = witness.client.block(status.height).header
            assert (status.state_root, status.model_root) == (
                header.state_root,
                header.model_root,
            ), f"node {member.number} has other roots at {status.height}"
        verdict.seconds = (blocks[-1].header.time_ms - blocks[0].header.time_ms) / 1000

    def _check_weights(self, verdict: Verdict) -> None:
        """Weights of each node, checked against a commit of the next one."""
        genesis = self.honest[0].node.home.read_genesis()
        for member, other in zip(self.honest, [*self.honest[1:], self.honest[0]], strict=True):
            member.client.get_verified_weights(TASK_NAME, genesis, commit_from=other.client)
        verdict.training_rounds = self.honest[0].client.task(TASK_NAME).training_round

    def stop(self) -> None:
        for worker in self.workers:
            worker.abandon()
        for member in self.members:
            member.send_signal(signal.SIGCONT)
            member.send_signal(signal.SIGTERM)
        for member in self.members:
            member.end(signal.SIGTERM)
        self.wiring.close()


@contextmanager
def open_campaign(manifest: Manifest, folder: Path, config: Config = CONFIG) -> Iterator[Campaign]:
    """Write the homes, start the nodes and create the task; everything stops at the end."""
    kind = NamespaceWiring if manifest.wiring == "namespaces" else RelayWiring
    with ExitStack() as stack:
        wiring = kind(manifest.node_count)
        nodes = _write_homes(manifest, wiring, folder, config)
        members = []
        for number, node in enumerate(nodes):
            client = stack.enter_context(
                Client(f"http://{wiring.get_rpc(number)}", timeout_s=5.0, retries=0)
            )
            command = _make_command(manifest, wiring, number, node.home)
            members.append(Member(number, node, client, command))
        campaign = Campaign(manifest, wiring, members)
        stack.callback(campaign.stop)
        campaign.start()
        campaign.make_workers()
        yield campaign


def run_campaign(manifest: Manifest, folder: Path) -> Verdict:
    """Carry a manifest out and return the verdict."""
    with open_campaign(manifest, folder) as campaign:
        campaign.run()
        return campaign.judge()


def _make_command(manifest: Manifest, wiring: Wiring, number: int, home: Home) -> list[str]:
    how = manifest.byzantine.get(number)
    module = ["node.process"] if how is None else ["tests.e2e.byzantine_node", how]
    arguments = [*module, STOP_WITH_INPUT, str(home.folder)]
    return [*wiring.get_prefix(number), sys.executable, "-P", "-m", *arguments]


def _write_homes(
    manifest: Manifest, wiring: Wiring, folder: Path, config: Config
) -> list[WrittenNode]:
    """Write the homes of all nodes; each dials those linked to it with a lower number."""
    keys = [make_author(), *map(make_worker_key, range(200))]
    plan = NetworkPlan(
        chain_id=CHAIN_ID,
        addresses=wiring.addresses[: manifest.validators],
        config=config,
        accounts=[GenesisAccount(key.address, BALANCE) for key in keys],
        bucket_count=256,
    )
    nodes = write_network(folder / "network", plan)
    settings = load_config(nodes[0].home, {})
    genesis = nodes[0].home.read_genesis()
    for number in range(manifest.validators, manifest.node_count):
        home, node_key = Home(folder / f"full{number}"), make_node_key()
        write_home(home, settings, node_key, None, genesis)
        nodes.append(
            WrittenNode(home, f"node{number}", wiring.addresses[number], node_key.peer_id, "")
        )
    for number, node in enumerate(nodes):
        dialed = [lower for lower, higher in manifest.list_links() if higher == number]
        write_config(node.home, _set_addresses(settings, wiring, nodes, number, dialed))
    return nodes


def _set_addresses(
    settings: Config, wiring: Wiring, nodes: Sequence[WrittenNode], number: int, dialed: list[int]
) -> Config:
    address = wiring.addresses[number]
    peers = []
    for other in dialed:
        host, port = wiring.get_dialed(number, other)
        peers.append(f"/ip4/{host}/tcp/{port}/p2p/{nodes[other].peer_id}")
    listen = f"/ip4/{address.host}/tcp/{address.p2p_port}"
    # Without the exchange of addresses, nodes are linked as the manifest says and not otherwise.
    p2p = replace(
        settings.p2p,
        listen=listen,
        external_address="",
        persistent_peers=tuple(peers),
        peer_exchange=False,
    )
    metrics = replace(settings.instrumentation, metrics=False)
    return replace(
        settings,
        moniker=f"node{number}",
        p2p=p2p,
        rpc=replace(settings.rpc, listen=wiring.get_rpc(number)),
        instrumentation=metrics,
    )


def run_in_namespace(path: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a manifest in a process that is alone in a network namespace."""
    command = ["unshare", "--net", sys.executable, "-P", "-m", __name__, str(path), str(folder)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=make_test_environment()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", nargs="?", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seconds", type=float, default=20.0)
    chosen = parser.parse_args()
    if chosen.seed is None:
        manifest = read_manifest(chosen.manifest)
    else:
        manifest = generate(chosen.seed, chosen.seconds)
        print(write_manifest(manifest))
    print(run_campaign(manifest, chosen.folder))


if __name__ == "__main__":
    main()
