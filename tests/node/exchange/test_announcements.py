"""Announced payloads: counted by power, verified, bounded, repeated; made by a validator alone."""

# The fixture `mock_clock`, which stands still, works by being asked for.
# ruff: noqa: ARG001

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
import trio.testing
from quorate.chain.announcement import PayloadAnnouncement, sign_announcement
from quorate.chain.content import compute_content_hash
from quorate.chain.ids import Hash
from quorate.chain.keys import PrivateKey
from quorate.chain.validators import ValidatorSet

from node.exchange import announcements
from node.exchange.announcements import (
    AGE_MS_MAX,
    BURST_MAX,
    EARLY_PER_VALIDATOR_MAX,
    FORGED_PENALTY,
    QUEUED_PER_PEER_MAX,
    RATE_PER_S,
    REPAIR_S,
    PayloadAnnouncements,
)
from node.exchange.broadcasting import Broadcaster
from node.exchange.messages import PayloadAnnouncementsMessage, decode_message
from node.mempool.pool import ENTRY_OVERHEAD_BYTES
from p2p.network import PeerId
from store.memory_payloads import MemoryPayloadStore
from tests.node.exchange.scripted import ScriptedNetwork, refuse
from tests.node.mempool import world as mempools
from tests.node.mempool.world import CHAIN_ID, hash_of, make_transfer, make_update

VALIDATORS = [PrivateKey(bytes([100 + number]) * 32) for number in range(4)]
USERS = mempools.KEYS
LARGE = 80_000
NOW = 1_700_000_000_000


@dataclass(eq=False)
class Position:
    """As much of a chain's position as announcements look at."""

    validators: ValidatorSet
    next_validators: ValidatorSet


def make_position(*powers: int) -> Position:
    keys = zip(VALIDATORS, powers or (1, 1, 1, 1), strict=False)
    validators = ValidatorSet.from_powers((key.public_key, power) for key, power in keys if power)
    return Position(validators, validators)


@dataclass
class Stage:
    """One node's announcements and what lies around them."""

    own: PayloadAnnouncements
    network: ScriptedNetwork
    mempool: mempools.World
    position: Position
    holders: list[tuple[Hash, PeerId]] = field(default_factory=list)
    now_ms: int = NOW

    async def receive(self, *given: PayloadAnnouncement, peer: str = "a") -> None:
        self.own.receive(PeerId(peer), given)
        await trio.testing.wait_all_tasks_blocked()

    async def submit(self, user: int, seed: int = 0) -> Hash:
        payload = bytes([user, seed]) * (LARGE // 2)
        raw = make_update(USERS[user], 0, payload)
        await self.mempool.mempool.submit_local(raw, payload)
        await trio.testing.wait_all_tasks_blocked()
        return compute_content_hash(payload)

    def get_said(self) -> list[PayloadAnnouncement]:
        said = [decode_message(body) for _, body in self.network.broadcasts]
        return [
            each
            for message in said
            if isinstance(message, PayloadAnnouncementsMessage)
            for each in message.announcements
        ]


def make_hash(number: int) -> Hash:
    return Hash(number.to_bytes(32, "big"))


def announce(validator: int, *hashes: Hash, time_ms: int = NOW) -> PayloadAnnouncement:
    return sign_announcement(VALIDATORS[validator], CHAIN_ID, time_ms, hashes)


async def pass_time(clock: trio.testing.MockClock, seconds: float) -> None:
    """Let time pass by hand: by itself it would also pass while a thread works."""
    clock.jump(seconds)
    await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def open_stage(own: int | None = 0, *powers: int) -> AsyncIterator[Stage]:
    network = ScriptedNetwork(a=refuse, b=refuse)
    seam: Any = network
    broadcaster = Broadcaster(seam)
    for peer in "ab":
        broadcaster.on_peer_connected(PeerId(peer))
    world = mempools.make_world()
    stage: Stage
    position: Any = make_position(*powers)
    holders: list[tuple[Hash, PeerId]] = []
    made = PayloadAnnouncements(
        CHAIN_ID,
        None if own is None else VALIDATORS[own],
        seam,
        broadcaster,
        world.mempool,
        MemoryPayloadStore(),
        lambda: stage.position,  # type: ignore[arg-type, return-value]
        lambda *told: holders.append(told),
        lambda: stage.now_ms,
    )
    world.mempool.large.announced = made
    stage = Stage(made, network, world, position, holders)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run)
        await trio.testing.wait_all_tasks_blocked()
        yield stage
        nursery.cancel_scope.cancel()


