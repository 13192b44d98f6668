"""The kinds of settings: what a value of a setting may be, how it is read and how it is written.

Owns one class per kind, each with its bounds. Never knows the settings themselves, nor where a
value comes from: a value is what a TOML file holds, or the text of an environment variable.
"""

# `Kind.parse` raises ValueError alone, whatever is wrong: one door for every bad setting.
# ruff: noqa: TRY004

import ipaddress
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from node.config.quantities import parse_duration, parse_size, render_duration, render_size
from p2p.address import parse_address, parse_peer_address
from p2p.identity import is_peer_id

T = TypeVar("T")

TEXT_CHARS_MAX: Final = 256
"""Most characters of a text setting."""

LIST_ITEMS_MAX: Final = 1024
"""Most items of a list setting."""


class Kind(Protocol[T]):
    """One kind of setting.

    `parse` and `parse_text` raise ValueError with what the value must be, as the rest of a
    sentence that begins with the name of the setting.
    """

    def parse(self, value: object) -> T:
        """Read a value as it stands in a TOML file."""
        ...

    def parse_text(self, text: str) -> T:
        """Read the text of an environment variable."""
        ...

    def render(self, value: T) -> str:
        """Write the value as TOML."""
        ...


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    def parse(self, value: object) -> bool:
        """Read a TOML boolean."""
        if not isinstance(value, bool):
            raise ValueError(f"must be true or false, not {value!r}")
        return value

    def parse_text(self, text: str) -> bool:
        """Read ``true`` or ``false``."""
        return self.parse({"true": True, "false": False}.get(text.strip().lower(), text))

    def render(self, value: bool) -> str:
        """Write a TOML boolean."""
        return "true" if value else "false"


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number within bounds, both included."""

    minimum: int
    maximum: int

    def parse(self, value: object) -> int:
        """Read a TOML integer."""
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"must be a whole number, not {value!r}")
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"must be between {self.minimum} and {self.maximum}, not {value}")
        return value

    def parse_text(self, text: str) -> int:
        """Read decimal digits."""
        stripped = text.strip().replace("_", "")
        is_number = stripped.lstrip("-").isascii() and stripped.lstrip("-").isdigit()
        return self.parse(int(stripped) if is_number and len(stripped) <= 20 else text)

    def render(self, value: int) -> str:
        """Write a TOML integer."""
        return str(value)


@dataclass(frozen=True, slots=True)
class Duration:
    """A time as text with a unit, kept in milliseconds; bounds in milliseconds, both included."""

    minimum_ms: int
    maximum_ms: int

    def parse(self, value: object) -> int:
        """Read a text such as ``"3s"``."""
        if not isinstance(value, str):
            raise ValueError(f'must be a duration in quotes such as "3s" or "250ms", not {value!r}')
        try:
            duration_ms = parse_duration(value)
        except ValueError as error:
            raise ValueError(f'must be a duration such as "3s" or "250ms": {error}') from error
        if not self.minimum_ms <= duration_ms <= self.maximum_ms:
            raise ValueError(
                f"must be between {render_duration(self.minimum_ms)} and "
                f"{render_duration(self.maximum_ms)}, not {value}"
            )
        return duration_ms

    def parse_text(self, text: str) -> int:
        """Read a text such as ``3s``."""
        return self.parse(text)

    def render(self, value: int) -> str:
        """Write the text in quotes."""
        return json.dumps(render_duration(value))


@dataclass(frozen=True, slots=True)
class Size:
    """A number of bytes, as an integer or as text with a unit; bounds in bytes, both included."""

    minimum: int
    maximum: int

    def parse(self, value: object) -> int:
        """Read a TOML integer, or a text such as ``"8MiB"``."""
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError(f'must be a number of bytes or a size such as "8MiB", not {value!r}')
        try:
            size = value if isinstance(value, int) else parse_size(value)
        except ValueError as error:
            raise ValueError(
                f'must be a number of bytes or a size such as "8MiB": {error}'
            ) from error
        if not self.minimum <= size <= self.maximum:
            raise ValueError(
                f"must be between {render_size(self.minimum)} and {render_size(self.maximum)}, "
                f"not {value}"
            )
        return size

    def parse_text(self, text: str) -> int:
        """Read digits, or a text such as ``8MiB``."""
        stripped = text.strip()
        is_number = stripped.isascii() and stripped.isdigit() and len(stripped) <= 20
        return self.parse(int(stripped) if is_number else stripped)

    def render(self, value: int) -> str:
        """Write the text in quotes."""
        return json.dumps(render_size(value))


@dataclass(frozen=True, slots=True)
class Text:
    """A text that a check accepts; the check raises ValueError with what is wrong.

    Attributes
    ----------
    check
        Called with every text but the empty one.
    is_empty_allowed
        Whether the text may be empty, which then stands for "none".
    """

    check: Callable[[str], None]
    is_empty_allowed: bool = False

    def parse(self, value: object) -> str:
        """Read a TOML string."""
        if not isinstance(value, str):
            raise ValueError(f"must be text in quotes, not {value!r}")
        if len(value) > TEXT_CHARS_MAX or not value.isprintable():
            raise ValueError(f"must be at most {TEXT_CHARS_MAX} printable characters")
        if value:
            self.check(value)
        elif not self.is_empty_allowed:
            raise ValueError("must not be empty")
        return value

    def parse_text(self, text: str) -> str:
        """Take the text."""
        return self.parse(text.strip())

    def render(self, value: str) -> str:
        """Write a TOML string."""
        return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class TextList:
    """A list of texts that a check accepts, none of them twice."""

    check: Callable[[str], None]

    def parse(self, value: object) -> tuple[str, ...]:
        """Read a TOML array of strings."""
        if not isinstance(value, list):
            raise ValueError(f'must be a list such as ["a", "b"], not {value!r}')
        if len(value) > LIST_ITEMS_MAX:
            raise ValueError(f"must have at most {LIST_ITEMS_MAX} items, not {len(value)}")
        item = Text(self.check)
        items = tuple(item.parse(each) for each in value)
        if len(set(items)) != len(items):
            twice = next(each for each in items if items.count(each) > 1)
            raise ValueError(f"must not list {twice!r} twice")
        return items

    def parse_text(self, text: str) -> tuple[str, ...]:
        """Read items between commas."""
        return self.parse([each.strip() for each in text.split(",") if each.strip()])

    def render(self, value: tuple[str, ...]) -> str:
        """Write a TOML array, one item a line when there are several."""
        item = Text(self.check)
        if len(value) < 2:
            return f"[{''.join(item.render(each) for each in value)}]"
        return "[\n" + "".join(f"  {item.render(each)},\n" for each in value) + "]"


class Choice:
    """One of a few words."""

    def __init__(self, *words: str) -> None:
        self.words = words

    def parse(self, value: object) -> str:
        """Read a TOML string."""
        if not isinstance(value, str) or value not in self.words:
            raise ValueError(f"must be one of {', '.join(map(repr, self.words))}, not {value!r}")
        return value

    def parse_text(self, text: str) -> str:
        """Take the word, in any case."""
        return self.parse(text.strip().lower())

    def render(self, value: str) -> str:
        """Write a TOML string."""
        return json.dumps(value)


def check_any(text: str) -> None:
    """Accept every text."""


def check_multiaddress(text: str) -> None:
    """Accept an address to listen on, such as ``/ip4/127.0.0.1/tcp/26656``."""
    if parse_address(text).peer_id is not None:
        raise ValueError(f"{text!r} must not end with /p2p/<peer id>: it is this node's own")


def check_peer_address(text: str) -> None:
    """Accept a peer's address, such as ``/ip4/192.0.2.1/tcp/26656/p2p/12D3...``."""
    parse_peer_address(text)


