"""Networks of real processes for tests: homes on the disk, nodes started by the command line.

Owns the processes, which end with the network, and what tests ask of every node. Nodes are seen
through their RPC alone.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from quorate.chain.block import Block
from quorate.chain.genesis import GenesisAccount
from quorate.chain.ids import Hash
from quorate.chain.keys import PrivateKey
from quorate.chain.transaction import (
    Body,
    Transaction,
    Transfer,
    compute_transaction_hash,
    sign_transaction,
)
from quorate.client import Client
from quorate.errors import ConnectionFailedError, RpcError

from node.config import Config, ConsensusSection, load_config, write_config
from node.localnet import find_free_addresses, make_environment
from node.testnet import NetworkPlan, WrittenNode, write_network

CHAIN_ID = "e2e"
BALANCE = 10**9
READY_S = 60.0
CONFIG = Config(
    log_level="info",
    consensus=ConsensusSection(
        timeout_propose_ms=1_000,
        timeout_prevote_ms=300,
        timeout_precommit_ms=300,
        empty_block_interval_ms=200,
    ),
)


def make_key(number: int) -> PrivateKey:
    return PrivateKey(number.to_bytes(32, "big"))


def sign(key: PrivateKey, nonce: int, body: Body) -> bytes:
    return sign_transaction(key, Transaction(1, CHAIN_ID, key.public_key, nonce, 0, body))


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = READY_S) -> None:
    """Wait for something that a node must do; `what` is said if it does not."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.05)


@dataclass
class Process:
    """A node's process, started like a person would."""

    node: WrittenNode
    popen: subprocess.Popen[bytes]
    log_file: Path

    @classmethod
    def start(cls, node: WrittenNode) -> "Process":
        log_file = node.home.folder / "node.log"
        command = [sys.executable, "-P", "-m", "cli", "start", "--home", str(node.home.folder)]
        with log_file.open("ab") as log:
            popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=make_environment(os.environ),
                start_new_session=True,
            )
        return cls(node, popen, log_file)

    @property
    def is_running(self) -> bool:
        return self.popen.poll() is None

    def kill(self) -> None:
        """Stop the process in the middle of whatever it does."""
        self.popen.kill()
        self.popen.wait()

    def terminate(self, timeout_s: float) -> tuple[int, float]:
        """Ask the process to stop; return its exit code and how many seconds it took."""
        start = time.monotonic()
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(timeout_s), time.monotonic() - start

    def read_log(self) -> str:
        return self.log_file.read_text(errors="replace")


class Network:
    """Nodes of one chain, and a client for each."""

    def __init__(self, nodes: Sequence[WrittenNode], clients: Sequence[Client]) -> None:
        self.nodes = list(nodes)
        self.clients = list(clients)
        self.processes = [Process.start(node) for node in self.nodes]

    def restart(self, number: int) -> None:
        assert not self.processes[number].is_running
        self.processes[number] = Process.start(self.nodes[number])

    def get_height(self, number: int) -> int:
        """Return the height of a node's latest block; -1 while it does not answer."""
        try:
            return self.clients[number].status().height
        except (ConnectionFailedError, RpcError):
            assert self.processes[number].is_running, self.processes[number].read_log()[-4000:]
            return -1

    def wait_for_height(self, height: int, numbers: Sequence[int] | None = None) -> None:
        for number in range(len(self.nodes)) if numbers is None else numbers:
            wait_until(
                lambda number=number: self.get_height(number) >= height,  # type: ignore[misc]
                f"node {number} reaches height {height}",
            )

    def read_blocks(self, number: int, last: int, first: int = 1) -> list[Block]:
        return [self.clients[number].block(height) for height in range(first, last + 1)]

    def stop(self) -> None:
        for process in self.processes:
            if process.is_running:
                process.popen.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.popen.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def open_network(
    folder: Path,
    count: int = 4,
    *,
    config: Config = CONFIG,
    accounts: Sequence[PrivateKey] = (),
    change: Callable[[int, Config], Config] = lambda _, config: config,
) -> Iterator[Network]:
    """Run a network; `change` may give a node settings of its own."""
    plan = NetworkPlan(
        chain_id=CHAIN_ID,
        addresses=find_free_addresses(count),
        config=config,
        accounts=[GenesisAccount(key.address, BALANCE) for key in accounts],
        bucket_count=256,
    )
    nodes = write_network(folder / "network", plan)
    for number, node in enumerate(nodes):
        _change_settings(node, number, change)
    with ExitStack() as stack:
        clients = [
            stack.enter_context(Client(node.address.rpc_url, timeout_s=5.0, retries=0))
            for node in nodes
        ]
        network = Network(nodes, clients)
        try:
            network.wait_for_height(1)
            yield network
        finally:
            network.stop()


def _change_settings(
    node: WrittenNode,
    number: int,
    change: Callable[[int, Config], Config],
) -> None:
    mine = load_config(node.home)
    changed = change(number, mine)
    if changed != mine:
        write_config(node.home, changed)


@dataclass
class Load:
    """Transfers that one account keeps sending to one node, in a thread, until it is stopped.

    Attributes
    ----------
    acknowledged : list of bytes, 32
        The transactions that the node has said are pending.
    refused : list of str
        Codes of those it has refused.
    """

    url: str
    key: PrivateKey
    batch_size: int = 20
    pause_s: float = 0.1
    acknowledged: list[Hash] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(30)
            assert not self._thread.is_alive()

    def _run(self) -> None:
        nonce = 0
        with Client(self.url, timeout_s=10.0, retries=0) as client:
            while not self._stop.is_set():
                raws = [
                    sign(self.key, nonce + i, Transfer(make_key(999).address, 1))
                    for i in range(self.batch_size)
                ]
                nonce += len(raws)
                try:
                    results = client.submit_many([(raw, None) for raw in raws])
                except ConnectionFailedError:
                    # The node is gone, and nobody knows what it has taken of this batch.
                    return
                for raw, result in zip(raws, results, strict=True):
                    if result.is_accepted:
                        self.acknowledged.append(compute_transaction_hash(raw))
                    else:
                        self.refused.append(str(result.code))
                self._stop.wait(self.pause_s)
