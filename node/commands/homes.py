"""``init``, ``join``, ``show-node-id``, ``show-validator``: a node's home folder.

Owns writing one home and showing what is in it. Never starts a node.
"""

import secrets
from pathlib import Path
from typing import Annotated, Final

import typer
from quorate.chain.errors import DecodeError
from quorate.chain.genesis import GENESIS_BYTES_MAX, Genesis, decode_genesis
from quorate.chain.keys import PrivateKey

from node.commands.printing import Printer, confirm
from node.commands.settings import (
    HomeOption,
    OutputOption,
    YesOption,
    get_home,
    get_printer,
    is_assured,
    open_client,
)
from node.config import Config, P2pSection, load_config
from node.errors import ConfigError, GenesisError
from node.home import Home
from node.key_files import make_node_key, read_node_key, read_validator_key
from node.testnet import NetworkPlan, NodeAddress, make_genesis, write_home
from p2p.address import parse_peer_address

MONIKER_DEFAULT: Final = "quorate-node"
_CHAIN_ID_BYTES: Final = 3

MonikerOption = Annotated[str, typer.Option("--moniker", help="A name for people.")]


def init(
    context: typer.Context,
    *,
    validator: Annotated[
        bool,
        typer.Option(
            "--validator/--full",
            help="A validator that founds a chain of its own, or a node that only follows one.",
        ),
    ] = True,
    chain_id: Annotated[
        str | None,
        typer.Option("--chain-id", help="Name of the new chain.  [default: a random one]"),
    ] = None,
    moniker: MonikerOption = MONIKER_DEFAULT,
    home: HomeOption = None,
    output: OutputOption = None,
) -> None:
    """Write a new home folder.

    It gets keys and settings, and for a validator the genesis of a new chain.
    """
    folder, printer = get_home(context, home), get_printer(context, output)
    if not validator and chain_id is not None:
        raise typer.BadParameter("--chain-id is for a validator that founds a chain")
    genesis, validator_key = None, None
    if validator:
        validator_key = PrivateKey.generate()
        name = chain_id or f"quorate-{secrets.token_hex(_CHAIN_ID_BYTES)}"
        plan = NetworkPlan(chain_id=name, addresses=(NodeAddress("127.0.0.1"),))
        genesis = make_genesis(plan, [(_make_validator_name(moniker), validator_key)])
    node_key = make_node_key()
    write_home(folder, Config(moniker=moniker), node_key, validator_key, genesis)
    printer.print_record(
        {
            "home": str(folder.folder),
            "moniker": moniker,
            "peer_id": node_key.peer_id,
            "validator": validator_key.address if validator_key is not None else None,
            "chain_id": genesis.chain_id if genesis is not None else None,
            "genesis_hash": genesis.hash if genesis is not None else None,
        }
    )
    if genesis is None:
        printer.note(
            f"Copy the chain's genesis file to {folder.genesis_file} and add persistent_peers to "
            f"{folder.config_file}; `quorate join` does both in one step."
        )


def join(
    context: typer.Context,
    genesis: Annotated[
        str,
        typer.Option(
            "--genesis",
            metavar="FILE|URL",
            help="The chain's genesis document: a file, or the RPC of a node to ask for it.",
        ),
    ],
    peer: Annotated[
        list[str],
        typer.Option(
            "--peer",
            metavar="ADDRESS",
            help="A node of the network: /ip4/<address>/tcp/<port>/p2p/<peer id>; repeatable.",
        ),
    ],
    *,
    genesis_hash: Annotated[
        str | None,
        typer.Option(
            "--genesis-hash", metavar="HEX", help="Go on only if the document has this hash."
        ),
    ] = None,
    moniker: MonikerOption = MONIKER_DEFAULT,
    home: HomeOption = None,
    output: OutputOption = None,
    yes: YesOption = False,
) -> None:
    """Write a home that joins a running network.

    The new node follows the chain from its genesis on; `quorate start` starts it.
    """
    folder, printer = get_home(context, home), get_printer(context, output)
    for address in peer:
        _check_peer(address)
    is_remote = "://" in genesis
    document = _fetch_genesis(genesis) if is_remote else _read_genesis(Path(genesis).expanduser())
    found = document.hash.hex()
    if genesis_hash is not None:
        if genesis_hash.strip().lower() != found:
            raise GenesisError(
                f"The genesis document from {genesis} has the hash {found}, not the expected "
                f"{genesis_hash}: ask the chain's parties which one is right."
            )
    elif is_remote:
        printer.note(
            f"The genesis document that {genesis} serves is of chain {document.chain_id} and has "
            f"the hash {found}. Compare it with what the chain's parties say."
        )
        confirm("Do you trust this genesis document?", is_assured=is_assured(context, yes))
    config = Config(moniker=moniker, p2p=P2pSection(persistent_peers=tuple(peer)))
    node_key = make_node_key()
    write_home(folder, config, node_key, None, document)
    printer.print_record(
        {
            "home": str(folder.folder),
            "moniker": moniker,
            "peer_id": node_key.peer_id,
            "chain_id": document.chain_id,
            "genesis_hash": document.hash,
            "peers": peer,
        }
    )


def show_node_id(
    context: typer.Context, home: HomeOption = None, output: OutputOption = None
) -> None:
    """Print the node's peer id.

    Other nodes name it by that.
    """
    folder, printer = get_home(context, home), get_printer(context, output)
    folder.require()
    key = read_node_key(folder.node_key_file)
    if printer.is_json:
        listen = load_config(folder).p2p.listen
        printer.print_record({"peer_id": key.peer_id, "listen": f"{listen}/p2p/{key.peer_id}"})
    else:
        print(key.peer_id)


def show_validator(
    context: typer.Context, home: HomeOption = None, output: OutputOption = None
) -> None:
    """Print the key that the node votes with."""
    folder = get_home(context, home)
    folder.require()
    key = read_validator_key(folder.validator_key_file)
    _print_validator(get_printer(context, output), folder, key)


def _print_validator(printer: Printer, home: Home, key: PrivateKey) -> None:
    power = None
    if home.genesis_file.exists():
        validators = home.read_genesis().validators
        power = next((v.power for v in validators if v.public_key == key.public_key), None)
    printer.print_record(
        {"address": key.address, "public_key": key.public_key, "genesis_power": power}
    )


def _make_validator_name(moniker: str) -> str:
    """Return a moniker in the characters that a name on the chain may have."""
    name = "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "-" for c in moniker)
    return name[:64] or MONIKER_DEFAULT


def _check_peer(address: str) -> None:
    try:
        parse_peer_address(address)
    except ValueError as error:
        raise ConfigError(
            f"--peer {address!r} cannot be used ({error}): it looks like "
            "/ip4/192.0.2.1/tcp/26656/p2p/<peer id>, and `quorate status` of that node shows it."
        ) from error


def _read_genesis(path: Path) -> Genesis:
    try:
        with path.open("rb") as file:
            raw = file.read(GENESIS_BYTES_MAX + 1)
    except OSError as error:
        raise GenesisError(
            f"The genesis file {path} cannot be read ({error.strerror}): name the file that the "
            "chain's parties agreed on, or the RPC of one of their nodes."
        ) from error
    try:
        return decode_genesis(raw)
    except DecodeError as error:
        raise GenesisError(f"The file {path} is no genesis document: {error}.") from error


def _fetch_genesis(url: str) -> Genesis:
    with open_client(url.rstrip("/").removesuffix("/genesis")) as client:
        return client.genesis()
