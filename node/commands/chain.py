"""``status`` and ``version``: what runs, and where it stands.

Owns how a node's status is shown. Never changes anything.
"""

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as get_installed_version

import typer

from node.commands.settings import NodeOption, OutputOption, get_node_url, get_printer, open_client


def status(context: typer.Context, node: NodeOption = None, output: OutputOption = None) -> None:
    """Show how a running node does.

    Who it is, what it has decided, and how many peers it is linked to.
    """
    url = get_node_url(context, node)
    with open_client(url) as client:
        found = client.status()
    get_printer(context, output).print_record(
        {
            "node": url,
            "moniker": found.moniker,
            "version": found.version,
            "chain_id": found.chain_id,
            "genesis_hash": found.genesis_hash,
            "peer_id": found.peer_id,
            "listen_addresses": list(found.listen_addresses),
            "validator": (
                None
                if found.validator is None
                else {"address": found.validator.address, "power": found.validator.power}
            ),
            "height": found.height,
            "earliest_height": found.earliest_height,
            "block_time_ms": found.block_time_ms,
            "block_hash": found.block_hash,
            "state_root": found.state_root,
            "model_root": found.model_root,
            "is_catching_up": found.catching_up,
            "peers": found.peer_count,
            "pending_transactions": found.mempool.transactions,
            "pending_bytes": found.mempool.bytes,
            "consensus": {
                "height": found.consensus.height,
                "round": found.consensus.round,
                "step": found.consensus.step,
            },
        }
    )


def version(context: typer.Context, output: OutputOption = None) -> None:
    """Print the versions of Quorate and Python."""
    get_printer(context, output).print_record(
        {
            "quorate": _get_own_version(),
            "python": platform.python_version(),
        }
    )


def _get_own_version() -> str:
    try:
        return get_installed_version("quorate-node")
    except PackageNotFoundError:
        # Run from its folder, without being installed.
        return "unpackaged"
