"""Conversations with nodes, written once for both clients.

A *script* is a generator: it yields what it wants done (send a request, sleep, read the clock,
run a function, read an event) and is sent the outcome, or thrown the `QuorateError`. `Client`
performs the operations one after the other, `AsyncClient` awaits them; neither knows what the
script is about. Only scripts that one hands over together are performed side by side.

Owns the operations and the policy of retries. Never does I/O itself.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar, cast

from quorate.chain.genesis import Genesis
from quorate.errors import ConnectionFailedError, RpcError
from quorate.rpc_protocol import Call, Request, get_events, read_response
from quorate.rpc_reading import Response
from quorate.rpc_types import Event

T = TypeVar("T")

BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 2.0
RETRY_AFTER_MAX_S = 30.0
STATUSES_RETRIED = frozenset({502, 503, 504})
STATUS_TOO_MANY = 429
TOGETHER_MAX = 64
"""Scripts that are performed side by side, each by a thread or a task."""
FEED_SILENCE_S = 15.0
"""After so long without an event a stream is opened anew; nodes send a comment every 10 s."""


@dataclass(eq=False)
class Endpoint:
    """A node as its client knows it.

    Attributes
    ----------
    url : str
        Where it listens.
    retries : int
        How often a request is sent again.
    genesis : Genesis or None
        The chain's genesis document, once known.
    """

    url: str
    retries: int = 5
    genesis: Genesis | None = None


@dataclass(eq=False)
class Feed:
    """A subscription to a node's events, which survives the stream it comes through.

    `last_event_id` is where the next stream goes on.
    """

    endpoint: Endpoint
    types: Sequence[str] = ()
    transactions: Sequence[bytes] = ()
    last_event_id: str | None = None
    silence_s: float = field(default=FEED_SILENCE_S)

    @property
    def request(self) -> Request:
        """The request for the next stream."""
        return get_events(self.types, self.transactions, self.last_event_id)


@dataclass(frozen=True)
class Send:
    """Send a request; the outcome is a `Response`, or a `ConnectionFailedError` is thrown."""

    endpoint: Endpoint
    request: Request


@dataclass(frozen=True)
class Sleep:
    """Wait."""

    seconds: float


@dataclass(frozen=True)
class ReadClock:
    """Read a clock that only moves forward; the outcome is in seconds."""


@dataclass(frozen=True)
class RunFunction:
    """Run a function that may take long; the outcome is what it returns."""

    function: Callable[[], object]


@dataclass(frozen=True)
class OpenFeed:
    """Open the feed's stream unless it is open.

    A `ConnectionFailedError` or `RpcError` is thrown if there is none to be had.
    """

    feed: Feed


@dataclass(frozen=True)
class ReadFeed:
    """Wait for an event; the outcome is an `Event`, or None if the stream fell silent or ended."""

    feed: Feed


@dataclass(frozen=True)
class CloseFeed:
    """Close the feed's stream if it is open."""

    feed: Feed


@dataclass(frozen=True)
class RunTogether:
    """Perform scripts side by side; there is no outcome, but the first error of one of them.

    After an error the others are not gone on with: each ends at its next operation.
    """

    scripts: "Sequence[Script[None]]"


Operation: TypeAlias = (
    Send | Sleep | ReadClock | RunFunction | OpenFeed | ReadFeed | CloseFeed | RunTogether
)
Script: TypeAlias = Generator[Operation, object, T]


def compute_backoff_s(attempt: int) -> float:
    """Return how long to wait before attempt number `attempt` + 1, in seconds."""
    return float(min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(attempt, 16)))


def perform(endpoint: Endpoint, call: Call[T]) -> Script[T]:
    """Send a request until it is answered; every request may be sent again without harm.

    Raises
    ------
    RpcError, ProtocolError, ConnectionFailedError
        A failed connection, a full mempool and a used-up quota only after all retries.
    """
    attempt = 0
    while True:
        try:
            response = cast("Response", (yield Send(endpoint, call.request)))
            return read_response(call, response)
        except ConnectionFailedError:
            if attempt >= endpoint.retries:
                raise
            delay_s = compute_backoff_s(attempt)
        except RpcError as error:
            if not _is_temporary(error) or attempt >= endpoint.retries:
                raise
            delay_s = compute_backoff_s(attempt)
            if error.retry_after_s is not None:
                delay_s = min(error.retry_after_s, RETRY_AFTER_MAX_S)
        yield Sleep(delay_s)
        attempt += 1


def _is_temporary(error: RpcError) -> bool:
    """Tell whether the node asks to try again: it has no room, or the sender's quota is used up."""
    return error.status in STATUSES_RETRIED or (
        error.status == STATUS_TOO_MANY and error.retry_after_s is not None
    )


def read_clock() -> Script[float]:
    """Return the time on a clock that only moves forward, in seconds."""
    return cast("float", (yield ReadClock()))


def run_function(function: Callable[[], T]) -> Script[T]:
    """Return what a function that may take long returns."""
    return cast("T", (yield RunFunction(function)))


def run_together(scripts: Sequence[Script[None]]) -> Script[None]:
    """Perform scripts side by side; at most `TOGETHER_MAX`.

    Raises
    ------
    QuorateError
        The first of one of them.
    ValueError
        If there are too many.
    """
    if len(scripts) > TOGETHER_MAX:
        raise ValueError(f"{len(scripts)} scripts are too many to perform side by side")
    if scripts:
        yield RunTogether(scripts)


def read_feed(feed: Feed) -> Script[Event | None]:
    """Return the next event, or None if the stream fell silent or ended."""
    return cast("Event | None", (yield ReadFeed(feed)))


def read_next_event(feed: Feed) -> Script[Event]:
    """Return the next event, through as many streams as it takes.

    Raises
    ------
    RpcError
        If the node refuses the subscription.
    ConnectionFailedError
        If it cannot be reached, after all retries.
    """
    attempt = 0
    while True:
        try:
            yield OpenFeed(feed)
            event = yield from read_feed(feed)
        except ConnectionFailedError:
            if attempt >= feed.endpoint.retries:
                raise
            event = None
        else:
            attempt = -1
        if event is not None:
            return event
        attempt += 1
        yield Sleep(compute_backoff_s(attempt))
