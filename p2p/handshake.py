"""The handshake of a link: whether both sides are of one chain and want each other.

Owns the first frames of a link and the rule for two links between the same two peers. Never keeps
a link.
"""

from typing import Final

import trio

from p2p.frames import (
    HELLO_BYTES_MAX,
    FrameError,
    Hello,
    Kind,
    build_hello,
    build_text,
    read_hello,
    read_text,
)
from p2p.network import PROTOCOL_VERSION, NetworkConfig, NetworkError, PeerId
from p2p.wire import Wire, WireClosed

HANDSHAKE_S: Final = 5.0
"""Seconds that a peer has for its part of the handshake."""

REASON_DUPLICATE: Final = "another link is in use"
"""Reason of a refusal that is no failure: both sides have dialed, one link stays."""


class HandshakeRefused(NetworkError):  # noqa: N818 - it reads as what happened.
    """The peer does not want the link, or we do not want the peer; the message says why."""


async def send_hello(wire: Wire, hello: Hello) -> None:
    """Send our side of the handshake.

    Raises
    ------
    WireClosed
        If the stream is broken.
    """
    await wire.write(build_hello(hello))


async def send_refusal(wire: Wire, reason: str) -> None:
    """Tell the peer why there is no link.

    Raises
    ------
    WireClosed
        If the stream is broken.
    """
    await wire.write(build_text(Kind.REFUSED, reason))


async def receive_hello(wire: Wire) -> Hello:
    """Receive the other side of the handshake, and not a byte more.

    Raises
    ------
    HandshakeRefused
        If the peer refuses.
    FrameError
        If the frame is malformed or too long.
    WireClosed
        If the stream ends.
    TooSlowError
        If the peer takes more than `HANDSHAKE_S`.
    """
    with trio.fail_after(HANDSHAKE_S):
        header = await read_exactly(wire, 5)
        length, kind = int.from_bytes(header[:4], "big"), header[4]
        if not 1 <= length <= HELLO_BYTES_MAX:
            raise FrameError(f"a handshake of {length} bytes is none")
        body = await read_exactly(wire, length - 1)
    if kind == Kind.REFUSED:
        raise HandshakeRefused(read_text(body))
    if kind != Kind.HELLO:
        raise FrameError(f"a link begins with a handshake, not with a frame of kind {kind}")
    return read_hello(body)


async def read_exactly(wire: Wire, n_bytes: int) -> bytes:
    """Read `n_bytes`, in however many pieces they arrive.

    Raises
    ------
    WireClosed
        If the stream ends before.
    """
    parts = []
    while n_bytes > 0:
        part = await wire.read(n_bytes)
        if not part:
            raise WireClosed("the stream ended in the middle of a frame")
        parts.append(part)
        n_bytes -= len(part)
    return b"".join(parts)


def get_mismatch(config: NetworkConfig, hello: Hello) -> str | None:
    """Say why the sender of `hello` cannot be linked with; None when it can."""
    if hello.frames_version != PROTOCOL_VERSION:
        return f"network version {hello.frames_version}, expected {PROTOCOL_VERSION}"
    if hello.chain_id != config.chain_id:
        return f"chain {hello.chain_id!r}, expected {config.chain_id!r}"
    if hello.genesis_hash != config.genesis_hash:
        theirs, ours = hello.genesis_hash.hex()[:16], config.genesis_hash.hex()[:16]
        return f"genesis {theirs}.., expected {ours}.."
    if hello.protocol_version != config.protocol_version:
        return f"protocol version {hello.protocol_version}, expected {config.protocol_version}"
    return None


def is_preferred(
    *,
    opener: PeerId,
    instance: bytes,
    other_opener: PeerId,
    other_instance: bytes,
) -> bool:
    """Tell whether a new link between two peers replaces the other link they have.

    Both ends decide by what both know: who opened each link, and whether the peer has restarted
    since. The link that the lower peer id opened stays; of two by the same opener, the newer one,
    since its opener must have lost the older.
    """
    return instance != other_instance or opener <= other_opener
