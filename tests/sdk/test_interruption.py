"""Ctrl-C while chunks are on their way, and the node does not answer."""

import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from quorate import Client
from quorate.connection import run_script
from quorate.progress import Progress
from quorate.script import RunFunction, RunTogether, Script, Sleep

from tests.cli.console import get_command, make_environment
from tests.sdk.conftest import AUTHORITY, make_draft
from tests.sdk.fake_node import Answer, FakeNode
from tests.sdk.http_server import NodeServer, serve

TIMEOUT_S = 20.0
"""How long a client waits for an answer here."""
PROMPT_S = 8.0
"""What is prompt, on a busy machine."""


class Stall:
    """A node that answers requests for chunks no more, until it is let go."""

    def __init__(self) -> None:
        self.has_begun = threading.Event()
        self.is_over = threading.Event()

    def intercept(self, request: httpx.Request, _route: object) -> Answer | None:
        if "chunk" in request.url.params:
            self.has_begun.set()
            self.is_over.wait(60)
        return None


@pytest.fixture
def server(node: FakeNode) -> Iterator[NodeServer]:
    with serve(node) as server:
        yield server


@pytest.fixture
def stall(server: NodeServer) -> Iterator[Stall]:
    draft = make_draft(updates=1, size=459_000)
    with Client("http://node", transport=server.node.transport()) as client:
        client.create_task(AUTHORITY, draft.spec, draft.weights)
    stall = Stall()
    server.node.intercept = stall.intercept
    yield stall
    stall.is_over.set()


@contextmanager
def interrupted(begun: threading.Event) -> Iterator[list[float]]:
    """Interrupt the main thread once something has begun; yield when that was."""
    at: list[float] = []
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        if begun.wait(20):
            time.sleep(0.1)
            at.append(time.monotonic())
            signal.pthread_kill(main, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        yield at
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)


def find_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "quorate"]


def wait_for_threads() -> None:
    for thread in find_threads():
        thread.join(20)
        assert not thread.is_alive()


def test_an_interruption_does_not_wait_for_a_node_that_stalls(
    server: NodeServer, stall: Stall, tmp_path: Path
) -> None:
    shown: list[Progress] = []
    with Client(server.url, timeout_s=TIMEOUT_S) as client:
        with interrupted(stall.has_begun) as at, pytest.raises(KeyboardInterrupt):
            client.download_weights("digits", tmp_path / "w", progress=shown.append)
        assert time.monotonic() - at[0] < PROMPT_S
        assert find_threads()
        told = len(shown)
        stall.is_over.set()
        wait_for_threads()
        # The answers that came after all went nowhere; the client goes on.
        assert len(shown) == told
        server.node.intercept = None
        stored = client.download_weights("digits", tmp_path / "w")
        assert stored.vector.tobytes() == server.node.tasks[stored.task_id].weights
        assert not find_threads()


def test_a_client_that_is_closed_at_an_interruption_leaves_no_thread_for_long(
    server: NodeServer, stall: Stall, tmp_path: Path
) -> None:
    with (
        interrupted(stall.has_begun),
        pytest.raises(KeyboardInterrupt),
        Client(server.url, timeout_s=2) as client,
    ):
        client.download_weights("digits", tmp_path / "w")
    wait_for_threads()


def test_an_interruption_waits_for_what_a_thread_is_working_on() -> None:
    """A chunk is written to the end before the file is closed, and nothing after it."""
    begun, has_ended = threading.Event(), threading.Event()
    after: list[str] = []

    def write() -> None:
        begun.set()
        time.sleep(0.5)
        has_ended.set()

    def work() -> Script[None]:
        yield RunFunction(write)
        yield RunFunction(lambda: after.append("written after an interruption"))

    def sleep() -> Script[None]:
        yield Sleep(1)
        after.append("gone on after an interruption")

    def both() -> Script[None]:
        yield RunTogether([work(), sleep()])

    with interrupted(begun), pytest.raises(KeyboardInterrupt):
        run_script(both(), {})
    assert has_ended.is_set()
    wait_for_threads()
    assert not after


def test_the_command_line_ends_at_once(server: NodeServer, stall: Stall, tmp_path: Path) -> None:
    command = get_command("weights", "get", "digits", tmp_path / "w", "--node", server.url)
    with subprocess.Popen(
        command, env=make_environment(), stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        try:
            assert stall.has_begun.wait(60)
            time.sleep(0.1)
            started = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=60)
            assert time.monotonic() - started < PROMPT_S
            assert (process.returncode, told) == (130, "Error: Interrupted.\n")
        finally:
            process.kill()
