"""A stream of bytes to one peer, as links and requests see it.

Owns the interface between them and py-libp2p, so that they run over any stream. Never buffers.
"""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Protocol

from p2p.network import NetworkError, PeerId


class WireClosed(NetworkError):  # noqa: N818 - it reads as what happened.
    """The stream, or the connection under it, has ended."""


class ProtocolUnknown(WireClosed):
    """The peer does not speak the protocol: it is a node of another chain, or of another kind."""


class Wire(Protocol):
    """A stream to an authenticated peer. One task may read while one other task writes."""

    @property
    def peer(self) -> PeerId:
        """Who is at the other end."""
        ...

    @property
    def remote_host(self) -> str:
        """IP address of the other end; ``""`` when unknown."""
        ...

    @property
    def remote_address(self) -> str:
        """Multiaddress of the other end's socket; ``""`` when unknown."""
        ...

    @property
    def connection(self) -> object:
        """The connection under the stream; streams of one connection have the same object."""
        ...

    async def read(self, bytes_max: int) -> bytes:
        """Read what has arrived, at most `bytes_max` bytes; ``b""`` at the end.

        Raises
        ------
        WireClosed
            If the stream is broken.
        """
        ...

    async def write(self, data: bytes) -> None:
        """Write all of `data`. Cancelling it would break the connection: shield it.

        Raises
        ------
        WireClosed
            If the stream is broken.
        """

    async def reset(self) -> None:
        """End this stream alone, at once; never raises."""

    async def force_close(self) -> None:
        """Close the connection under the stream, even while a write is stuck; never raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostOwner:
    """What a host asks of the network it belongs to.

    Attributes
    ----------
    take_stream
        Called with the protocol and the wire of a stream that a peer has opened; returns when the
        stream is done.
    get_objection
        Called with the peer of a new connection; says why it is not welcome.
    is_used
        Called with a connection; tells whether a link lives on it.
    may_forward
        Called for each announcement that a peer forwards.
    take_announcement
        Called with the forwarder and the body of an announcement that is new.
    on_fault
        Called with a sentence when a peer breaks a protocol.
    """

    take_stream: Callable[[str, Wire], Coroutine[object, object, None]]
    get_objection: Callable[[PeerId], str | None]
    is_used: Callable[[object], bool]
    may_forward: Callable[[PeerId], bool]
    take_announcement: Callable[[PeerId, bytes], None]
    on_fault: Callable[[PeerId, str], None]
