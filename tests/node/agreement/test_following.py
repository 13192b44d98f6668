"""Following: fetched blocks in groups, durable before anybody is told, never past what is whole."""

from dataclasses import dataclass, field

import pytest
import trio
from quorate.chain.content import compute_content_hash
from quorate.chain.errors import StorageError
from quorate.chain.ids import Hash, Height
from quorate.chain.transaction import Transfer
from quorate.chain.vote import Commit

from node.agreement import following
from node.agreement.following import GROUP_BLOCKS_MAX, Follower
from node.agreement.height_log import HeightLog
from node.exchange import payloads_ahead
from node.exchange.catching_up import FetchedBlock
from node.exchange.payloads_ahead import BLOCKS_AHEAD_MAX, PayloadsAhead
from node.execution.executor import ExecutedBlock
from p2p.network import PeerId
from store.database import Batch, MemoryDatabase
from store.errors import StorageClosed
from store.write_ahead_log import MemoryWriteAheadLog
from tests.node.cluster import USERS
from tests.node.execution.chain import ExecutionChain, Training

PEER = PeerId("peer")


class Journal(MemoryDatabase):
    """A database that writes down when it is written, and can fail at a given write."""

    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self.events = events
        self.fails = False

    def write(self, batch: Batch, *, sync: bool) -> None:
        if self.fails:
            raise StorageClosed("no more")
        self.events.append("synced" if sync else "written")
        super().write(batch, sync=sync)


class JournalLog(MemoryWriteAheadLog):
    """A log that writes down each end of a height."""

    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self.events = events

    def mark(self, height: int) -> None:
        self.events.append(f"mark {height}")
        super().mark(height)


@dataclass
class Window:
    """The part of catching up that a follower sees."""

    blocks: dict[int, FetchedBlock]
    refused: list[tuple[int, str]] = field(default_factory=list)

    def get(self, height: int) -> FetchedBlock | None:
        return self.blocks.get(height)

    def advance(self, height: int) -> None:
        self.blocks.pop(height, None)

    def refuse(self, fetched: FetchedBlock, reason: str) -> None:
        self.refused.append((fetched.height, reason))
        del self.blocks[fetched.height]


class World:
    """A chain that was decided elsewhere, and a node that follows it."""

    def __init__(self, source: ExecutionChain) -> None:
        self.source = source
        self.events: list[str] = []
        self.database = Journal(self.events)
        self.log = JournalLog(self.events)
        self.target = ExecutionChain(source.genesis, database=self.database)
        self.window = Window({h: self.fetch(h) for h in range(1, source.store.height + 1)})
        self.decided: list[int] = []
        self.wanted: list[tuple[bytes, int, str]] = []
        self.open()
        self.events.clear()

    def open(self) -> None:
        height_log = HeightLog(self.log)
        height_log.read(Height(self.target.executor.position.height))
        self.follower = Follower(
            self.target.executor,
            self.window,  # type: ignore[arg-type]
            height_log,
            None,
            PayloadsAhead(
                self.source.executor.chain_id,
                self.window,  # type: ignore[arg-type]
                lambda *wish: self.wanted.append(wish),
            ),
        )

    async def follow(self) -> bool:
        return await self.follower.follow(self.note)

    def fetch(self, height: int) -> FetchedBlock:
        block = self.source.store.load_block(height)
        commit = self.source.store.load_commit(height)
        assert block is not None
        assert commit is not None
        return FetchedBlock(Height(height), block, commit, PEER)

    def note(self, executed: ExecutedBlock, commit: Commit) -> None:
        assert executed.block.header.height == commit.height
        self.events.append(f"told {commit.height}")
        self.decided.append(commit.height)

    @property
    def height(self) -> int:
        return self.target.executor.position.height


async def make_world(blocks: int) -> World:
    source = ExecutionChain()
    for number in range(blocks):
        await source.decide(source.make_entry(number % 8, Transfer(USERS[1].address, 1)))
    return World(source)


async def test_all_but_the_last_are_applied_in_groups() -> None:
    world = await make_world(2 * GROUP_BLOCKS_MAX + 10)
    ends = []
    while await world.follow():
        ends.append(world.height)
    assert ends == [GROUP_BLOCKS_MAX, 2 * GROUP_BLOCKS_MAX, 2 * GROUP_BLOCKS_MAX + 9]
    assert world.decided == list(range(1, ends[-1] + 1))
    assert world.window.refused == []
    assert world.target.executor.position.state_root == world.target.executor.state.root
    # The last block has no successor here: consensus shall see that one.
    assert list(world.window.blocks) == [ends[-1] + 1]


async def test_a_group_is_one_synced_batch_then_the_log_then_the_news() -> None:
    world = await make_world(6)
    assert await world.follow()
    assert world.events == ["synced", "mark 5", *(f"told {height}" for height in range(1, 6))]


async def test_a_group_ends_when_much_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    world = await make_world(12)
    await world.follow()
    block_bytes = len(world.fetch(2).block)
    monkeypatch.setattr(following, "GROUP_BYTES_MAX", 3 * block_bytes)
    world = await make_world(12)
    await world.follow()
    assert 1 <= world.height <= 3


