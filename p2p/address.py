"""Multiaddresses as this network knows them: a host, a TCP port, and who should answer there.

Owns reading and writing of ``/ip4/127.0.0.1/tcp/26656/p2p/<id>``. Never resolves a name.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from p2p.identity import is_peer_id
from p2p.network import PeerId

ADDRESS_CHARS_MAX: Final = 384
"""Longest multiaddress, in characters."""

_HOST_KINDS: Final = ("ip4", "ip6", "dns", "dns4", "dns6")
_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Address:
    """A multiaddress, taken apart.

    Attributes
    ----------
    host_kind
        ``ip4``, ``ip6``, ``dns``, ``dns4`` or ``dns6``.
    host
        IP address or name.
    port
        TCP port; 0 only in a listen address.
    peer_id
        Who should answer; None in a listen address.
    """

    host_kind: str
    host: str
    port: int
    peer_id: PeerId | None

    @property
    def location(self) -> str:
        """The multiaddress without ``/p2p/<id>``."""
        return f"/{self.host_kind}/{self.host}/tcp/{self.port}"

    def __str__(self) -> str:
        return self.location if self.peer_id is None else f"{self.location}/p2p/{self.peer_id}"


def parse_address(text: str) -> Address:
    """Read a multiaddress.

    Raises
    ------
    ValueError
        If `text` is none, with a sentence that says what is wrong.
    """
    parts = text.split("/")
    if len(text) > ADDRESS_CHARS_MAX or len(parts) not in {5, 7} or parts[0] or parts[3] != "tcp":
        raise ValueError(f"{text[:80]!r} is no address like /ip4/127.0.0.1/tcp/26656/p2p/<id>")
    host_kind, host, port = parts[1], parts[2], parts[4]
    if not _is_host(host_kind, host):
        raise ValueError(f"{text!r}: {host!r} is no host of kind {host_kind!r}")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 2**16):
        raise ValueError(f"{text!r}: {port!r} is no TCP port")
    peer_id = None
    if len(parts) == 7:
        if parts[5] != "p2p" or not is_peer_id(parts[6]):
            raise ValueError(f"{text!r} does not end with /p2p/<peer id>")
        peer_id = PeerId(parts[6])
    return Address(host_kind, host, int(port), peer_id)


def parse_peer_address(text: str) -> tuple[PeerId, Address]:
    """Read the multiaddress of a peer: with its id and a port above 0.

    Raises
    ------
    ValueError
        If `text` is none.
    """
    address = parse_address(text)
    if address.peer_id is None:
        raise ValueError(f"{text!r} lacks /p2p/<peer id>: who answers there must be known")
    if address.port == 0:
        raise ValueError(f"{text!r}: port 0 cannot be dialed")
    return address.peer_id, address


def _is_host(kind: str, host: str) -> bool:
    if kind not in _HOST_KINDS:
        return False
    try:
        match kind:
            case "ip4":
                return str(ipaddress.IPv4Address(host)) == host
            case "ip6":
                return ipaddress.IPv6Address(host).scope_id is None
            case _:
                return _NAME.fullmatch(host) is not None
    except ValueError:
        return False
