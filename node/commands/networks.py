"""``testnet``, ``localnet``, ``start``: networks written, and nodes run.

Owns what the commands ask and show. Never knows how a home is written or a process started:
`node.testnet`, `node.localnet` and `node.process` do.
"""

import ipaddress
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from quorate.rpc_types import Status
from rich.console import Console
from rich.live import Live
from rich.table import Table

from node.commands.settings import (
    NODE_VARIABLE,
    HomeOption,
    OutputOption,
    get_home,
    get_printer,
)
from node.config_examples import LOCALNET
from node.localnet import Localnet, find_free_addresses
from node.process import run_node
from node.testnet import (
    P2P_PORT,
    NetworkPlan,
    NodeAddress,
    WrittenNode,
    plan_one_machine,
    write_network,
)

CHAIN_ID_DEFAULT: Final = "testnet"

REFRESH_SECONDS: Final = 1.0

ValidatorsOption = Annotated[
    int, typer.Option("--validators", "-n", min=1, max=100, help="How many validators.")
]
ChainIdOption = Annotated[str, typer.Option("--chain-id", help="Name of the new chain.")]


def start(
    context: typer.Context,
    *,
    accept_missing_sign_record: Annotated[
        bool,
        typer.Option(
            "--accept-missing-sign-record",
            help="Start a validator whose record of what it signed last is missing, or older than "
            "its votes. Only if nobody else has its key, and the votes are long past: with any "
            "other it may sign twice.",
        ),
    ] = False,
    home: HomeOption = None,
) -> None:
    """Run the node.

    Until Ctrl-C or SIGTERM; its log goes to standard error.
    """
    run_node(get_home(context, home), accept_missing_sign_record=accept_missing_sign_record)


def write_testnet(
    context: typer.Context,
    folder: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where the homes are written.")
    ],
    validators: ValidatorsOption = 4,
    chain_id: ChainIdOption = CHAIN_ID_DEFAULT,
    host: Annotated[
        list[str] | None,
        typer.Option(
            "--host",
            metavar="IP",
            help="Address of a validator's machine; once for each.  [default: all on this one]",
        ),
    ] = None,
    starting_port: Annotated[
        int,
        typer.Option(
            "--starting-port", min=1, help="First port on this machine; each node has ten."
        ),
    ] = P2P_PORT,
) -> None:
    """Write the homes of a new network.

    One for each of its validators, on this machine or on others.
    """
    addresses = _plan_addresses(validators, host or [], starting_port)
    nodes = write_network(folder, NetworkPlan(chain_id=chain_id, addresses=addresses))
    printer = get_printer(context, None)
    printer.print_table("nodes", _list_nodes(nodes))
    if host:
        printer.note("Copy each folder to its machine, and run there: quorate start --home FOLDER")
    else:
        first = nodes[0].home.folder
        printer.note(f"Start each in a terminal of its own: quorate start --home {first}")


def localnet(
    context: typer.Context,
    *,
    validators: ValidatorsOption = 4,
    chain_id: ChainIdOption = "localnet",
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder",
            metavar="DIR",
            help="Where the homes go.  [default: a temporary folder]",
        ),
    ] = None,
    starting_port: Annotated[
        int | None,
        typer.Option(
            "--starting-port", min=1, help="First port; each node has ten.  [default: free ones]"
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0, help="Stop after as long; 0: at Ctrl-C.")
    ] = 0.0,
    output: OutputOption = None,
) -> None:
    """Run a new network on this machine.

    Writes the homes of its validators, starts all, and shows how they do until Ctrl-C.
    """
    printer = get_printer(context, output)
    if starting_port is None:
        addresses = find_free_addresses(validators)
    else:
        addresses = plan_one_machine(validators, starting_port)
    target = folder or Path(tempfile.mkdtemp(prefix="quorate-localnet-"))
    plan = NetworkPlan(chain_id=chain_id, addresses=addresses, config=LOCALNET)
    nodes = write_network(target, plan)
    printer.note(f"{len(nodes)} nodes in {target}; Ctrl-C stops them.")
    with Localnet(nodes) as running:
        running.start()
        try:
            running.wait_until_ready()
            printer.print_table("nodes", _list_nodes(nodes))
            printer.note(f"In another terminal: export {NODE_VARIABLE}={nodes[0].address.rpc_url}")
            _watch(running, seconds)
        except KeyboardInterrupt:
            printer.note("Stopping.")


def _watch(running: Localnet, seconds: float) -> None:
    """Show the nodes' statuses until Ctrl-C, or until the time is over."""
    deadline = time.monotonic() + seconds if seconds else float("inf")
    console = Console(stderr=True)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while time.monotonic() < deadline:
            running.check_running()
            statuses = running.get_statuses()
            if console.is_terminal:
                live.update(_make_table(running.nodes, statuses), refresh=True)
            else:
                print(_describe(statuses), file=sys.stderr)
            time.sleep(min(REFRESH_SECONDS, max(0.0, deadline - time.monotonic())))


def _make_table(nodes: Sequence[WrittenNode], statuses: Sequence[Status | None]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("node", "RPC", "height", "peers", "pending", "state root", "model root"):
        table.add_column(heading)
    for node, status in zip(nodes, statuses, strict=True):
        if status is None:
            table.add_row(node.moniker, node.address.rpc_url, "no answer")
            continue
        table.add_row(
            node.moniker,
            node.address.rpc_url,
            str(status.height),
            str(status.peer_count),
            str(status.mempool.transactions),
            status.state_root.hex()[:16],
            status.model_root.hex()[:16],
        )
    return table


def _describe(statuses: Sequence[Status | None]) -> str:
    heights = ["-" if status is None else str(status.height) for status in statuses]
    return f"heights {' '.join(heights)}"


def _plan_addresses(count: int, hosts: Sequence[str], starting_port: int) -> list[NodeAddress]:
    if not hosts:
        return plan_one_machine(count, starting_port)
    if len(hosts) != count:
        raise typer.BadParameter(f"there are {count} validators and {len(hosts)} --host addresses")
    for each in hosts:
        try:
            ipaddress.ip_address(each)
        except ValueError:
            raise typer.BadParameter(f"--host {each!r} is no IP address") from None
    return [NodeAddress(each) for each in hosts]


def _list_nodes(nodes: Sequence[WrittenNode]) -> list[dict[str, str]]:
    return [
        {
            "moniker": node.moniker,
            "home": str(node.home.folder),
            "rpc": node.address.rpc_url,
            "p2p": node.p2p_address,
            "validator": node.validator_address,
        }
        for node in nodes
    ]
