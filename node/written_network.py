"""A network that was written before: found in its folder again, and looked at before it goes on.

Owns what a folder must hold to go on as it is, and the move of a network to other ports. Never
writes a new network, which `node.testnet` does, and never starts anything.

There is no option to start anew: it would remove the keys of validators and everything they have
decided, and whoever wants that removes the folder, or names another.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from quorate.chain.genesis import Genesis

from node.config import Config, load_config, write_config
from node.config.kinds import parse_host_port
from node.errors import HomeError, HomeInUse
from node.home import Home
from node.key_files import read_node_key, read_validator_key
from node.maintenance.inspection import find_problems, inspect
from node.testnet import LOOPBACK, NodeAddress, WrittenNode, set_addresses
from p2p.address import parse_address, parse_peer_address

STOPPING_SECONDS_MAX: Final = 10.0
"""How long nodes of an earlier run are waited for; one stops within five seconds."""

_POLL_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class FoundNetwork:
    """A network whose nodes do not run.

    Attributes
    ----------
    nodes : list of WrittenNode
        In the order in which they were written.
    chain_id : str
    height : int
        The highest that one of them has decided; 0 before the first block.
    """

    nodes: list[WrittenNode]
    chain_id: str
    height: int


def find_network(
    folder: Path, *, count: int | None = None, chain_id: str | None = None
) -> FoundNetwork:
    """Return the network of a folder that is not empty.

    Waits for nodes of an earlier run that are stopping.

    Parameters
    ----------
    folder : Path
    count : int, optional
        How many nodes it must have.
    chain_id : str, optional
        What its chain must be called.

    Raises
    ------
    HomeError
        If the folder holds something else, another network than asked for, or one that is damaged
        or runs.
    ConfigError, KeyFileError
        If settings or keys of a node cannot be used.
    """
    first = Home(folder / "node0")
    if not first.config_folder.is_dir():
        raise HomeError(
            f"{folder} is not empty, and holds no network that `quorate localnet` has written: "
            "choose another folder."
        )
    genesis = first.read_genesis()
    found = len(genesis.validators)
    if count not in (None, found):
        raise HomeError(
            f"The network in {folder} has {found} nodes, not {count}: leave --validators out to go "
            "on with it, or choose another folder."
        )
    if chain_id not in (None, genesis.chain_id):
        raise HomeError(
            f"The chain in {folder} is called {genesis.chain_id}, not {chain_id}: leave --chain-id "
            "out to go on with it, or choose another folder."
        )
    nodes = [_read_node(Home(folder / f"node{i}"), genesis) for i in range(found)]
    if len({node.validator_address for node in nodes}) < found:
        raise HomeError(
            f"Two nodes in {folder} have one validator key, and would sign twice: put the right "
            "key back, or choose another folder."
        )
    deadline = time.monotonic() + STOPPING_SECONDS_MAX
    for node in nodes:
        _wait_until_stopped(node, deadline)
    return FoundNetwork(nodes, genesis.chain_id, max(map(_read_height, nodes)))


def move_network(
    nodes: Sequence[WrittenNode], addresses: Sequence[NodeAddress]
) -> list[WrittenNode]:
    """Let the nodes listen at other addresses, and dial each other there; return them so.

    Raises
    ------
    ConfigError
        If settings cannot be read or written; asking again goes on from there.
    """
    moved = {
        node.peer_id: address.get_p2p_address(node.peer_id)
        for node, address in zip(nodes, addresses, strict=True)
    }

    def move(peer: str) -> str:
        return moved.get(parse_peer_address(peer)[0], peer)

    for node, address in zip(nodes, addresses, strict=True):
        config = set_addresses(_load_config(node.home), address)
        p2p = replace(
            config.p2p,
            persistent_peers=tuple(map(move, config.p2p.persistent_peers)),
            bootstrap_peers=tuple(map(move, config.p2p.bootstrap_peers)),
        )
        write_config(node.home, replace(config, p2p=p2p))
    return [replace(node, address=address) for node, address in zip(nodes, addresses, strict=True)]


def _load_config(home: Home) -> Config:
    # Variables that override settings do not reach the nodes, either.
    return load_config(home, {})


def _read_node(home: Home, genesis: Genesis) -> WrittenNode:
    if not (home.config_folder.is_dir() and home.data_folder.is_dir()):
        raise HomeError(
            f"{home.folder} lacks its config or data folder, or is not there at all, and the "
            f"network has {len(genesis.validators)} nodes: put back what is missing, or choose "
            "another folder."
        )
    config = _load_config(home)
    if home.read_genesis().hash != genesis.hash:
        raise HomeError(
            f"The genesis file {home.genesis_file} is not that of node0: copy that one there, or "
            "choose another folder."
        )
    node_key = read_node_key(home.node_key_file)
    validator = read_validator_key(home.validator_key_file)
    if validator.public_key not in {each.public_key for each in genesis.validators}:
        raise HomeError(
            f"The key in {home.validator_key_file} is none of the network's validators: put the "
            "right one back, or choose another folder."
        )
    if config.p2p.external_address:
        raise HomeError(
            f"{home.folder} was written for a machine of its own (external_address in its "
            "settings): run it there with `quorate start`, or choose another folder."
        )
    address = _read_address(config)
    return WrittenNode(home, config.moniker, address, node_key.peer_id, validator.address.hex())


def _read_address(config: Config) -> NodeAddress:
    return NodeAddress(
        LOOPBACK,
        parse_address(config.p2p.listen).port,
        parse_host_port(config.rpc.listen)[1],
        parse_host_port(config.instrumentation.metrics_listen)[1],
    )


def _wait_until_stopped(node: WrittenNode, deadline: float) -> None:
    # Nodes of a localnet that was killed stop by themselves, a moment after it.
    while True:
        try:
            node.home.lock().release()
        except HomeInUse:
            if time.monotonic() > deadline:
                raise HomeError(
                    f"A node runs in {node.home.folder} already: stop it first."
                ) from None
            time.sleep(_POLL_SECONDS)
        else:
            return


def _read_height(node: WrittenNode) -> int:
    """Return what a node has decided; raise if something on its disk is damaged."""
    summary = inspect(node.home)
    for problem in find_problems(summary):
        raise HomeError(f"{node.moniker} cannot go on: {problem}")
    chain = summary["chain"]
    height = chain.get("height") if isinstance(chain, dict) else None
    return height if isinstance(height, int) else 0
