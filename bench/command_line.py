"""What the benchmarks' command lines have in common: their arguments, their progress, their end.

Owns the checks of arguments, the lines on standard error, the JSON file, and what follows from an
error or an interruption. Never measures.
"""

import argparse
import json
import math
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Final

from quorate.chain.errors import QuorateError

SECONDS_MAX: Final = 86_400.0
"""Nothing is measured for more than a day."""
FAILED: Final = 1
INTERRUPTED: Final = 130


class _HelpFormatter(argparse.HelpFormatter):
    """Tells the defaults of options that have one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        match action.default:
            case None | False | argparse.SUPPRESS:
                return action.help
            case list() | tuple():
                shown = " ".join(map(str, action.default))
                return f"{action.help} (default: {shown})"
            case _:
                return f"{action.help} (default: %(default)s)"


def make_parser(module: str, description: str) -> argparse.ArgumentParser:
    """Return the parser of a benchmark, whose help tells the defaults.

    Parameters
    ----------
    module : str
        Its name behind `python -m`.
    description : str
        The first line of its docstring.
    """
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=_HelpFormatter,
        # An option that is cut short today may be another one tomorrow.
        allow_abbrev=False,
    )


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Let the figures be written to a file, too."""
    parser.add_argument(
        "--json",
        type=parse_file,
        metavar="FILE",
        help="also write the figures to this file, as JSON",
    )


def whole_number(minimum: int, maximum: int) -> Callable[[str], int]:
    """Return the parser of an option that takes a whole number within bounds, both included."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = minimum - 1
        if not minimum <= number <= maximum:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a whole number from {minimum:,} to {maximum:,}."
            )
        return number

    return parse


def positive_number(maximum: float) -> Callable[[str], float]:
    """Return the parser of an option that takes a number above zero, and `maximum` at most."""

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not 0 < number <= maximum:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a number above 0 and up to {maximum:,.10g}."
            )
        return number

    return parse


def parse_file(text: str) -> Path:
    """Return the path of a file to be written; that it cannot be is told before the measurement."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder.")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"The folder of {text!r} does not exist.")
    return path


def parse_folder(text: str) -> Path:
    """Return the path of a folder that exists."""
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is no folder.")
    return path


def report(what: str) -> None:
    """Tell on standard error what is being done."""
    print(f"bench: {what}", file=sys.stderr, flush=True)


def write_json(path: Path | None, document: Mapping[str, object]) -> None:
    """Write a document to a file, if there is one to write to."""
    if path is not None:
        path.write_text(json.dumps(document, indent=2) + "\n")


def run(
    work: Callable[[], int | None],
    *,
    left: str = "the nodes have been stopped",
    is_trio: bool = False,
) -> int:
    """Do the work of a benchmark, and return its exit code.

    Parameters
    ----------
    work : callable
        It measures, prints, and writes; None is success. What it opens it closes by itself, also
        when it is interrupted: by Ctrl-C, or by SIGTERM, which is made the same.
    left : str
        What an interruption leaves, told after "Interrupted;".
    is_trio : bool
        Whether the work is mostly done in trio, which has its own way with Ctrl-C.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        # One that is ignored stays so: a shell has it ignored by what it runs in the background.
        if handler is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    if is_trio and before[signal.SIGINT] is not signal.SIG_IGN:
        # It sees to it that its own code is not interrupted, where nobody else sees to Ctrl-C.
        signal.signal(signal.SIGINT, before[signal.SIGINT])
        signal.signal(signal.SIGTERM, lambda _signal, _frame: signal.raise_signal(signal.SIGINT))
    try:
        return _unwrap(work) or 0
    except (QuorateError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"Interrupted; {left}.", file=sys.stderr)
        return INTERRUPTED
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _unwrap(work: Callable[[], int | None]) -> int | None:
    """Do the work; what ended it comes out of the groups that a nursery makes of errors."""
    try:
        return work()
    except BaseExceptionGroup as group:
        for kinds in (KeyboardInterrupt, (QuorateError, OSError)):
            error: BaseException | None = group.subgroup(kinds)
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            if error is not None:
                raise error from group
        raise


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    # A second one shall not end the stopping of processes and the removal of folders.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt
