"""Faults of others in what a node offers: mempool, RPC, links; sources in docs/known_faults.md."""

from pathlib import Path

import trio

from p2p.admission import CONNECTIONS_SPARE, Admission
from p2p.memory import MemoryNetwork
from p2p.memory_hub import MemoryHub
from p2p.network import NetworkConfig, PeerId, Priority
from p2p.scoring import ScoreBook
from tests.node.cluster import make_genesis
from tests.node.mempool.world import KEYS, make_transfer, make_world
from tests.node.rpc.serving import open_rpc

READINGS = (
    "/status",
    "/net_info",
    "/health",
    "/v1/mempool",
    "/v1/parameters",
    "/v1/tasks",
    "/v1/members",
)


async def test_an_entry_of_the_mempool_cannot_be_removed() -> None:
    world = make_world()
    raw = make_transfer(KEYS[0], 0)
    for peer in ("a", "b", "c"):
        await world.mempool.receive_batch(peer, [(raw, None), (raw, None)])
    await world.mempool.submit_local(raw, None)
    await world.mempool.receive_batch("a", [(raw, None)])
    assert world.mempool.count == 1
    assert world.reap() == [raw]
    world.decide([raw])
    assert (world.mempool.count, world.mempool.bytes_total, world.reap()) == (0, 0, [])
    # It comes again after its block, from whoever has not heard of it yet.
    await world.mempool.receive_batch("d", [(raw, None)])
    await world.mempool.submit_local(raw, None)
    assert (world.mempool.count, world.mempool.bytes_total, world.reap()) == (0, 0, [])


async def test_looking_at_consensus_through_the_rpc_locks_it(tmp_path: Path) -> None:
    async with open_rpc(tmp_path) as served:
        await served.cluster.wait_for_height(2)
        begun = served.cluster.members[0].height
        failures: list[str] = []

        async def read(path: str) -> None:
            for _ in range(10):
                response = await served.client.get(path)
                if response.status_code != 200:
                    failures.append(f"{path}: {response.status_code}")

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for path in READINGS * 3:
                    nursery.start_soon(read, path)
            await served.cluster.wait_for_height(begun + 3)
        assert failures == []


async def test_the_rpc_answers_though_consensus_stands_still(tmp_path: Path) -> None:
    # One of four validators alone decides nothing.
    async with open_rpc(tmp_path, genesis=make_genesis(4)) as served:
        await trio.sleep(0.3)
        assert served.cluster.members[0].height == 0
        with trio.fail_after(10):
            for path in READINGS:
                assert (await served.client.get(path)).status_code == 200


class Quiet:
    """A node that says nothing."""

    def on_peer_connected(self, peer: PeerId) -> None:
        pass

    def on_peer_disconnected(self, peer: PeerId) -> None:
        pass

    def on_message(self, peer: PeerId, priority: Priority, body: bytes) -> None:
        pass

    def on_announcement(self, peer: PeerId, body: bytes) -> None:
        pass

    def get_status(self) -> bytes:
        return b""

    def on_status(self, peer: PeerId, body: bytes) -> None:
        pass

    async def handle_request(self, peer: PeerId, body: bytes) -> bytes:  # noqa: ARG002
        return b""


def make_config(number: int, *persistent: str, peers_max: int = 64) -> NetworkConfig:
    return NetworkConfig(
        chain_id="faults",
        genesis_hash=bytes(32),
        protocol_version=1,
        key_seed=number.to_bytes(32, "big"),
        listen=f"/ip4/127.0.0.1/tcp/{22_000 + number}",
        persistent_peers=persistent,
        peers_max=peers_max,
        heartbeat_s=0.05,
        peer_timeout_s=2.0,
        peer_exchange=False,
    )


async def test_inbound_connections_are_unlimited() -> None:
    hub = MemoryHub()
    one = MemoryNetwork(hub, make_config(1, peers_max=4))
    async with trio.open_nursery() as nursery:
        await nursery.start(one.run, Quiet())
        crowd = [
            MemoryNetwork(hub, make_config(number, *one.listen_addresses))
            for number in range(2, 30)
        ]
        for each in crowd:
            await nursery.start(each.run, Quiet())
        for _ in range(40):
            await trio.sleep(0.01)
            assert len(one.peers()) <= 4
        assert len(one.peers()) == 4
        nursery.cancel_scope.cancel()
    # Connections are refused before anything is read from them; those in their handshake count.
    admission = Admission(make_config(1, peers_max=4), PeerId("own"), ScoreBook(60))
    limit = 4 + CONNECTIONS_SPARE
    assert admission.get_connection_objection(PeerId("x"), limit, 0.0) is None
    assert admission.get_connection_objection(PeerId("x"), limit + 1, 0.0) is not None
