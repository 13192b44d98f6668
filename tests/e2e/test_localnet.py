"""``quorate localnet`` and the processes it starts: none outlives it, however it ends."""

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pytest

from node.localnet import (
    STOP_SECONDS_MAX,
    Localnet,
    LocalnetError,
    find_free_addresses,
    hold_interrupts,
)
from node.supervision import (
    RESTART_PAUSE_SECONDS,
    RESTART_WINDOW_SECONDS,
    RESTARTS_MAX,
    Supervisor,
)
from node.testnet import NetworkPlan, write_network
from node.written_network import move_network
from tests.cli.console import get_command, make_environment, run_process

pytestmark = pytest.mark.e2e

READY_SECONDS_MAX = 30
GONE_SECONDS_MAX = 10
LINES_MAX = 60
"""Read for one that is waited for; a localnet tells one each second."""


def find_children(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in children.split()]


def get_state(pid: int) -> str | None:
    """The letter that the kernel has for what a process does; None when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return None


def is_gone(pid: int) -> bool:
    return get_state(pid) in (None, "Z")


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + GONE_SECONDS_MAX
    while not all(map(is_gone, pids)):
        assert time.monotonic() < deadline, f"processes are left: {pids}"
        time.sleep(0.05)


def find_members(folder: Path) -> list[int]:
    """The processes that name a folder among their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes()
        except OSError:
            continue
        if b"node.process" in arguments and os.fsencode(folder) in arguments:
            found.append(int(path.parent.name))
    return found


def find_node(pid: int, moniker: str) -> int:
    """The process of one of a localnet's nodes."""
    (found,) = (
        child
        for child in find_children(pid)
        if Path(f"/proc/{child}/cmdline").read_bytes().endswith(b"/%s\0" % moniker.encode())
    )
    return found


def read_line(process: subprocess.Popen[str], start: str) -> str:
    """Read what a localnet tells, up to a line that starts so."""
    assert process.stderr is not None
    for line in islice(process.stderr, LINES_MAX):
        if line.startswith(start):
            return line
    raise AssertionError(f"it told nothing that starts with {start!r}")


def get_heights(told: str) -> list[int]:
    """The height of the first node in each line about heights."""
    return [int(height) for height in re.findall(r"^heights (\d+)", told, re.M)]


@contextmanager
def start_nodes(folder: Path, count: int) -> Iterator[Localnet]:
    """Nodes of a network that nobody waits for."""
    plan = NetworkPlan(chain_id="x", addresses=find_free_addresses(count))
    with Localnet(write_network(folder / "net", plan)) as network:
        network.start()
        yield network


def kill(network: Localnet, number: int) -> None:
    network.processes[number].process.kill()
    network.processes[number].process.wait()


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
    assert done.err.endswith(f"To go on with it: quorate localnet --folder {tmp_path / 'net'}\n")
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


def test_a_network_goes_on_in_its_folder(tmp_path: Path) -> None:
    asked = ("--output", "json", "localnet", "-n", 2, "--folder", tmp_path / "net", "--seconds", 2)
    first, again = run_process(*asked), run_process(*asked)
    assert (first.code, again.code) == (0, 0), again.err
    assert again.data == first.data
    told = re.search(r"^Going on with the chain localnet from height (\d+)\.$", again.err, re.M)
    assert told is not None
    decided = int(told[1])
    assert decided >= get_heights(first.err)[-1] >= 1
    assert decided <= get_heights(again.err)[0] < get_heights(again.err)[-1]
    assert "Going on" not in first.err


def test_a_network_goes_on_at_other_ports(tmp_path: Path) -> None:
    nodes = write_network(
        tmp_path / "net", NetworkPlan(chain_id="x", addresses=find_free_addresses(2))
    )
    # Neither decides without the other, so they dial each other where they are now.
    with Localnet(move_network(nodes, find_free_addresses(2))) as network:
        network.start()
        assert len(network.wait_until_ready()) == 2


