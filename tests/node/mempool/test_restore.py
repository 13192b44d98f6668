"""After a restart: what a user was told is pending is there, even after a kill -9."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import trio
import trio.testing
from quorate.chain.errors import ErrorCode
from quorate.chain.ids import Hash

from node.mempool.journal import Journal, JournalRecord
from store.database import LevelDatabase, MemoryDatabase
from tests.node.mempool.world import (
    KEYS,
    Ledger,
    hash_of,
    make_transfer,
    make_update,
    make_world,
)

ALICE, BOB = KEYS[:2]
ROOT = Path(__file__).parents[3]


async def test_restore_keeps_order_and_drops_what_is_over() -> None:
    database = MemoryDatabase()
    world = make_world(database)
    raws = [make_transfer(ALICE, nonce) for nonce in range(4)]
    foreign = make_transfer(BOB, 0)
    update = make_update(KEYS[2], 0, b"payload")
    await world.mempool.receive_batch("peer", [(raws[0], None)])
    await world.mempool.submit_local_many(
        [(raw, None) for raw in [*raws[1:], foreign]] + [(update, b"payload")]
    )
    # While the node is down, a block decides one of them and closes the training round.
    ledger = Ledger()
    ledger.decide([foreign])
    ledger.training_round = 1
    again = make_world(database.reopen(), ledger)
    assert await again.mempool.restore() == 3
    assert [error.code for _, error in again.dropped] == [ErrorCode.WRONG_TRAINING_ROUND]
    # The first one was a peer's, and never this node's promise: the others wait behind the gap.
    assert again.reap() == []
    await again.mempool.receive_batch("peer", [(raws[0], None)])
    assert again.reap() == raws
    assert [entry.raw for entry in again.mempool.take_outbox(1 << 20, 100)] == [*raws[1:], raws[0]]


async def test_restore_ignores_narrower_limits() -> None:
    database = MemoryDatabase()
    world = make_world(database)
    raws = [make_transfer(ALICE, nonce) for nonce in range(4)]
    await world.mempool.submit_local_many([(raw, None) for raw in raws])
    again = make_world(database.reopen(), transactions_max=2, per_sender_max=1)
    assert await again.mempool.restore() == 4
    assert again.reap() == raws


async def test_a_restored_update_without_its_payload_is_dropped() -> None:
    database = MemoryDatabase()
    world = make_world(database)
    payload = bytes(100_000)
    await world.mempool.submit_local(make_update(ALICE, 0, payload), payload)
    database = database.reopen()
    again = make_world(database)
    assert await again.mempool.restore() == 0
    assert [error.code for _, error in again.dropped] == [ErrorCode.PAYLOAD_MISSING]
    third = make_world(database.reopen())
    assert await third.mempool.restore() == 0
    assert not third.dropped


async def test_records_of_another_chain_are_put_away() -> None:
    database = MemoryDatabase()
    journal = Journal(database)
    raw = make_transfer(ALICE, 0, chain_id="another")
    await journal.append([JournalRecord(raw, None)])
    world = make_world(database.reopen())
    assert await world.mempool.restore() == 0


_SUBMITTER = """
    import sys, trio
    from pathlib import Path
    from store.database import LevelDatabase
    from tests.node.mempool.world import KEYS, make_transfer, make_update, make_world

    async def submit(world, key, nonce):
        payload = b"%d of %s" % (nonce, key.address.hex().encode())
        if nonce % 2:
            task_id = nonce.to_bytes(32, "big")  # One update of a task is pending at most.
            raw, data = make_update(key, nonce, payload, task_id=task_id), payload
        else:
            raw, data = make_transfer(key, nonce), None
        outcome = await world.mempool.submit_local(raw, data)
        print(outcome.hash.hex(), flush=True)

    async def submit_for_ever(world, key):
        for nonce in range(1_000_000):
            await submit(world, key, nonce)

    async def main():
        world = make_world(LevelDatabase(Path(sys.argv[1])))
        async with trio.open_nursery() as nursery:
            for key in KEYS[:4]:
                nursery.start_soon(submit_for_ever, world, key)

    trio.run(main)
"""


def test_everything_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    folder = tmp_path / "mempool"
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_SUBMITTER), str(folder)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}"},
    )
    assert process.stdout is not None
    acknowledged = [process.stdout.readline() for _ in range(60)]
    process.send_signal(signal.SIGKILL)
    acknowledged += process.stdout.readlines()
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    hashes = [Hash(bytes.fromhex(line.decode())) for line in acknowledged if line.endswith(b"\n")]
    assert len(hashes) >= 60

    async def reopen() -> None:
        database = LevelDatabase(folder)
        world = make_world(database)
        await world.mempool.restore()
        missing = [each for each in hashes if world.mempool.get(each) is None]
        assert not missing
        assert world.mempool.ready_count == world.mempool.count
        assert len(world.ledger.payloads) == sum(
            entry.payload_hash is not None for entry in world.mempool.reap(1 << 30, 1 << 20)
        )
        database.close()

    trio.run(reopen)


async def test_the_journal_forgets_what_was_decided(tmp_path: Path) -> None:
    database = LevelDatabase(tmp_path / "mempool")
    world = make_world(database)
    raws = [make_transfer(ALICE, nonce) for nonce in range(20)]
    await world.mempool.submit_local_many([(raw, None) for raw in raws])
    world.decide(raws[:15])
    database.close()
    again = make_world(LevelDatabase(tmp_path / "mempool"), world.ledger)
    assert await again.mempool.restore() == 5
    assert all(again.mempool.get(hash_of(raw)) for raw in raws[15:])
