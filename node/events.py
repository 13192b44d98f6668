"""Events: what happened on the chain, told to whoever listens.

Owns their numbering, a bounded memory of the latest ones for clients that resume, and the
subscriptions. Never waits for a subscriber: one that does not keep up is closed, and resumes by
the number of the last event it saw. Never decides what an event holds.
"""

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from heapq import merge
from typing import Final

import trio

from node.errors import SubscriptionRefused

EVENTS_KEPT_MAX: Final = 4_096
"""Latest events of each type that are kept for clients that resume."""

EVENTS_QUEUED_MAX: Final = 1_024
"""Events that may wait for one subscriber beyond those it resumes with; one more closes it."""

SUBSCRIPTIONS_MAX: Final = 256
"""Open subscriptions, unless the settings say otherwise."""

TRANSACTIONS_FOLLOWED_MAX: Final = 1_024
"""Transactions that one subscription may follow."""


class EventType(StrEnum):
    """What an event is about."""

    BLOCK = "block"
    TRAINING_ROUND = "training_round"
    TRANSACTION = "transaction"
    ROUND = "round"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Attributes
    ----------
    type : EventType
        What it is about.
    sequence : int
        Its number; later events have higher ones.
    data : mapping of str to object
        What clients are told, ready for JSON.
    transaction_hash : bytes, 32, or None
        The transaction a `TRANSACTION` event is about.
    """

    type: EventType
    sequence: int
    data: Mapping[str, object]
    transaction_hash: bytes | None = None


class Subscription:
    """Events for one subscriber, in order; iterate over it.

    The iteration ends when the bus is closed, or when the subscriber was too slow, which
    `is_overrun` then tells.

    Attributes
    ----------
    is_complete : bool
        Whether no event is missing between the one the subscriber resumes after and the first.
    is_overrun : bool
        Whether it was closed for falling behind.
    """

    def __init__(
        self,
        types: frozenset[EventType],
        transactions: frozenset[bytes],
        missed: list[Event],
        queue_max: int,
        *,
        is_complete: bool,
    ) -> None:
        self.is_complete = is_complete
        self.is_overrun = False
        self.types = types
        self.transactions = transactions
        self._send, self._receive = trio.open_memory_channel[Event](queue_max + len(missed))
        for event in missed:
            self._send.send_nowait(event)

    def __aiter__(self) -> "Subscription":
        return self

    async def __anext__(self) -> Event:
        return await self._receive.__anext__()

    async def receive(self) -> Event:
        """Wait for the next event.

        Raises
        ------
        trio.EndOfChannel
            If no further one will come.
        """
        return await self._receive.receive()

    def wants(self, event: Event) -> bool:
        """Tell whether the subscriber asked for such an event."""
        if event.type is EventType.TRANSACTION:
            return event.transaction_hash in self.transactions
        return event.type in self.types

    def offer(self, event: Event) -> bool:
        """Queue an event; False when there is no room, and then the subscription is over."""
        try:
            self._send.send_nowait(event)
        except trio.WouldBlock:
            self.is_overrun = True
            self.close()
            return False
        return True

    def close(self) -> None:
        """Let no further event in; those queued can still be received."""
        self._send.close()


class EventBus:
    """Numbers events, keeps the latest and hands them to the subscribers.

    Parameters
    ----------
    first_sequence : int
        The number of the first event. Give each start of the node a higher one than the last
        start reached (the clock in milliseconds, say), so that an old number is recognized.
    kept_max : int
        Events of each type to keep.
    queued_max : int
        Events that may wait for one subscriber.
    subscriptions_max : int
        Open subscriptions.
    """

    def __init__(
        self,
        first_sequence: int = 1,
        *,
        kept_max: int = EVENTS_KEPT_MAX,
        queued_max: int = EVENTS_QUEUED_MAX,
        subscriptions_max: int = SUBSCRIPTIONS_MAX,
    ) -> None:
        self._next_sequence = first_sequence
        self._first_sequence = first_sequence
        self._kept: dict[EventType, deque[Event]] = {
            type_: deque(maxlen=kept_max) for type_ in EventType
        }
        # The number of the latest event that is no longer kept, for each type.
        self._forgotten = dict.fromkeys(EventType, first_sequence - 1)
        self._queued_max = queued_max
        self._subscriptions_max = subscriptions_max
        self._general: dict[int, Subscription] = {}
        self._followers: dict[bytes, dict[int, Subscription]] = {}
        self._open: dict[int, Subscription] = {}
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._open)

    @property
    def last_sequence(self) -> int:
        """The number of the latest event; before the first one, the number before it."""
        return self._next_sequence - 1

    def is_followed(self, transaction_hash: bytes) -> bool:
        """Tell whether a subscriber waits for the events of a transaction."""
        return transaction_hash in self._followers

    def publish(
        self,
        type_: EventType,
        data: Mapping[str, object],
        *,
        transaction_hash: bytes | None = None,
    ) -> Event:
        """Give an event its number and hand it to those who want it, at once.

        Parameters
        ----------
        type_ : EventType
            What it is about.
        data : mapping of str to object
            What clients are told, ready for JSON; not changed afterwards.
        transaction_hash : bytes, 32, optional
            Of a `TRANSACTION` event: whoever follows that transaction gets it.
        """
        event = Event(type_, self._next_sequence, data, transaction_hash)
        self._next_sequence += 1
        kept = self._kept[type_]
        if len(kept) == kept.maxlen and kept:
            self._forgotten[type_] = kept[0].sequence
        kept.append(event)
        if type_ is EventType.TRANSACTION:
            listeners = self._followers.get(transaction_hash or b"", {})
        else:
            listeners = self._general
        slow = [
            number
            for number, subscription in listeners.items()
            if subscription.wants(event) and not subscription.offer(event)
        ]
        for number in slow:
            self._forget(number)
        return event

    @contextmanager
    def subscribe(
        self,
        types: Collection[EventType] = (EventType.BLOCK, EventType.TRAINING_ROUND),
        *,
        transactions: Collection[bytes] = (),
        after: int | None = None,
    ) -> Iterator[Subscription]:
        """Open a subscription for the time of a `with` block.

        Parameters
        ----------
        types : collection of EventType
            What to hear of. `TRANSACTION` events come for `transactions` alone.
        transactions : collection of bytes, 32
            Transactions to follow.
        after : int, optional
            Resume behind the event of that number, as far as events are kept. A number that this
            bus never gave stands for one of an earlier start of the node.

        Raises
        ------
        SubscriptionRefused
            If there are as many as allowed, it follows too many transactions, or the node stops.
        """
        if self._is_closed:
            raise SubscriptionRefused("The node is stopping: subscribe again when it is back.")
        if len(self._open) >= self._subscriptions_max:
            raise SubscriptionRefused(
                f"All {self._subscriptions_max} subscriptions of this node are taken: try again "
                "later, or raise subscriptions_max in its settings."
            )
        if len(transactions) > TRANSACTIONS_FOLLOWED_MAX:
            raise SubscriptionRefused(
                f"A subscription follows at most {TRANSACTIONS_FOLLOWED_MAX} transactions, not "
                f"{len(transactions)}: open several."
            )
        number, subscription = self._open_subscription(
            frozenset(types), frozenset(transactions), after
        )
        try:
            yield subscription
        finally:
            self._forget(number)
            subscription.close()

    def close(self) -> None:
        """End every subscription and take no further one; `publish` reaches nobody from now on."""
        self._is_closed = True
        for number, subscription in tuple(self._open.items()):
            self._forget(number)
            subscription.close()

    def _open_subscription(
        self, types: frozenset[EventType], transactions: frozenset[bytes], after: int | None
    ) -> tuple[int, Subscription]:
        wanted_types = [each for each in EventType if each in types]
        if transactions and EventType.TRANSACTION not in wanted_types:
            wanted_types.append(EventType.TRANSACTION)
        missed: list[Event] = []
        is_complete = True
        if after is not None:
            is_known = self._first_sequence - 1 <= after <= self.last_sequence
            since = after if is_known else self._first_sequence - 1
            is_complete = is_known and all(self._forgotten[each] <= since for each in wanted_types)
            missed = [
                event
                for event in merge(
                    *(self._kept[each] for each in wanted_types), key=lambda each: each.sequence
                )
                if event.sequence > since
                and (
                    event.type is not EventType.TRANSACTION
                    or event.transaction_hash in transactions
                )
            ]
        subscription = Subscription(
            types, transactions, missed, self._queued_max, is_complete=is_complete
        )
        number = id(subscription)
        self._open[number] = subscription
        if types - {EventType.TRANSACTION}:
            self._general[number] = subscription
        for transaction_hash in sorted(transactions):
            self._followers.setdefault(transaction_hash, {})[number] = subscription
        return number, subscription

    def _forget(self, number: int) -> None:
        subscription = self._open.pop(number, None)
        if subscription is None:
            return
        self._general.pop(number, None)
        for transaction_hash in subscription.transactions:
            followers = self._followers[transaction_hash]
            del followers[number]
            if not followers:
                del self._followers[transaction_hash]
