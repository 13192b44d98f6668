"""``inspect``, ``doctor``, ``backup``, ``rollback``, ``replay``, the resets: for a stopped node.

Owns the questions before what cannot be undone, and what is shown of the result. Never does the
work: `node.maintenance` does.
"""

import time
from pathlib import Path
from typing import Annotated, Final

import typer

from node.commands.printing import Printer, Value, confirm
from node.commands.settings import (
    HomeOption,
    OutputOption,
    YesOption,
    get_home,
    get_printer,
    is_assured,
)
from node.home import Home

PROGRESS_SECONDS: Final = 2.0

# The work needs the whole node, which takes a second to import: each command does so by itself.
# ruff: noqa: PLC0415


def inspect(context: typer.Context, home: HomeOption = None, output: OutputOption = None) -> None:
    """Show what a stopped node has stored.

    Heights, log, payloads, pending transactions, last-signed record. Nothing is changed.
    """
    from node.maintenance.inspection import find_problems
    from node.maintenance.inspection import inspect as look

    summary = look(get_home(context, home))
    get_printer(context, output).print_record(summary)
    if find_problems(summary):
        raise typer.Exit(1)


def doctor(context: typer.Context, home: HomeOption = None, output: OutputOption = None) -> None:
    """Check a node, and say what is wrong with it.

    Home, settings, keys, data, clock, disk, limits, ports, peers. Exit code 1 if something is
    wrong.
    """
    from node.maintenance.doctor import diagnose
    from node.maintenance.findings import Level

    findings = diagnose(get_home(context, home))
    rows: list[dict[str, Value]] = [
        {"check": each.check, "result": str(each.level), "detail": each.detail} for each in findings
    ]
    get_printer(context, output).print_table("checks", rows)
    if any(each.level is Level.WRONG for each in findings):
        raise typer.Exit(1)


def backup(
    context: typer.Context,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A new folder; best on another disk.")
    ],
    *,
    with_keys: Annotated[
        bool,
        typer.Option("--with-keys", help="Copy the node's and the validator's secret keys, too."),
    ] = False,
    with_sign_record: Annotated[
        bool,
        typer.Option(
            "--with-sign-record",
            help="Copy the last-signed record, too: to move a validator that will not run here "
            "again. An older record than the newest one lets a validator sign twice.",
        ),
    ] = False,
    home: HomeOption = None,
    output: OutputOption = None,
) -> None:
    """Copy a stopped node's home.

    Settings, genesis and data; without keys and last-signed record unless asked for.
    """
    from node.maintenance.backups import back_up

    printer = get_printer(context, output)
    made = back_up(
        get_home(context, home), folder, with_keys=with_keys, with_sign_record=with_sign_record
    )
    printer.print_record(
        {
            "folder": str(made.folder),
            "height": made.height,
            "files": made.files,
            "bytes": made.bytes,
            "has_keys": made.has_keys,
            "has_sign_record": made.has_sign_record,
        }
    )
    if made.has_sign_record:
        printer.note(
            "The copy has the last-signed record as it is now: start the validator from one of "
            "the two homes only, and never from this copy once the other has voted again."
        )


def rollback(
    context: typer.Context,
    *,
    drop_block: Annotated[
        bool,
        typer.Option(
            "--drop-block",
            help="Drop the block, too, and fetch it from a peer. Without a peer it is lost.",
        ),
    ] = False,
    home: HomeOption = None,
    output: OutputOption = None,
    yes: YesOption = False,
) -> None:
    """Go back to the state before the last block.

    The node executes that block again when it starts. The last-signed record stays as it is.
    """
    from node.maintenance.going_back import go_back

    folder = get_home(context, home)
    folder.require()
    confirm(
        f"Take back the last block of {folder.folder}?" + " It is dropped." * drop_block,
        is_assured=is_assured(context, yes),
    )
    done = go_back(folder, drop_block=drop_block)
    get_printer(context, output).print_record(
        {
            "height_before": done.height_before,
            "height": done.height,
            "state_root": done.state_root,
            "is_block_kept": done.is_block_kept,
        }
    )


def replay(
    context: typer.Context,
    *,
    from_height: Annotated[
        int | None,
        typer.Option(
            "--from-height",
            min=1,
            help="The first block to execute, one of the last 16.  [default: the chain's first]",
            show_default=False,
        ),
    ] = None,
    home: HomeOption = None,
    output: OutputOption = None,
) -> None:
    """Execute the stored blocks again and compare.

    On a scratch state: what the node has stored is not changed.
    """
    from node.maintenance.replay import replay as execute

    printer = get_printer(context, output)
    done = execute(get_home(context, home), from_height, _Progress(printer))
    printer.print_record(
        {
            "first": done.first,
            "last": done.last,
            "is_equal": True,
            "state_root": done.state_root,
            "model_root": done.model_root,
        }
    )


def reset_state(
    context: typer.Context,
    home: HomeOption = None,
    output: OutputOption = None,
    yes: YesOption = False,
) -> None:
    """Drop blocks and state.

    Also log, payloads and pending transactions. Keys, settings and the last-signed record stay; the
    node fetches the chain from its peers again.
    """
    from node.maintenance.resets import reset_state as reset

    folder = get_home(context, home)
    folder.require()
    _confirm_loss(folder, "the blocks, state, payloads and pending transactions", context, yes)
    dropped = reset(folder)
    _print_dropped(get_printer(context, output), dropped.paths, dropped.is_sign_record_kept)


def unsafe_reset_all(
    context: typer.Context,
    *,
    drop_sign_record: Annotated[
        bool,
        typer.Option(
            "--drop-sign-record",
            help="Drop the last-signed record, too. Only for a chain that is begun anew by all: "
            "on any other, the validator may sign twice.",
        ),
    ] = False,
    home: HomeOption = None,
    output: OutputOption = None,
    yes: YesOption = False,
) -> None:
    """Drop all data of a node.

    Everything in its data folder; keys, settings and the last-signed record stay.
    """
    from node.maintenance.resets import reset_all

    folder = get_home(context, home)
    folder.require()
    what = "all data" + ", and the last-signed record," * drop_sign_record
    _confirm_loss(folder, what, context, yes)
    dropped = reset_all(folder, drop_sign_record=drop_sign_record)
    _print_dropped(get_printer(context, output), dropped.paths, dropped.is_sign_record_kept)


def _confirm_loss(folder: Home, what: str, context: typer.Context, yes: bool) -> None:
    confirm(
        f"Drop {what} of {folder.folder}? What no peer has is lost.",
        is_assured=is_assured(context, yes),
    )


def _print_dropped(printer: Printer, paths: tuple[Path, ...], is_sign_record_kept: bool) -> None:
    printer.print_record(
        {
            "dropped": [str(path) for path in paths],
            "is_sign_record_kept": is_sign_record_kept,
        }
    )


class _Progress:
    """A line on standard error now and then, for who waits."""

    def __init__(self, printer: Printer) -> None:
        self._printer = printer
        self._told_at = time.monotonic()

    def __call__(self, height: int, last: int) -> None:
        if time.monotonic() - self._told_at >= PROGRESS_SECONDS:
            self._told_at = time.monotonic()
            self._printer.note(f"Block {height} of {last}.")
