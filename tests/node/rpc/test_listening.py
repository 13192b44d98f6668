"""Connections: ports in use, how many there are, slow readers, and the end of it all."""

from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from node.rpc import listening
from node.rpc.listening import HttpServer, SurfaceListenError
from tests.node.rpc.serving import open_rpc, poll, subscribe

HEAD = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"


class Endless:
    """An application that sends without end."""

    def __init__(self) -> None:
        self.is_over = False

    async def __call__(self, _scope: Any, receive: Any, send: Any) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while await self.check(receive) != "http.disconnect":
                await send(
                    {"type": "http.response.body", "body": bytes(1 << 20), "more_body": True}
                )
        finally:
            self.is_over = True

    async def check(self, receive: Any) -> str:
        with trio.move_on_after(0.001):
            return str((await receive())["type"])
        return ""


async def answer_slowly(_scope: Any, _receive: Any, send: Any) -> None:
    await trio.sleep(0.2)
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-length", b"2")],
        }
    )
    await send({"type": "http.response.body", "body": b"ok", "more_body": False})


async def fail(_scope: Any, _receive: Any, _send: Any) -> None:
    raise ZeroDivisionError


async def start(
    nursery: trio.Nursery, app: Any, **settings: Any
) -> tuple[HttpServer, str, trio.CancelScope, trio.Event]:
    server = HttpServer(app, "RPC", "[rpc] listen", **settings)
    scope, done = trio.CancelScope(), trio.Event()

    async def run(task_status: Any) -> None:
        with scope:
            await server.run(await server.listen(("127.0.0.1", 0)), task_status=task_status)
        done.set()

    url = await nursery.start(run)
    return server, url, scope, done


async def connect(url: str) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]))


async def test_a_port_in_use_is_told_in_a_sentence(nursery: trio.Nursery) -> None:
    _, url, _, _ = await start(nursery, answer_slowly)
    port = int(url.rpartition(":")[2])
    other = HttpServer(answer_slowly, "RPC", "[rpc] listen")
    with pytest.raises(SurfaceListenError) as caught:
        await other.listen(("127.0.0.1", port))
    sentence = str(caught.value)
    assert f"cannot listen on 127.0.0.1:{port}" in sentence
    assert "in use" in sentence
    assert "[rpc] listen" in sentence
    nursery.cancel_scope.cancel()


async def test_an_address_of_another_machine() -> None:
    with pytest.raises(SurfaceListenError, match=r"203\.0\.113\.1"):
        await HttpServer(answer_slowly, "RPC", "[rpc] listen").listen(("203.0.113.1", 1))


async def test_ipv6_and_the_url(nursery: trio.Nursery) -> None:
    server = HttpServer(answer_slowly, "RPC", "[rpc] listen")
    url = await nursery.start(server.run, await server.listen(("::1", 0)))
    assert url.startswith("http://[::1]:")
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(url)).text == "ok"
    nursery.cancel_scope.cancel()


async def test_only_so_many_connections(nursery: trio.Nursery) -> None:
    server, url, _, _ = await start(nursery, answer_slowly, connections_max=2)
    first, second = await connect(url), await connect(url)
    await poll(lambda: server.connection_count == 2)
    third = await connect(url)
    with trio.fail_after(2):
        assert await third.receive_some() == b""
    await first.aclose()
    await poll(lambda: server.connection_count == 1)
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(url)).text == "ok"
    await second.aclose()
    await third.aclose()
    nursery.cancel_scope.cancel()


async def test_a_client_that_does_not_read_loses_its_connection(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.rpc.listening.WRITE_S_MAX", 0.2)
    app = Endless()
    server, url, _, _ = await start(nursery, app)
    slow = await connect(url)
    await slow.send_all(HEAD)
    await poll(lambda: server.connection_count == 1)
    await poll(lambda: app.is_over and server.connection_count == 0, 5)
    await slow.aclose()
    nursery.cancel_scope.cancel()


async def test_an_idle_connection_is_closed(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.rpc.listening.IDLE_S_MAX", 0.1)
    server, url, _, _ = await start(nursery, answer_slowly)
    silent, dawdling = await connect(url), await connect(url)
    await dawdling.send_all(HEAD[:10])
    for stream in (silent, dawdling):
        with trio.fail_after(3):
            assert await stream.receive_some() == b""
        await stream.aclose()
    await poll(lambda: server.connection_count == 0)
    nursery.cancel_scope.cancel()


async def test_a_failing_application_ends_one_connection(nursery: trio.Nursery) -> None:
    _, url, _, _ = await start(nursery, fail)
    async with httpx.AsyncClient(trust_env=False) as client:
        for _ in range(2):
            assert (await client.get(url)).status_code == 500
    nursery.cancel_scope.cancel()


async def test_a_stop_lets_answers_in_progress_finish(nursery: trio.Nursery) -> None:
    _, url, scope, done = await start(nursery, answer_slowly)
    idle = await connect(url)
    async with httpx.AsyncClient(trust_env=False) as client:
        answers: list[str] = []

        async def ask() -> None:
            answers.append((await client.get(url)).text)

        nursery.start_soon(ask)
        await trio.sleep(0.1)
        stopped = trio.current_time()
        scope.cancel()
        await done.wait()
        assert trio.current_time() - stopped < 0.5 * listening.IDLE_S_MAX
        await poll(lambda: bool(answers))
        assert answers == ["ok"]
    await idle.aclose()


async def test_a_stop_is_quick_whatever_the_clients_do(nursery: trio.Nursery) -> None:
    app = Endless()
    server, url, scope, done = await start(nursery, app)
    slow = [await connect(url) for _ in range(3)]
    for stream in slow:
        await stream.send_all(HEAD)
    await poll(lambda: server.connection_count == 3)
    await trio.sleep(0.1)  # Their sends are stuck now.
    stopped = trio.current_time()
    scope.cancel()
    await done.wait()
    # Each of them may be waited for much longer while the server runs.
    assert trio.current_time() - stopped < 0.5 * listening.WRITE_S_MAX
    assert server.connection_count == 0
    for stream in slow:
        await stream.aclose()
    with pytest.raises(OSError, match=r"refused|connect"):
        await connect(url)


async def test_streams_end_when_the_rpc_stops_rather_than_being_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert listening.STOP_S_MAX < 1
    monkeypatch.setattr(listening, "STOP_S_MAX", 60.0)
    async with open_rpc(tmp_path) as served, subscribe(served) as stream:
        assert await stream.read()
        assert stream.raw.startswith(b"retry: 1000")
        served.scope.cancel()
        with trio.fail_after(10):
            while await stream.read():
                pass
