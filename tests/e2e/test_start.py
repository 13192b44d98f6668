"""``quorate start`` as a real process: what keeps it from running is told in one sentence."""

import json
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from quorate.client import Client
from quorate.errors import ConnectionFailedError

from node.agreement.sign_record import read_sign_record
from node.config import load_config, write_config
from node.home import Home
from node.localnet import find_free_addresses
from node.testnet import NetworkPlan, write_network
from tests.cli.console import Outcome, get_command, make_environment, run_process

pytestmark = pytest.mark.e2e

READY_SECONDS_MAX = 30
STOP_SECONDS_MAX = 5


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """The home of the only validator of a chain, on free ports."""
    plan = NetworkPlan(chain_id="alone", addresses=find_free_addresses(1), bucket_count=256)
    return write_network(tmp_path / "net", plan)[0].home


def start(home: Home) -> Outcome:
    return run_process("start", "--home", home.folder)


def wait_until_decided(home: Home, process: subprocess.Popen[bytes]) -> None:
    host, port = load_config(home, {}).rpc.address
    deadline = time.monotonic() + READY_SECONDS_MAX
    with Client(f"http://{host}:{port}", retries=0, timeout_s=2) as client:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if client.status().height > 0:
                    return
            except ConnectionFailedError:
                pass
            time.sleep(0.05)
    raise TimeoutError((home.folder / "log").read_text())


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
        wait_until_decided(home, process)
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def occupy(host: str, port: int) -> Iterator[None]:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()
        yield


def has_signed(home: Home) -> bool:
    """Tell whether the validator has voted: the only one of its chain does so at once."""
    record = read_sign_record(home.validator_state_file)
    return record is not None and record.height > 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stops_in_order_within_five_seconds(home: Home, number: signal.Signals) -> None:
    with run_node(home) as process:
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(STOP_SECONDS_MAX) == 0
        assert time.monotonic() - began < STOP_SECONDS_MAX
    assert has_signed(home)
    log = (home.folder / "log").read_text()
    assert "stopped" in log.splitlines()[-1]
    assert "Traceback" not in log


def test_crash_inside_a_library_leaves_what_the_threads_were_at(home: Home) -> None:
    with run_node(home) as process:
        process.send_signal(signal.SIGSEGV)
        assert process.wait(STOP_SECONDS_MAX) == -signal.SIGSEGV
    log = (home.folder / "log").read_text()
    assert "Fatal Python error: Segmentation fault" in log
    assert "node/process.py" in log


def test_port_of_the_rpc_in_use(home: Home) -> None:
    host, port = load_config(home, {}).rpc.address
    with occupy(host, port):
        refused = start(home)
    assert refused.code == 1
    assert f"{host}:{port}" in refused.sentence
    assert "in use" in refused.sentence
    assert not has_signed(home)


def test_port_of_the_metrics_in_use(home: Home) -> None:
    host, port = load_config(home, {}).instrumentation.address
    with occupy(host, port):
        refused = start(home)
    assert refused.code == 1
    assert f"{host}:{port}" in refused.sentence
    assert not has_signed(home)


def test_port_of_the_network_in_use(home: Home) -> None:
    listen = load_config(home, {}).p2p.listen
    with occupy("127.0.0.1", int(listen.rpartition("/")[2])):
        refused = start(home)
    assert refused.code == 1
    assert listen in refused.sentence
    assert "the port is in use: stop the program that uses it, or" in refused.sentence
    assert "set another address in [p2p] listen" in refused.sentence
    assert not has_signed(home)


def test_home_in_use(home: Home) -> None:
    with run_node(home) as process:
        refused = start(home)
        assert process.poll() is None
    assert refused.code == 1
    assert f"in use by another process (pid {process.pid})" in refused.sentence


def test_setting_that_does_not_exist(home: Home) -> None:
    text = home.config_file.read_text()
    home.config_file.write_text(text.replace("moniker =", "monicker ="))
    refused = start(home)
    assert refused.code == 1
    assert "knows no setting 'monicker': did you mean 'moniker'?" in refused.sentence


def test_contradicting_settings(home: Home) -> None:
    config = load_config(home, {})
    write_config(home, replace(config, p2p=replace(config.p2p, peer_timeout_ms=200)))
    refused = start(home)
    assert refused.code == 1
    assert "peer_timeout must be at least two times heartbeat" in refused.sentence


def test_missing_genesis(home: Home) -> None:
    home.genesis_file.unlink()
    refused = start(home)
    assert refused.code == 1
    assert "There is no genesis file" in refused.sentence


def test_another_genesis_than_the_database_began_with(home: Home) -> None:
    with run_node(home):
        pass
    document = json.loads(home.genesis_file.read_text())
    document["genesis_time_ms"] += 1
    home.genesis_file.write_text(json.dumps(document))
    refused = start(home)
    assert refused.code == 1
    assert "belongs to genesis" in refused.sentence


def test_damaged_database(home: Home) -> None:
    with run_node(home):
        pass
    manifests = list(home.blocks_folder.glob("MANIFEST-*"))
    assert manifests
    for path in manifests:
        path.write_bytes(b"\xff" * path.stat().st_size)
    refused = start(home)
    assert refused.code == 1
    assert f"The database in {home.blocks_folder} is damaged" in refused.sentence
    assert "restore" in refused.sentence


def test_missing_record_of_what_was_signed(home: Home) -> None:
    with run_node(home):
        pass
    home.validator_state_file.unlink()
    refused = start(home)
    assert refused.code == 1
    assert str(home.validator_state_file) in refused.sentence


def test_key_that_others_can_read(home: Home) -> None:
    home.validator_key_file.chmod(0o640)
    refused = start(home)
    assert refused.code == 1
    assert "open to other users" in refused.sentence


def test_data_folder_that_is_a_file(home: Home) -> None:
    shutil.rmtree(home.data_folder)
    home.data_folder.write_text("")
    refused = start(home)
    assert refused.code == 1
    assert "is no home folder" in refused.sentence
