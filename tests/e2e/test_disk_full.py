"""A node on a disk of its own that fills up: it stops in order, and goes on when there is room."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from quorate.client import Client
from quorate.errors import ConnectionFailedError

from node.config import Config, ConsensusSection, load_config
from node.home import Home
from node.localnet import find_free_addresses
from node.testnet import NetworkPlan, write_network
from tests.cli.console import get_command, make_environment, run_process

pytestmark = pytest.mark.e2e

DISK_BYTES = 24 << 20
SECONDS_MAX = 40


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """The home of the only validator of a chain; its data is on a small disk."""
    config = Config(consensus=ConsensusSection(empty_block_interval_ms=50))
    plan = NetworkPlan(
        chain_id="small", addresses=find_free_addresses(1), config=config, bucket_count=256
    )
    home = write_network(tmp_path / "net", plan)[0].home
    options = f"size={DISK_BYTES},mode=0700,uid={os.geteuid()}"
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(home.data_folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this machine does not allow mounting a small disk ({error})")
    try:
        yield home
    finally:
        subprocess.run(["umount", str(home.data_folder)], check=True, timeout=10)


@contextmanager
def run_node(home: Home) -> Iterator[subprocess.Popen[bytes]]:
    with (home.folder / "log").open("ab") as log:
        process = subprocess.Popen(
            get_command("start", "--home", home.folder),
            env=make_environment(),
            stdin=subprocess.DEVNULL,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def get_height(home: Home) -> int:
    host, port = load_config(home, {}).rpc.address
    with Client(f"http://{host}:{port}", retries=0, timeout_s=2) as client:
        return client.status().height


def wait_for_height(home: Home, height: int) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while time.monotonic() < deadline:
        try:
            if get_height(home) >= height:
                return
        except ConnectionFailedError:
            pass
        time.sleep(0.05)
    raise TimeoutError(f"no block {height} after {SECONDS_MAX} s")


def fill(folder: Path) -> Path:
    """Take all the room there is."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return filler


def test_a_full_disk_stops_the_node_until_there_is_room(home: Home) -> None:
    with run_node(home) as process:
        wait_for_height(home, 2)
        filler = fill(home.data_folder)
        assert process.wait(SECONDS_MAX) == 1
    log = (home.folder / "log").read_text()
    assert "Traceback" not in log
    sentence = log.rstrip().splitlines()[-1]
    assert sentence.startswith("Error: ")
    assert "no room" in sentence or "earlier write to it failed" in sentence
    assert "start the node again" in sentence
    # Without room it does not start, and says so again.
    refused = run_process("start", "--home", home.folder)
    assert refused.code == 1
    assert "room" in refused.sentence or "free space" in refused.sentence
    checked = run_process("--output", "json", "doctor", "--home", home.folder)
    assert checked.code == 1
    assert [row["result"] for row in checked.data["checks"] if row["check"] == "disk"] == ["wrong"]
    filler.unlink()
    inspected = run_process("--output", "json", "inspect", "--home", home.folder)
    assert inspected.code == 0, inspected.out
    reached = inspected.data["chain"]["height"]
    assert reached >= 2
    with run_node(home):
        wait_for_height(home, reached + 2)
    replayed = run_process("--output", "json", "replay", "--home", home.folder)
    assert replayed.code == 0, replayed.err
    assert replayed.data["last"] >= reached + 2
