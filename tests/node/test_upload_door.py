"""The door for uploads by itself: what is open, what it takes together, and what waits."""

import threading
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing
from quorate.chain.content import CHUNK_BYTES, compute_chunk_hashes, compute_content_hash
from quorate.chain.errors import ErrorCode, TransactionError
from quorate.chain.ids import Hash
from quorate.chain.merkle import compute_root_of_hashes

from node.uploads import KEPT_MS, Uploads
from store.errors import DiskFull
from store.memory_payloads import MemoryPayloadStore
from store.partial_payload import PartialPayload
from tests.node.rpc.serving import poll


def make_data(seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(2 * CHUNK_BYTES + 100_000)


DATA = make_data(1)
HASH = compute_content_hash(DATA)
CHUNKS = [DATA[start : start + CHUNK_BYTES] for start in range(0, len(DATA), CHUNK_BYTES)]


class World:
    """Uploads over a store in memory, and what they let go."""

    def __init__(self, **limits: int) -> None:
        self.payloads = MemoryPayloadStore()
        self.named: set[Hash] = set()
        self.now_ms = 1_000
        self.released: list[tuple[list[Hash], int]] = []
        self.uploads = Uploads(
            self.payloads,
            1 << 22,
            3 << 22,
            self.named.__contains__,
            lambda hashes, due: self.released.append((list(hashes), due)),
            lambda: self.now_ms,
            **limits,
        )


async def test_a_whole_upload_waits_for_its_transaction_so_long() -> None:
    world = World()
    await world.uploads.begin(len(DATA), compute_chunk_hashes(DATA))
    for index, chunk in enumerate(CHUNKS):
        assert world.released == []
        await world.uploads.put_chunk(HASH, index, chunk)
    assert world.released == [([HASH], 1_000 + KEPT_MS)]
    await world.uploads.put_chunk(HASH, 0, CHUNKS[0])
    await world.uploads.begin(len(DATA), compute_chunk_hashes(DATA))
    assert len(world.released) == 1


async def test_what_was_cut_short_before_its_end_is_finished_by_whoever_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All chunks of a payload may be here, and it is not stored: then it is not whole yet."""
    world = World()
    await world.uploads.begin(len(DATA), compute_chunk_hashes(DATA))

    def find_no_room(_partial: PartialPayload) -> None:
        raise DiskFull("no room")

    with monkeypatch.context() as full:
        partial = world.payloads.get_partial(HASH)
        full.setattr(partial, "_adopt", find_no_room)
        for index, chunk in enumerate(CHUNKS[:-1]):
            await world.uploads.put_chunk(HASH, index, chunk)
        with pytest.raises(DiskFull):
            await world.uploads.put_chunk(HASH, 2, CHUNKS[2])
        with pytest.raises(DiskFull):
            await world.uploads.begin(len(DATA), compute_chunk_hashes(DATA))
        with pytest.raises(DiskFull):
            await world.uploads.put_chunk(HASH, 2, CHUNKS[2])
    assert world.released == []
    state = await world.uploads.begin(len(DATA), compute_chunk_hashes(DATA))
    assert state.missing == ()
    assert world.payloads.get(HASH) == DATA
    assert world.released == [([HASH], 1_000 + KEPT_MS)]
    assert world.uploads.open_count == 0


async def test_open_uploads_take_so_much_room_together() -> None:
    """Room is kept from the beginning on, which costs whoever begins nothing."""
    world = World()
    lies = [(4 << 20) - number for number in range(3)]
    hashes = [tuple(compute_chunk_hashes(bytes([number]) * lies[number])) for number in range(3)]
    for number in range(3):
        await world.uploads.begin(lies[number], hashes[number])
    with pytest.raises(TransactionError, match="Uploads that no transaction names have") as refused:
        await world.uploads.begin(len(DATA), compute_chunk_hashes(DATA))
    assert refused.value.code is ErrorCode.QUOTA_EXCEEDED
    await world.uploads.begin(lies[0], hashes[0])
    partial = world.payloads.get_partial(compute_root_of_hashes(hashes[0]))
    assert partial is not None
    partial.abandon()
    await world.uploads.begin(len(DATA), compute_chunk_hashes(DATA))


async def upload(world: World, data: bytes) -> Hash:
    state = await world.uploads.begin(len(data), compute_chunk_hashes(data))
    for index in state.missing:
        chunk = data[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
        await world.uploads.put_chunk(state.payload_hash, index, chunk)
    return state.payload_hash


@pytest.mark.parametrize("way", ["named", "late"])
async def test_whole_uploads_that_nobody_names_take_so_much_room_together(way: str) -> None:
    world = World()
    payloads = [await upload(world, bytes([number]) * (4 << 20)) for number in range(3)]
    with pytest.raises(TransactionError, match="no transaction names have 12582912 bytes"):
        await upload(world, DATA)
    if way == "named":
        world.named.add(payloads[1])
        world.uploads.notice_submission()
        world.named.clear()
    else:
        world.now_ms += KEPT_MS
    await upload(world, DATA)
    assert world.payloads.has(HASH)


async def test_so_many_whole_uploads_wait_at_a_time() -> None:
    world = World(waiting_max=3)
    first = await upload(world, b"0")
    for data in (b"1", b"2"):
        await upload(world, data)
    with pytest.raises(TransactionError, match="3 uploads wait") as refused:
        await upload(world, b"3")
    assert refused.value.code is ErrorCode.QUOTA_EXCEEDED
    world.named.add(first)
    await upload(world, b"3")


async def test_uploads_that_begin_at_once_are_counted_as_well() -> None:
    world = World(uploads_max=2)
    outcomes = []

    async def try_one(number: int) -> None:
        data = bytes([number]) * 1000
        try:
            await world.uploads.begin(len(data), compute_chunk_hashes(data))
            outcomes.append(True)
        except TransactionError:
            outcomes.append(False)

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(try_one, number)
    assert sorted(outcomes) == [False] * 4 + [True] * 2
    assert world.uploads.open_count == 2


async def test_a_wrong_size_keeps_no_upload_out() -> None:
    world = World()
    hashes = compute_chunk_hashes(DATA)
    await world.uploads.begin(len(DATA) - 1, hashes)
    await world.uploads.begin(len(DATA), hashes)
    await world.uploads.put_chunk(HASH, 0, CHUNKS[0])
    with pytest.raises(TransactionError, match="arrives already") as refused:
        await world.uploads.begin(len(DATA) - 1, hashes)
    assert refused.value.code is ErrorCode.PAYLOAD_MISMATCH
    for index in (1, 2):
        await world.uploads.put_chunk(HASH, index, CHUNKS[index])
    assert world.payloads.get(HASH) == DATA


async def test_what_the_store_has_dropped_is_unknown_and_counts_no_more() -> None:
    world = World(uploads_max=1)
    await world.uploads.begin(len(DATA), compute_chunk_hashes(DATA))
    partial = world.payloads.get_partial(HASH)
    assert partial is not None
    partial.abandon()
    with pytest.raises(TransactionError, match="begin it"):
        await world.uploads.put_chunk(HASH, 0, CHUNKS[0])
    assert await world.uploads.get(HASH) is None
    other = make_data(5)
    await world.uploads.begin(len(other), compute_chunk_hashes(other))
    assert world.uploads.open_count == 1


async def test_a_payload_that_is_just_made_whole_is_not_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A store may have it neither among what arrives nor among what is stored for a moment."""
    world = World()
    await world.uploads.begin(len(DATA), compute_chunk_hashes(DATA))
    for index in (0, 1):
        await world.uploads.put_chunk(HASH, index, CHUNKS[index])
    adopt, is_gone, go_on = world.payloads._put, threading.Event(), threading.Event()

    def adopt_slowly(*arguments: Any, **options: Any) -> None:
        is_gone.set()
        assert go_on.wait(10)
        adopt(*arguments, **options)

    monkeypatch.setattr(world.payloads, "_put", adopt_slowly)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.uploads.put_chunk, HASH, 2, CHUNKS[2])
            await poll(is_gone.is_set)
            nursery.start_soon(world.uploads.put_chunk, HASH, 0, CHUNKS[0])
            await trio.testing.wait_all_tasks_blocked()
            go_on.set()
        state = await world.uploads.get(HASH)
    assert state is not None
    assert state.missing == ()
