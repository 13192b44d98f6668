"""The journal: durable before the answer, with one sync for many, and one writer at a time."""

import threading
from pathlib import Path

import pytest
import trio
import trio.testing
from quorate.chain.errors import InvariantError, StorageError

from node.mempool.journal import Journal, JournalRecord
from store.database import Batch, MemoryDatabase
from store.errors import DatabaseDamaged, DiskFull, FormatUnknown
from tests.node.mempool.world import (
    KEYS,
    make_transfer,
    make_update,
    make_world,
)

ALICE, BOB = KEYS[:2]
ROOT = Path(__file__).parents[3]


class GatedDatabase(MemoryDatabase):
    """A database whose synced writes wait for permission, or fail."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.is_broken = False
        self.synced: list[int] = []
        self._writers = threading.Lock()

    def write(self, batch: Batch, *, sync: bool) -> None:
        # Like LevelDB's: one writer at a time, or the database is lost.
        if not self._writers.acquire(blocking=False):
            raise InvariantError("two writers at once")
        try:
            if sync:
                assert self.gate.wait(5)
                if self.is_broken:
                    raise DiskFull("The disk has no room.")
                self.synced.append(len(batch.operations))
            super().write(batch, sync=sync)
        finally:
            self._writers.release()

    def count_records(self) -> int:
        return len(list(self.iterate(b"r", b"s")))


async def test_a_submission_is_durable_before_it_is_answered() -> None:
    database = GatedDatabase()
    world = make_world(database)
    raw = make_transfer(ALICE, 0)
    database.gate.clear()
    answered = trio.Event()

    async def submit() -> None:
        await world.mempool.submit_local(raw, None)
        answered.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(submit)
        with trio.move_on_after(0.05):
            await answered.wait()
        assert not answered.is_set()
        assert database.count_records() == 0
        database.gate.set()
    assert answered.is_set()
    assert database.count_records() == 1


async def test_concurrent_submissions_share_a_sync() -> None:
    database = GatedDatabase()
    world = make_world(database)
    syncs_before = len(database.synced)
    database.gate.clear()
    async with trio.open_nursery() as nursery:
        for key in KEYS:
            nursery.start_soon(world.mempool.submit_local, make_transfer(key, 0), None)
        await trio.testing.wait_all_tasks_blocked(0.01)
        database.gate.set()
    # The first one's sync had begun; all that came meanwhile shared the second.
    assert len(database.synced) - syncs_before <= 2
    assert sum(database.synced[syncs_before:]) == len(KEYS)


async def test_a_batch_takes_one_sync() -> None:
    database = GatedDatabase()
    world = make_world(database)
    syncs_before = len(database.synced)
    raws = [make_transfer(ALICE, nonce) for nonce in range(50)]
    await world.mempool.submit_local_many([(raw, None) for raw in raws])
    assert database.synced[syncs_before:] == [50]


async def test_a_group_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    raws = [make_transfer(ALICE, nonce) for nonce in range(10)]
    monkeypatch.setattr("node.mempool.journal.GROUP_BYTES_MAX", 3 * len(raws[0]) + 30)
    database = GatedDatabase()
    world = make_world(database)
    syncs_before = len(database.synced)
    await world.mempool.submit_local_many([(raw, None) for raw in raws])
    assert database.synced[syncs_before:] == [3, 3, 3, 1]
    assert database.count_records() == 10


async def test_the_same_bytes_again_wait_for_the_same_sync() -> None:
    database = GatedDatabase()
    world = make_world(database)
    raw = make_transfer(ALICE, 0)
    database.gate.clear()
    answers = []

    async def submit() -> None:
        answers.append(await world.mempool.submit_local(raw, None))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(submit)
        nursery.start_soon(submit)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not answers
        database.gate.set()
    assert len(answers) == 2
    assert database.count_records() == 1
    await world.mempool.submit_local(raw, None)
    assert database.count_records() == 1


async def test_a_peers_transaction_is_journaled_once_an_own_user_submits_it() -> None:
    database = GatedDatabase()
    world = make_world(database)
    raw = make_update(ALICE, 0, b"payload")
    await world.mempool.receive_batch("peer", [(raw, b"payload")])
    assert database.count_records() == 0
    await world.mempool.submit_local(raw, None)
    assert database.count_records() == 1
    again = make_world(database.reopen())
    assert await again.mempool.restore() == 1
    assert list(again.ledger.payloads.values()) == [b"payload"]


async def test_a_cancelled_submitter_leaves_no_half_group() -> None:
    database = GatedDatabase()
    world = make_world(database)
    database.gate.clear()
    answers = []

    async def submit(key_index: int) -> None:
        answers.append(await world.mempool.submit_local(make_transfer(KEYS[key_index], 0), None))

    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def submit_and_give_up() -> None:
            with scope:
                await submit(0)

        nursery.start_soon(submit_and_give_up)
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.start_soon(submit, 1)
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked(0.01)
        database.gate.set()
    assert scope.cancelled_caught
    assert len(answers) == 1
    assert database.count_records() == 2


async def test_who_gives_up_while_waiting_to_write_for_others_still_writes() -> None:
    database = GatedDatabase()
    world = make_world(database)
    database.gate.clear()
    answers = []

    async def submit(key_index: int) -> None:
        answers.append(await world.mempool.submit_local(make_transfer(KEYS[key_index], 0), None))

    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def lead_and_give_up() -> None:
            with scope:
                await submit(1)

        nursery.start_soon(submit, 0)
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.start_soon(lead_and_give_up)
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.start_soon(submit, 2)
        await trio.testing.wait_all_tasks_blocked(0.01)
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked(0.01)
        database.gate.set()
    assert scope.cancelled_caught
    assert len(answers) == 2
    assert database.count_records() == 3


async def test_a_failed_sync_accepts_nothing() -> None:
    database = GatedDatabase()
    world = make_world(database)
    database.is_broken = True
    errors = []

    async def submit(key_index: int) -> None:
        try:
            await world.mempool.submit_local(make_transfer(KEYS[key_index], 0), None)
        except StorageError as error:
            errors.append(str(error))

    database.gate.clear()
    async with trio.open_nursery() as nursery:
        for index in range(3):
            nursery.start_soon(submit, index)
        await trio.testing.wait_all_tasks_blocked(0.01)
        database.gate.set()
    assert len(errors) == 3
    assert any("not accepted" in error for error in errors)


async def test_what_a_block_takes_during_the_sync_leaves_the_journal() -> None:
    database = GatedDatabase()
    world = make_world(database)
    raw = make_transfer(ALICE, 0)
    database.gate.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.mempool.submit_local, raw, None)
        await trio.testing.wait_all_tasks_blocked(0.01)
        world.decide([raw])
        database.gate.set()
    assert database.count_records() == 0


async def test_deletions_wait_for_a_write_under_way() -> None:
    database = GatedDatabase()
    world = make_world(database)
    first, second = make_transfer(ALICE, 0), make_transfer(BOB, 0)
    await world.mempool.submit_local(first, None)
    database.gate.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.mempool.submit_local, second, None)
        await trio.testing.wait_all_tasks_blocked(0.01)
        world.decide([first])
        assert database.count_records() == 1
        database.gate.set()
    (kept,) = (value for _, value in database.iterate(b"r", b"s"))
    assert second in kept


async def test_a_record_written_twice_is_read_once() -> None:
    database = MemoryDatabase()
    await Journal(database).append([JournalRecord(make_transfer(ALICE, 0), None)])
    (value,) = (value for _, value in database.iterate(b"r", b"s"))
    batch = Batch()
    batch.put(b"r" + (77).to_bytes(8, "big"), value)
    database.write(batch, sync=True)
    journal = Journal(database)
    assert len(list(journal.load())) == 1
    assert len(list(database.iterate(b"r", b"s"))) == 1


def test_damage_and_other_formats_are_named() -> None:
    database = MemoryDatabase()
    Journal(database)
    batch = Batch()
    batch.put(b"r" + bytes(8), b"\xc1")
    database.write(batch, sync=True)
    with pytest.raises(DatabaseDamaged, match="data/mempool"):
        list(Journal(database).load())
    batch.put(b"format", b"quorate/mempool/99")
    database.write(batch, sync=True)
    with pytest.raises(FormatUnknown, match="quorate/mempool/99"):
        Journal(database)
