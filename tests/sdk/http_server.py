"""The fake node behind real sockets, with streams of events that stay open."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

from tests.sdk.fake_node import FakeNode


class NodeServer(ThreadingHTTPServer):
    """Serves a fake node; requests are answered one at a time, streams side by side."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, node: FakeNode) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.node = node
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.streams_opened: list[str] = []
        self.cut_after: int | None = None
        self.heartbeat = b""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # Headers and body leave in two writes.
    server: NodeServer

    def log_message(self, *_arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        length = int(self.headers.get("content-length", "0"))
        request = httpx.Request(
            self.command,
            self.server.url + self.path,
            headers=dict(self.headers.items()),
            content=self.rfile.read(length),
        )
        if self.path.startswith("/v1/events") and self.server.node.intercept is None:
            self.stream(request)
            return
        with self.server.lock:
            response = self.server.node.respond(request)
        self.send_response(response.status_code)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(response.content)

    def stream(self, request: httpx.Request) -> None:
        """Send events as they come, a bounded number if the server is told to cut streams."""
        node, server = self.server.node, self.server
        last_id = request.headers.get("last-event-id", "")
        server.streams_opened.append(last_id)
        sent = int(last_id or 0)
        cut_at = None if server.cut_after is None else sent + server.cut_after
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        while not server.stopping.wait(0.005):
            with server.lock:
                end = len(node.events) if cut_at is None else min(cut_at, len(node.events))
                new = node.stream_between(sent, end, request.url.params.get("types", ""))
            self.wfile.write(new or server.heartbeat)
            self.wfile.flush()
            sent = end
            if cut_at is not None and sent >= cut_at:
                return


@contextmanager
def serve(node: FakeNode) -> Iterator[NodeServer]:
    """Run a server in a thread while the block runs."""
    server = NodeServer(node)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        thread.join()
        server.server_close()
