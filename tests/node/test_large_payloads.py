"""Updates too large to ride along, over whole nodes: announced, pulled, decided; with a liar."""

from pathlib import Path

import numpy as np
import trio
from quorate.chain.announcement import sign_announcement
from quorate.chain.content import CHUNK_BYTES, compute_content_hash, get_chunk_size
from quorate.chain.errors import ErrorCode
from quorate.chain.ids import Hash
from quorate.chain.transaction import (
    CreateTask,
    SubmitUpdate,
    compute_transaction_hash,
    decode_transaction,
)

from node.exchange.messages import (
    GetChunk,
    GetChunkHashes,
    PayloadAnnouncementsMessage,
    TransactionsMessage,
    decode_message,
    decode_request,
    encode_message,
)
from node.rpc.figures import collect_figures
from p2p.network import SCORE_MAX, PeerGone, PeerId, Priority
from tests.node.cluster import CHAIN_ID, Cluster, now_ms, open_cluster, sign
from tests.node.hostile import LIAR, Hostile, get_score, open_attacked
from tests.node.test_training import Trainer

DIMENSION = CHUNK_BYTES // 2 + 50_000
"""Updates of two chunks, initial weights of three."""


async def test_a_large_update_is_decided_once_a_quorum_has_it(tmp_path: Path) -> None:
    async with open_cluster(tmp_path) as cluster:
        trainer = Trainer(cluster, DIMENSION)
        await trainer.begin()
        number = trainer.tasks()[0].record.training_round
        heights = [member.height for member in cluster.members]
        await trainer.run_round(number)
        assert len({task.record.weights_root for task in trainer.tasks()}) == 1
        for member, height in zip(cluster.members, heights, strict=True):
            services = member.running.services
            assert services.exchange.figures.bytes >= 3 * DIMENSION * 2
            assert services.exchange.figures.wrong == 0
            assert services.mempool.large.unannounced_count == 0
            assert member.height > height
            collect_figures(services)
            page = services.metrics.render().decode()
            assert "quorate_payload_pulled_bytes_total" in page
            assert 'quorate_mempool_unannounced_txs{chain_id="cluster"} 0.0' in page


async def test_blocks_go_on_while_an_update_waits_for_announcements(tmp_path: Path) -> None:
    async with open_cluster(tmp_path) as cluster:
        trainer = Trainer(cluster, DIMENSION)
        await trainer.begin()
        # Two of four validators have all the payload's bytes alone: no quorum can announce it.
        for member in cluster.members[:2]:
            member.running.services.network.request = _refuse  # type: ignore[method-assign]
        await trainer.update(2, np.full(DIMENSION, 3))
        pool = cluster.members[2].running.services.mempool
        await trainer.wait(lambda: pool.large.unannounced_count == 1)
        height = cluster.members[2].height
        await cluster.wait_for_height(height + 5)
        assert (pool.count, pool.large.unannounced_count) == (1, 1)
        for member in cluster.members[:2]:
            del member.running.services.network.request  # type: ignore[method-assign]
        await trainer.wait(lambda: pool.count == 0)
        await trainer.wait(lambda: all(t.record.update_count == 1 for t in trainer.tasks()))


async def test_of_two_updates_with_one_nonce_one_is_decided_and_the_other_refused(
    tmp_path: Path,
) -> None:
    async with open_cluster(tmp_path) as cluster:
        trainer = Trainer(cluster, DIMENSION)
        await trainer.begin()
        rivals = []
        for value in (3, 4):
            body, payload = trainer.make_update(2, np.full(DIMENSION, value))
            rivals.append((sign(trainer.keys[2], trainer.nonces[2], body), payload))
        low, high = sorted(rivals, key=lambda rival: compute_transaction_hash(rival[0]))
        low_hash, high_hash = (compute_transaction_hash(raw) for raw, _ in (low, high))
        pools = [member.running.services.mempool for member in cluster.members]
        events = cluster.members[0].running.services.events
        # Half of the validators have taken the one, half the other, before they hear of each other.
        for member in cluster.members:
            member.running.services.network.broadcast = lambda *_: 0  # type: ignore[method-assign]
        for pool, rival in zip(pools, (high, high, low, low), strict=True):
            await pool.submit_local(*rival)
        await trio.sleep(0.1)
        for member in cluster.members:
            del member.running.services.network.broadcast
        with events.subscribe([], transactions=[high_hash]) as told, trio.fail_after(20):
            event = await anext(aiter(told))
            assert (event.data["status"], event.data["code"]) == ("refused", ErrorCode.REPLACED)
        await trainer.wait(lambda: all(pool.count == 0 for pool in pools))
        for member in cluster.members:
            chain = member.running.services.storage.chain
            assert chain.find_transaction(low_hash) is not None
            assert chain.find_transaction(high_hash) is None


async def _refuse(*_: object, **__: object) -> bytes:
    await trio.sleep(0.01)
    raise PeerGone("cut off")


class Liar(Hostile):
    """Announces every payload at once, has none, and answers with as many other bytes."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.sizes: dict[Hash, int] = {}

    def on_message(self, peer: PeerId, priority: Priority, body: bytes) -> None:  # noqa: ARG002
        message = decode_message(body)
        if not isinstance(message, TransactionsMessage):
            return
        bodies = [decode_transaction(e.transaction).transaction.body for e in message.entries]
        named = [each for each in bodies if isinstance(each, SubmitUpdate | CreateTask)]
        self.sizes |= {each.payload_hash: each.payload_size for each in named}
        for name in dict.fromkeys(each.payload_hash for each in named):
            made = sign_announcement(LIAR, CHAIN_ID, now_ms(), (name,))
            lie = encode_message(PayloadAnnouncementsMessage((made,)))
            self.network.broadcast(Priority.MEMPOOL, lie)

    async def handle_request(self, peer: PeerId, body: bytes) -> bytes:
        request = decode_request(body)
        if isinstance(request, GetChunk):
            return bytes(get_chunk_size(self.sizes[request.payload_hash], request.index))
        if isinstance(request, GetChunkHashes):
            return b"\xc1"
        return await super().handle_request(peer, body)


async def test_a_lying_announcer_costs_time_and_its_score_alone(tmp_path: Path) -> None:
    async with open_attacked(tmp_path, Liar) as (cluster, hostile):
        trainer = Trainer(cluster, DIMENSION)
        await trainer.begin()
        number = trainer.tasks()[0].record.training_round
        await trainer.run_round(number)
        assert any(get_score(member, hostile) < SCORE_MAX for member in cluster.members)
        payload = np.full(DIMENSION, 9).astype("<i2").tobytes()
        name = compute_content_hash(payload)
        for member in cluster.members:
            assert not member.running.services.announcements.is_announced(name)
