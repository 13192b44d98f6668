"""Released payloads: kept until their time, and for as long as anybody needs them."""

import os
from collections.abc import Iterator
from pathlib import Path
from threading import get_ident

import pytest
import trio
from quorate.chain.content import compute_content_hash
from quorate.chain.ids import Hash

from node.execution.retention import DROPPED_PER_BLOCK_MAX, UNDECIDED_KEPT_MS, Retention
from store.database import Batch, MemoryDatabase
from store.memory_payloads import MemoryPayloadStore
from store.payloads import PayloadStore


class World:
    """Payloads that the state or the mempool may need."""

    def __init__(self, count: int, bytes_max: int | None = None) -> None:
        self.bytes_max = bytes_max
        self.database = MemoryDatabase()
        self.payloads = MemoryPayloadStore()
        self.needed: set[Hash] = set()
        self.pending: frozenset[Hash] = frozenset()
        self.names = [Hash(self.payloads.put(bytes([n % 256, n // 256]))) for n in range(count)]
        self.open()

    def open(self) -> None:
        self.retention = Retention(
            self.database,
            self.payloads,
            lambda name: name in self.needed,
            lambda: self.pending,
            self.bytes_max,
        )

    def held(self) -> Iterator[int]:
        return (n for n, name in enumerate(self.names) if self.payloads.has(name))


def test_a_payload_goes_when_its_time_is_over_and_not_before() -> None:
    world = World(3)
    world.retention.release(world.names[:1], 1000)
    world.retention.release(world.names[1:2], 2000)
    assert world.retention.drop_due(999) == 0
    assert list(world.held()) == [0, 1, 2]
    assert world.retention.drop_due(1001) == 1
    assert list(world.held()) == [1, 2]
    assert world.retention.drop_due(10**15) == 1
    assert list(world.held()) == [2]


def test_what_is_needed_again_stays() -> None:
    world = World(3)
    world.retention.release(world.names, 1000)
    world.needed.add(world.names[0])
    world.pending = frozenset(world.names[1:2])
    assert world.retention.drop_due(2000) == 1
    assert list(world.held()) == [0, 1]
    # Released a second time, when nobody needs it any more.
    world.needed.clear()
    world.retention.release(world.names[:1], 3000)
    assert world.retention.drop_due(4000) == 1


def test_what_is_pending_when_its_time_is_over_is_looked_at_again() -> None:
    world = World(2)
    world.retention.release_undecided(world.names[0], 1000)
    world.pending = frozenset(world.names[:1])
    first = 1001 + UNDECIDED_KEPT_MS
    assert world.retention.drop_due(first) == 0
    # Its transaction was refused, so that no state will ever let go of it.
    world.pending = frozenset()
    assert world.retention.drop_due(first + 1) == 0
    assert list(world.held()) == [0, 1]
    assert world.retention.drop_due(first + UNDECIDED_KEPT_MS + 1) == 1
    assert list(world.held()) == [1]
    # What a block has named in the meantime is the state's to release.
    world.retention.release_undecided(world.names[1], 1000)
    world.needed.add(world.names[1])
    assert world.retention.drop_due(10**15) == 0
    world.needed.clear()
    assert world.retention.drop_due(10**15 + 1) == 0


@pytest.mark.parametrize("is_restarted", [False, True])
@pytest.mark.parametrize("are_weights", [False, True])
def test_what_was_pulled_stays_as_long_as_what_was_decided(
    are_weights: bool, is_restarted: bool
) -> None:
    """A block has named it, and the state needs it no more, before its first time is over."""
    world = World(2)
    world.retention.release_undecided(world.names[0], 1000)
    release = world.retention.release_weights if are_weights else world.retention.release
    release(world.names[:1], 3_600_000)
    if is_restarted:
        world.open()
    assert world.retention.drop_due(1001 + UNDECIDED_KEPT_MS) == 0
    assert world.retention.drop_due(3_600_000) == 0
    assert list(world.held()) == [0, 1]
    assert world.retention.drop_due(3_600_001) == 1
    # Nothing is left of either time.
    world.names[0] = Hash(world.payloads.put(bytes(2)))
    assert world.retention.drop_due(10**15) == 0
    world.retention.release(world.names[:1], 5000)
    assert world.retention.drop_due(5001) == 1


def test_what_was_released_twice_goes_the_second_time() -> None:
    world = World(1)
    world.retention.release(world.names, 3000)
    world.retention.release(world.names, 2000)
    assert world.retention.drop_due(2001) == 0
    world.needed.update(world.names)
    assert world.retention.drop_due(3001) == 0
    world.needed.clear()
    world.retention.release(world.names, 4000)
    assert world.retention.drop_due(4001) == 1


def test_one_block_looks_at_so_many_times_that_later_ones_have_replaced() -> None:
    world = World(DROPPED_PER_BLOCK_MAX + 1)
    world.retention.release(world.names, 1000)
    world.retention.release(world.names, 2000)
    world.retention.drop_due(0)
    counts = []
    for _ in range(3):
        assert world.retention.drop_due(1001) == 0
        counts.append(sum(1 for _ in world.database.iterate(b"R", b"S")))
    assert counts == [
        DROPPED_PER_BLOCK_MAX + 2,
        DROPPED_PER_BLOCK_MAX + 1,
        DROPPED_PER_BLOCK_MAX + 1,
    ]


def test_one_block_drops_so_many_and_the_next_the_rest() -> None:
    world = World(DROPPED_PER_BLOCK_MAX + 10)
    world.retention.release(world.names, 1000)
    world.retention.drop_due(0)
    assert world.retention.drop_due(2000) == DROPPED_PER_BLOCK_MAX
    assert world.retention.drop_due(2001) == 10


def test_no_queue_grows_when_blocks_release_more_than_one_block_drops() -> None:
    count = 2 * DROPPED_PER_BLOCK_MAX
    world = World(4 * count)
    for block in range(4):
        names = world.names[block * count : (block + 1) * count]
        # As the node does it: large ones are released twice, as pulled and as decided.
        world.retention.release(names, 1000 * block)
        world.retention.release(names, 1000 * block + 1)
        world.retention.drop_due(1000 * block + 2)
        assert len(list(world.held())) == count * (3 - block)
    assert not list(world.database.iterate(b"A", b"Z"))


@pytest.mark.parametrize("are_weights", [False, True])
def test_queues_of_an_older_version_have_no_latest_times(are_weights: bool) -> None:
    world = World(1)
    world.retention.release_undecided(world.names[0], 1000)
    release = world.retention.release_weights if are_weights else world.retention.release
    release(world.names, 3_600_000)
    batch = Batch()
    batch.delete(b"L" + world.names[0])
    world.database.write(batch, sync=True)
    world.open()
    assert world.retention.release_unknown(5000) == 0
    assert world.retention.drop_due(1001 + UNDECIDED_KEPT_MS) == 0
    assert world.retention.drop_due(3_600_001) == 1
    assert not list(world.database.iterate(b"A", b"Z"))


async def test_what_was_dropped_is_freed_in_a_thread(tmp_path: Path) -> None:
    """A file system takes long for large files; the event loop only renames them."""
    world = World(0)
    threads: list[int] = []
    is_freed = trio.Event()

    class WatchedPayloads(PayloadStore):
        def free_deleted(self) -> bool:
            is_more = super().free_deleted()
            if not is_more:
                threads.append(get_ident())
                trio.from_thread.run_sync(is_freed.set)
            return is_more

    payloads = WatchedPayloads(MemoryDatabase(), tmp_path, inline_bytes_max=1)
    world.payloads = payloads  # type: ignore[assignment]
    world.open()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.retention.run)
        for number in range(3):
            is_freed = trio.Event()
            name = Hash(payloads.put(bytes([number, number])))
            world.retention.release([name], 1000)
            assert world.retention.drop_due(1001) == 1
            assert not payloads.has(name)
            assert len(os.listdir(tmp_path)) == 1  # noqa: PTH208
            with trio.fail_after(5):
                await is_freed.wait()
            assert os.listdir(tmp_path) == []  # noqa: PTH208
        nursery.cancel_scope.cancel()
    assert len(threads) == 3
    assert get_ident() not in threads


async def test_a_node_that_stops_waits_for_one_file_and_not_for_all(tmp_path: Path) -> None:
    """The next start sweeps the rest; whoever stops a node gives it no minutes."""
    world = World(0)
    scope = trio.CancelScope()

    class StoppedPayloads(PayloadStore):
        def free_deleted(self) -> bool:
            trio.from_thread.run_sync(scope.cancel)
            return super().free_deleted()

    payloads = StoppedPayloads(MemoryDatabase(), tmp_path, inline_bytes_max=1)
    world.payloads = payloads  # type: ignore[assignment]
    world.open()
    world.retention.release([Hash(payloads.put(bytes([n, n]))) for n in range(3)], 1000)
    assert world.retention.drop_due(1001) == 3
    with scope, trio.fail_after(5):
        await world.retention.run()
    assert len(os.listdir(tmp_path)) == 2  # noqa: PTH208
    assert payloads.bytes_total == 0
    PayloadStore(MemoryDatabase(), tmp_path)
    assert os.listdir(tmp_path) == []  # noqa: PTH208


def test_a_restart_keeps_the_queue() -> None:
    world = World(2)
    world.retention.release(world.names[:1], 1000)
    world.open()
    assert world.retention.drop_due(2000) == 1
    assert list(world.held()) == [1]


def test_only_what_nobody_knows_is_released_at_start() -> None:
    world = World(6)
    world.retention.release(world.names[:1], 9000)
    world.retention.release_weights(world.names[5:], 9000)
    world.needed.add(world.names[1])
    world.pending = frozenset(world.names[2:3])
    assert world.retention.release_unknown(1000, frozenset(world.names[3:4])) == 1
    assert world.retention.drop_due(1001) == 1
    assert list(world.held()) == [0, 1, 2, 3, 5]


def test_what_a_power_failure_took_from_the_queue_stays_as_long_as_others_need_it() -> None:
    world = World(1)
    world.retention.release(world.names, 5000)
    world.database = MemoryDatabase()
    world.open()
    assert world.retention.release_unknown(5000) == 1
    assert world.retention.drop_due(5000) == 0
    assert world.retention.drop_due(5001) == 1
    assert world.retention.release_unknown(6000) == 0


def test_a_payload_that_is_gone_already_is_no_error() -> None:
    world = World(1)
    unknown = compute_content_hash(b"unknown")
    world.retention.release([unknown], 1000)
    world.retention.release([], 1000)
    assert world.retention.drop_due(2000) == 0


def test_weights_go_when_their_time_is_over() -> None:
    world = World(4)
    world.retention.release_weights(world.names[:2], 2000)
    world.retention.release(world.names[2:3], 1000)
    assert world.retention.drop_due(1500) == 1
    assert list(world.held()) == [0, 1, 3]
    world.open()
    assert world.retention.release_unknown(0, frozenset(world.names[3:])) == 0
    world.needed.add(world.names[0])
    assert world.retention.drop_due(2001) == 1
    assert list(world.held()) == [0, 3]


def test_weights_make_room_before_their_time_the_oldest_first() -> None:
    world = World(8, bytes_max=16)  # Two bytes each: the store is full.
    for number, name in enumerate(world.names):
        world.retention.release_weights([name], 10_000 + number)
    world.needed.add(world.names[1])
    assert world.retention.drop_due(1) == 2
    assert list(world.held()) == [1, 3, 4, 5, 6, 7]  # Twelve bytes: three quarters.
    assert world.retention.drop_due(1) == 0
    # Other payloads keep their time whatever the room.
    full = World(8, bytes_max=16)
    full.retention.release(full.names, 10_000)
    assert full.retention.drop_due(1) == 0
