"""Events: numbered, kept within bounds, and never waiting for a subscriber."""

import pytest
import trio

from node.errors import SubscriptionRefused
from node.events import TRANSACTIONS_FOLLOWED_MAX, Event, EventBus, EventType, Subscription

BLOCK, ROUND, TRANSACTION = EventType.BLOCK, EventType.ROUND, EventType.TRANSACTION


def drain(subscription: Subscription) -> list[Event]:
    events = []
    while True:
        try:
            events.append(subscription._receive.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            return events


async def test_subscribers_hear_what_they_asked_for() -> None:
    bus = EventBus()
    with bus.subscribe() as default, bus.subscribe([ROUND]) as rounds:
        bus.publish(BLOCK, {"height": "1"})
        bus.publish(ROUND, {"round": 1})
        bus.publish(EventType.TRAINING_ROUND, {"height": "1"})
        assert [event.type for event in drain(default)] == [BLOCK, EventType.TRAINING_ROUND]
        assert [event.sequence for event in drain(rounds)] == [2]
    assert len(bus) == 0
    bus.publish(BLOCK, {})
    assert bus.last_sequence == 4


async def test_transactions_are_told_to_those_who_follow_them() -> None:
    bus = EventBus()
    mine, theirs = b"\x01" * 32, b"\x02" * 32
    with (
        bus.subscribe([], transactions=[mine]) as follower,
        bus.subscribe([BLOCK, TRANSACTION]) as general,
    ):
        bus.publish(TRANSACTION, {"n": 1}, transaction_hash=mine)
        bus.publish(TRANSACTION, {"n": 2}, transaction_hash=theirs)
        bus.publish(TRANSACTION, {"n": 3})
        bus.publish(BLOCK, {})
        assert [event.data for event in drain(follower)] == [{"n": 1}]
        assert [event.type for event in drain(general)] == [BLOCK]
    assert not bus._followers


async def test_iteration_ends_when_the_bus_closes() -> None:
    bus = EventBus()
    with bus.subscribe() as subscription:
        bus.publish(BLOCK, {"height": "1"})
        bus.close()
        bus.publish(BLOCK, {"height": "2"})
        with trio.fail_after(10):
            assert [event.sequence async for event in subscription] == [1]
            with pytest.raises(trio.EndOfChannel):
                await subscription.receive()
    with pytest.raises(SubscriptionRefused, match="stopping"), bus.subscribe():
        pass


async def test_a_slow_subscriber_is_closed_and_others_go_on() -> None:
    bus = EventBus(queued_max=3)
    with bus.subscribe() as slow, bus.subscribe() as quick:
        heard = []
        for _ in range(5):
            bus.publish(BLOCK, {})
            heard += drain(quick)
        assert [event.sequence for event in heard] == [1, 2, 3, 4, 5]
        assert (slow.is_overrun, quick.is_overrun) == (True, False)
        with trio.fail_after(10):
            seen = [event.sequence async for event in slow]
        assert seen == [1, 2, 3]
        assert len(bus) == 1
        with bus.subscribe(after=seen[-1]) as resumed:
            assert resumed.is_complete
            assert [event.sequence for event in drain(resumed)] == [4, 5]


async def test_resuming_has_room_for_everything_kept() -> None:
    bus = EventBus(kept_max=10, queued_max=2)
    for _ in range(10):
        bus.publish(BLOCK, {})
    with bus.subscribe(after=0) as resumed:
        bus.publish(BLOCK, {})
        bus.publish(BLOCK, {})
        assert [event.sequence for event in drain(resumed)] == list(range(1, 13))
        assert not resumed.is_overrun


async def test_what_is_no_longer_kept_is_told() -> None:
    bus = EventBus(kept_max=3)
    for _ in range(5):
        bus.publish(BLOCK, {})
    for after, is_complete, sequences in (
        (1, False, [3, 4, 5]),
        (2, True, [3, 4, 5]),
        (5, True, []),
    ):
        with bus.subscribe(after=after) as resumed:
            assert resumed.is_complete is is_complete
            assert [event.sequence for event in drain(resumed)] == sequences


async def test_rare_events_outlast_frequent_ones() -> None:
    bus = EventBus(kept_max=3)
    bus.publish(BLOCK, {})
    for _ in range(50):
        bus.publish(TRANSACTION, {}, transaction_hash=b"\x01" * 32)
    with bus.subscribe(after=0) as resumed:
        assert resumed.is_complete
        assert [event.type for event in drain(resumed)] == [BLOCK]
    with bus.subscribe(transactions=[b"\x01" * 32], after=0) as follower:
        assert not follower.is_complete
        assert [event.sequence for event in drain(follower)] == [1, 49, 50, 51]


async def test_numbers_of_an_earlier_start_are_recognized() -> None:
    bus = EventBus(1_000)
    bus.publish(BLOCK, {})
    for after in (7, 998, 5_000):
        with bus.subscribe(after=after) as resumed:
            assert not resumed.is_complete
            assert [event.sequence for event in drain(resumed)] == [1_000]
    with bus.subscribe(after=999) as resumed:
        assert resumed.is_complete


async def test_subscriptions_are_bounded() -> None:
    bus = EventBus(subscriptions_max=2)
    with (
        bus.subscribe(),
        bus.subscribe(),
        pytest.raises(SubscriptionRefused, match="All 2 subscriptions"),
        bus.subscribe(),
    ):
        pass
    with bus.subscribe():
        pass


async def test_followed_transactions_are_bounded() -> None:
    bus = EventBus()
    hashes = [number.to_bytes(32, "big") for number in range(TRANSACTIONS_FOLLOWED_MAX + 1)]
    with (
        pytest.raises(SubscriptionRefused, match="open several"),
        bus.subscribe(transactions=hashes),
    ):
        pass
    with bus.subscribe(transactions=hashes[:-1]):
        assert len(bus._followers) == TRANSACTIONS_FOLLOWED_MAX
    assert not bus._followers
