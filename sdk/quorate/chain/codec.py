"""Canonical MessagePack: one value, one byte string.

Owns encoding and decoding of every wire and stored type: arrays, integers, byte strings, text,
booleans and nil; no maps, no floats, no extensions. Decoding refuses whatever does not encode
back to the same bytes (non-minimal integers, trailing elements, unknown tags) and whatever is
longer than its limit. Never knows what a message means.

The types are msgspec structs (`array_like=True, frozen=True, forbid_unknown_fields=True`), which
bound every integer and length. The bytes are written by msgpack and read by msgspec, straight
into the type: memory is taken for what fits the type and has arrived, never for what a length in
the message claims.
"""

from typing import TypeVar, cast

import msgpack
import msgspec

from quorate.chain.errors import DecodeError
from quorate.chain.known_types import learn_type

T = TypeVar("T")

_BUILTIN = (bytes,)


def encode(value: object) -> bytes:
    """Return the canonical bytes of a wire type.

    Parameters
    ----------
    value : msgspec.Struct, or a sequence, integer, bytes, str, bool or None
        What to encode.

    Returns
    -------
    bytes
        MessagePack.
    """
    builtins = msgspec.to_builtins(value, builtin_types=_BUILTIN, enc_hook=_encode_subclass)
    packed: bytes = msgpack.packb(builtins, use_bin_type=True)
    return packed


def _encode_subclass(value: object) -> bytes:
    """Write bytes of a subclass, such as those that print as hexadecimal, as the bytes they are."""
    if isinstance(value, bytes):
        return bytes(value)
    raise TypeError(f"{type(value).__name__} has no encoding")


def decode(kind: type[T], raw: bytes, bytes_max: int) -> T:
    """Return the value whose canonical encoding is `raw`.

    Parameters
    ----------
    kind : type
        The expected type, or a union of tagged structs.
    raw : bytes
        The bytes as received.
    bytes_max : int
        The most bytes this message may have.

    Raises
    ------
    DecodeError
        If `raw` is too long, is no MessagePack, does not fit the type and its bounds, or is not
        the canonical encoding of the value it decodes to.
    """
    if len(raw) > bytes_max:
        raise DecodeError(f"message of {len(raw)} bytes exceeds its limit of {bytes_max}")
    try:
        value = learn_type(kind).decode(raw)
        again = encode(value)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        # msgspec's errors are ValueErrors, and so is text that is not UTF-8.
        raise DecodeError(f"not a valid message: {error}") from error
    if again != raw:
        raise DecodeError("not the canonical encoding of its value")
    return cast("T", value)
