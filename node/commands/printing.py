"""What commands print: data on standard output, everything else on standard error.

Owns the two forms of data, text for people and JSON for programs, and questions to the person at
the terminal. Never prints a secret: nobody hands it one.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import msgspec
import typer
from quorate.chain.errors import QuorateError

Value: TypeAlias = "str | int | float | bool | bytes | Sequence[Value] | Mapping[str, Value] | None"


class NotConfirmed(QuorateError):  # noqa: N818 - it says what happened.
    """The person at the terminal said no, or there is nobody to ask."""


class Printer:
    """Where a command prints to.

    Parameters
    ----------
    is_json : bool
        Whether data is printed as JSON: one document, byte strings in hexadecimal, integers as
        numbers.
    """

    def __init__(self, *, is_json: bool = False) -> None:
        self.is_json = is_json

    def print_record(self, record: Mapping[str, Value]) -> None:
        """Print one thing: its properties, a line each."""
        if self.is_json:
            self._print_json(record)
        else:
            self._print_text(_render_record(record))

    def print_table(self, name: str, rows: Sequence[Mapping[str, Value]]) -> None:
        """Print many things of a kind: a line each, under their properties' names.

        Parameters
        ----------
        name : str
            What they are, in the plural; the JSON document has them under this name.
        rows : sequence of mappings
            All with the same keys.
        """
        if self.is_json:
            self._print_json({name: rows})
        elif rows:
            self._print_text(_render_table(rows))
        else:
            self.note(f"No {name}.")

    def print_line(self, text: str) -> None:
        """Print a sentence that is the data itself."""
        self._print_text(text)

    def note(self, text: str) -> None:
        """Tell the person something that is no data."""
        print(text, file=sys.stderr)

    def _print_json(self, value: Value) -> None:
        raw = msgspec.json.format(msgspec.json.encode(_to_plain(value)), indent=2)
        self._print_text(raw.decode())

    def _print_text(self, text: str) -> None:
        print(text, flush=True)


def confirm(question: str, *, is_assured: bool) -> None:
    """Ask the person at the terminal, and go on only with their yes.

    Raises
    ------
    NotConfirmed
        If they say no, or if there is no terminal to ask at.
    """
    if is_assured:
        return
    if not sys.stdin.isatty():
        raise NotConfirmed(f"This needs an answer ({question}): say --yes to go on without asking.")
    if not typer.confirm(question, err=True):
        raise NotConfirmed("Nothing was done.")


def _to_plain(value: Value) -> object:
    match value:
        case bytes():
            return value.hex()
        case Mapping():
            return {key: _to_plain(item) for key, item in value.items()}
        case str():
            return value
        case Sequence():
            return [_to_plain(item) for item in value]
        case _:
            return value


def _render(value: Value) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case bytes():
            return value.hex()
        case str():
            return value
        case Mapping():
            return ", ".join(f"{key} {_render(item)}" for key, item in value.items())
        case Sequence():
            return ", ".join(map(_render, value)) or "-"
        case _:
            return str(value)


def _render_record(record: Mapping[str, Value]) -> str:
    width = max((len(key) for key in record), default=0)
    return "\n".join(
        f"{_name(key):<{width}}  {_render(value)}".rstrip() for key, value in record.items()
    )


def _render_table(rows: Sequence[Mapping[str, Value]]) -> str:
    lines = [[_name(key) for key in rows[0]]]
    lines += [[_render(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _name(key: str) -> str:
    return key.replace("_", " ")
