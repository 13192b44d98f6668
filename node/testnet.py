"""Home folders: of one node, and of a whole new network.

Owns what is written before a node first runs: keys, settings and the genesis document that
founding validators share. Never starts anything: `node.localnet` does.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from quorate.chain.genesis import (
    BUCKET_COUNT_DEFAULT,
    Admission,
    Genesis,
    GenesisAccount,
    GenesisValidator,
)
from quorate.chain.ids import CHAIN_ID_BYTES_MAX
from quorate.chain.keys import PrivateKey
from quorate.chain.parameters import ConsensusParameters

from node.config import Config, write_config
from node.errors import HomeError
from node.home import Home
from node.key_files import NodeKey, make_node_key, write_node_key, write_validator_key
from p2p.network import PeerId

VALIDATORS_MAX: Final = 100
"""Most validators of a network written at once; more is a typing error."""
VALIDATOR_POWER: Final = 10
P2P_PORT, RPC_PORT, METRICS_PORT = 26656, 26657, 26660
PORT_STRIDE: Final = 10
"""Distance between the ports of two nodes on one machine."""
PORT_MAX: Final = 65_535
LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """Where a node listens.

    Attributes
    ----------
    host : str
        The IP address that others reach it under.
    p2p_port, rpc_port, metrics_port : int
    """

    host: str
    p2p_port: int = P2P_PORT
    rpc_port: int = RPC_PORT
    metrics_port: int = METRICS_PORT

    @property
    def rpc_url(self) -> str:
        """Where the RPC is, seen from the node's own machine."""
        return f"http://{LOOPBACK}:{self.rpc_port}"

    def get_p2p_address(self, peer_id: PeerId) -> str:
        """Return the address other nodes dial."""
        return f"{_make_multiaddress(self.host, self.p2p_port)}/p2p/{peer_id}"


