"""A peer whose process is stopped or killed is noticed, also while a write to it is stuck."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from p2p.network import BODY_BYTES_MAX, Priority
from tests.p2p.conftest import Running, World, open_world, until

ROOT = Path(__file__).parents[2]
PATH = os.pathsep.join([str(ROOT), str(ROOT / "sdk"), os.environ.get("PYTHONPATH", "")])


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with open_world("libp2p") as opened:
        yield opened


async def start_process(running: Running) -> subprocess.Popen[bytes]:
    script = str(Path(__file__).with_name("frozen_node.py"))
    process = await trio.to_thread.run_sync(
        lambda: subprocess.Popen(
            [sys.executable, script, running.address], env={**os.environ, "PYTHONPATH": PATH}
        )
    )
    await until(lambda: len(running.linked()) == 1, 15)
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait(10)


@pytest.mark.parametrize("stuck", [False, True], ids=["idle", "stuck"])
async def test_a_frozen_peer_loses_its_link(world: World, stuck: bool) -> None:
    one = await world.start(1, peer_timeout_s=1.0)
    process = await start_process(one)
    try:
        peer = one.network.peers()[0].peer_id
        process.send_signal(signal.SIGSTOP)
        if stuck:
            # More than the kernel's buffers take, so that the writer is stuck in the socket.
            for _ in range(6):
                one.network.send(peer, Priority.CONSENSUS, bytes(BODY_BYTES_MAX))
        started = trio.current_time()
        await until(lambda: one.node.disconnected == [peer], 4)
        assert trio.current_time() - started < 3
        # Thawed, it links again.
        process.send_signal(signal.SIGCONT)
        await until(lambda: one.linked() == {peer}, 10)
        await world.stop(one)
    finally:
        end(process)


async def test_a_killed_peer_loses_its_link_at_once(world: World) -> None:
    one = await world.start(1, peer_timeout_s=60.0)
    process = await start_process(one)
    try:
        process.kill()
        await until(lambda: one.linked() == set())
    finally:
        end(process)


async def test_a_network_that_was_held_up_blames_nobody(world: World) -> None:
    """A long calculation in our own process is not the silence of a peer."""
    one = await world.start(1, peer_timeout_s=1.5, heartbeat_s=0.1)
    process = await start_process(one)
    try:
        time.sleep(2.5)  # noqa: ASYNC251 - the calculation.
        await trio.sleep(0.5)
        assert one.node.disconnected == []
    finally:
        end(process)