async def test_a_block_waits_until_a_quorum_has_announced(mock_clock: object) -> None:
    async with open_stage() as stage:
        name = await stage.submit(0)
        assert (stage.own.get_power(name), stage.own.is_announced(name)) == (1, False)
        assert stage.mempool.reap() == []
        assert (stage.mempool.mempool.ready_count, stage.mempool.mempool.count) == (0, 1)
        woken = trio.Event()

        async def wait() -> None:
            await stage.mempool.mempool.wait_for_transactions()
            woken.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await stage.receive(announce(1, name))
            assert not stage.own.is_announced(name)
            assert not woken.is_set()
            await stage.receive(announce(1, name, time_ms=NOW + 1))
            # One validator's second word adds nothing.
            assert stage.own.get_power(name) == 2
            await stage.receive(announce(2, name), peer="b")
            await woken.wait()
        assert stage.own.get_power(name) == 3
        assert stage.mempool.mempool.ready_count == 1
        assert len(stage.mempool.reap()) == 1
        assert stage.holders == [(name, PeerId("a")), (name, PeerId("b"))]


async def test_a_quorum_has_all_the_payloads_of_a_block(mock_clock: object) -> None:
    async with open_stage() as stage:
        first, second, third = [await stage.submit(user) for user in range(3)]
        # Each has three of four, the first and the second only two in common.
        await stage.receive(announce(1, first, third), announce(2, first, third))
        await stage.receive(announce(1, second, time_ms=NOW + 1), announce(3, second))
        assert all(stage.own.is_announced(each) for each in (first, second, third))
        taken = stage.mempool.mempool.reap(1 << 20, 100)
        assert [entry.payload_hash for entry in taken] == [first, third]
        # Only what was taken counts: what has no room narrows nothing.
        size = len(taken[0].raw) + ENTRY_OVERHEAD_BYTES
        taken = stage.mempool.mempool.reap(size, 100)
        assert [entry.payload_hash for entry in taken] == [first]
        await stage.receive(announce(2, second, time_ms=NOW + 1))
        assert len(stage.mempool.reap()) == 3


async def test_own_word_is_given_once_and_repeated(mock_clock: trio.testing.MockClock) -> None:
    async with open_stage() as stage:
        names = [await stage.submit(user) for user in range(2)]
        said = stage.get_said()
        assert [each.payload_hashes for each in said] == [(names[0],), (names[1],)]
        assert {each.validator for each in said} == {VALIDATORS[0].address}
        assert said[0].time_ms < said[1].time_ms
        await pass_time(mock_clock, REPAIR_S + 0.1)
        again = stage.get_said()[2:]
        assert [each.payload_hashes for each in again] == [tuple(names)]
        stage.own.on_peer_connected(PeerId("b"))
        ((peer, _, body),) = stage.network.sent
        message = decode_message(body)
        assert isinstance(message, PayloadAnnouncementsMessage)
        assert (peer, message.announcements[0].payload_hashes) == ("b", tuple(names))
        assert message.announcements[0].time_ms > again[0].time_ms


@pytest.mark.parametrize("own", [None, 3])
async def test_who_is_no_validator_announces_nothing(own: int | None) -> None:
    async with open_stage(own, 1, 1, 1, 0) as stage:
        name = await stage.submit(0)
        assert (stage.get_said(), stage.own.get_power(name)) == ([], 0)
        stage.own.on_peer_connected(PeerId("b"))
        assert stage.network.sent == []