def test_a_node_that_dies_is_told_and_started_again(tmp_path: Path) -> None:
    with run_localnet(tmp_path / "net") as process:
        other = find_node(process.pid, "node1")
        for number, crash in enumerate((signal.SIGKILL, signal.SIGSEGV), 1):
            killed = find_node(process.pid, "node0")
            os.kill(killed, crash)
            killed_at = time.monotonic()
            told = read_line(process, "node0 has ended")
            assert time.monotonic() - killed_at < 1
            assert f"(signal {crash.value}, {crash.name})" in told
            assert f"started again in 1 s ({number} of at most 3 times)" in told
            assert told.endswith(f"Its log: {tmp_path / 'net' / 'node0' / 'node.log'}\n")
            (height,) = re.findall(r"runs again, at height (\d+)", read_line(process, "node0 runs"))
            # Two of two validators decide.
            while max(get_heights(read_line(process, "heights")), default=0) <= int(height):
                pass
            assert find_node(process.pid, "node0") != killed
            assert find_node(process.pid, "node1") == other
        assert "Fatal Python error" in (tmp_path / "net" / "node0" / "node.log").read_text()


def test_ctrl_c_while_a_node_is_down_stops_everything(tmp_path: Path) -> None:
    with run_localnet(tmp_path / "net") as process:
        children = find_children(process.pid)
        os.kill(children[1], signal.SIGKILL)
        read_line(process, "node1 has ended")
        process.send_signal(signal.SIGINT)
        assert process.wait(GONE_SECONDS_MAX) == 0
        wait_until_gone(children)
        assert find_members(tmp_path / "net") == []


def test_a_second_ctrl_c_kills_what_does_not_stop(tmp_path: Path) -> None:
    with run_localnet(tmp_path / "net") as process:
        children = find_children(process.pid)
        process.send_signal(signal.SIGINT)
        read_line(process, "Stopping.")
        process.send_signal(signal.SIGINT)
        assert process.wait(GONE_SECONDS_MAX) in (0, 130)
        wait_until_gone(children)


def test_stopping_that_is_interrupted_kills(tmp_path: Path) -> None:
    with start_nodes(tmp_path, 2) as network:
        deaf = network.processes[1].process
        deaf.send_signal(signal.SIGSTOP)
        while get_state(deaf.pid) != "T":
            # Of two signals that wait, the one that ends it would come first.
            time.sleep(0.01)
        interrupt = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
        interrupt.start()
        began = time.monotonic()
        try:
            with pytest.raises(KeyboardInterrupt):
                network.stop()
        finally:
            # Whatever has happened, the next test is not interrupted.
            interrupt.cancel()
            interrupt.join()
        assert time.monotonic() - began < STOP_SECONDS_MAX / 2
        assert deaf.returncode == -signal.SIGKILL
        assert network.processes[0].process.returncode is not None


def test_localnet_ends_when_too_few_nodes_are_left(tmp_path: Path) -> None:
    with run_localnet(tmp_path / "net") as process:
        children = find_children(process.pid)
        os.kill(children[0], signal.SIGTERM)
        assert "somebody has stopped it, and it stays down" in read_line(process, "node0 has ended")
        sentence = read_line(process, "Error: ")
        assert "node0 stayed down, and without more than two thirds of the 2 nodes" in sentence
        assert str(tmp_path / "net" / "node0" / "node.log") in sentence
        assert process.wait(GONE_SECONDS_MAX) == 1
        wait_until_gone(children)


