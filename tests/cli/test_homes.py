"""Homes: init, join, testnet, and what is shown of them."""

import json
import stat
import tomllib
from pathlib import Path

import pytest

from node.config import load_config
from node.home import Home
from node.key_files import read_node_key, read_validator_key
from tests.cli.console import Console


def get_mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_init_writes_a_validator_that_its_genesis_names(quorate: Console, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    done = quorate("--output", "json", "init", "--home", home.folder, "--moniker", "St. Mary's")
    assert done.code == 0
    key = read_validator_key(home.validator_key_file)
    genesis = home.read_genesis()
    assert [v.public_key for v in genesis.validators] == [key.public_key]
    assert genesis.validators[0].name == "St.-Mary-s"
    assert load_config(home, {}).moniker == "St. Mary's"
    assert done.data["peer_id"] == read_node_key(home.node_key_file).peer_id
    assert done.data["validator"] == key.address.hex()
    assert done.data["genesis_hash"] == genesis.hash.hex()


def test_init_keeps_secrets_to_their_owner(quorate: Console, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    quorate("init", "--home", home.folder)
    assert get_mode(home.folder) == get_mode(home.config_folder) == 0o700
    assert get_mode(home.node_key_file) == get_mode(home.validator_key_file) == 0o600


def test_init_keeps_a_home_that_is_there(quorate: Console, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    quorate("init", "--home", home.folder)
    before = home.node_key_file.read_bytes()
    refused = quorate("init", "--home", home.folder)
    assert refused.code == 1
    assert "is the home folder of a node already" in refused.sentence
    assert refused.out == ""
    assert home.node_key_file.read_bytes() == before


def test_full_node_has_no_vote_and_no_genesis(quorate: Console, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    done = quorate("init", "--full", "--home", home.folder)
    assert done.code == 0
    assert not home.validator_key_file.exists()
    assert not home.genesis_file.exists()
    assert "quorate join" in done.err
    shown = quorate("show-validator", "--home", home.folder)
    assert shown.code == 1
    assert "There is no key file" in shown.sentence


def test_full_node_founds_no_chain(quorate: Console, tmp_path: Path) -> None:
    refused = quorate("init", "--full", "--chain-id", "x", "--home", tmp_path / "home")
    assert refused.code == 2
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("chain_id", ["", "a b", "x" * 51, "käse"])
def test_impossible_chain_id_is_refused(quorate: Console, tmp_path: Path, chain_id: str) -> None:
    refused = quorate("init", f"--chain-id={chain_id}", "--home", tmp_path / "home")
    # An empty one is none given: a random one follows.
    if chain_id == "":
        assert refused.code == 0
    else:
        assert refused.code == 1
        assert "A chain id has 1 to 50 letters" in refused.sentence
        assert not (tmp_path / "home").exists()


def test_home_comes_from_the_environment(
    quorate: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUORATE_HOME", str(tmp_path / "named"))
    quorate("init")
    assert (tmp_path / "named" / "config" / "config.toml").exists()
    shown = quorate("show-node-id")
    peer_id = read_node_key(tmp_path / "named" / "config" / "node_key.json").peer_id
    assert shown.out.strip() == peer_id


def test_option_after_the_command_wins(quorate: Console, tmp_path: Path) -> None:
    quorate("--home", tmp_path / "a", "init", "--home", tmp_path / "b")
    assert not (tmp_path / "a").exists()
    assert (tmp_path / "b").exists()


def test_show_node_id_and_validator(quorate: Console, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    quorate("init", "--home", home.folder)
    peer_id = read_node_key(home.node_key_file).peer_id
    shown = quorate("show-node-id", "--home", home.folder, "--output", "json")
    assert shown.data == {"peer_id": peer_id, "listen": f"/ip4/0.0.0.0/tcp/26656/p2p/{peer_id}"}
    key = read_validator_key(home.validator_key_file)
    shown = quorate("show-validator", "--home", home.folder, "--output", "json")
    assert shown.data == {
        "address": key.address.hex(),
        "public_key": key.public_key.hex(),
        "genesis_power": 10,
    }


def test_no_home_is_told_with_the_way_out(quorate: Console, tmp_path: Path) -> None:
    for command in ("start", "show-node-id", "show-validator"):
        refused = quorate(command, "--home", tmp_path / "none")
        assert refused.code == 1
        assert "run `quorate init --home" in refused.sentence


# --- testnet -------------------------------------------------------------------------------------


def test_testnet_writes_homes_that_know_each_other(quorate: Console, tmp_path: Path) -> None:
    done = quorate("--output", "json", "testnet", "-n", 3, "--output", tmp_path / "net")
    assert done.code == 0
    nodes = done.data["nodes"]
    homes = [Home(tmp_path / "net" / f"node{i}") for i in range(3)]
    assert [node["home"] for node in nodes] == [str(home.folder) for home in homes]
    assert len({home.read_genesis().hash for home in homes}) == 1
    keys = {read_validator_key(home.validator_key_file).public_key for home in homes}
    assert keys == {v.public_key for v in homes[0].read_genesis().validators}
    for i, home in enumerate(homes):
        config = load_config(home, {})
        others = {node["p2p"] for j, node in enumerate(nodes) if j != i}
        assert set(config.p2p.persistent_peers) == others
        assert config.rpc.listen == f"127.0.0.1:{26657 + 10 * i}"
        assert config.p2p.listen == f"/ip4/127.0.0.1/tcp/{26656 + 10 * i}"
        assert config.instrumentation.metrics_listen == f"127.0.0.1:{26660 + 10 * i}"


def test_testnet_on_other_machines(quorate: Console, tmp_path: Path) -> None:
    hosts = ["192.0.2.1", "2001:db8::2"]
    options = [part for host in hosts for part in ("--host", host)]
    assert quorate("testnet", "-n", 2, "-o", tmp_path / "net", *options).code == 0
    first, second = (load_config(Home(tmp_path / "net" / f"node{i}"), {}) for i in range(2))
    assert first.p2p.listen == "/ip4/0.0.0.0/tcp/26656"
    assert first.p2p.external_address == "/ip4/192.0.2.1/tcp/26656"
    assert second.p2p.listen == "/ip6/::/tcp/26656"
    assert second.p2p.persistent_peers[0].startswith("/ip4/192.0.2.1/tcp/26656/p2p/")
    # The RPC stays on the machine's own loopback address.
    assert second.rpc.listen == "127.0.0.1:26657"


def test_testnet_refuses_what_cannot_be(quorate: Console, tmp_path: Path) -> None:
    folder = tmp_path / "net"
    assert quorate("testnet", "-n", 101, "-o", folder).code == 2
    assert quorate("testnet", "-n", 0, "-o", folder).code == 2
    assert quorate("testnet", "-n", 2, "-o", folder, "--host", "192.0.2.1").code == 2
    assert quorate("testnet", "-n", 1, "-o", folder, "--host", "example").code == 2
    ports = quorate("testnet", "-n", 5, "-o", folder, "--starting-port", 65_530)
    assert ports.code == 1
    assert "ports up to 65574" in ports.sentence
    assert not folder.exists()
    folder.mkdir()
    (folder / "mine").write_text("mine")
    refused = quorate("testnet", "-o", folder)
    assert refused.code == 1
    assert "is there already and not empty" in refused.sentence
    assert [path.name for path in folder.iterdir()] == ["mine"]


# --- join ----------------------------------------------------------------------------------------


@pytest.fixture
def network(quorate: Console, tmp_path: Path) -> dict[str, str]:
    """A written network: its genesis file, hash and one address."""
    folder = tmp_path / "net"
    nodes = quorate("--output", "json", "testnet", "-n", 1, "-o", folder).data["nodes"]
    home = Home(folder / "node0")
    return {
        "genesis": str(home.genesis_file),
        "hash": home.read_genesis().hash.hex(),
        "peer": nodes[0]["p2p"],
    }


def test_join_writes_a_home_of_the_same_chain(
    quorate: Console, tmp_path: Path, network: dict[str, str]
) -> None:
    home = Home(tmp_path / "joined")
    done = quorate(
        "join", "--genesis", network["genesis"], "--peer", network["peer"],
        "--genesis-hash", network["hash"].upper(), "--home", home.folder, "--output", "json",
    )  # fmt: skip
    assert done.code == 0
    assert done.data["genesis_hash"] == network["hash"] == home.read_genesis().hash.hex()
    assert load_config(home, {}).p2p.persistent_peers == (network["peer"],)
    assert not home.validator_key_file.exists()
    assert quorate("config", "validate", "--home", home.folder).code == 0


def test_join_refuses_another_genesis(
    quorate: Console, tmp_path: Path, network: dict[str, str]
) -> None:
    refused = quorate(
        "join", "--genesis", network["genesis"], "--peer", network["peer"],
        "--genesis-hash", "00" * 32, "--home", tmp_path / "joined",
    )  # fmt: skip
    assert refused.code == 1
    assert f"has the hash {network['hash']}, not the expected {'00' * 32}" in refused.sentence
    assert not (tmp_path / "joined").exists()


def test_join_refuses_what_cannot_be_used(
    quorate: Console, tmp_path: Path, network: dict[str, str]
) -> None:
    (tmp_path / "broken.json").write_text("{")
    home = ("--home", tmp_path / "joined")
    for genesis, peer, sentence in (
        (network["genesis"], "192.0.2.1:26656", "--peer '192.0.2.1:26656' cannot be used"),
        (tmp_path / "none", network["peer"], "cannot be read (No such file or directory)"),
        (tmp_path / "broken.json", network["peer"], "is no genesis document"),
    ):
        refused = quorate("join", "--genesis", genesis, "--peer", peer, *home)
        assert refused.code == 1
        assert sentence in refused.sentence
    gone = quorate("join", "--genesis", "http://127.0.0.1:1", "--peer", network["peer"], *home)
    assert gone.code == 3
    assert "No answer from http://127.0.0.1:1" in gone.sentence
    assert not (tmp_path / "joined").exists()


# --- config --------------------------------------------------------------------------------------


def test_config_show_is_what_is_in_force(
    quorate: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    quorate("init", "--home", home)
    monkeypatch.setenv("QUORATE_P2P__HEARTBEAT", "300ms")
    shown = quorate("config", "show", "--home", home)
    assert tomllib.loads(shown.out)["p2p"]["heartbeat"] == "300ms"
    shown = quorate("config", "show", "--home", home, "--output", "json")
    assert shown.data["p2p"]["heartbeat_ms"] == 300


def test_config_validate_finds_each_fault(quorate: Console, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    quorate("init", "--home", home.folder)
    assert quorate("config", "validate", "--home", home.folder).code == 0
    good = home.config_file.read_text()
    home.config_file.write_text(good.replace('heartbeat = "250ms"', 'hartbeat = "250ms"'))
    refused = quorate("config", "validate", "--home", home.folder)
    assert refused.code == 1
    assert "knows no setting 'hartbeat': did you mean 'heartbeat'?" in refused.sentence
    home.config_file.write_text(good)
    home.node_key_file.chmod(0o644)
    refused = quorate("config", "validate", "--home", home.folder)
    assert refused.code == 1
    assert "open to other users" in refused.sentence
    home.node_key_file.chmod(0o600)
    document = json.loads(home.genesis_file.read_text())
    home.genesis_file.write_text(json.dumps(document | {"validators": []}))
    refused = quorate("config", "validate", "--home", home.folder)
    assert refused.code == 1
    assert "The genesis file" in refused.sentence
