"""What one sender may take of the mempool: pending updates, payload bytes, places in a block."""

from quorate.chain.errors import ErrorCode
from quorate.chain.ids import Hash

from node.mempool.pool import PAYLOAD_SHARE
from tests.node.mempool.world import KEYS, make_transfer, make_update, make_world, refuse

ALICE, BOB = KEYS[:2]
OTHER_TASK = Hash(b"\x12" * 32)
PAYLOADS_MAX = 1 << 20


async def test_one_update_of_a_task_is_pending_at_a_time() -> None:
    world = make_world()
    first, second = make_update(ALICE, 0, b"one"), make_update(ALICE, 1, b"two")
    await world.mempool.submit_local(first, b"one")
    error = await refuse(world, second, b"two")
    assert error.code is ErrorCode.DUPLICATE_UPDATE
    assert "may have 1" in error.message
    # Of another task, and of somebody else, it is no second one.
    await world.mempool.submit_local(make_update(ALICE, 1, b"x", task_id=OTHER_TASK), b"x")
    await world.mempool.submit_local(make_update(BOB, 0, b"two"), b"two")
    # Nor once the first has been decided.
    world.decide([first])
    third = make_update(ALICE, 2, b"three")
    await world.mempool.submit_local(third, b"three")
    assert world.mempool.count == 3


async def test_a_peer_s_second_update_is_not_taken_either() -> None:
    world = make_world()
    first, second = make_update(ALICE, 0, b"one"), make_update(ALICE, 1, b"two")
    assert await world.mempool.receive_batch("peer", [(first, b"one"), (second, b"two")]) == 1
    assert world.mempool.refused[ErrorCode.DUPLICATE_UPDATE] == 1


async def test_the_payloads_of_one_sender_leave_room_for_others() -> None:
    world = make_world(payload_bytes_max=PAYLOADS_MAX)
    share = PAYLOADS_MAX // PAYLOAD_SHARE

    for nonce, size, is_taken in ((0, share - 10, True), (1, 11, False), (1, 10, True)):
        payload = bytes([nonce]) * size
        raw = make_update(ALICE, nonce, payload, task_id=Hash(bytes([nonce]) * 32))
        if is_taken:
            await world.mempool.submit_local(raw, payload)
        else:
            assert (await refuse(world, raw, payload)).code is ErrorCode.QUOTA_EXCEEDED
    payload = b"b" * (share + 1)
    # A single one may be larger than that.
    await world.mempool.submit_local(make_update(BOB, 0, payload), payload)


async def test_a_block_is_offered_so_many_of_one_sender() -> None:
    world = make_world()
    raws = {key: [make_transfer(key, nonce) for nonce in range(5)] for key in (ALICE, BOB)}
    for key in (ALICE, BOB):
        for raw in raws[key]:
            await world.mempool.submit_local(raw, None)
    reaped = [entry.raw for entry in world.mempool.reap(1 << 20, 100, 3)]
    assert reaped == [*raws[ALICE][:3], *raws[BOB][:3]]
    assert len(world.mempool.reap(1 << 20, 100)) == 10
    world.decide(raws[ALICE][:3])
    assert [entry.raw for entry in world.mempool.reap(1 << 20, 100, 3)][:2] == raws[ALICE][3:]