@dataclass(frozen=True, slots=True)
class WrittenNode:
    """A node whose home folder has been written."""

    home: Home
    moniker: str
    address: NodeAddress
    peer_id: PeerId
    validator_address: str

    @property
    def p2p_address(self) -> str:
        """The address other nodes dial."""
        return self.address.get_p2p_address(self.peer_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPlan:
    """A network to write.

    Attributes
    ----------
    chain_id : str
    addresses : sequence of NodeAddress
        One per validator.
    config : Config
        What all nodes share; names and addresses are filled in.
    parameters : ConsensusParameters
    accounts : sequence of GenesisAccount
        Coins that exist from the start.
    bucket_count : int
        Buckets of the state's tree.
    """

    chain_id: str
    addresses: Sequence[NodeAddress]
    config: Config = field(default_factory=Config)
    parameters: ConsensusParameters = field(default_factory=ConsensusParameters)
    accounts: Sequence[GenesisAccount] = ()
    bucket_count: int = BUCKET_COUNT_DEFAULT


def plan_one_machine(count: int, starting_port: int = P2P_PORT) -> list[NodeAddress]:
    """Return the addresses of `count` nodes on this machine, `PORT_STRIDE` ports apart.

    Raises
    ------
    HomeError
        If there are too many nodes, or too few ports.
    """
    _check_count(count)
    last = starting_port + (count - 1) * PORT_STRIDE + METRICS_PORT - P2P_PORT
    if not 1 <= starting_port <= last <= PORT_MAX:
        raise HomeError(
            f"{count} nodes from port {starting_port} on would need ports up to {last}: choose a "
            f"starting port so that all lie within 1 and {PORT_MAX}."
        )
    return [
        NodeAddress(LOOPBACK, port, port + RPC_PORT - P2P_PORT, port + METRICS_PORT - P2P_PORT)
        for port in range(starting_port, last + 1, PORT_STRIDE)
    ]


def write_network(folder: Path, plan: NetworkPlan) -> list[WrittenNode]:
    """Write the home folders node0, node1 and so on of a new network's validators.

    Raises
    ------
    HomeError
        If there is something in the folder already, or it cannot be written.
    """
    _check_count(len(plan.addresses))
    folder = folder.expanduser().absolute()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise HomeError(f"{folder} is there already and not empty: choose another folder.")
    homes = [Home(folder / f"node{i}") for i in range(len(plan.addresses))]
    node_keys = [make_node_key() for _ in homes]
    validator_keys = [PrivateKey.generate() for _ in homes]
    names = [f"node{i}" for i in range(len(homes))]
    genesis = make_genesis(plan, list(zip(names, validator_keys, strict=True)))
    dialed = [
        address.get_p2p_address(key.peer_id)
        for address, key in zip(plan.addresses, node_keys, strict=True)
    ]
    written = []
    for i, home in enumerate(homes):
        config = _fill_in(plan, i, names[i], [d for j, d in enumerate(dialed) if j != i])
        write_home(home, config, node_keys[i], validator_keys[i], genesis)
        written.append(
            WrittenNode(
                home,
                names[i],
                plan.addresses[i],
                node_keys[i].peer_id,
                validator_keys[i].address.hex(),
            )
        )
    return written


def make_genesis(plan: NetworkPlan, validators: Sequence[tuple[str, PrivateKey]]) -> Genesis:
    """Return the genesis document of an open chain without fees that begins now."""
    return Genesis(
        chain_id=check_chain_id(plan.chain_id),
        genesis_time_ms=time.time_ns() // 1_000_000,
        admission=Admission.OPEN,
        validators=tuple(
            GenesisValidator(name, key.public_key, VALIDATOR_POWER) for name, key in validators
        ),
        accounts=tuple(plan.accounts),
        parameters=plan.parameters,
        bucket_count=plan.bucket_count,
    )


def write_home(
    home: Home,
    config: Config,
    node_key: NodeKey,
    validator_key: PrivateKey | None,
    genesis: Genesis | None,
) -> None:
    """Write everything a node needs before its first start.

    Raises
    ------
    HomeError
        If there is a home folder already, which is kept, or it cannot be written.
    KeyFileError, ConfigError
        If a file cannot be written.
    """
    if home.config_file.exists() or home.node_key_file.exists():
        raise HomeError(
            f"{home.folder} is the home folder of a node already, and it is kept: choose another "
            "one with --home."
        )
    home.create()
    write_node_key(home.node_key_file, node_key)
    if validator_key is not None:
        write_validator_key(home.validator_key_file, validator_key)
    if genesis is not None:
        home.write_genesis(genesis)
    # Last, so that a home folder with settings is a whole one.
    write_config(home, config)


def check_chain_id(chain_id: str) -> str:
    """Return a chain id that can be one.

    Raises
    ------
    HomeError
        If it cannot.
    """
    is_plain = chain_id.isascii() and all(c.isalnum() or c in "_.-" for c in chain_id)
    if not is_plain or not 1 <= len(chain_id) <= CHAIN_ID_BYTES_MAX:
        raise HomeError(
            f"A chain id has 1 to {CHAIN_ID_BYTES_MAX} letters, digits and _ . - but is "
            f"{chain_id[:80]!r}: choose another."
        )
    return chain_id


def _check_count(count: int) -> None:
    if not 1 <= count <= VALIDATORS_MAX:
        raise HomeError(f"A network has 1 to {VALIDATORS_MAX} validators here, not {count}.")


def set_addresses(config: Config, address: NodeAddress) -> Config:
    """Return settings of a node that listens at an address."""
    is_local = address.host == LOOPBACK
    everywhere = "::" if ":" in address.host else "0.0.0.0"  # noqa: S104 - nodes meet there.
    listen = _make_multiaddress(address.host if is_local else everywhere, address.p2p_port)
    external = "" if is_local else _make_multiaddress(address.host, address.p2p_port)
    return replace(
        config,
        rpc=replace(config.rpc, listen=f"{LOOPBACK}:{address.rpc_port}"),
        p2p=replace(config.p2p, listen=listen, external_address=external),
        instrumentation=replace(
            config.instrumentation, metrics_listen=f"{LOOPBACK}:{address.metrics_port}"
        ),
    )


def _fill_in(plan: NetworkPlan, index: int, moniker: str, others: list[str]) -> Config:
    """Return the shared settings with a node's own names and addresses."""
    config = set_addresses(plan.config, plan.addresses[index])
    p2p = replace(config.p2p, persistent_peers=tuple(others))
    return replace(config, moniker=moniker, p2p=p2p)


def _make_multiaddress(host: str, port: int) -> str:
    return f"/{'ip6' if ':' in host else 'ip4'}/{host}/tcp/{port}"