def check_peer_id(text: str) -> None:
    """Accept a peer id."""
    if not is_peer_id(text):
        raise ValueError(f"{text!r} is no peer id: ask its operator for the output of show-node-id")


def check_host_port(text: str) -> None:
    """Accept a host and a port, such as ``127.0.0.1:26657`` or ``[::1]:0``."""
    parse_host_port(text)


def parse_host_port(text: str) -> tuple[str, int]:
    """Return the IP address and the TCP port of a text such as ``127.0.0.1:26657``.

    Raises
    ------
    ValueError
        If the host is no IP address or ``localhost``, or the port no TCP port.
    """
    host, separator, port = text.rpartition(":")
    is_port = port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 2**16
    if not separator or not is_port:
        raise ValueError(f"{text!r} is no host and port such as 127.0.0.1:26657")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if bare == "localhost":
        return "127.0.0.1", int(port)
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        raise ValueError(f"{text!r}: {bare!r} is no IP address") from None
    if address.version == 6 and bare == host:
        raise ValueError(f"{text!r}: write an IPv6 address in brackets, as in [::1]:26657")
    return bare, int(port)


def check_host_name(text: str) -> None:
    """Accept a name as it stands in a Host header, with or without a port."""
    if not text.isascii() or any(char in text for char in " /?#@\\"):
        raise ValueError(f"{text!r} is no host name such as node.example.org")


def check_origin(text: str) -> None:
    """Accept a web origin: scheme, host and maybe a port."""
    scheme, separator, rest = text.partition("://")
    if scheme not in {"http", "https"} or not separator or not rest:
        raise ValueError(f"{text!r} is no origin such as https://example.org")
    check_host_name(rest)
