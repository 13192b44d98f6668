"""Networks to test with: the same tests run over the one in memory and the one over libp2p."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from p2p import keeping
from p2p.memory import MemoryHub, MemoryNetwork
from p2p.network import Network, NetworkConfig, PeerId, Priority, RequestRefused

DEADLINE_S = 10.0


@dataclass
class Recorder:
    """A node that writes down what its network tells it."""

    connected: list[PeerId] = field(default_factory=list)
    disconnected: list[PeerId] = field(default_factory=list)
    messages: list[tuple[PeerId, Priority, bytes]] = field(default_factory=list)
    announcements: list[tuple[PeerId, bytes]] = field(default_factory=list)
    statuses: list[tuple[PeerId, bytes]] = field(default_factory=list)
    requests: list[tuple[PeerId, bytes]] = field(default_factory=list)
    status: bytes = b"status"
    on_body: Callable[[bytes], None] | None = None

    def on_peer_connected(self, peer: PeerId) -> None:
        self.connected.append(peer)

    def on_peer_disconnected(self, peer: PeerId) -> None:
        self.disconnected.append(peer)

    def on_message(self, peer: PeerId, priority: Priority, body: bytes) -> None:
        self.messages.append((peer, priority, body))
        if self.on_body is not None:
            self.on_body(body)

    def on_announcement(self, peer: PeerId, body: bytes) -> None:
        self.announcements.append((peer, body))

    def get_status(self) -> bytes:
        return self.status

    def on_status(self, peer: PeerId, body: bytes) -> None:
        self.statuses.append((peer, body))

    async def handle_request(self, peer: PeerId, body: bytes) -> bytes:
        self.requests.append((peer, body))
        match body.split():
            case [b"echo", what]:
                return what
            case [b"large", size]:
                return bytes(int(size))
            case [b"sleep", seconds]:
                await trio.sleep(float(seconds))
                return b"slept"
            case _:
                raise RequestRefused("no such thing here")

    def bodies(self, priority: Priority | None = None) -> list[bytes]:
        return [m[2] for m in self.messages if priority is None or m[1] is priority]


@dataclass
class Running:
    """A network that runs, and the node it reports to."""

    network: Network
    node: Recorder
    config: NetworkConfig
    ended: trio.Event = field(default_factory=trio.Event)

    @property
    def peer_id(self) -> PeerId:
        return self.network.peer_id

    @property
    def address(self) -> str:
        return self.network.listen_addresses[0]

    def linked(self) -> set[PeerId]:
        return {info.peer_id for info in self.network.peers()}


class World:
    """Where networks of one kind are made and run."""

    def __init__(self, kind: str, nursery: trio.Nursery) -> None:
        self.kind = kind
        self.nursery = nursery
        self.hub = MemoryHub()

    def make(self, index: int, **settings: Any) -> tuple[Network, NetworkConfig]:
        defaults: dict[str, Any] = {
            "chain_id": "test-1",
            "genesis_hash": bytes(32),
            "protocol_version": 1,
            "key_seed": index.to_bytes(32, "big"),
            "listen": "/ip4/127.0.0.1/tcp/0",
            "heartbeat_s": 0.1,
            "peer_timeout_s": 1.5,
            "gossip": False,
            "peer_exchange": False,
        }
        config = NetworkConfig(**(defaults | settings))
        if self.kind == "memory":
            return MemoryNetwork(self.hub, config), config
        # Loaded late: py-libp2p takes half a second that the tests in memory need not wait.
        from p2p.host import LibP2PNetwork  # noqa: PLC0415

        return LibP2PNetwork(config), config

    async def start(self, index: int, **settings: Any) -> Running:
        network, config = self.make(index, **settings)
        running = Running(network, Recorder(), config)

        async def run(task_status: Any) -> None:
            await network.run(running.node, task_status=task_status)
            running.ended.set()

        await self.nursery.start(run)
        return running

    async def start_linked(self, n_networks: int, **settings: Any) -> list[Running]:
        """Start networks that are all linked with each other."""
        running: list[Running] = []
        for index in range(1, n_networks + 1):
            known = tuple(other.address for other in running)
            running.append(await self.start(index, persistent_peers=known, **settings))
        await until(lambda: all(len(r.linked()) == n_networks - 1 for r in running))
        return running

    async def stop(self, *running: Running) -> None:
        for one in running:
            one.network.stop()
        for one in running:
            await one.ended.wait()


async def until(condition: Callable[[], bool], within_s: float = DEADLINE_S) -> None:
    """Wait until `condition` holds; fail after `within_s`."""
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110 - conditions are of many kinds.
            await trio.sleep(0.01)


@asynccontextmanager
async def open_world(kind: str) -> AsyncIterator[World]:
    """Open a world; its networks stop with it."""
    async with trio.open_nursery() as nursery:
        yield World(kind, nursery)
        nursery.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def _short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the higher peer id wait less for the lower one: most tests dial one way."""
    monkeypatch.setattr(keeping, "TURN_S", 0.1)


@pytest.fixture(params=["memory", "libp2p"])
async def world(request: Any) -> AsyncIterator[World]:
    async with open_world(request.param) as opened:
        yield opened
