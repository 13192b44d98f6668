"""The commands against a running network, each as a person would type it."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from quorate.client import Client

from node.config import Config, ConsensusSection, load_config, write_config
from node.home import Home
from node.localnet import Localnet, find_free_addresses
from node.testnet import NetworkPlan, NodeAddress, WrittenNode, write_network
from tests.cli.console import Console, Outcome

pytestmark = pytest.mark.e2e

JOIN_SECONDS_MAX = 30
TASK = """
name = "small"
[policy]
updates_min = 1
updates_max = 1
waive_proposer_spread = true
[rule]
stages = ["mean"]
"""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Localnet]:
    plan = NetworkPlan(
        chain_id="commands",
        addresses=find_free_addresses(2),
        config=Config(consensus=ConsensusSection(empty_block_interval_ms=200)),
        bucket_count=256,
    )
    with Localnet(write_network(tmp_path_factory.mktemp("net") / "homes", plan)) as running:
        running.start()
        running.wait_until_ready()
        yield running


@pytest.fixture
def urls(network: Localnet) -> list[str]:
    return [node.address.rpc_url for node in network.nodes]


Run = Callable[..., Outcome]


@pytest.fixture
def run(
    urls: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Run a command against the first node, with a keyring of its own, as JSON."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("QUORATE_NODE", urls[0])
    monkeypatch.setenv("QUORATE_KEYRING", str(tmp_path / "ring"))
    console = Console(monkeypatch, capsys)
    return lambda *arguments: console("--output", "json", *arguments)


def test_status_is_the_nodes_own(run: Run, network: Localnet) -> None:
    shown = run("status")
    assert shown.code == 0
    node = network.nodes[0]
    assert shown.data["moniker"] == node.moniker
    assert shown.data["peer_id"] == node.peer_id
    assert shown.data["validator"] == {"address": node.validator_address, "power": 10}
    assert shown.data["chain_id"] == "commands"
    assert shown.data["genesis_hash"] == node.home.read_genesis().hash.hex()
    assert shown.data["height"] >= 1
    assert shown.data["peers"] == 1


def test_training_from_the_first_key_to_verified_weights(
    run: Run, urls: list[str], network: Localnet, tmp_path: Path
) -> None:
    """Key, task, registration, update, weights: a training round by hand."""
    (tmp_path / "task.toml").write_text(TASK)
    initial = {"kernel": np.ones((3, 2)), "bias": np.zeros(2)}
    np.savez(tmp_path / "initial.npz", **initial)
    np.savez(tmp_path / "update.npz", kernel=np.full((3, 2), 0.5), bias=np.array([0.25, -0.25]))
    assert run("keys", "add", "anna").code == 0
    created = run(
        "task", "create", tmp_path / "task.toml", "--weights", tmp_path / "initial.npz",
        "--key", "anna",
    )  # fmt: skip
    assert (created.code, created.data["status"]) == (0, "decided"), created.err
    task_id = created.data["task_id"]
    assert [task["task_id"] for task in run("task", "list").data["tasks"]] == [task_id]
    assert run("participant", "register", "small", "--key", "anna").code == 0
    shown = run("task", "show", "small").data
    assert (shown["task_id"], shown["participants"], shown["training_round"]) == (task_id, 1, 0)
    assert shown["tensors"] == ["kernel [3, 2]", "bias [2]"]

    submitted = run("update", "submit", "small", tmp_path / "update.npz", "--key", "anna")
    assert (submitted.code, submitted.data["status"]) == (0, "decided"), submitted.err
    assert run("task", "show", task_id).data["training_round"] == 1

    genesis = ("--genesis", network.nodes[1].home.genesis_file, "--commit-from", urls[1])
    for name in ("weights.npz", "weights.bin"):
        got = run("weights", "get", "small", tmp_path / name, *genesis)
        assert got.code == 0, got.err
        assert got.data["verified"] is True
        verified = run("weights", "verify", "small", tmp_path / name, *genesis)
        assert verified.code == 0, verified.err
        assert verified.data["weights_root"] == got.data["weights_root"]
    with np.load(tmp_path / "weights.npz") as weights:
        np.testing.assert_array_equal(weights["kernel"], np.full((3, 2), 1.5))
        np.testing.assert_array_equal(weights["bias"], np.array([0.25, -0.25]))

    changed = bytearray((tmp_path / "weights.bin").read_bytes())
    changed[0] ^= 1
    (tmp_path / "weights.bin").write_bytes(changed)
    refused = run("weights", "verify", "small", tmp_path / "weights.bin", *genesis)
    assert refused.code == 4
    assert refused.out == ""
    assert "not verified: their root is" in refused.sentence

    again = run("participant", "register", "small", "--key", "anna")
    assert again.code == 1
    assert "[already_exists, HTTP 409]" in again.sentence


def test_weights_of_another_chain_are_not_verified(run: Run, tmp_path: Path) -> None:
    (tmp_path / "task.toml").write_text(TASK.replace("small", "other"))
    np.savez(tmp_path / "initial.npz", kernel=np.ones((3, 2)))
    run("keys", "add", "bea")
    run("task", "create", tmp_path / "task.toml", "--weights", tmp_path / "initial.npz",
        "--key", "bea")  # fmt: skip
    stranger = write_network(
        tmp_path / "stranger", NetworkPlan(chain_id="commands", addresses=find_free_addresses(2))
    )
    refused = run(
        "weights", "get", "other", tmp_path / "w.npz", "--genesis", stranger[0].home.genesis_file
    )
    assert refused.code == 4, refused.err
    assert "[step commit]" in refused.sentence
    assert not (tmp_path / "w.npz").exists()


def test_refusals_carry_the_nodes_code(run: Run) -> None:
    unknown = run("task", "show", "nobody")
    assert unknown.code == 1
    assert "[unknown_task, HTTP 404]" in unknown.sentence
    missing = run("participant", "register", "nobody", "--key", "nobody")
    assert missing.code == 1
    assert "There is no key 'nobody'" in missing.sentence


# --- join ----------------------------------------------------------------------------------------


def test_join_asks_before_it_trusts_a_node(
    run: Run, urls: list[str], network: Localnet, tmp_path: Path
) -> None:
    peer = network.nodes[0].p2p_address
    arguments = ("join", "--genesis", urls[0], "--peer", peer, "--home", tmp_path / "home")
    unanswered = run(*arguments)
    assert unanswered.code == 1
    genesis_hash = network.nodes[0].home.read_genesis().hash.hex()
    assert genesis_hash in unanswered.err
    assert "say --yes" in unanswered.sentence
    refused = run(*arguments, "--genesis-hash", "ab" * 32)
    assert refused.code == 1
    assert f"has the hash {genesis_hash}" in refused.sentence
    assert not (tmp_path / "home").exists()


def test_joined_node_catches_up(
    run: Run, urls: list[str], network: Localnet, tmp_path: Path
) -> None:
    home = Home(tmp_path / "joined")
    peers = [part for node in network.nodes for part in ("--peer", node.p2p_address)]
    joined = run(
        "join", "--genesis", f"{urls[0]}/genesis", *peers, "--yes", "--home", home.folder,
        "--moniker", "latecomer",
    )  # fmt: skip
    assert joined.code == 0, joined.err
    (address,) = find_free_addresses(1)
    node = give_ports(home, address)
    with Localnet([node]) as own:
        own.start()
        target = network.wait_until_ready()[0].height
        deadline = time.monotonic() + JOIN_SECONDS_MAX
        while (status := own.get_statuses()[0]) is None or status.height < target:
            own.check_running()
            assert time.monotonic() < deadline, "the joined node stays behind"
            time.sleep(0.1)
        assert status.moniker == "latecomer"
        assert status.validator is None
        with Client(address.rpc_url) as joined_node, Client(urls[0]) as first:
            assert joined_node.block(target).header == first.block(target).header


def give_ports(home: Home, address: NodeAddress) -> WrittenNode:
    """Let a home on the standard ports use free ones."""
    text = home.config_file.read_text()
    text = text.replace("/ip4/0.0.0.0/tcp/26656", f"/ip4/127.0.0.1/tcp/{address.p2p_port}")
    text = text.replace("127.0.0.1:26657", f"127.0.0.1:{address.rpc_port}")
    text = text.replace("127.0.0.1:26660", f"127.0.0.1:{address.metrics_port}")
    home.config_file.write_text(text)
    config = load_config(home, {})
    write_config(home, config)
    key = json.loads(home.node_key_file.read_text())
    return WrittenNode(home, config.moniker, address, key["peer_id"], "")
