"""Frames: how messages follow each other on a stream.

Owns the framing (length of 4 bytes, kind of 1 byte, body), the bodies of this package's own frames
and their limits. Never looks into a body of the node.

Bodies of fixed shape are packed by `struct`; the handshake and exchanged addresses are canonical
MessagePack.
"""

import struct
from enum import IntEnum
from typing import Annotated, Final

import msgspec
from quorate.chain.codec import decode, encode
from quorate.chain.errors import DecodeError

from p2p.address import ADDRESS_CHARS_MAX
from p2p.network import FRAME_BYTES_MAX, REFUSAL_BYTES_MAX, NetworkError, Priority

HELLO_BYTES_MAX: Final = 1024
"""Longest body of a handshake, in bytes."""

ADDRESSES_TOLD_MAX: Final = 32
"""Addresses in one frame of peer exchange."""

ADDRESSES_BYTES_MAX: Final = 16 * 1024
"""Longest body of a frame of addresses, in bytes."""

_HEADER: Final = struct.Struct(">IB")
_LENGTH: Final = struct.Struct(">I")
_NONCE: Final = struct.Struct(">Q")
_REQUEST: Final = struct.Struct(">II")

REQUEST_HEADER_BYTES: Final = _REQUEST.size
ANSWER_HEADER_BYTES: Final = _LENGTH.size
HEARTBEAT_HEADER_BYTES: Final = _NONCE.size


class Kind(IntEnum):
    """What a frame is. Messages of the node have kinds from `MESSAGE` on, plus the priority."""

    HELLO = 1
    REFUSED = 2
    GOODBYE = 3
    HEARTBEAT = 4
    ECHO = 5
    ASK_ADDRESSES = 6
    ADDRESSES = 7
    REQUEST = 8
    ANSWER = 9
    REFUSAL = 10
    TOO_LARGE = 11
    MESSAGE = 16


class FrameError(NetworkError):
    """A frame of the peer is malformed or over its limit: the peer's fault."""


class Hello(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The first frame of either side of a link.

    Attributes
    ----------
    frames_version
        `p2p.network.PROTOCOL_VERSION` of the sender.
    chain_id, genesis_hash, protocol_version
        As in `p2p.network.NetworkConfig`.
    instance
        16 random bytes of the sender's run: another value means that it has restarted.
    listen
        Multiaddress under which the sender can be dialed; ``""`` if it cannot.
    """

    frames_version: Annotated[int, msgspec.Meta(ge=0, lt=2**16)]
    chain_id: Annotated[str, msgspec.Meta(max_length=50)]
    genesis_hash: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    protocol_version: Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
    instance: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    listen: Annotated[str, msgspec.Meta(max_length=ADDRESS_CHARS_MAX)]


_AddressText = Annotated[str, msgspec.Meta(max_length=ADDRESS_CHARS_MAX)]


class Addresses(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Multiaddresses of other peers."""

    addresses: Annotated[tuple[_AddressText, ...], msgspec.Meta(max_length=ADDRESSES_TOLD_MAX)]


def build_frame(kind: int, *body: bytes) -> bytes:
    """Put a frame together; the parts of its body are joined.

    Raises
    ------
    ValueError
        If the frame is over `FRAME_BYTES_MAX`.
    """
    length = 1 + sum(map(len, body))
    if length + _LENGTH.size > FRAME_BYTES_MAX:
        raise ValueError(f"a frame has at most {FRAME_BYTES_MAX} bytes")
    return b"".join((_HEADER.pack(length, kind), *body))


def build_message(priority: Priority, body: bytes) -> bytes:
    """Put the frame of a message of the node together."""
    return build_frame(Kind.MESSAGE + priority, body)


def build_hello(hello: Hello) -> bytes:
    """Put the frame of a handshake together."""
    return build_frame(Kind.HELLO, encode(hello))


def build_text(kind: Kind, text: str, *before: bytes) -> bytes:
    """Put a frame together that ends with a sentence, cut at `REFUSAL_BYTES_MAX` bytes."""
    raw = text.encode("utf-8", "replace")[:REFUSAL_BYTES_MAX]
    return build_frame(kind, *before, raw)


def build_heartbeat(nonce: int, status: bytes) -> bytes:
    """Put a heartbeat together."""
    return build_frame(Kind.HEARTBEAT, _NONCE.pack(nonce), status)


def build_echo(nonce: int) -> bytes:
    """Put the answer to a heartbeat together."""
    return build_frame(Kind.ECHO, _NONCE.pack(nonce))


def build_addresses(addresses: tuple[str, ...]) -> bytes:
    """Put a frame of addresses together, at most `ADDRESSES_TOLD_MAX`."""
    return build_frame(Kind.ADDRESSES, encode(Addresses(addresses[:ADDRESSES_TOLD_MAX])))


def build_request(request_id: int, response_bytes_max: int, body: bytes) -> bytes:
    """Put a request together."""
    return build_frame(Kind.REQUEST, _REQUEST.pack(request_id, response_bytes_max), body)


def build_answer(request_id: int, body: bytes) -> bytes:
    """Put an answer together."""
    return build_frame(Kind.ANSWER, _LENGTH.pack(request_id), body)


def build_refusal(request_id: int, reason: str) -> bytes:
    """Put the refusal of a request together."""
    return build_text(Kind.REFUSAL, reason, _LENGTH.pack(request_id))


def build_too_large(request_id: int) -> bytes:
    """Put the notice together that an answer is over the limit that the request gave."""
    return build_frame(Kind.TOO_LARGE, _LENGTH.pack(request_id))


def read_hello(body: bytes) -> Hello:
    """Read the body of a handshake.

    Raises
    ------
    FrameError
        If it is malformed.
    """
    try:
        return decode(Hello, body, HELLO_BYTES_MAX)
    except DecodeError as error:
        raise FrameError(f"malformed handshake: {error}") from error


def read_addresses(body: bytes) -> tuple[str, ...]:
    """Read the body of a frame of addresses.

    Raises
    ------
    FrameError
        If it is malformed.
    """
    try:
        return decode(Addresses, body, ADDRESSES_BYTES_MAX).addresses
    except DecodeError as error:
        raise FrameError(f"malformed addresses: {error}") from error


def read_text(body: bytes) -> str:
    """Read a sentence of the peer, made harmless for logs."""
    text = body[:REFUSAL_BYTES_MAX].decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "?" for char in text)


