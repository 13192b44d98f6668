"""Who may come in: hosts, origins, lengths, and how much at a time."""

import contextlib
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from node.config import RpcSection
from node.rpc.door import Door, Hosts
from node.rpc.listening import HttpServer
from tests.node.rpc.serving import (
    MESSAGE_PACK,
    Served,
    assert_problem,
    make_rpc_config,
    open_rpc,
    poll,
)

ORIGIN = "https://board.example.org"


@pytest.mark.parametrize(
    ("listen", "host", "is_allowed"),
    [
        ("127.0.0.1:26657", "127.0.0.1:26657", True),
        ("127.0.0.1:26657", "127.0.0.1", True),
        ("127.0.0.1:26657", "LOCALHOST:9", True),
        ("127.0.0.1:26657", "[::1]:26657", True),
        ("127.0.0.1:26657", "::1", True),
        ("127.0.0.1:26657", "192.168.0.7", False),
        ("127.0.0.1:26657", "evil.example", False),
        ("127.0.0.1:26657", "localhost.evil.example", False),
        ("127.0.0.1:26657", "127.0.0.1.evil.example", False),
        ("127.0.0.1:26657", "", False),
        ("127.0.0.1:26657", "a:b:c", False),
        ("127.0.0.1:26657", "Node.Example:80", True),
        ("192.168.0.7:26657", "192.168.0.7:26657", True),
        ("192.168.0.7:26657", "192.168.0.8", False),
        ("0.0.0.0:26657", "192.168.0.8", True),
        ("0.0.0.0:26657", "evil.example", False),
        ("[::]:26657", "[2001:db8::1]:26657", True),
    ],
)
def test_hosts(listen: str, host: str, is_allowed: bool) -> None:
    hosts = Hosts(RpcSection(listen=listen, allowed_hosts=("node.example",)))
    assert hosts.is_allowed(host) is is_allowed


async def test_a_foreign_host_is_refused(served: Served) -> None:
    response = await served.client.get("/status", headers={"host": "evil.example"})
    problem = assert_problem(response, 403, "not_authorized")
    assert "allowed_hosts" in problem["detail"]
    assert (await served.client.get("/health", headers={"host": "localhost"})).status_code == 200


async def test_a_foreign_origin_is_refused(served: Served) -> None:
    for origin in ("http://evil.example", "null", "https://127.0.0.1", ORIGIN):
        response = await served.client.post(
            "/v1/transactions",
            content=b"\x92\xc4\x00\xc0",
            headers=MESSAGE_PACK | {"origin": origin},
        )
        problem = assert_problem(response, 403, "not_authorized")
        assert "allowed_origins" in problem["detail"], origin


async def test_the_node_s_own_pages_may_ask(served: Served) -> None:
    response = await served.client.get("/health", headers={"origin": served.url})
    assert response.status_code == 200
    assert "access-control-allow-origin" not in response.headers


async def test_an_allowed_origin_may_ask_and_read(tmp_path: Path) -> None:
    config = make_rpc_config(RpcSection(listen="127.0.0.1:0", allowed_origins=(ORIGIN,)))
    async with open_rpc(tmp_path, config) as served:
        response = await served.client.get("/status", headers={"origin": ORIGIN})
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == ORIGIN
        assert response.headers["vary"] == "origin"
        refused = await served.client.get("/nothing", headers={"origin": ORIGIN})
        assert_problem(refused, 404, "not_found")
        assert refused.headers["access-control-allow-origin"] == ORIGIN
        asked = {
            "origin": ORIGIN,
            "access-control-request-method": "POST",
            "access-control-request-headers": "content-type",
        }
        preflight = await served.client.options("/v1/transactions", headers=asked)
        assert preflight.status_code == 204
        assert "POST" in preflight.headers["access-control-allow-methods"]
        assert "content-type" in preflight.headers["access-control-allow-headers"]
        foreign = asked | {"origin": "http://evil.example"}
        response = await served.client.options("/v1/transactions", headers=foreign)
        assert_problem(response, 403, "not_authorized")


async def send_raw(served: Served, *pieces: bytes, pause_s: float = 0) -> bytes:
    """Send bytes over a connection of its own and return everything that comes back."""
    stream = await trio.open_tcp_stream("127.0.0.1", served.port)
    async with stream:
        for piece in pieces:
            await stream.send_all(piece)
            await trio.sleep(pause_s)
        received = b""
        with trio.move_on_after(5):
            async for chunk in stream:
                received += chunk
                head, end, body = received.partition(b"\r\n\r\n")
                if end and b"content-length: %d\r\n" % len(body) in head + b"\r\n":
                    break
    return received


async def test_a_long_body_is_refused_by_its_length_before_it_arrives(served: Served) -> None:
    head = b"POST /v1/transactions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 999999999\r\n\r\n"
    started = trio.current_time()
    answer = await send_raw(served, head)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"too_large"' in answer
    assert trio.current_time() - started < 2


async def send_over_time(stream: trio.SocketStream, piece: bytes, count: int) -> None:
    for _ in range(count):
        await stream.send_all(piece)
        await trio.sleep(0.001)