async def test_weights_count_as_held(monkeypatch: pytest.MonkeyPatch) -> None:
    source = ExecutionChain()
    training = Training(source, dimension=10_000, participants=2)
    await training.begin()
    for value in range(4):
        entries = [training.make_update(user, value)[0] for user in range(2)]
        await source.decide(*entries)
    monkeypatch.setattr(following, "GROUP_BYTES_MAX", 60_000)
    world = World(source)
    for payload_hash in source.payloads.iterate_hashes():
        data = source.payloads.get(payload_hash)
        assert data is not None
        world.target.payloads.put(data)
    groups = []
    while await world.follow():
        groups.append(world.height)
    assert groups[-1] == source.store.height - 1
    assert len(groups) > 1


async def test_a_crash_in_a_group_loses_the_group_alone() -> None:
    world = await make_world(GROUP_BLOCKS_MAX + 20)
    assert await world.follow()
    world.database.fails = True
    with pytest.raises(StorageError):
        await world.follow()
    assert world.decided[-1] == GROUP_BLOCKS_MAX
    assert world.events[-1] == f"told {GROUP_BLOCKS_MAX}"
    # What the next process finds: the stores fit together, and nothing was told that is lost.
    world.database.fails = False
    world.target.open()
    assert world.height == GROUP_BLOCKS_MAX
    assert world.log.last_mark == GROUP_BLOCKS_MAX
    world.window.blocks.update({h: world.fetch(h) for h in range(1, world.source.store.height + 1)})
    world.open()
    while await world.follow():
        pass
    assert world.height == world.source.store.height - 1


async def test_a_crash_between_the_batch_and_the_log_is_harmless(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = await make_world(5)

    def fail(height: int) -> None:
        raise StorageClosed(f"no end of {height}")

    with monkeypatch.context() as patch:
        patch.setattr(world.log, "mark", fail)
        with pytest.raises(StorageClosed):
            await world.follow()
    assert world.decided == []
    world.target.open()
    assert world.height == 4
    world.open()
    assert world.log.last_mark == 4


async def test_a_bad_commit_is_refused_and_what_was_before_it_stays() -> None:
    world = await make_world(6)
    fetched = world.window.blocks[4]
    world.window.blocks[4] = FetchedBlock(
        fetched.height, fetched.block, world.window.blocks[3].commit, PEER
    )
    assert await world.follow()
    assert world.height == 3
    assert [height for height, _ in world.window.refused] == [4]
    assert not await world.follow()


async def test_an_altered_block_is_left_to_consensus() -> None:
    world = await make_world(6)
    fetched = world.window.blocks[4]
    altered = fetched.block[:-1] + bytes([fetched.block[-1] ^ 1])
    world.window.blocks[4] = FetchedBlock(fetched.height, altered, fetched.commit, PEER)
    assert await world.follow()
    assert not await world.follow()
    assert world.height == 3


async def test_a_block_without_its_payload_is_left_to_consensus() -> None:
    source = ExecutionChain()
    training = Training(source, dimension=8, participants=2)
    await training.begin()
    begun = source.store.height
    await source.decide(training.make_update(0, 1)[0])
    await source.decide(source.make_entry(5, Transfer(USERS[1].address, 1)))
    world = World(source)
    initial = bytes(4 * 8)
    world.target.payloads.put(initial)
    assert await world.follow()
    assert not await world.follow()
    assert world.height == begun


async def make_world_of_updates(rounds: int) -> tuple[World, int, list[bytes]]:
    """Return a node that lacks the payloads of `rounds` blocks, the height before, the hashes."""
    source = ExecutionChain()
    training = Training(source, dimension=8, participants=1)
    await training.begin()
    begun, hashes = source.store.height, []
    for value in range(rounds):
        entry, payload = training.make_update(0, value)
        hashes.append(compute_content_hash(payload))
        await source.decide(entry)
    world = World(source)
    world.target.payloads.put(bytes(4 * 8))
    return world, begun, hashes


async def test_payloads_of_proven_blocks_are_wanted_ahead() -> None:
    world, begun, hashes = await make_world_of_updates(BLOCKS_AHEAD_MAX + 4)
    assert await world.follow()
    assert world.height == begun
    assert world.wanted == [(each, 16, PEER) for each in hashes[:BLOCKS_AHEAD_MAX]]
    # Those that come are not asked for again, and the look moves on with the chain.
    for each in hashes[:2]:
        data = world.source.payloads.get(Hash(each))
        assert data is not None
        world.target.payloads.put(data)
    assert await world.follow()
    assert world.height == begun + 2
    assert [each for each, _, _ in world.wanted] == hashes[: BLOCKS_AHEAD_MAX + 2]


async def test_bytes_wanted_ahead_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payloads_ahead, "BYTES_AHEAD_MAX", 40)
    world, _, hashes = await make_world_of_updates(8)
    await world.follow()
    assert [each for each, _, _ in world.wanted] == hashes[:3]


async def test_nothing_is_wanted_for_a_block_without_proof() -> None:
    world, begun, hashes = await make_world_of_updates(5)
    honest = world.window.blocks[begun + 2]
    forged = world.window.blocks[begun + 3]
    world.window.blocks[begun + 2] = FetchedBlock(honest.height, forged.block, honest.commit, PEER)
    world.window.blocks[begun + 3] = FetchedBlock(forged.height, forged.block, honest.commit, PEER)
    await world.follow()
    assert [each for each, _, _ in world.wanted] == [hashes[0], *hashes[3:]]


async def test_other_tasks_run_while_a_group_is_applied() -> None:
    world = await make_world(GROUP_BLOCKS_MAX)
    seen: list[int] = []

    async def watch() -> None:
        while True:
            seen.append(world.height)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await world.follow()
        nursery.cancel_scope.cancel()
    assert len(set(seen)) > GROUP_BLOCKS_MAX // 2
