"""``quorate localnet`` over a folder that is not empty: what is refused, and changes nothing."""

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from node import written_network
from node.config import load_config, write_config
from node.home import Home
from node.key_files import make_node_key
from node.localnet import check_ports, find_free_addresses, hold_folder
from node.testnet import NetworkPlan, WrittenNode, plan_one_machine, write_network
from node.written_network import find_network, move_network
from store.database import LevelDatabase
from tests.cli.console import Console

COUNT = 2


@pytest.fixture
def nodes(tmp_path: Path) -> list[WrittenNode]:
    plan = NetworkPlan(chain_id="chain", addresses=find_free_addresses(COUNT))
    return write_network(tmp_path / "net", plan)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def describe(nodes: list[WrittenNode]) -> list[object]:
    return [
        (node.home.folder, node.moniker, node.address, node.peer_id, node.validator_address)
        for node in nodes
    ]


def read_settings(folder: Path) -> dict[str, bytes]:
    """What no refusal may change."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("config/*"))
    }


def change_settings(node: WrittenNode, **changes: object) -> None:
    config = load_config(node.home, {})
    p2p = replace(config.p2p, **changes)  # type: ignore[arg-type]
    write_config(node.home, replace(config, p2p=p2p))


def damage_database(node: WrittenNode) -> None:
    LevelDatabase(node.home.blocks_folder).close()
    next(node.home.blocks_folder.glob("MANIFEST-*")).write_bytes(b"\xff" * 50)


def give_it_another_genesis(node: WrittenNode) -> None:
    content = json.loads(node.home.genesis_file.read_text())
    content["genesis_time_ms"] += 1
    node.home.genesis_file.write_text(json.dumps(content))


def give_it_the_key_of_the_first(node: WrittenNode) -> None:
    first = Home(node.home.folder.with_name("node0"))
    shutil.copy(first.validator_key_file, node.home.validator_key_file)


def give_it_a_new_key(node: WrittenNode) -> None:
    other = node.home.folder.parent.with_name("other")
    (made,) = write_network(other, NetworkPlan(chain_id="x", addresses=plan_one_machine(1)))
    shutil.copy(made.home.validator_key_file, node.home.validator_key_file)


DAMAGES: dict[str, tuple[Callable[[WrittenNode], object], str]] = {
    "no home": (lambda node: shutil.rmtree(node.home.folder), "node1 lacks its config or data"),
    "no data": (lambda node: shutil.rmtree(node.home.data_folder), "put back what is missing"),
    "no genesis": (lambda node: node.home.genesis_file.unlink(), "There is no genesis file"),
    "another genesis": (give_it_another_genesis, "is not that of node0: copy that one there"),
    "no settings": (lambda node: node.home.config_file.write_text("x ="), "is no valid TOML"),
    "no node key": (lambda node: node.home.node_key_file.unlink(), "There is no key file"),
    "another key": (give_it_a_new_key, "is none of the network's validators: put the right one"),
    "one key": (give_it_the_key_of_the_first, "have one validator key, and would sign twice"),
    "other machines": (
        lambda node: change_settings(node, external_address="/ip4/192.0.2.1/tcp/1"),
        "run it there with `quorate start`",
    ),
    "damaged": (damage_database, "node1 cannot go on: The database in"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_network_is_refused(
    quorate: Console, nodes: list[WrittenNode], tmp_path: Path, damage: str
) -> None:
    harm, sentence = DAMAGES[damage]
    harm(nodes[1])
    before = read_settings(tmp_path / "net")
    refused = quorate("localnet", "--folder", tmp_path / "net")
    assert refused.code == 1
    assert sentence in refused.sentence
    assert refused.out == ""
    assert read_settings(tmp_path / "net") == before
    assert not list((tmp_path / "net").rglob("node.log"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("-n", COUNT + 1), "has 2 nodes, not 3: leave --validators out to go on with it"),
        (("--chain-id", "x"), "is called chain, not x: leave --chain-id out to go on with it"),
    ],
)
@pytest.mark.usefixtures("nodes")
def test_another_network_than_asked_for_is_refused(
    quorate: Console, tmp_path: Path, options: tuple[object, ...], sentence: str
) -> None:
    refused = quorate("localnet", "--folder", tmp_path / "net", *options)
    assert refused.code == 1
    assert sentence in refused.sentence
    assert "choose another folder" in refused.sentence


def test_what_is_no_network_is_refused(quorate: Console, tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "letter.txt").write_text("keep me")
    refused = quorate("localnet", "--folder", tmp_path / "net")
    assert refused.code == 1
    assert "holds no network that `quorate localnet` has written" in refused.sentence
    assert [path.name for path in (tmp_path / "net").iterdir()] == ["letter.txt"]
    refused = quorate("localnet", "--folder", tmp_path / "net" / "letter.txt")
    assert refused.code == 1
    assert "is no folder: choose another one" in refused.sentence


@pytest.mark.usefixtures("nodes")
def test_a_folder_has_one_localnet_at_a_time(quorate: Console, tmp_path: Path) -> None:
    for folder in (tmp_path / "net", tmp_path / "new"):
        with hold_folder(folder):
            refused = quorate("localnet", "--folder", folder, "--seconds", 1)
        assert refused.code == 1
        assert f"Another localnet runs in {folder}: stop that one first" in refused.sentence
        with hold_folder(folder):
            pass


def test_a_node_that_runs_is_waited_for_and_then_refused(
    quorate: Console, nodes: list[WrittenNode], tmp_path: Path
) -> None:
    quorate.monkeypatch.setattr(written_network, "STOPPING_SECONDS_MAX", 0.3)
    with nodes[1].home.lock():
        refused = quorate("localnet", "--folder", tmp_path / "net")
    assert refused.code == 1
    assert f"A node runs in {nodes[1].home.folder} already: stop it first." in refused.sentence
    assert describe(find_network(tmp_path / "net").nodes) == describe(nodes)


def test_ports_in_use_are_told_before_anything_is_written_or_started(
    quorate: Console, nodes: list[WrittenNode], tmp_path: Path, listener: socket.socket
) -> None:
    taken = listener.getsockname()[1]
    sentence = f"Port {taken} on 127.0.0.1 is in use: stop the program that listens there, or"
    new = tmp_path / "new"
    refused = quorate("localnet", "-n", 2, "--folder", new, "--starting-port", taken - 1)
    assert refused.code == 1
    assert sentence in refused.sentence
    assert list(new.iterdir()) == []
    address = replace(nodes[1].address, metrics_port=taken)
    move_network(nodes, [nodes[0].address, address])
    refused = quorate("localnet", "--folder", tmp_path / "net")
    assert refused.code == 1
    assert sentence in refused.sentence
    assert not list((tmp_path / "net").rglob("node.log"))
    check_ports([nodes[0].address])


def test_a_network_is_found_as_it_was_written(nodes: list[WrittenNode], tmp_path: Path) -> None:
    (tmp_path / "net" / "letter.txt").write_text("somebody else's")
    found = find_network(tmp_path / "net", count=COUNT, chain_id="chain")
    assert describe(found.nodes) == describe(nodes)
    assert (found.chain_id, found.height) == ("chain", 0)


def test_a_network_moves_with_all_its_other_settings(
    nodes: list[WrittenNode], tmp_path: Path
) -> None:
    stranger = f"/ip4/192.0.2.1/tcp/26656/p2p/{make_node_key().peer_id}"
    dialed = (nodes[1].p2p_address, stranger)
    change_settings(nodes[0], persistent_peers=dialed, bootstrap_peers=dialed, peers_max=7)
    addresses = plan_one_machine(COUNT, 31_000)
    moved = move_network(nodes, addresses)
    assert describe(find_network(tmp_path / "net").nodes) == describe(moved)
    assert [node.address for node in moved] == addresses
    p2p = load_config(nodes[0].home, {}).p2p
    expected = (moved[1].p2p_address, stranger)
    assert (p2p.persistent_peers, p2p.bootstrap_peers) == (expected, expected)
    assert p2p.peers_max == 7
