"""Blocking connections to nodes: scripts performed one operation after the other.

Owns the HTTP connections of the synchronous client, and the threads of scripts that are performed
side by side, which end with the call. Never knows what a request is about.
"""

import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from typing import TypeVar, assert_never

import httpx

from quorate.errors import QuorateError
from quorate.event_stream import EventParser
from quorate.http_exchange import (
    BodyCollector,
    ConnectionOptions,
    make_failure,
    make_feed_timeout,
    make_timeout,
    read_refusal,
)
from quorate.rpc_protocol import Request
from quorate.rpc_reading import Response
from quorate.rpc_types import Event
from quorate.script import (
    CloseFeed,
    Endpoint,
    Feed,
    OpenFeed,
    Operation,
    ReadClock,
    ReadFeed,
    RunFunction,
    RunTogether,
    Script,
    Send,
    Sleep,
)

T = TypeVar("T")


class _Stream:
    """An open stream of events."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._chunks = response.iter_bytes()
        self._parser = EventParser()
        self._events: deque[Event] = deque()

    def read(self, silence_s: float) -> Event | None:
        deadline = time.monotonic() + silence_s
        while not self._events:
            try:
                chunk = next(self._chunks, None)
            except httpx.HTTPError:  # Silence, or a lost connection: the next stream goes on.
                return None
            if chunk is None:
                return None
            self._events.extend(self._parser.receive(chunk))
            if not self._events and time.monotonic() > deadline:  # Comments, and nothing else.
                return None
        return self._events.popleft()


def _read_body(request: Request, response: httpx.Response) -> Response:
    try:
        body = BodyCollector(request, response)
        for chunk in response.iter_bytes():
            body.receive(chunk)
        return body.finish()
    finally:
        response.close()


class Connection:
    """The connections to one node.

    Parameters
    ----------
    endpoint : Endpoint
    options : ConnectionOptions
    transport : httpx.BaseTransport, optional
        Something else than the network.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        options: ConnectionOptions,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._options = options
        self._http = httpx.Client(
            timeout=make_timeout(options.timeout_s),
            headers=dict(options.headers),
            trust_env=options.trust_env,
            transport=transport,
        )
        self._streams: dict[Feed, _Stream] = {}

    def close(self) -> None:
        """Close all."""
        for feed in list(self._streams):
            self.close_feed(feed)
        self._http.close()

    def _build(self, request: Request, timeout: httpx.Timeout | None = None) -> httpx.Request:
        return self._http.build_request(
            request.method,
            self.endpoint.url + request.path,
            params=list(request.query) or None,
            headers=dict(request.headers),
            content=request.content,
            timeout=make_timeout(self._options.timeout_s) if timeout is None else timeout,
        )

    def send(self, request: Request) -> Response:
        """Send a request and return its response.

        Raises
        ------
        ConnectionFailedError
            If there is none.
        ProtocolError
            If it is larger than a sound one.
        """
        try:
            return _read_body(request, self._http.send(self._build(request), stream=True))
        except httpx.HTTPError as error:
            raise make_failure(self.endpoint.url, error) from error

    def open_feed(self, feed: Feed) -> None:
        """Open a feed's stream unless it is open.

        Raises
        ------
        ConnectionFailedError, RpcError
            If there is none to be had.
        """
        if feed in self._streams:
            return
        request = feed.request
        try:
            built = self._build(request, make_feed_timeout(feed, self._options.timeout_s))
            response = self._http.send(built, stream=True)
            if response.status_code != 200:
                raise read_refusal(request, _read_body(request, response))
        except httpx.HTTPError as error:
            raise make_failure(self.endpoint.url, error) from error
        self._streams[feed] = _Stream(response)

    def read_feed(self, feed: Feed) -> Event | None:
        """Wait for a feed's next event; None if its stream fell silent or ended."""
        stream = self._streams.get(feed)
        event = None if stream is None else stream.read(feed.silence_s)
        if event is None:
            self.close_feed(feed)
        elif event.id:
            feed.last_event_id = event.id
        return event

    def close_feed(self, feed: Feed) -> None:
        """Close a feed's stream if it is open."""
        stream = self._streams.pop(feed, None)
        if stream is not None:
            stream.response.close()


def run_script(
    script: Script[T],
    connections: Mapping[Endpoint, Connection],
    stopped: threading.Event | None = None,
) -> T:
    """Perform a script's operations until it returns.

    Parameters
    ----------
    script : Script
    connections : mapping of Endpoint to Connection
    stopped : threading.Event, optional
        Once it is set, no further operation is performed.

    Raises
    ------
    CancelledError
        If it was stopped.
    """
    try:
        operation = next(script)
        while True:
            if stopped is not None and stopped.is_set():
                raise CancelledError
            try:
                outcome = _perform(operation, connections)
            except QuorateError as error:
                operation = script.throw(error)
            else:
                operation = script.send(outcome)
    except StopIteration as end:
        value: T = end.value
        return value
    finally:
        script.close()


def _run_together(operation: RunTogether, connections: Mapping[Endpoint, Connection]) -> None:
    """Perform scripts in a thread each, and raise the first error of one."""
    stopped = threading.Event()
    with ThreadPoolExecutor(len(operation.scripts), "quorate") as pool:
        futures = [
            pool.submit(run_script, script, connections, stopped) for script in operation.scripts
        ]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            # However this ends, by an interruption too, no thread goes on for long.
            stopped.set()
    for future in futures:
        if future in done:
            future.result()


def _perform(operation: Operation, connections: Mapping[Endpoint, Connection]) -> object:
    match operation:
        case Send(endpoint, request):
            return connections[endpoint].send(request)
        case Sleep(seconds):
            time.sleep(seconds)
        case ReadClock():
            return time.monotonic()
        case RunFunction(function):
            return function()
        case OpenFeed(feed):
            connections[feed.endpoint].open_feed(feed)
        case ReadFeed(feed):
            return connections[feed.endpoint].read_feed(feed)
        case CloseFeed(feed):
            connections[feed.endpoint].close_feed(feed)
        case RunTogether():
            _run_together(operation, connections)
        case _:
            assert_never(operation)
    return None
