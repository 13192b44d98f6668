"""A peer of all nodes that says whatever a test makes it say, with a validator's key.

Owns the attacked network and how it is looked at. Never decides what is a lie: the tests do.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from quorate.chain.ids import Hash, Height
from quorate.chain.vote import BlockId

from node.exchange.messages import (
    NodeStatus,
    decode_status,
    encode_message,
)
from p2p.memory import MemoryNetwork
from p2p.network import PeerId, Priority, RequestRefused
from tests.node.cluster import (
    Cluster,
    Member,
    make_config,
    make_genesis,
    make_key,
    open_cluster,
)

FAST = make_config(
    empty_block_interval_ms=20,
    timeout_propose_ms=150,
    timeout_prevote_ms=60,
    timeout_precommit_ms=60,
)
LIAR = make_key(4)
"""The fourth validator's key, held by a peer that is no node."""
FAKE = BlockId(Hash(b"\x05" * 32), 1, Hash(b"\x05" * 32))
OTHER_FAKE = BlockId(Hash(b"\x06" * 32), 1, Hash(b"\x06" * 32))


class Hostile:
    """A peer of all nodes that says whatever a test makes it say."""

    def __init__(self, cluster: Cluster) -> None:
        self.network = MemoryNetwork(cluster.hub, cluster.make_network_config(3))
        self.status = NodeStatus(Height(0), Height(0), None, (), ())
        self.heard: dict[PeerId, int] = {}
        self.answer: Callable[[bytes], bytes | None] = lambda _body: None
        self.asked = 0

    def on_peer_connected(self, peer: PeerId) -> None:
        self.heard[peer] = 0

    def on_peer_disconnected(self, peer: PeerId) -> None:
        del self.heard[peer]

    def on_message(self, peer: PeerId, priority: Priority, body: bytes) -> None:
        pass

    def on_announcement(self, peer: PeerId, body: bytes) -> None:
        pass

    def get_status(self) -> bytes:
        return encode_message(self.status)

    def on_status(self, peer: PeerId, body: bytes) -> None:
        self.heard[peer] = decode_status(body).height

    async def handle_request(self, peer: PeerId, body: bytes) -> bytes:  # noqa: ARG002
        self.asked += 1
        answer = self.answer(body)
        if answer is None:
            raise RequestRefused("no")
        return answer

    def say(self, body: bytes) -> None:
        self.network.broadcast(Priority.CONSENSUS, body)


@asynccontextmanager
async def open_attacked(
    folder: Path, kind: type[Hostile] = Hostile
) -> AsyncIterator[tuple[Cluster, Hostile]]:
    """Three honest validators of four, and a hostile peer with the fourth's key."""
    genesis = make_genesis(4)
    async with (
        open_cluster(folder, 3, genesis=genesis, config=FAST) as cluster,
        trio.open_nursery() as nursery,
    ):
        hostile = kind(cluster)
        await nursery.start(hostile.network.run, hostile)
        await wait_until(lambda: len(hostile.heard) == 3)
        yield cluster, hostile
        nursery.cancel_scope.cancel()


async def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.01)


def get_score(member: Member, hostile: Hostile) -> int:
    """Return a hostile peer's score with an honest node; 0 when it is banned."""
    for info in member.running.services.network.peers():
        if info.peer_id == hostile.network.peer_id:
            return info.score
    return 0


def get_top(cluster: Cluster) -> int:
    return max(member.height for member in cluster.members)


async def require_progress(cluster: Cluster, blocks: int = 3) -> None:
    await cluster.wait_for_height(get_top(cluster) + blocks)
