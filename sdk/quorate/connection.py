"""Blocking connections to nodes: scripts performed one operation after the other.

Owns the HTTP connections of the synchronous client, and the threads of scripts that are performed
side by side, which end with the call; an interruption leaves those behind that wait for a node,
and they do nothing more. Never knows what a request is about.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from functools import partial
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


def run_script(script: Script[T], connections: Mapping[Endpoint, Connection]) -> T:
    """Perform a script's operations until it returns."""
    return _run(script, partial(_perform, connections=connections))


def _run(script: Script[T], perform: Callable[[Operation], object]) -> T:
    try:
        operation = next(script)
        while True:
            try:
                outcome = perform(operation)
            except QuorateError as error:
                operation = script.throw(error)
            else:
                operation = script.send(outcome)
    except StopIteration as end:
        value: T = end.value
        return value
    finally:
        script.close()


class _Together:
    """Scripts that are performed side by side, each by a thread.

    A thread waits, for a node or for time to pass, or else it is busy: with a function, or with the
    script itself. After the first error of one the others end at their next operation. After an
    interruption no thread gets busy again: once those that are have ended, whatever the scripts
    work on may be closed, and those that wait are left behind. They are daemons, which a process
    that ends does not wait for either.
    """

    def __init__(self, connections: Mapping[Endpoint, Connection]) -> None:
        self._connections = connections
        self._changed = threading.Condition()
        self._busy: set[int] = set()
        self._is_stopped = False
        self._is_interrupted = False
        self._error: BaseException | None = None

    def run(self, operation: RunTogether) -> None:
        """Perform the scripts, and raise the first error of one."""
        threads = [
            threading.Thread(target=self._run_one, args=(script,), name="quorate", daemon=True)
            for script in operation.scripts
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        # An interruption above all, which has nothing to do with what the threads are at.
        except BaseException:
            self._interrupt()
            raise
        if self._error is not None:
            raise self._error

    def _interrupt(self) -> None:
        with self._changed:
            self._is_stopped = self._is_interrupted = True
            self._changed.wait_for(lambda: not self._busy)

    def _run_one(self, script: Script[None]) -> None:
        try:
            self._begin_work()
            _run(script, self._perform)
        # Whatever ends a thread is raised where the scripts were handed over.
        except BaseException as error:  # noqa: BLE001
            with self._changed:
                if not self._is_stopped:
                    self._error = error
                self._is_stopped = True
        finally:
            self._end_work()

    def _perform(self, operation: Operation) -> object:
        if self._is_stopped:
            raise CancelledError
        if not isinstance(operation, (Send, Sleep, OpenFeed, ReadFeed)):
            return _perform(operation, self._connections)
        self._end_work()
        try:
            return _perform(operation, self._connections)
        finally:
            self._begin_work()

    def _begin_work(self) -> None:
        with self._changed:
            if self._is_interrupted:
                raise CancelledError
            self._busy.add(threading.get_ident())

    def _end_work(self) -> None:
        with self._changed:
            self._busy.discard(threading.get_ident())
            self._changed.notify_all()


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
            _Together(connections).run(operation)
        case _:
            assert_never(operation)
    return None
