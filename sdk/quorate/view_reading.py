"""Wire types as a node shows them in JSON, read back.

Owns the way from objects with named fields, hexadecimal bytes, enumerations by their names and wide
integers as text to the wire type. Never trusts a value: each has passed the bounds of its type.
"""

from collections.abc import Mapping
from typing import TypeVar

from msgspec import Struct
from msgspec.inspect import (
    BytesType,
    EnumType,
    IntType,
    NoneType,
    StructType,
    Type,
    UnionType,
    VarTupleType,
)

from quorate.chain.codec import decode, encode
from quorate.chain.known_types import get_type_info

S = TypeVar("S", bound=Struct)


def read_view(kind: type[S], plain: object, bytes_max: int) -> S:
    """Return the wire type that an object shows. Fields it lacks have their defaults.

    Parameters
    ----------
    kind : type of Struct
    plain : object
        What a JSON decoder made.
    bytes_max : int
        The most bytes that its canonical encoding may have.

    Raises
    ------
    ValueError, TypeError, KeyError, DecodeError
        If it shows none.
    """
    shown = _read(get_type_info(kind), plain)
    # Out and in again: the codec knows the bounds of every field.
    return decode(kind, encode(shown), bytes_max)


def _read(info: Type, value: object) -> object:
    match info:
        case StructType():
            return _read_struct(info, value)
        case VarTupleType():
            if not isinstance(value, list | tuple):
                raise TypeError(f"not a list: {value!r:.80}")
            return tuple(_read(info.item_type, item) for item in value)
        case EnumType():
            if isinstance(value, str) and not value.isdecimal():
                return info.cls[value.upper()]
            return info.cls(int(value) if isinstance(value, str) else value)
        case BytesType():
            if not isinstance(value, str):
                raise TypeError(f"not hexadecimal: {value!r:.80}")
            return bytes.fromhex(value)
        case IntType():
            return int(value) if isinstance(value, str) else value
        case UnionType():
            if value is None:
                return None
            (other,) = (each for each in info.types if not isinstance(each, NoneType))
            return _read(other, value)
        case _:
            return value


def _read_struct(info: StructType, value: object) -> object:
    if not isinstance(value, Mapping):
        raise TypeError(f"not an object: {value!r:.80}")
    return info.cls(
        **{
            field.name: _read(field.type, value[field.name])
            for field in info.fields
            if field.required or field.name in value
        }
    )
