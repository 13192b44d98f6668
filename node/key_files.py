"""The files that hold a node's secrets: its key on the network and the key it votes with.

Owns their form, and that nobody but their owner can read them. Never logs a seed, never shows one
in an error or a repr, and never signs.

A file is JSON: ``type``, ``peer_id`` or ``address``, ``public_key`` and ``seed``, all in
hexadecimal but the peer id. It is written once, with mode 0600, and refused when its mode lets
others read or write it.
"""

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta, Struct
from quorate.chain.errors import StorageError
from quorate.chain.keys import PrivateKey
from quorate.chain.known_types import decode_json
from quorate.errors import KeyFileError

from p2p.identity import get_peer_id
from p2p.network import PeerId
from store.disk import TEMPORARY_SUFFIX, sync_folder, translated_errors, write_temporary

NODE_KEY_TYPE: Final = "quorate/node-key/1"
VALIDATOR_KEY_TYPE: Final = "quorate/validator-key/1"
KEY_FILE_BYTES_MAX: Final = 4096
"""Longest key file, in bytes."""

_MODE_OF_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO

_HexSeed = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class _NodeKeyFile(Struct, forbid_unknown_fields=True):
    type: str
    peer_id: str
    public_key: str
    seed: _HexSeed


class _ValidatorKeyFile(Struct, forbid_unknown_fields=True):
    type: str
    address: str
    public_key: str
    seed: _HexSeed


KeyFile = TypeVar("KeyFile", _NodeKeyFile, _ValidatorKeyFile)


@dataclass(frozen=True, slots=True)
class NodeKey:
    """Who a node is on the network.

    Attributes
    ----------
    peer_id : PeerId
        The name that follows from the key.
    seed : bytes, 32
        The secret; left out of the repr.
    """

    peer_id: PeerId
    seed: bytes = field(repr=False)


def make_node_key() -> NodeKey:
    """Return a new key from the operating system's randomness."""
    seed = PrivateKey.generate().seed
    return NodeKey(get_peer_id(seed), seed)


def write_node_key(path: Path, key: NodeKey) -> None:
    """Write a node key to a new file.

    Raises
    ------
    KeyFileError
        If there is a file already, which is kept, or none can be written.
    """
    public_key = PrivateKey(key.seed).public_key.hex()
    _write(path, _NodeKeyFile(NODE_KEY_TYPE, key.peer_id, public_key, key.seed.hex()))


def read_node_key(path: Path) -> NodeKey:
    """Return the node key of a file.

    Raises
    ------
    KeyFileError
        If it is missing, is readable by others, or is no consistent node key.
    """
    content = _read(path, _NodeKeyFile, NODE_KEY_TYPE)
    key = NodeKey(get_peer_id(bytes.fromhex(content.seed)), bytes.fromhex(content.seed))
    public_key = PrivateKey(key.seed).public_key.hex()
    if (content.peer_id, content.public_key) != (key.peer_id, public_key):
        raise _contradictory(path)
    return key


def write_validator_key(path: Path, key: PrivateKey) -> None:
    """Write a validator key to a new file.

    Raises
    ------
    KeyFileError
        If there is a file already, which is kept, or none can be written.
    """
    content = _ValidatorKeyFile(
        VALIDATOR_KEY_TYPE, key.address.hex(), key.public_key.hex(), key.seed.hex()
    )
    _write(path, content)


def read_validator_key(path: Path) -> PrivateKey:
    """Return the validator key of a file.

    Raises
    ------
    KeyFileError
        If it is missing, is readable by others, or is no consistent validator key.
    """
    content = _read(path, _ValidatorKeyFile, VALIDATOR_KEY_TYPE)
    key = PrivateKey(bytes.fromhex(content.seed))
    if (content.address, content.public_key) != (key.address.hex(), key.public_key.hex()):
        raise _contradictory(path)
    return key


def _write(path: Path, content: Struct) -> None:
    raw = msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        with translated_errors(path):
            write_temporary(temporary, raw)
            # A file left by a crash keeps the mode it had; a link, unlike a rename, never
            # replaces a key.
            temporary.chmod(0o600)
            try:
                os.link(temporary, path)
            finally:
                temporary.unlink()
            sync_folder(path.parent)
    except StorageError as error:
        if isinstance(error.__cause__, FileExistsError):
            raise KeyFileError(
                f"There is a key file {path} already, and it is kept: move it away if you want "
                "another key."
            ) from None
        raise KeyFileError(str(error)) from error


def _read(path: Path, kind: type[KeyFile], type_: str) -> KeyFile:
    raw = _read_private(path)
    try:
        content = decode_json(raw, kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # msgspec's own sentence may quote the file, and with it the seed.
        raise KeyFileError(
            f"The key file {path} cannot be used: it is not the JSON of a {type_} file. "
            "Restore it from your backup."
        ) from None
    if content.type != type_:
        raise KeyFileError(
            f"The key file {path} is of the type {content.type[:40]!r}, not {type_!r}: put the "
            "right file there."
        )
    return content


def _read_private(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise KeyFileError(
            f"There is no key file {path}: restore it from your backup, or make a new key with "
            "`quorate init`."
        ) from None
    except OSError as error:
        raise KeyFileError(
            f"The key file {path} cannot be read ({error.strerror}): give the node's user, and "
            "nobody else, the right to."
        ) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise KeyFileError(f"{path} is no regular file: put the key file itself there.")
        if status.st_mode & _MODE_OF_OTHERS:
            raise KeyFileError(
                f"The key file {path} is open to other users (mode "
                f"{stat.S_IMODE(status.st_mode):04o}): run `chmod 600 {path}`, and make a new key "
                "if somebody may have read this one."
            )
        # One read takes a small regular file whole.
        raw = os.read(descriptor, KEY_FILE_BYTES_MAX + 1)
    finally:
        os.close(descriptor)
    if len(raw) > KEY_FILE_BYTES_MAX:
        raise KeyFileError(f"The key file {path} is too long to be one: restore your backup.")
    return raw


def _contradictory(path: Path) -> KeyFileError:
    return KeyFileError(
        f"The key file {path} contradicts itself (its seed belongs to another public key): "
        "restore it from your backup."
    )