def test_restarts_are_bounded_and_the_bound_is_of_a_while(tmp_path: Path) -> None:
    told: list[str] = []
    with start_nodes(tmp_path, 4) as network:
        supervisor = Supervisor(network, told.append)
        # As many as allowed, then as many again once the first are long past.
        for now in [0.0] * RESTARTS_MAX + [RESTART_WINDOW_SECONDS] * RESTARTS_MAX:
            kill(network, 3)
            supervisor.look(now)
            ended = network.processes[3]
            supervisor.look(now + RESTART_PAUSE_SECONDS / 2)
            assert network.processes[3] is ended
            supervisor.look(now + RESTART_PAUSE_SECONDS)
            assert network.processes[3].is_running
        assert len(told) == 2 * RESTARTS_MAX
        kill(network, 3)
        supervisor.look(2 * RESTART_WINDOW_SECONDS - 1)
        assert "(signal 9, SIGKILL) after 3 restarts within 60 s, and STAYS DOWN." in told[-1]
        # Three of four decide, and nobody starts the fourth.
        supervisor.look(10 * RESTART_WINDOW_SECONDS)
        assert not network.processes[3].is_running
        assert len(told) == 2 * RESTARTS_MAX + 1
        network.processes[0].process.send_signal(signal.SIGKILL)
        network.processes[0].process.wait()
        supervisor.look(10 * RESTART_WINDOW_SECONDS)
        supervisor.look(10 * RESTART_WINDOW_SECONDS + RESTART_PAUSE_SECONDS)
        assert network.processes[0].is_running


@pytest.mark.parametrize(("count", "down"), [(1, [0]), (3, [1]), (4, [1, 2])])
def test_a_third_that_stays_down_is_too_many(tmp_path: Path, count: int, down: list[int]) -> None:
    told: list[str] = []
    with start_nodes(tmp_path, count) as network:
        supervisor = Supervisor(network, told.append)
        for number in down:
            supervisor.look(RESTART_PAUSE_SECONDS)
            for _ in range(RESTARTS_MAX):
                kill(network, number)
                supervisor.look(0.0)
                supervisor.look(RESTART_PAUSE_SECONDS)
            kill(network, number)
        names = " and ".join(f"node{number}" for number in down)
        with pytest.raises(LocalnetError, match=f"^{names} stayed down") as caught:
            supervisor.look(RESTART_PAUSE_SECONDS)
        assert f"two thirds of the {count} nodes" in str(caught.value)
        assert all(str(network.processes[number].log_file) in str(caught.value) for number in down)
        assert [each.is_running for each in network.processes].count(True) == count - len(down)


def test_a_failure_is_told_with_its_sentence_each_time(tmp_path: Path) -> None:
    told: list[str] = []
    with start_nodes(tmp_path, 1) as network:
        supervisor = Supervisor(network, told.append)
        kill(network, 0)
        network.nodes[0].home.genesis_file.unlink()
        supervisor.look(0.0)
        # What a signal ends has no last words.
        log = network.processes[0].log_file
        assert told[0].endswith(f"(1 of at most 3 times). Its log: {log}")
        supervisor.look(RESTART_PAUSE_SECONDS)
        network.processes[0].process.wait(GONE_SECONDS_MAX)
        supervisor.look(2 * RESTART_PAUSE_SECONDS)
        assert "(exit code 1); it is started again" in told[1]
        assert "There is no genesis file" in told[1]


def test_nobody_restarts_the_nodes_of_a_benchmark(tmp_path: Path) -> None:
    with start_nodes(tmp_path, 2) as network:
        network.check_running()
        kill(network, 1)
        ended = network.processes[1]
        with pytest.raises(LocalnetError, match=r"node1 has stopped \(signal 9, SIGKILL\)"):
            network.check_running()
        with pytest.raises(LocalnetError, match="node1 has stopped"):
            network.wait_until_ready()
        assert network.processes[1] is ended
        with pytest.raises(LocalnetError, match="node0 runs: stop it before"):
            network.restart(0)


def test_last_words_are_those_of_the_last_process(tmp_path: Path) -> None:
    nodes = write_network(
        tmp_path / "net", NetworkPlan(chain_id="x", addresses=find_free_addresses(1))
    )
    (nodes[0].home.folder / "node.log").write_text("Error: That was yesterday.\n")
    with Localnet(nodes) as network:
        network.start()
        kill(network, 0)
        assert network.processes[0].read_last_words() == "it wrote nothing."


def test_an_interrupt_waits_until_a_process_is_noted() -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt), hold_interrupts():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        done.append("noted")
    assert done == ["noted"]
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
