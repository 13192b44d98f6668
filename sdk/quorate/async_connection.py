"""Connections to nodes under trio or asyncio: scripts whose operations are awaited.

Owns the HTTP connections of the asynchronous client. Never knows what a request is about, and
never starts a task that goes on after the call: cancelling a call cancels all of it.
"""

import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar, assert_never

import anyio
import anyio.to_thread
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
        self._response = response
        self._chunks = response.aiter_bytes()
        self._parser = EventParser()
        self._events: deque[Event] = deque()

    async def read(self, silence_s: float) -> Event | None:
        deadline = time.monotonic() + silence_s
        while not self._events:
            try:
                chunk = await anext(self._chunks, None)
            except httpx.HTTPError:  # Silence, or a lost connection: the next stream goes on.
                return None
            if chunk is None:
                return None
            self._events.extend(self._parser.receive(chunk))
            if not self._events and time.monotonic() > deadline:  # Comments, and nothing else.
                return None
        return self._events.popleft()

    async def aclose(self) -> None:
        await _drop(self._response, self._chunks)


async def _read_body(request: Request, response: httpx.Response) -> Response:
    chunks = response.aiter_bytes()
    try:
        body = BodyCollector(request, response)
        async for chunk in chunks:
            body.receive(chunk)
        return body.finish()
    finally:
        await _drop(response, chunks)


async def _drop(response: httpx.Response, chunks: AsyncIterator[bytes]) -> None:
    """Close a response that may not have been read to its end.

    httpx reads through nested asynchronous generators. Left suspended they are finished by the
    garbage collector, about which trio complains; read from a closed connection they finish.
    """
    await response.aclose()
    with suppress(httpx.HTTPError, httpx.StreamError):
        async for _ in chunks:
            pass


class AsyncConnection:
    """The connections to one node.

    Parameters
    ----------
    endpoint : Endpoint
    options : ConnectionOptions
    transport : httpx.AsyncBaseTransport, optional
        Something else than the network.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        options: ConnectionOptions,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._options = options
        self._http = httpx.AsyncClient(
            timeout=make_timeout(options.timeout_s),
            headers=dict(options.headers),
            trust_env=options.trust_env,
            transport=transport,
        )
        self._streams: dict[Feed, _Stream] = {}

    async def aclose(self) -> None:
        """Close all."""
        for feed in list(self._streams):
            await self.close_feed(feed)
        await self._http.aclose()

    def _build(self, request: Request, timeout: httpx.Timeout | None = None) -> httpx.Request:
        return self._http.build_request(
            request.method,
            self.endpoint.url + request.path,
            params=list(request.query) or None,
            headers=dict(request.headers),
            content=request.content,
            timeout=make_timeout(self._options.timeout_s) if timeout is None else timeout,
        )

    async def send(self, request: Request) -> Response:
        """Send a request and return its response.

        Raises
        ------
        ConnectionFailedError
            If there is none.
        ProtocolError
            If it is larger than a sound one.
        """
        try:
            response = await self._http.send(self._build(request), stream=True)
            return await _read_body(request, response)
        except httpx.HTTPError as error:
            raise make_failure(self.endpoint.url, error) from error

    async def open_feed(self, feed: Feed) -> None:
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
            response = await self._http.send(built, stream=True)
            if response.status_code != 200:
                raise read_refusal(request, await _read_body(request, response))
        except httpx.HTTPError as error:
            raise make_failure(self.endpoint.url, error) from error
        self._streams[feed] = _Stream(response)

    async def read_feed(self, feed: Feed) -> Event | None:
        """Wait for a feed's next event; None if its stream fell silent or ended."""
        stream = self._streams.get(feed)
        event = None if stream is None else await stream.read(feed.silence_s)
        if event is None:
            await self.close_feed(feed)
        elif event.id:
            feed.last_event_id = event.id
        return event

    async def close_feed(self, feed: Feed) -> None:
        """Close a feed's stream if it is open."""
        stream = self._streams.pop(feed, None)
        if stream is not None:
            await stream.aclose()


async def run_script_async(script: Script[T], connections: Mapping[Endpoint, AsyncConnection]) -> T:
    """Perform a script's operations until it returns."""
    try:
        operation = next(script)
        while True:
            try:
                outcome = await _perform(operation, connections)
            except QuorateError as error:
                operation = script.throw(error)
            else:
                operation = script.send(outcome)
    except StopIteration as end:
        value: T = end.value
        return value
    finally:
        script.close()


async def _run_together(
    scripts: Sequence[Script[None]], connections: Mapping[Endpoint, AsyncConnection]
) -> None:
    """Perform scripts in a task each, and raise the first error of one."""
    errors: list[QuorateError | OSError] = []

    async def run(script: Script[None]) -> None:
        try:
            await run_script_async(script, connections)
        except (QuorateError, OSError) as error:
            errors.append(error)
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for script in scripts:
            group.start_soon(run, script)
    if errors:
        raise errors[0]


async def _perform(operation: Operation, connections: Mapping[Endpoint, AsyncConnection]) -> object:
    match operation:
        case Send(endpoint, request):
            return await connections[endpoint].send(request)
        case Sleep(seconds):
            await anyio.sleep(seconds)
        case ReadClock():
            return time.monotonic()
        case RunFunction(function):
            return await anyio.to_thread.run_sync(function)
        case OpenFeed(feed):
            await connections[feed.endpoint].open_feed(feed)
        case ReadFeed(feed):
            return await connections[feed.endpoint].read_feed(feed)
        case CloseFeed(feed):
            await connections[feed.endpoint].close_feed(feed)
        case RunTogether(scripts):
            await _run_together(scripts, connections)
        case _:
            assert_never(operation)
    return None
