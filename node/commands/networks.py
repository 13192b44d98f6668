"""``testnet``, ``localnet``, ``start``: networks written, and nodes run.

Owns what the commands ask and show. Never knows how a home is written or a process started:
`node.testnet`, `node.written_network`, `node.localnet` and `node.process` do; `node.supervision`
decides when a node is started again.
"""

import ipaddress
import shlex
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

from node.commands.printing import Printer
from node.commands.settings import (
    NODE_VARIABLE,
    HomeOption,
    OutputOption,
    get_home,
    get_printer,
)
from node.config_examples import LOCALNET
from node.localnet import Localnet, check_ports, find_free_addresses, hold_folder
from node.process import run_node
from node.supervision import Supervisor
from node.testnet import (
    P2P_PORT,
    NetworkPlan,
    NodeAddress,
    WrittenNode,
    plan_one_machine,
    write_network,
)

VALIDATORS_DEFAULT: Final = 4
CHAIN_ID_DEFAULT: Final = "testnet"
LOCALNET_CHAIN_ID_DEFAULT: Final = "localnet"

REFRESH_SECONDS: Final = 1.0
"""Between two looks at what the nodes say."""
LOOK_SECONDS: Final = 0.1
"""Between two looks at whether they run."""

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
    validators: ValidatorsOption = VALIDATORS_DEFAULT,
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
    validators: Annotated[
        int | None,
        typer.Option(
            "--validators",
            "-n",
            min=1,
            max=100,
            help="How many validators.  [default: 4, or as many as the folder has]",
            show_default=False,
        ),
    ] = None,
    chain_id: Annotated[
        str | None,
        typer.Option(
            "--chain-id",
            help="Name of the chain.  [default: localnet, or the one in the folder]",
            show_default=False,
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder",
            metavar="DIR",
            help="Where the homes go; a network that is there already goes on.  [default: a "
            "temporary folder]",
        ),
    ] = None,
    starting_port: Annotated[
        int | None,
        typer.Option(
            "--starting-port",
            min=1,
            help="First port; each node has ten.  [default: free ones, or those it had]",
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0, help="Stop after as long; 0: at Ctrl-C.")
    ] = 0.0,
    output: OutputOption = None,
) -> None:
    """Run a network on this machine.

    Writes the homes of its validators, or goes on with those in the folder; starts all, and shows
    how they do until Ctrl-C. A node that ends is started again, three times within a minute.
    """
    printer = get_printer(context, output)
    target = (folder or Path(tempfile.mkdtemp(prefix="quorate-localnet-"))).expanduser().absolute()
    with hold_folder(target):
        if any(target.iterdir()):
            nodes = _reopen(printer, target, validators, chain_id, starting_port)
        else:
            nodes = _write(target, validators, chain_id, starting_port)
        printer.note(f"{len(nodes)} nodes in {target}; Ctrl-C stops them.")
        with Localnet(nodes) as running:
            try:
                running.start()
                # What fails here fails for a reason that a restart does not mend.
                running.wait_until_ready()
                printer.print_table("nodes", _list_nodes(nodes))
                variable = f"{NODE_VARIABLE}={nodes[0].address.rpc_url}"
                printer.note(f"In another terminal: export {variable}")
                _watch(running, seconds)
            except KeyboardInterrupt:
                printer.note("Stopping.")
    printer.note(f"To go on with it: quorate localnet --folder {shlex.quote(str(target))}")


def _write(
    folder: Path, count: int | None, chain_id: str | None, starting_port: int | None
) -> list[WrittenNode]:
    count = VALIDATORS_DEFAULT if count is None else count
    if starting_port is None:
        addresses = find_free_addresses(count)
    else:
        addresses = plan_one_machine(count, starting_port)
        check_ports(addresses)
    name = LOCALNET_CHAIN_ID_DEFAULT if chain_id is None else chain_id
    return write_network(folder, NetworkPlan(chain_id=name, addresses=addresses, config=LOCALNET))


def _reopen(
    printer: Printer,
    folder: Path,
    count: int | None,
    chain_id: str | None,
    starting_port: int | None,
) -> list[WrittenNode]:
    # The network stack takes a while to import, and only who comes back needs it.
    from node.written_network import find_network, move_network  # noqa: PLC0415

    found = find_network(folder, count=count, chain_id=chain_id)
    nodes = found.nodes
    if starting_port is None:
        check_ports([node.address for node in nodes])
    else:
        addresses = plan_one_machine(len(nodes), starting_port)
        check_ports(addresses)
        nodes = move_network(nodes, addresses)
    printer.note(f"Going on with the chain {found.chain_id} from height {found.height}.")
    return nodes


def _watch(running: Localnet, seconds: float) -> None:
    """Show the nodes' statuses, and keep them running, until Ctrl-C or until the time is over.

    Raises
    ------
    LocalnetError
        If too few nodes are left to decide anything.
    """
    deadline = time.monotonic() + seconds if seconds else float("inf")
    console = Console(stderr=True)

    def tell(sentence: str) -> None:
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    supervisor = Supervisor(running, tell)
    show_at = 0.0
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while (now := time.monotonic()) < deadline:
            supervisor.look(now)
            if now >= show_at:
                show_at = now + REFRESH_SECONDS
                statuses = running.get_statuses()
                if console.is_terminal:
                    live.update(_make_table(running.nodes, statuses), refresh=True)
                else:
                    print(_describe(statuses), file=sys.stderr)
                supervisor.note_statuses(statuses)
            time.sleep(min(LOOK_SECONDS, max(0.0, deadline - time.monotonic())))


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
