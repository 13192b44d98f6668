"""``keys``: the accounts' keys on this machine.

Owns adding, listing, showing, exporting and importing. Never sends a key anywhere, and never
prints a seed but into the file that ``export`` is asked for.
"""

from pathlib import Path
from typing import Annotated, Final

import typer
from quorate.chain.keys import PrivateKey
from quorate.key_file import load_key, save_key

from node.commands.keyring import Keyring, KeyringError
from node.commands.printing import Value, confirm
from node.commands.settings import (
    KEYRING_DEFAULT,
    KeyringOption,
    OutputOption,
    YesOption,
    get_printer,
    is_assured,
)

app = typer.Typer(no_args_is_help=True, help="Keep the keys that accounts sign with.")

FOLDER_DEFAULT: Final = Path(KEYRING_DEFAULT)
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The key's name.")]


@app.command()
def add(
    context: typer.Context,
    name: NameArgument,
    keyring: KeyringOption = FOLDER_DEFAULT,
    output: OutputOption = None,
) -> None:
    """Make a new key."""
    key, ring = PrivateKey.generate(), Keyring(keyring)
    path = ring.save(name, key)
    get_printer(context, output).print_record({**_describe(name, key), "file": str(path)})


@app.command(name="list")
def list_keys(
    context: typer.Context, keyring: KeyringOption = FOLDER_DEFAULT, output: OutputOption = None
) -> None:
    """List the keys."""
    printer = get_printer(context, output)
    rows = []
    for name, key in Keyring(keyring).iterate():
        if isinstance(key, PrivateKey):
            rows.append(_describe(name, key))
        else:
            printer.note(str(key))
    printer.print_table("keys", rows)


@app.command()
def show(
    context: typer.Context,
    name: NameArgument,
    keyring: KeyringOption = FOLDER_DEFAULT,
    output: OutputOption = None,
) -> None:
    """Show a key's address and public key."""
    key = Keyring(keyring).load(name)
    get_printer(context, output).print_record(_describe(name, key))


@app.command()
def export(
    context: typer.Context,
    name: NameArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that is not there yet.")],
    *,
    keyring: KeyringOption = FOLDER_DEFAULT,
    output: OutputOption = None,
    yes: YesOption = False,
) -> None:
    """Copy a key, secret and all, to a file.

    Only its owner can read the file.
    """
    key = Keyring(keyring).load(name)
    confirm(
        f"Whoever reads {file} can act as {name!r}. Write it?", is_assured=is_assured(context, yes)
    )
    save_key(file.expanduser(), key)
    get_printer(context, output).print_record({**_describe(name, key), "file": str(file)})


@app.command(name="import")
def import_key(
    context: typer.Context,
    name: NameArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A key file of an account.")],
    keyring: KeyringOption = FOLDER_DEFAULT,
    output: OutputOption = None,
) -> None:
    """Copy a key from a file into the keyring."""
    ring, source = Keyring(keyring), file.expanduser()
    if not source.exists():
        raise KeyringError(
            f"There is no file {source}: name one that `quorate keys export` wrote, or make a new "
            f"key with `quorate keys add {name}`."
        )
    key = load_key(source)
    path = ring.save(name, key)
    get_printer(context, output).print_record({**_describe(name, key), "file": str(path)})


def _describe(name: str, key: PrivateKey) -> dict[str, Value]:
    return {"name": name, "address": key.address, "public_key": key.public_key}