async def test_small_payloads_and_transfers_wait_for_nobody() -> None:
    async with open_stage() as stage:
        small = make_update(USERS[0], 0, bytes(64 << 10))
        await stage.mempool.mempool.submit_local(small, bytes(64 << 10))
        await stage.mempool.mempool.submit_local(make_transfer(USERS[1], 0), None)
        assert stage.get_said() == []
        assert len(stage.mempool.reap()) == 2


async def test_a_senders_next_transactions_wait_with_the_first() -> None:
    async with open_stage() as stage:
        name = await stage.submit(0)
        following = make_transfer(USERS[0], 1)
        await stage.mempool.mempool.submit_local(following, None)
        other = make_transfer(USERS[1], 0)
        await stage.mempool.mempool.submit_local(other, None)
        assert stage.mempool.reap() == [other]
        await stage.receive(announce(1, name), announce(2, name))
        assert [hash_of(raw) for raw in stage.mempool.reap()][1:] == [
            hash_of(following),
            hash_of(other),
        ]


async def test_forged_announcements_cost_their_sender(mock_clock: object) -> None:
    async with open_stage() as stage:
        name = await stage.submit(0)
        for validator in (1, 2):
            forged = sign_announcement(VALIDATORS[3], CHAIN_ID, NOW, (name,))
            fields = (VALIDATORS[validator].address, NOW, (name,), forged.signature)
            await stage.receive(PayloadAnnouncement(*fields))
        other_chain = sign_announcement(VALIDATORS[1], "other", NOW, (name,))
        await stage.receive(other_chain)
        assert [(peer, penalty) for peer, penalty, _ in stage.network.reports] == [
            ("a", FORGED_PENALTY)
        ] * 3
        assert stage.own.get_power(name) == 1
        # What a stranger signs counts for nothing, and may be a validator of tomorrow.
        stranger = PrivateKey(bytes(range(32)))
        await stage.receive(sign_announcement(stranger, CHAIN_ID, NOW, (name,)))
        assert (stage.own.get_power(name), len(stage.network.reports)) == (1, 3)
        assert stage.network.sent == []


async def test_old_words_are_not_believed(mock_clock: object) -> None:
    async with open_stage() as stage:
        name = await stage.submit(0)
        await stage.receive(announce(1, name, time_ms=NOW - AGE_MS_MAX - 1))
        await stage.receive(announce(1, name, time_ms=NOW + AGE_MS_MAX + 1))
        assert stage.own.get_power(name) == 1
        await stage.receive(announce(1, name, time_ms=NOW - AGE_MS_MAX))
        assert stage.own.get_power(name) == 2


