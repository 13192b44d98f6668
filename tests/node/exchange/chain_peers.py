"""A node that is behind, and peers over the in-memory network that serve a chain as a test says.

Owns the chain, decided beforehand, and the peers. The node that catches up is a whole one.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from quorate.chain.ids import Height
from quorate.chain.transaction import Transfer

from node.exchange.messages import (
    BlocksAnswer,
    GetBlocks,
    NodeStatus,
    StoredBlock,
    decode_request,
    encode_message,
)
from p2p.identity import get_peer_id
from p2p.memory import MemoryNetwork
from p2p.network import SCORE_MAX, NetworkConfig, PeerId, Priority, RequestRefused
from tests.node.cluster import CHAIN_ID, USERS, Cluster, Member, make_config, make_key, open_cluster
from tests.node.execution.chain import ExecutionChain

Blocks = list[StoredBlock]
Behave = Callable[[GetBlocks, Blocks], Awaitable[Blocks]]


_chains: dict[int, ExecutionChain] = {}


async def make_chain(blocks: int) -> ExecutionChain:
    """Return a chain of so many blocks, the same one for all tests of a process."""
    if blocks not in _chains:
        chain = ExecutionChain()
        for number in range(blocks):
            await chain.decide(chain.make_entry(number % 8, Transfer(USERS[1].address, 1)))
        _chains[blocks] = chain
    return _chains[blocks]


async def be_honest(_request: GetBlocks, blocks: Blocks) -> Blocks:
    return blocks


class ChainPeer:
    """A peer that says what heights it has, and answers pulls as `behave` makes of the truth."""

    def __init__(self, cluster: Cluster, chain: ExecutionChain, number: int) -> None:
        self.chain = chain
        self.behave: Behave = be_honest
        self.claims: Sequence[tuple[int, int]] = ((chain.store.height, 1),)
        self.asked: list[GetBlocks] = []
        self._statuses = 0
        key_seed = make_key(700 + number).seed
        self.network = MemoryNetwork(
            cluster.hub,
            NetworkConfig(
                chain_id=CHAIN_ID,
                genesis_hash=cluster.genesis.hash,
                protocol_version=1,
                key_seed=key_seed,
                listen=f"/ip4/127.0.0.1/tcp/{21_000 + number}",
                heartbeat_s=0.05,
                peer_timeout_s=2.0,
                peer_exchange=False,
            ),
        )
        self.peer_id = get_peer_id(key_seed)

    def on_peer_connected(self, peer: PeerId) -> None:  # noqa: ARG002
        self.network.send_status_now()

    def on_peer_disconnected(self, peer: PeerId) -> None:
        pass

    def on_message(self, peer: PeerId, priority: Priority, body: bytes) -> None:
        pass

    def on_announcement(self, peer: PeerId, body: bytes) -> None:
        pass

    def on_status(self, peer: PeerId, body: bytes) -> None:
        pass

    def get_status(self) -> bytes:
        """Tell one claim after the other, and stay with the last."""
        height, base = self.claims[min(self._statuses, len(self.claims) - 1)]
        self._statuses += 1
        return encode_message(NodeStatus(Height(height), Height(base), None, (), ()))

    async def handle_request(self, peer: PeerId, body: bytes) -> bytes:  # noqa: ARG002
        request = decode_request(body)
        if not isinstance(request, GetBlocks):
            raise RequestRefused("no")
        self.asked.append(request)
        blocks = []
        for height in range(request.start, request.start + request.count):
            block, commit = (
                self.chain.store.load_block(height),
                self.chain.store.load_commit(height),
            )
            if block is not None and commit is not None:
                blocks.append(StoredBlock(block, commit))
        blocks = await self.behave(request, blocks)
        return encode_message(BlocksAnswer(tuple(blocks), 0, b""))


class Newcomer:
    """The node that is behind."""

    def __init__(self, member: Member) -> None:
        self.member = member

    @property
    def height(self) -> int:
        return self.member.height

    def get_score(self, peer: ChainPeer) -> int:
        """Return what a peer is worth to this node; 0 when it is banned or gone."""
        for info in self.member.running.services.network.peers():
            if info.peer_id == peer.peer_id:
                return info.score
        return 0

    def is_scored_down(self, peer: ChainPeer) -> bool:
        return self.get_score(peer) < SCORE_MAX

    async def reach(self, height: int, seconds: float = 30) -> None:
        with trio.fail_after(seconds):
            while self.height < height:  # noqa: ASYNC110
                await trio.sleep(0.01)


@asynccontextmanager
async def open_newcomer(
    folder: Path, chain: ExecutionChain, *behaviours: Callable[[ChainPeer], None]
) -> AsyncIterator[tuple[Newcomer, list[ChainPeer]]]:
    """Yield a node without any blocks and its peers, one for each behaviour, in this order."""
    config = make_config(create_empty_blocks=False)
    async with (
        open_cluster(folder, 0, genesis=chain.genesis, config=config) as cluster,
        trio.open_nursery() as nursery,
    ):
        peers = [ChainPeer(cluster, chain, number) for number in range(len(behaviours))]
        for peer, behave in zip(peers, behaviours, strict=True):
            behave(peer)
            await nursery.start(peer.network.run, peer)
        member = cluster.add(None)
        await cluster.start(member)
        newcomer = Newcomer(member)
        address = member.running.services.network.listen_addresses[0]
        for peer in peers:
            peer.network.dial(address)
        yield newcomer, peers
        nursery.cancel_scope.cancel()
