"""How the nodes of a campaign reach each other: through relays, or in network namespaces.

Owns the relays' sockets and threads, and the namespaces with the processes that hold them open and
the cables that lead into them.
Touches only the loopback interface and namespaces of its own. Never looks into what it carries.
"""

import os
import shutil
import socket
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from node.localnet import find_free_addresses
from node.testnet import LOOPBACK, NodeAddress
from tests.e2e.cables import TUN_DEVICE, Cable

CHUNK_BYTES: Final = 65_536
CONNECTIONS_MAX: Final = 64
"""Connections that a relay carries at a time; it closes further ones."""
_POLL_S: Final = 0.02
_SUBNET: Final = "10.213.7"
_BRIDGE: Final = "qbridge"


@dataclass
class Relay:
    """Carries the connections of one pair of nodes; held back or delayed while it is told so."""

    target: tuple[str, int]
    delay_s: float = 0.0
    is_held: bool = False
    port: int = 0
    _listener: socket.socket = field(default_factory=socket.socket)
    _open: set[socket.socket] = field(default_factory=set)
    _is_closed: bool = False

    def start(self) -> None:
        self._listener.bind((LOOPBACK, 0))
        self._listener.listen()
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._is_closed = True
        # A thread that waits in accept is only woken by this.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in tuple(self._open):
            self._drop(each)

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if len(self._open) >= 2 * CONNECTIONS_MAX:
                near.close()
                continue
            try:
                far = socket.create_connection(self.target, 2)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            for each in (near, far):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._open.add(each)
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while True:
                data = source.recv(CHUNK_BYTES)
                if self.delay_s:
                    time.sleep(self.delay_s)
                while self.is_held and not self._is_closed:
                    time.sleep(_POLL_S)
                if not data:
                    return
                sink.sendall(data)
        except OSError:
            pass
        finally:
            self._drop(source)
            self._drop(sink)

    def _drop(self, each: socket.socket) -> None:
        self._open.discard(each)
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


class RelayWiring:
    """All nodes on the loopback interface, a relay between any two that are linked."""

    def __init__(self, count: int) -> None:
        self.addresses = find_free_addresses(count)
        self._relays: dict[tuple[int, int], Relay] = {}

    @property
    def n_lost(self) -> int:
        """Packets lost on purpose: a relay carries streams, which lose nothing."""
        return 0

    def get_dialed(self, number: int, other: int) -> tuple[str, int]:
        """Return where `number` finds `other`."""
        target = (LOOPBACK, self.addresses[other].p2p_port)
        relay = self._relays.setdefault((number, other), Relay(target))
        if not relay.port:
            relay.start()
        return LOOPBACK, relay.port

    def get_rpc(self, number: int) -> str:
        return f"{LOOPBACK}:{self.addresses[number].rpc_port}"

    def get_prefix(self, number: int) -> list[str]:  # noqa: ARG002 - others need it.
        """Return what stands in front of a node's command."""
        return []

    def hold(self, number: int, *, is_held: bool) -> None:
        """Let a node's links carry nothing, or carry again what they have."""
        for pair, relay in self._relays.items():
            if number in pair:
                relay.is_held = is_held

    def impair(self, number: int, delay_ms: int, loss_percent: int) -> None:
        """Delay what a node's links carry; 0 heals."""
        if loss_percent:
            raise ValueError("a relay carries streams, which lose nothing")
        for pair, relay in self._relays.items():
            if number in pair:
                relay.delay_s = delay_ms / 1000

    def close(self) -> None:
        for relay in self._relays.values():
            relay.close()


class NamespaceWiring:
    """Each node in a network namespace of its own, a cable from each to one bridge in the caller's.

    The caller must be alone in its namespace (`unshare --net`), which is left as it was found
    when its last process ends.
    """

    def __init__(self, count: int) -> None:
        self.addresses = [NodeAddress(f"{_SUBNET}.{10 + i}") for i in range(count)]
        self._holders: list[subprocess.Popen[bytes]] = []
        self._cables: list[Cable] = []
        _run("ip", "link", "set", "lo", "up")
        _run("ip", "link", "add", _BRIDGE, "type", "bridge")
        _run("ip", "addr", "add", f"{_SUBNET}.1/24", "dev", _BRIDGE)
        _run("ip", "link", "set", _BRIDGE, "up")
        for number in range(count):
            self._add(number)

    def _add(self, number: int) -> None:
        holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        self._holders.append(holder)
        # It is in its namespace once unshare has become sleep.
        while "sleep" not in _read_command(holder.pid):
            time.sleep(_POLL_S)
        outer, inner = f"qnode{number}", f"qpeer{number}"
        cable = Cable(outer, inner, number)
        cable.start()
        self._cables.append(cable)
        _run("ip", "link", "set", outer, "master", _BRIDGE)
        _run("ip", "link", "set", outer, "up")
        _run("ip", "link", "set", inner, "netns", str(holder.pid))
        inside = self.get_prefix(number)
        _run(*inside, "ip", "link", "set", "lo", "up")
        _run(*inside, "ip", "addr", "add", f"{_SUBNET}.{10 + number}/24", "dev", inner)
        _run(*inside, "ip", "link", "set", inner, "up")

    def get_dialed(self, number: int, other: int) -> tuple[str, int]:  # noqa: ARG002
        return self.addresses[other].host, self.addresses[other].p2p_port

    def get_rpc(self, number: int) -> str:
        return f"{self.addresses[number].host}:{self.addresses[number].rpc_port}"

    def get_prefix(self, number: int) -> list[str]:
        return ["nsenter", "--target", str(self._holders[number].pid), "--net", "--"]

    def hold(self, number: int, *, is_held: bool) -> None:
        """Pull a node's cable, or plug it in: the RPC is as dead as the links meanwhile."""
        _run("ip", "link", "set", f"qnode{number}", "down" if is_held else "up")

    def impair(self, number: int, delay_ms: int, loss_percent: int) -> None:
        """Delay or lose what a node's cable carries, in both directions; 0 heals."""
        self._cables[number].delay_s = delay_ms / 1000
        self._cables[number].loss = loss_percent / 100

    @property
    def n_lost(self) -> int:
        """Packets lost on purpose."""
        return sum(cable.n_lost for cable in self._cables)

    def close(self) -> None:
        for holder in self._holders:
            holder.kill()
            holder.wait()
        for cable in self._cables:
            cable.close()
        with suppress(subprocess.CalledProcessError):
            _run("ip", "link", "del", _BRIDGE)


Wiring = RelayWiring | NamespaceWiring


def why_no_namespaces() -> str:
    """Return why this machine allows no network namespaces with cables; empty if it does."""
    for tool in ("ip", "unshare", "nsenter"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed (iproute2, util-linux)"
    try:
        os.close(os.open(TUN_DEVICE, os.O_RDWR))
    except OSError as error:
        return f"{TUN_DEVICE} cannot be opened here: {error.strerror}"
    script = f"ip link add {_BRIDGE} type bridge && ip tuntap add dev qnode0 mode tap"
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else f"not allowed here: {done.stderr.strip()[:200]}"


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _read_command(pid: int) -> str:
    with suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123
        return os.fsdecode(file.read())
    return ""
