"""How wire types look in JSON: field names, hexadecimal bytes, wide integers as text.

Owns the one translation that RPC answers and events share. Never adds or hides a field.
"""

import re
from enum import Enum
from functools import cache
from typing import Final

from msgspec import Struct
from msgspec.inspect import IntType, StructType
from quorate.chain.known_types import get_type_info

JSON_SAFE_INTEGER_MAX: Final = 2**53 - 1
"""Integers whose type reaches beyond this are text: JavaScript would round them."""


def to_view(value: object) -> object:
    """Return what JSON shows for a wire type.

    Structs become objects, bodies of transactions with their name as ``type``; byte strings become
    lowercase hexadecimal, enumerations their lowercase names, and integers that may exceed 2^53
    decimal text.
    """
    match value:
        case Struct():
            return to_object(value)
        case Enum():
            return value.name.lower()
        case bytes() | memoryview():
            return value.hex()
        case tuple() | list():
            return [to_view(item) for item in value]
        case _:
            return value


def to_object(value: Struct) -> dict[str, object]:
    """Return the object that JSON shows for a struct."""
    kind = type(value)
    shown: dict[str, object] = {}
    if kind.__struct_config__.tag is not None:
        shown["type"] = _to_snake_case(kind.__name__)
    wide = _get_wide_fields(kind)
    for name in kind.__struct_fields__:
        field = getattr(value, name)
        shown[name] = str(field) if name in wide and type(field) is int else to_view(field)
    return shown


@cache
def _get_wide_fields(kind: type[Struct]) -> frozenset[str]:
    """Return the integer fields of a struct whose bounds reach beyond 2^53."""
    info = get_type_info(kind)
    if not isinstance(info, StructType):
        return frozenset()
    wide = set()
    for field in info.fields:
        if isinstance(field.type, IntType):
            limit = field.type.le if field.type.le is not None else field.type.lt
            if limit is None or limit > JSON_SAFE_INTEGER_MAX:
                wide.add(field.name)
    return frozenset(wide)


def _to_snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
