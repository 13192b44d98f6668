"""The options that commands share.

Owns their names, help and defaults, and how an option after a command overrides the same one
before it. Never does anything with them.
"""

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import typer
from quorate.client import Client

from node.commands.printing import Printer
from node.home import HOME_VARIABLE, Home

NODE_VARIABLE: Final = "QUORATE_NODE"
KEYRING_VARIABLE: Final = "QUORATE_KEYRING"
NODE_URL_DEFAULT: Final = "http://127.0.0.1:26657"
KEYRING_DEFAULT: Final = "~/.quorate-keys"
RETRIES: Final = 1


class Format(StrEnum):
    """How data is printed."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Settings:
    """The shared options, as given before the command."""

    home: Path | None = None
    node: str | None = None
    output: Format | None = None
    yes: bool = False


HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home",
        metavar="DIR",
        help=f"Home folder of the node.  [env: {HOME_VARIABLE}; default: ~/.quorate]",
        show_default=False,
    ),
]
NodeOption = Annotated[
    str | None,
    typer.Option(
        "--node",
        metavar="URL",
        help=f"RPC of a running node.  [env: {NODE_VARIABLE}; default: {NODE_URL_DEFAULT}]",
        show_default=False,
    ),
]
OutputOption = Annotated[
    Format | None,
    typer.Option("--output", help="How data is printed.  [default: text]", show_default=False),
]
YesOption = Annotated[
    bool, typer.Option("--yes", "-y", help="Answer every question with yes.", show_default=False)
]
KeyringOption = Annotated[
    Path,
    typer.Option(
        "--keyring",
        metavar="DIR",
        help="Folder of the accounts' keys; never a node's home.",
        envvar=KEYRING_VARIABLE,
    ),
]
KeyOption = Annotated[
    str, typer.Option("--key", metavar="NAME", help="The key to sign with, from `quorate keys`.")
]
WaitOption = Annotated[
    bool,
    typer.Option(
        "--wait/--no-wait", help="Wait until the transaction is decided, or return when accepted."
    ),
]


def set_shared_options(
    context: typer.Context,
    home: HomeOption = None,
    node: NodeOption = None,
    output: OutputOption = None,
    yes: YesOption = False,
) -> None:
    """Train models among parties that do not trust each other, with no server.

    Data goes to standard output, everything else to standard error. Exit codes: 0 done; 1 refused
    or failed; 2 wrong usage; 3 the node does not answer; 4 the download is not what the chain
    confirms; 130 interrupted.
    """
    context.obj = Settings(home, node, output, yes)


def get_home(context: typer.Context, home: Path | None) -> Home:
    """Return the home folder that an option, the environment or the default names."""
    chosen = home or _get_settings(context).home
    return Home(chosen) if chosen is not None else Home.find()


def get_node_url(context: typer.Context, node: str | None) -> str:
    """Return the address of the node's RPC that an option, the environment or the default names."""
    # The environment is asked last, here: as a default of the option after the command it would
    # override the one before it.
    named = node or _get_settings(context).node or os.environ.get(NODE_VARIABLE)
    return normalize_url(named or NODE_URL_DEFAULT)


def open_client(url: str) -> Client:
    """Return a client of a node; somebody waits at the terminal, so it gives up soon."""
    return Client(normalize_url(url), retries=RETRIES)


def get_printer(context: typer.Context, output: Format | None) -> Printer:
    """Return where a command prints to."""
    return Printer(is_json=(output or _get_settings(context).output) is Format.JSON)


def is_assured(context: typer.Context, yes: bool) -> bool:
    """Tell whether every question is answered with yes."""
    return yes or _get_settings(context).yes


def normalize_url(url: str) -> str:
    """Return a node's address as a URL; ``host:port`` alone will do.

    Raises
    ------
    typer.BadParameter
        If it is the address of something else.
    """
    full = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(full)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # A port that is none, or brackets that do not match.
        is_address = False
    if not is_address:
        raise typer.BadParameter(
            f"{url!r} is no address of a node's RPC: it looks like {NODE_URL_DEFAULT}."
        )
    return full.rstrip("/")


def _get_settings(context: typer.Context) -> Settings:
    found = context.find_object(Settings)
    return found if found is not None else Settings()
