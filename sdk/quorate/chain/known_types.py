"""The types that msgspec reads into, each learned by one thread at a time.

Owns every call into msgspec that looks at a type. msgspec (0.22) learns a struct at its first use,
and hands a half-learned one to a second thread that asks for the same at that moment, which crashes
the process when it reads with it. It learns when it decodes, converts, makes a decoder and
describes a type alike, so all of these are here, behind one lock; `tests/test_tidy.py` holds the
rest of the program to it. Never decides what a value must be.
"""

from collections.abc import Callable
from threading import Lock
from typing import TypeVar

import msgspec
from msgspec.inspect import Type, type_info

T = TypeVar("T")

# An entry for each type that this program's own code asks for; no message adds any.
_decoders: dict[object, msgspec.msgpack.Decoder[object]] = {}
_infos: dict[object, Type] = {}
_learning = Lock()


def learn_type(kind: object) -> msgspec.msgpack.Decoder[object]:
    """Return the decoder of a type, after which threads may use the type with msgspec freely.

    Parameters
    ----------
    kind : type, or a union or tuple of types
        A type of the code, never one made from what was received.
    """
    decoder = _decoders.get(kind)
    if decoder is None:
        with _learning:
            decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    return decoder


def get_type_info(kind: object) -> Type:
    """Return what msgspec knows of a type: its fields, their types and bounds.

    Parameters
    ----------
    kind : type, or a union or tuple of types
        As for `learn_type`.
    """
    info = _infos.get(kind)
    if info is None:
        with _learning:
            info = _infos[kind] = type_info(kind)
    return info


def convert_plain(
    plain: object,
    kind: type[T],
    *,
    is_strict: bool = True,
    read_other: Callable[[type, object], object] | None = None,
) -> T:
    """Return a value of `kind` made from plain objects, such as a JSON decoder makes.

    Parameters
    ----------
    plain : object
        Byte strings are there as bytes, unless `read_other` makes them.
    kind : type
        As for `learn_type`.
    is_strict : bool
        Whether text never stands for a number.
    read_other : callable, optional
        Makes a value of a type that msgspec does not know.

    Raises
    ------
    ValueError
        `msgspec.ValidationError`, which names the place, if it does not fit the type.
    """
    learn_type(kind)
    return msgspec.convert(
        plain, kind, strict=is_strict, builtin_types=(bytes,), dec_hook=read_other
    )


def decode_json(raw: bytes | str, kind: type[T]) -> T:
    """Return the value of `kind` that a JSON text shows.

    Raises
    ------
    ValueError, RecursionError
        If it is no JSON, or does not fit the type; a text nested too deeply is a RecursionError.
    """
    learn_type(kind)
    return msgspec.json.decode(raw, type=kind)
