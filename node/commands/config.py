"""``config show`` and ``config validate``: the settings of a home folder.

Owns how they are shown. Never changes one: the file is the operator's.
"""

from dataclasses import asdict

import typer

from node.commands.settings import HomeOption, OutputOption, get_home, get_printer
from node.config import load_config, render_config
from node.key_files import read_node_key, read_validator_key

app = typer.Typer(no_args_is_help=True, help="Show and check a node's settings.")


@app.command()
def show(context: typer.Context, home: HomeOption = None, output: OutputOption = None) -> None:
    """Print the settings in force.

    The file, its defaults, and the environment's overrides.
    """
    config, printer = load_config(get_home(context, home)), get_printer(context, output)
    if printer.is_json:
        printer.print_record(asdict(config))
    else:
        print(render_config(config), end="")


@app.command()
def validate(context: typer.Context, home: HomeOption = None, output: OutputOption = None) -> None:
    """Check a home without starting the node.

    Settings, keys and genesis, each as `quorate start` would read it.
    """
    folder, printer = get_home(context, home), get_printer(context, output)
    folder.require()
    config = load_config(folder)
    genesis = folder.read_genesis()
    node_key = read_node_key(folder.node_key_file)
    is_validator = folder.validator_key_file.exists()
    key = read_validator_key(folder.validator_key_file) if is_validator else None
    printer.print_record(
        {
            "home": str(folder.folder),
            "moniker": config.moniker,
            "chain_id": genesis.chain_id,
            "genesis_hash": genesis.hash,
            "peer_id": node_key.peer_id,
            "validator": key.address if key is not None else None,
        }
    )
