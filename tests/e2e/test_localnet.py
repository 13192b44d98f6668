"""``quorate localnet`` and the processes it starts: none outlives it, however it ends."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from node.localnet import Localnet, LocalnetError, find_free_addresses
from node.testnet import NetworkPlan, write_network
from tests.cli.console import get_command, make_environment, run_process

pytestmark = pytest.mark.e2e

READY_SECONDS_MAX = 30
GONE_SECONDS_MAX = 10


def find_children(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in children.split()]


def is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + GONE_SECONDS_MAX
    while not all(map(is_gone, pids)):
        assert time.monotonic() < deadline, f"processes are left: {pids}"
        time.sleep(0.05)


@contextmanager
def run_localnet(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A localnet of two nodes, once it shows their heights."""
    process = subprocess.Popen(
        get_command("localnet", "-n", 2, "--folder", folder),
        env=make_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    children: list[int] = []
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("heights"):
                break
        children += find_children(process.pid)
        yield process
    finally:
        process.kill()
        process.communicate()
        wait_until_gone(children)


def test_localnet_runs_as_long_as_asked(tmp_path: Path) -> None:
    done = run_process("--output", "json", "localnet", "-n", 2, "--folder", tmp_path / "net",
                       "--seconds", 2)  # fmt: skip
    assert done.code == 0, done.err
    assert [node["moniker"] for node in done.data["nodes"]] == ["node0", "node1"]
    assert f"export QUORATE_NODE={done.data['nodes'][0]['rpc']}\n" in done.err
    assert "heights" in done.err
    for log in (tmp_path / "net").glob("node*/node.log"):
        assert "stopped" in log.read_text().splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_node_outlives_its_localnet(tmp_path: Path, number: signal.Signals) -> None:
    with run_localnet(tmp_path / "net") as process:
        children = find_children(process.pid)
        assert len(children) == 2
        # Out of reach of the terminal's Ctrl-C, and of one session, in which priorities count.
        assert {os.getsid(child) for child in children} == {os.getsid(process.pid)}
        assert len({os.getpgid(pid) for pid in (process.pid, *children)}) == 3
        process.send_signal(number)
        process.wait(GONE_SECONDS_MAX)
        wait_until_gone(children)
        assert process.returncode == {signal.SIGINT: 0}.get(number, -number)


def test_failed_node_is_named_with_its_last_words(tmp_path: Path) -> None:
    nodes = write_network(
        tmp_path / "net", NetworkPlan(chain_id="x", addresses=find_free_addresses(2))
    )
    nodes[1].home.genesis_file.write_text("{")
    with Localnet(nodes) as network:
        network.start()
        with pytest.raises(LocalnetError, match="node1 has stopped") as caught:
            network.wait_until_ready()
    assert "The genesis file" in str(caught.value)
    assert str(nodes[1].home.folder / "node.log") in str(caught.value)


def test_too_few_nodes_are_told_in_time(tmp_path: Path) -> None:
    nodes = write_network(
        tmp_path / "net", NetworkPlan(chain_id="x", addresses=find_free_addresses(2))
    )
    # One of two validators alone is no quorum.
    with Localnet(nodes[:1]) as network:
        network.start()
        with pytest.raises(LocalnetError, match="Only 0 of 1 nodes"):
            network.wait_until_ready(timeout_s=2)
        (started,) = network.processes
    assert started.process.returncode is not None


def test_settings_of_the_shell_do_not_reach_the_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "QUORATE_RPC__LISTEN", "127.0.0.1:1")
    nodes = write_network(
        tmp_path / "net", NetworkPlan(chain_id="x", addresses=find_free_addresses(1))
    )
    with Localnet(nodes) as network:
        network.start()
        assert network.wait_until_ready()[0].chain_id == "x"