async def test_announcements_may_be_faster_than_the_transaction(mock_clock: object) -> None:
    async with open_stage() as stage:
        payload = bytes([3, 0]) * (LARGE // 2)
        name = compute_content_hash(payload)
        await stage.receive(announce(1, name), announce(2, name))
        assert not stage.own.is_announced(name)
        assert await stage.submit(3) == name
        assert stage.own.is_announced(name)
        # While a transaction is held for its payload, its payload is named already.
        held = bytes([4, 0]) * (LARGE // 2)
        await stage.mempool.mempool.receive_batch("a", [(make_update(USERS[4], 0, held), None)])
        await stage.receive(announce(1, compute_content_hash(held)))
        assert stage.own.get_power(compute_content_hash(held)) == 1


async def test_what_nobody_named_is_kept_within_a_limit(mock_clock: object) -> None:
    async with open_stage() as stage:
        name = await stage.submit(0)
        await stage.receive(announce(2, name))
        first = compute_content_hash(bytes([5, 0]) * (LARGE // 2))
        await stage.receive(announce(2, first, name))
        for start in range(0, EARLY_PER_VALIDATOR_MAX, 256):
            names = [make_hash(start + number) for number in range(256)]
            await stage.receive(announce(2, *names, time_ms=NOW + start + 1))
        assert await stage.submit(5) == first
        # Forgotten, but not what is pending, nor what others said.
        assert stage.own.get_power(first) == 1
        assert stage.own.get_power(name) == 2


async def test_a_flood_is_dropped_and_others_are_heard(
    mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = [0]
    verify = announcements.is_announcement_valid

    def count(*arguments: Any) -> bool:
        checked[0] += 1
        return verify(*arguments)

    monkeypatch.setattr(announcements, "is_announcement_valid", count)
    async with open_stage() as stage:
        name = await stage.submit(0)
        flood = [announce(3, make_hash(number)) for number in range(int(BURST_MAX) + 60)]
        for start in range(0, len(flood), QUEUED_PER_PEER_MAX):
            await stage.receive(*flood[start : start + QUEUED_PER_PEER_MAX])
        assert checked[0] == BURST_MAX
        assert stage.own.dropped == 60
        await stage.receive(announce(1, name), announce(2, name))
        assert stage.own.is_announced(name)
        await pass_time(mock_clock, 1)
        before = checked[0]
        await stage.receive(*flood[-60:])
        assert checked[0] - before == RATE_PER_S
        # A peer that sends faster than all is looked at loses the rest.
        dropped = stage.own.dropped
        stage.own.receive(PeerId("a"), flood[: QUEUED_PER_PEER_MAX + 5])
        assert stage.own.dropped == dropped + 5


async def test_known_words_are_not_verified_again_and_new_ones_are_relayed(
    mock_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_stage() as stage:
        name = await stage.submit(0)
        first = announce(1, name)
        await stage.receive(first)
        assert [peer for peer, _, _ in stage.network.sent] == ["b"]
        with monkeypatch.context() as patched:
            patched.setattr(announcements, "is_announcement_valid", None)
            await stage.receive(first, peer="b")
        assert len(stage.network.sent) == 1
        # Said again, it is passed on: somebody may have missed it.
        await stage.receive(announce(1, name, time_ms=NOW + 1))
        assert [peer for peer, _, _ in stage.network.sent] == ["b", "b"]


async def test_what_a_held_transaction_lacks_is_wanted_again(
    mock_clock: trio.testing.MockClock,
) -> None:
    async with open_stage() as stage:
        payload = bytes([4, 0]) * (LARGE // 2)
        await stage.mempool.mempool.receive_batch("a", [(make_update(USERS[4], 0, payload), None)])
        wish = (compute_content_hash(payload), LARGE, "a")
        assert stage.mempool.wanted == [wish]
        await pass_time(mock_clock, REPAIR_S + 0.1)
        assert stage.mempool.wanted == [wish, wish]
        stage.mempool.ledger.payloads[wish[0]] = payload
        assert stage.mempool.mempool.receive_payload(wish[0]) == 1
        await pass_time(mock_clock, REPAIR_S + 0.1)
        assert stage.mempool.wanted == [wish, wish]


async def test_power_is_that_of_the_validators_of_today(mock_clock: object) -> None:
    async with open_stage(0, 1, 1, 1, 7) as stage:
        name = await stage.submit(0)
        await stage.receive(announce(1, name), announce(2, name))
        assert (stage.own.get_power(name), stage.own.is_announced(name)) == (3, False)
        stage.position = make_position(1, 1, 1, 1)
        assert stage.own.is_announced(name)
        stage.position = make_position(1, 1, 0, 1)
        assert (stage.own.get_power(name), stage.own.is_announced(name)) == (2, False)
        # One who will be a validator is heard already.
        stage.position = Position(
            make_position(1, 1, 0, 0).validators, make_position(1, 1, 0, 1).validators
        )
        await stage.receive(announce(3, name))
        assert stage.own.get_power(name) == 2
        stage.position = make_position(1, 1, 0, 1)
        assert stage.own.is_announced(name)


async def test_what_is_pending_no_more_is_forgotten(mock_clock: trio.testing.MockClock) -> None:
    async with open_stage() as stage:
        name = await stage.submit(0)
        await stage.receive(announce(1, name), announce(2, name))
        raws: Sequence[bytes] = stage.mempool.reap()
        stage.mempool.decide(raws)
        await pass_time(mock_clock, REPAIR_S + 0.1)
        assert (stage.own.get_power(name), stage.own.is_announced(name)) == (0, False)
        assert len(stage.get_said()) == 1
