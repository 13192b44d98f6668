"""The door of the RPC: who may ask, how much at a time, and how long a body may be.

Owns the checks of Host and Origin, the reading of bodies within their limits, and the answers to
what does not pass. Never knows what a path means.

A web page in a user's browser can reach the loopback address: under a name of its own that it lets
point there (DNS rebinding: the Host header tells), or from its own origin (the Origin header
tells). Neither passes unless the operator has named it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final
from urllib.parse import unquote

import trio
from litestar.enums import ScopeType
from litestar.types import (
    ASGIApp,
    HTTPReceiveMessage,
    HTTPScope,
    Message,
    Receive,
    Scope,
    Send,
    WebSocketReceiveMessage,
)
from quorate.chain.errors import ErrorCode

from node.config import RpcSection
from node.rpc.problems import PROBLEM_JSON, Refusal

REQUESTS_MAX: Final = 512
"""Requests at a time, beside the subscriptions to events."""

BODIES_BYTES_MAX: Final = 64 << 20
"""Bytes of bodies that are held at a time, or those of four of the longest ones if that is more."""

BODY_S_MAX: Final = 30.0
"""Seconds that the body of a request may take to arrive."""

LINGER_S: Final = 2.0
"""A client that is refused in the middle of its body may finish it within this time, so that it
reads the answer; what it sends is dropped."""

ENCODED_SLASH: Final = "%2F"
"""A slash inside a segment of a path: it stays as it is until the handler reads the segment."""

_ENCODED_SLASH: Final = re.compile(rb"%2f", re.IGNORECASE)
_PREFLIGHT_HEADERS: Final = [
    (b"access-control-allow-methods", b"GET, POST, PUT"),
    (b"access-control-allow-headers", b"content-type, last-event-id"),
    (b"access-control-max-age", b"600"),
]
_HEADERS_SHOWN: Final = b"quorate-weights-root, quorate-height, quorate-training-round, retry-after"


class Door:
    """An application around the application: it lets in what may come in.

    Parameters
    ----------
    app : ASGI application
        Gets requests whose body is complete and within its limit.
    config : RpcSection
        The operator's settings.
    """

    def __init__(self, app: ASGIApp, config: RpcSection) -> None:
        self._app = app
        self._body_bytes_max = config.body_bytes_max
        self._bodies_bytes_max = max(BODIES_BYTES_MAX, 4 * config.body_bytes_max)
        self._requests_max = REQUESTS_MAX + config.subscriptions_max
        self._hosts = Hosts(config)
        self._origins = frozenset(origin.lower() for origin in config.allowed_origins)
        self._requests = 0
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != ScopeType.HTTP:
            # Subscriptions come as server-sent events.
            await send({"type": "websocket.close", "code": 1003, "reason": "use /v1/events"})
            return
        lease = _Lease()
        self._requests += 1
        try:
            headers = {name.lower(): value for name, value in scope["headers"]}
            allowed_origin = self._check(headers)
            if allowed_origin is not None:
                send = _make_cors_send(send, allowed_origin)
            body = await self._read_body(receive, lease)
            if allowed_origin is not None and _is_preflight(scope, headers):
                await _send_answer(send, 204, _PREFLIGHT_HEADERS)
            else:
                _keep_encoded_slashes(scope)
                await self._app(scope, _make_receive(body, receive), send)
        except Refusal as refusal:
            await _refuse(refusal, lease, receive, send)
        except _ClientGone:
            return
        finally:
            self._requests -= 1
            self._held_bytes -= lease.taken

    def _check(self, headers: Mapping[bytes, bytes]) -> bytes | None:
        """Return the foreign origin to which the answer may be shown, if there is one.

        Raises
        ------
        Refusal
            If the request may not come in.
        """
        if self._requests > self._requests_max:
            raise Refusal(
                ErrorCode.NOT_AVAILABLE, "The node has too many requests at the moment: try again."
            )
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._hosts.is_allowed(host):
            raise Refusal(
                ErrorCode.NOT_AUTHORIZED,
                "The node is not known by the name in the Host header: use its address, or add "
                "the name to allowed_hosts in its settings.",
                403,
            )
        length = headers.get(b"content-length", b"")
        if length.isdigit():
            self._check_size(int(length[:20]))
        origin = headers.get(b"origin")
        if origin is None or origin.lower() == b"http://" + host.lower().encode("latin-1"):
            return None
        if origin.decode("latin-1").lower() not in self._origins:
            raise Refusal(
                ErrorCode.NOT_AUTHORIZED,
                "Web pages of this origin may not call the node: add it to allowed_origins in the "
                "node's settings if it is yours.",
                403,
            )
        return origin

    async def _read_body(self, receive: Receive, lease: "_Lease") -> bytes:
        """Return the whole body; its bytes count as held from their arrival on."""
        chunks: list[bytes] = []
        with trio.move_on_after(BODY_S_MAX):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise _ClientGone
                chunk = message["body"]
                lease.taken += len(chunk)
                self._held_bytes += len(chunk)
                lease.is_complete = not message["more_body"]
                self._check_size(lease.taken)
                chunks.append(chunk)
                if lease.is_complete:
                    return b"".join(chunks)
        raise Refusal(
            ErrorCode.MALFORMED,
            f"The body of the request did not arrive within {BODY_S_MAX:g} seconds: send it again.",
            408,
        )

    def _check_size(self, size: int) -> None:
        if size > self._body_bytes_max:
            raise Refusal(
                ErrorCode.TOO_LARGE,
                f"The body of the request has more than {self._body_bytes_max} bytes: send less at "
                "a time, or raise body_bytes_max in the node's settings.",
            )
        if self._held_bytes > self._bodies_bytes_max:
            raise Refusal(
                ErrorCode.NOT_AVAILABLE, "The node is receiving too much at the moment: try again."
            )


class Hosts:
    """The names under which a node may be asked for.

    Parameters
    ----------
    config : RpcSection
        The operator's settings: the listen address, and names allowed beside it.
    """

    def __init__(self, config: RpcSection) -> None:
        listen, _ = config.address
        self._is_anywhere = ip_address(listen).is_unspecified
        self._names = frozenset({"localhost", *(name.lower() for name in config.allowed_hosts)})
        self._address = ip_address(listen)

    def is_allowed(self, host: str) -> bool:
        """Tell whether a Host header names this node; the port does not matter.

        An address is nobody's name, so on a node that listens everywhere any one will do.
        """
        name = _strip_port(host.strip().lower())
        if name in self._names:
            return True
        try:
            address = ip_address(name)
        except ValueError:
            return False
        return self._is_anywhere or address.is_loopback or address == self._address


@dataclass(slots=True)
class _Lease:
    """The bytes of a body that a request holds, and whether that is all of it."""

    taken: int = 0
    is_complete: bool = False


class _ClientGone(Exception):  # noqa: N818 - it says what happened.
    """The client closed the connection in the middle of its request."""


def _strip_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _make_receive(body: bytes, receive: Receive) -> Receive:
    """Return what an application receives: the body, then what follows on the connection."""
    is_given = False

    async def replay() -> HTTPReceiveMessage | WebSocketReceiveMessage:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _make_cors_send(send: Send, origin: bytes) -> Send:
    """Return a `send` that lets a web page of an allowed origin read the answer."""

    async def send_to_origin(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [
                *message["headers"],
                (b"access-control-allow-origin", origin),
                (b"access-control-expose-headers", _HEADERS_SHOWN),
                (b"vary", b"origin"),
            ]
        await send(message)

    return send_to_origin


def _is_preflight(scope: HTTPScope, headers: Mapping[bytes, bytes]) -> bool:
    return scope["method"] == "OPTIONS" and b"access-control-request-method" in headers


def _keep_encoded_slashes(scope: HTTPScope) -> None:
    """Leave %2F in the path as it is: names of tasks may hold slashes."""
    raw = scope["raw_path"]
    if _ENCODED_SLASH.search(raw):
        scope["path"] = unquote(_ENCODED_SLASH.sub(b"%252F", raw).decode("latin-1"))


async def _send_answer(
    send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes = b""
) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _refuse(refusal: Refusal, lease: _Lease, receive: Receive, send: Send) -> None:
    """Answer with a problem, and close the connection once the client could read it.

    Closing while the client still sends would reset the connection under the answer. And what
    hypercorn has received must be taken off its queue, or it would wait for that for ever.
    """
    body = refusal.body
    headers = [
        (b"content-type", PROBLEM_JSON.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        *((name.encode(), value.encode()) for name, value in refusal.headers.items()),
    ]
    has_ended = trio.Event()
    if lease.is_complete:
        has_ended.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_drain, receive, has_ended)
        await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": True})
        with trio.move_on_after(LINGER_S):
            await has_ended.wait()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drain(receive: Receive, has_ended: trio.Event) -> None:
    """Drop what arrives until the connection is closed."""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            has_ended.set()
            return
        if not message["more_body"]:
            has_ended.set()