def read_nonce(body: bytes) -> int:
    """Read the number that a heartbeat or an echo begins with.

    Raises
    ------
    FrameError
        If the body is too short.
    """
    if len(body) < _NONCE.size:
        raise FrameError("a heartbeat is too short")
    nonce: int = _NONCE.unpack_from(body)[0]
    return nonce


def read_request(body: bytes) -> tuple[int, int]:
    """Read id and ``response_bytes_max`` of a request.

    Raises
    ------
    FrameError
        If the body is too short.
    """
    if len(body) < _REQUEST.size:
        raise FrameError("a request is too short")
    request_id, response_bytes_max = _REQUEST.unpack_from(body)
    return request_id, response_bytes_max


def read_answer_id(body: bytes) -> int:
    """Read the request id that an answer begins with.

    Raises
    ------
    FrameError
        If the body is too short.
    """
    if len(body) < _LENGTH.size:
        raise FrameError("an answer is too short")
    request_id: int = _LENGTH.unpack_from(body)[0]
    return request_id


class FrameReader:
    """Cuts arriving bytes into frames; holds at most one unfinished frame and one read.

    Attributes
    ----------
    frame_bytes_max
        Longest frame accepted, length field included.
    """

    __slots__ = ("_buffer", "frame_bytes_max")

    def __init__(self, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        self.frame_bytes_max = frame_bytes_max
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> list[tuple[int, bytes]]:
        """Take bytes that arrived; give the kind and body of every frame now complete.

        Raises
        ------
        FrameError
            If a frame is empty or over `frame_bytes_max`.
        """
        buffer = self._buffer
        if buffer:
            buffer += chunk
            with memoryview(buffer) as view:
                frames, end = self._cut(view)
            del buffer[:end]
        else:
            frames, end = self._cut(memoryview(chunk))
            if end < len(chunk):
                buffer += memoryview(chunk)[end:]
        return frames

    def _cut(self, view: memoryview) -> tuple[list[tuple[int, bytes]], int]:
        frames: list[tuple[int, bytes]] = []
        position, available = 0, len(view)
        while available - position >= _HEADER.size:
            length, kind = _HEADER.unpack_from(view, position)
            end = position + _LENGTH.size + length
            if length < 1 or end - position > self.frame_bytes_max:
                raise FrameError(f"a frame of {length} bytes is none")
            if end > available:
                break
            frames.append((kind, bytes(view[position + _HEADER.size : end])))
            position = end
        return frames, position
