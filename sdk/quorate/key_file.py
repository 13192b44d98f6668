"""Key files of accounts: the key a participant signs with, readable by its owner alone.

Owns their form and their mode. Never logs a seed or puts one into an error, and never sends one
anywhere: a node gets signatures, not keys.

A file is JSON: ``type``, ``address``, ``public_key`` and ``seed``, in hexadecimal. It is written
once, with mode 0600, and refused when its mode lets others read or write it.
"""

import os
import stat
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from quorate.chain.keys import PrivateKey
from quorate.chain.known_types import decode_json
from quorate.errors import KeyFileError

ACCOUNT_KEY_TYPE: Final = "quorate/account-key/1"
KEY_FILE_BYTES_MAX: Final = 4096

_MODE_OF_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class _AccountKeyFile(Struct, forbid_unknown_fields=True):
    type: str
    address: str
    public_key: str
    seed: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


def save_key(path: str | os.PathLike[str], key: PrivateKey) -> None:
    """Write a key to a new file with mode 0600.

    Raises
    ------
    KeyFileError
        If there is a file already, which is kept, or none can be written.
    """
    content = _AccountKeyFile(
        ACCOUNT_KEY_TYPE, key.address.hex(), key.public_key.hex(), key.seed.hex()
    )
    raw = msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise KeyFileError(
            f"There is a key file {path} already, and it is kept: choose another name."
        ) from None
    except OSError as error:
        raise KeyFileError(
            f"The key file {path} cannot be written ({error.strerror}): choose another place."
        ) from error


def load_key(path: str | os.PathLike[str]) -> PrivateKey:
    """Return the key of a file.

    Raises
    ------
    KeyFileError
        If it is missing, is open to other users, or is no sound key file.

    Examples
    --------
    >>> from quorate import load_or_create_key
    >>> key = load_or_create_key("hospital.key")  # doctest: +SKIP
    """
    try:
        with Path(path).open("rb") as file:
            status = os.fstat(file.fileno())
            raw = file.read(KEY_FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise KeyFileError(
            f"There is no key file {path}: restore it, or make a new key with `load_or_create_key`."
        ) from None
    except OSError as error:
        raise KeyFileError(f"The key file {path} cannot be read ({error.strerror}).") from error
    if status.st_mode & _MODE_OF_OTHERS:
        raise KeyFileError(
            f"The key file {path} is open to other users (mode "
            f"{stat.S_IMODE(status.st_mode):04o}): run `chmod 600 {path}`, and make a new key if "
            "somebody may have read this one."
        )
    try:
        if len(raw) > KEY_FILE_BYTES_MAX:
            raise ValueError("too long")
        content = decode_json(raw, _AccountKeyFile)
    except (ValueError, RecursionError):
        # The error's own sentence may quote the file, and with it the seed.
        raise KeyFileError(
            f"The key file {path} cannot be used: it is not the JSON of a key file. Restore it "
            "from your backup."
        ) from None
    if content.type != ACCOUNT_KEY_TYPE:
        raise KeyFileError(
            f"The key file {path} is of the type {content.type[:40]!r}, not "
            f"{ACCOUNT_KEY_TYPE!r}: choose the file of an account's key."
        )
    key = PrivateKey(bytes.fromhex(content.seed))
    if (content.address, content.public_key) != (key.address.hex(), key.public_key.hex()):
        raise KeyFileError(
            f"The key file {path} contradicts itself (its seed belongs to another key): restore "
            "it from your backup."
        )
    return key


def load_or_create_key(path: str | os.PathLike[str]) -> PrivateKey:
    """Return the key of a file, making a new key and the file if there is none.

    Raises
    ------
    KeyFileError
        If there is a file that cannot be used, or none can be written.
    """
    if not Path(path).exists():
        save_key(path, PrivateKey.generate())
    return load_key(path)
