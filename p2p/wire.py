"""A stream of bytes to one peer, as links and requests see it.

Owns the interface between them and py-libp2p, so that they run over any stream. Never buffers.
"""

from typing import Protocol

from p2p.network import NetworkError, PeerId


class WireClosed(NetworkError):  # noqa: N818 - it reads as what happened.
    """The stream, or the connection under it, has ended."""


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
