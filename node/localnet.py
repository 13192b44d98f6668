"""Nodes of this machine as processes: started, watched, stopped.

Owns the processes that it started and the ports they are given. Stops them by their ids and never
touches another; they stop by themselves when this process is gone, however it went.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final, Self

from quorate.chain.errors import QuorateError
from quorate.client import Client
from quorate.rpc_types import Status

from node.process import STOP_WITH_INPUT
from node.testnet import LOOPBACK, NodeAddress, WrittenNode
from store.disk import lock_folder, make_folder

READY_SECONDS_MAX: Final = 60.0
STOP_SECONDS_MAX: Final = 10.0
"""A node stops within five seconds; one that takes twice as long is killed."""
STATUS_SECONDS_MAX: Final = 2.0
LOG_TAIL_BYTES: Final = 16_384
LOG_FILE: Final = "node.log"

_POLL_SECONDS: Final = 0.1
_PORTS_FIRST, _PORTS_LAST = 20_000, 32_000
"""Below the ports that the system gives to outgoing connections: a node that dials a peer which
does not listen yet could otherwise be connected to itself."""
_PORTS_PER_NODE: Final = 3
_PORT_ATTEMPTS_MAX: Final = 2_000
_ERROR_MARK: Final = "Error: "


class LocalnetError(QuorateError):
    """A node of a localnet has failed; the message says which, why, and where its log is."""


@dataclass(slots=True)
class NodeProcess:
    """A node's process and where it writes its log.

    Attributes
    ----------
    node : WrittenNode
    process : subprocess.Popen
    log_file : Path
    log_start : int
        Bytes of the log that earlier processes have written.
    """

    node: WrittenNode
    process: subprocess.Popen[bytes]
    log_file: Path
    log_start: int = 0

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self.process.poll() is None

    @property
    def end(self) -> str:
        """How the process has ended: its exit code, or the signal."""
        code = self.process.returncode
        if code is None or code >= 0:
            return f"exit code {code}"
        try:
            return f"signal {-code}, {signal.Signals(-code).name}"
        except ValueError:
            return f"signal {-code}"

    def read_last_words(self) -> str:
        """Return the sentence that the node ended with, or its log's last line."""
        with self.log_file.open("rb") as file:
            file.seek(max(self.log_start, self.log_file.stat().st_size - LOG_TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        told = [line for line in lines if line.startswith(_ERROR_MARK)]
        last = (told or lines or ["it wrote nothing"])[-1].removeprefix(_ERROR_MARK).strip()
        return last if last.endswith((".", "]")) else f"{last}."

    def close_input(self) -> None:
        """Close the process's input, which tells it to stop if it still runs."""
        if self.process.stdin is not None:
            self.process.stdin.close()


class Localnet:
    """The nodes of a network on this machine, each a process of its own.

    Works as a context manager: leaving it stops every node.

    Parameters
    ----------
    nodes : sequence of WrittenNode
        From `node.testnet.write_network`.
    """

    def __init__(self, nodes: Sequence[WrittenNode]) -> None:
        self.nodes = tuple(nodes)
        self.processes: list[NodeProcess] = []
        self._clients = ExitStack()
        self.clients = [
            self._clients.enter_context(
                Client(node.address.rpc_url, timeout_s=STATUS_SECONDS_MAX, retries=0)
            )
            for node in self.nodes
        ]

    def start(self) -> None:
        """Start every node; they need a moment until they answer."""
        for node in self.nodes:
            with hold_interrupts():
                self.processes.append(_start_node(node))

    def restart(self, number: int) -> None:
        """Start a node again that has ended.

        Parameters
        ----------
        number : int
            Its place among the nodes.

        Raises
        ------
        LocalnetError
            If it runs.
        """
        ended = self.processes[number]
        if ended.is_running:
            raise LocalnetError(f"{ended.node.moniker} runs: stop it before it is started again.")
        with hold_interrupts():
            ended.close_input()
            self.processes[number] = _start_node(ended.node)

    def check_running(self) -> None:
        """Raise unless every node still runs.

        Raises
        ------
        LocalnetError
            With the sentence that the first one missing ended with.
        """
        for each in self.processes:
            if not each.is_running:
                raise LocalnetError(
                    f"{each.node.moniker} has stopped ({each.end}): "
                    f"{each.read_last_words()} Its log: {each.log_file}"
                )

    def get_statuses(self) -> list[Status | None]:
        """Return what each node says of itself; None for one that does not answer."""
        return [_get_status(client) for client in self.clients]

    def wait_until_ready(
        self,
        timeout_s: float = READY_SECONDS_MAX,
        report: Callable[[int], None] = lambda _ready: None,
    ) -> list[Status]:
        """Wait until every node has decided a block, and return their statuses.

        Parameters
        ----------
        timeout_s : float
        report : callable
            Called with the number of nodes that are ready, each time they are asked.

        Raises
        ------
        LocalnetError
            If a node has stopped, or not all are ready in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            self.check_running()
            ready = [each for each in self.get_statuses() if each is not None and each.height > 0]
            report(len(ready))
            if len(ready) == len(self.nodes):
                return ready
            if time.monotonic() > deadline:
                raise LocalnetError(
                    f"Only {len(ready)} of {len(self.nodes)} nodes had decided a block after "
                    f"{timeout_s:g} s; their logs: {self.processes[0].log_file} and beside it."
                )
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """Stop every node in order, and kill what does not stop in time.

        A person who is asked to wait for that may interrupt it: then all are killed at once.
        """
        try:
            self._terminate()
        finally:
            for each in self.processes:
                each.process.kill()
                each.process.wait()
                each.close_input()
            self._clients.close()

    def _terminate(self) -> None:
        for each in self.processes:
            if each.is_running:
                each.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS_MAX
        for each in self.processes:
            with suppress(subprocess.TimeoutExpired):
                each.process.wait(max(0.0, deadline - time.monotonic()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def find_free_addresses(count: int) -> list[NodeAddress]:
    """Return addresses on the loopback interface whose ports nobody listens on now.

    Raises
    ------
    LocalnetError
        If there are not enough.
    """
    # Two localnets started at once shall not look at the same ports; nothing else depends on it.
    draw = random.Random(os.getpid() ^ time.time_ns())  # noqa: S311
    ports: list[int] = []
    for _ in range(_PORT_ATTEMPTS_MAX):
        port = draw.randrange(_PORTS_FIRST, _PORTS_LAST)
        if port not in ports and _is_free(port):
            ports.append(port)
        if len(ports) == count * _PORTS_PER_NODE:
            return [
                NodeAddress(LOOPBACK, *ports[i : i + _PORTS_PER_NODE])
                for i in range(0, len(ports), _PORTS_PER_NODE)
            ]
    raise LocalnetError(
        f"No {count * _PORTS_PER_NODE} free ports were found between {_PORTS_FIRST} and "
        f"{_PORTS_LAST} on {LOOPBACK}: stop what listens there."
    )


def check_ports(addresses: Sequence[NodeAddress]) -> None:
    """Raise if somebody listens where a node is to listen.

    Raises
    ------
    LocalnetError
    """
    for address in addresses:
        for port in (address.p2p_port, address.rpc_port, address.metrics_port):
            if not _is_free(port):
                raise LocalnetError(
                    f"Port {port} on {LOOPBACK} is in use: stop the program that listens there, or "
                    "choose other ports with --starting-port."
                )


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Create a folder unless it is there, and keep it from every other localnet.

    Raises
    ------
    LocalnetError
        If it is no folder, or another localnet has it.
    StorageError
        If it cannot be created or used.
    """
    if folder.exists() and not folder.is_dir():
        raise LocalnetError(f"{folder} is no folder: choose another one.")
    make_folder(folder)
    descriptor = lock_folder(folder)
    if descriptor is None:
        raise LocalnetError(
            f"Another localnet runs in {folder}: stop that one first, or choose another folder."
        )
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def hold_interrupts() -> Iterator[None]:
    """Let Ctrl-C wait until what is inside is done: no process is started and then forgotten."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    noted: list[FrameType | None] = []
    before = signal.signal(signal.SIGINT, lambda _, frame: noted.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if noted and callable(before):
        before(signal.SIGINT, noted[0])


def make_environment(own: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a node's process.

    The settings come from the home folder alone, so variables that override them are left out.
    One thread for linear algebra: the nodes share the machine's processors already.
    """
    kept = {name: own[name] for name in own if not name.startswith("QUORATE_")}
    return {"OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | kept


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _start_node(node: WrittenNode) -> NodeProcess:
    log_file = node.home.folder / LOG_FILE
    # -P: a folder named node where the user happens to stand is not this program.
    command = [sys.executable, "-P", "-m", "node.process", STOP_WITH_INPUT, str(node.home.folder)]
    with log_file.open("ab") as log:
        log_start = log.tell()
        process = subprocess.Popen(  # noqa: S603 - this interpreter and a folder of ours.
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=make_environment(os.environ),
            # Ctrl-C in the terminal is for the process that started the nodes; it stops them. A
            # group will do: Linux shares processors out by session first, so in sessions of their
            # own one node's aggregation would not give way to another's consensus.
            process_group=0,
        )
    return NodeProcess(node, process, log_file, log_start)


def _get_status(client: Client) -> Status | None:
    try:
        return client.status()
    except QuorateError:
        return None