@pytest.mark.parametrize("is_ended", [True, False], ids=["ended", "endless"])
async def test_a_refused_body_leaves_nothing_behind(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, is_ended: bool
) -> None:
    """The answer arrives although the client goes on sending; then the connection is over.

    Who ends its body has all the time it needs for that here, and is not waited for any longer;
    who never ends is waited for that long and no longer.
    """
    monkeypatch.setattr("node.rpc.door.LINGER_S", 60 if is_ended else 0.1)
    app = Recorder()
    door = Door(app, RpcSection(body_bytes_max=1 << 17))
    server = HttpServer(door, "RPC", "[rpc] listen")
    url = await nursery.start(server.run, await server.listen(("127.0.0.1", 0)))
    stream = await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]))
    piece = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
    with trio.fail_after(20):
        async with stream:
            await stream.send_all(
                b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
            )
            if is_ended:
                await send_over_time(stream, piece, count=40)
                await stream.send_all(b"0\r\n\r\n")
                answer = b"".join([part async for part in stream])
                assert answer.startswith(b"HTTP/1.1 413 ")
            else:
                with pytest.raises(trio.BrokenResourceError):
                    await send_over_time(stream, piece, count=sys.maxsize)
        await poll(lambda: server.connection_count == 0)
    assert (door._requests, door._held_bytes, app.count) == (0, 0, 0)
    nursery.cancel_scope.cancel()


async def test_a_body_that_does_not_come_is_given_up(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.rpc.door.BODY_S_MAX", 0.1)
    monkeypatch.setattr("node.rpc.door.LINGER_S", 0.1)
    head = b"POST /v1/transactions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\nxy"
    answer = await send_raw(served, head)
    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_a_client_that_leaves_in_the_middle_is_no_trouble(served: Served) -> None:
    for _ in range(3):
        stream = await trio.open_tcp_stream("127.0.0.1", served.port)
        await stream.send_all(
            b"POST /v1/transactions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\nxy"
        )
        await stream.aclose()
    assert await served.get("/health") == {}


class Recorder:
    """An application that keeps requests until they are let go."""

    def __init__(self) -> None:
        self.release = trio.Event()
        self.count = 0

    async def __call__(self, _scope: Any, receive: Any, send: Any) -> None:
        self.count += 1
        await receive()
        await self.release.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done", "more_body": False})


async def ask(door: Door, body: bytes = b"", headers: Any = ()) -> list[dict[str, Any]]:
    """Send one request straight to a door and return the messages of its answer."""
    answered: list[dict[str, Any]] = []
    to_app, from_client = trio.open_memory_channel[Any](100)
    for start in range(0, max(1, len(body)), 1 << 16):
        piece = body[start : start + (1 << 16)]
        is_last = start + (1 << 16) >= len(body)
        to_app.send_nowait({"type": "http.request", "body": piece, "more_body": not is_last})

    async def send(message: dict[str, Any]) -> None:
        answered.append(message)
        if message["type"] == "http.response.body" and not message["more_body"]:
            to_app.send_nowait({"type": "http.disconnect"})
        await trio.lowlevel.checkpoint()

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "raw_path": b"/",
        "headers": [(b"host", b"localhost"), *headers],
    }
    await door(scope, from_client.receive, send)
    return answered


async def test_only_so_many_requests_at_a_time(
    monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    monkeypatch.setattr("node.rpc.door.REQUESTS_MAX", 2)
    app = Recorder()
    door = Door(app, RpcSection(subscriptions_max=1))
    for _ in range(3):
        nursery.start_soon(ask, door)
    await trio.testing.wait_all_tasks_blocked()
    assert app.count == 3
    refused = await ask(door)
    assert refused[0]["status"] == 503
    assert (b"retry-after", b"1") in refused[0]["headers"]
    app.release.set()
    await trio.testing.wait_all_tasks_blocked()
    assert (await ask(door))[0]["status"] == 200


async def test_only_so_many_bytes_at_a_time(
    monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    monkeypatch.setattr("node.rpc.door.BODIES_BYTES_MAX", 1)
    limit = 1 << 17
    app = Recorder()
    door = Door(app, RpcSection(body_bytes_max=limit))
    for _ in range(4):
        nursery.start_soon(ask, door, bytes(limit))
    await trio.testing.wait_all_tasks_blocked()
    assert (app.count, door._held_bytes) == (4, 4 * limit)
    assert (await ask(door, b"x"))[0]["status"] == 503
    app.release.set()
    await trio.testing.wait_all_tasks_blocked()
    assert (await ask(door, b"x"))[0]["status"] == 200
    assert door._held_bytes == 0


async def test_web_sockets_are_not_offered(served: Served) -> None:
    answer = await send_raw(
        served,
        b"GET /v1/events HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\n"
        b"connection: upgrade\r\nsec-websocket-version: 13\r\n"
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 403 ")


RUBBISH = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01",
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(40),
    bytes(range(256)),
]


async def test_what_is_no_http_ends_its_connection_alone(served: Served) -> None:
    for rubbish in RUBBISH:
        async with await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
            await stream.send_all(rubbish)
            await stream.send_eof()
            with trio.fail_after(5), contextlib.suppress(trio.BrokenResourceError):
                while await stream.receive_some():
                    pass
        assert await served.get("/health") == {}


async def test_many_clients_at_once(served: Served) -> None:
    async def read(client: httpx.AsyncClient) -> None:
        for _ in range(5):
            assert (await client.get("/status")).status_code == 200

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(read, served.client)
