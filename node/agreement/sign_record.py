"""The last-signed record: what a validator has signed last, and its file.

Owns the record's form and the reading of its file, which `store.slotted_file` makes whole at every
moment; files of an older form, one record as text, are read as well. Never signs anything.
"""

from enum import IntEnum
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct
from quorate.chain.ids import Uint64, WireRound
from quorate.chain.known_types import decode_json

from node.errors import SignRecordError
from store.slotted_file import FILE_BYTES, RECORD_BYTES_MAX, SlottedRecord, decode_slotted

RECORD_VERSION: Final = 2
SIGN_BYTES_MAX: Final = 4096
"""Longest bytes to sign; a proposal needs some 200."""

_OLD_FORM: Final = b"{"
"""How a file begins that has one record, as text; it is written anew when the signer opens it."""


class SignStep(IntEnum):
    """What a validator signs in a round, in the order in which it does."""

    NOTHING = 0
    PROPOSAL = 1
    PREVOTE = 2
    PRECOMMIT = 3


_HexSignBytes = Annotated[str, Meta(max_length=2 * SIGN_BYTES_MAX, pattern=r"^([0-9a-f]{2})*\Z")]


class SignRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """The last thing signed; byte strings in hexadecimal, all fields under `checksum`.

    `lock` has the sign-bytes of the last precommit for a block at this height, or nothing.
    """

    version: Annotated[int, Meta(ge=RECORD_VERSION, le=RECORD_VERSION)]
    chain_id: str
    address: str
    height: Uint64
    round: WireRound
    step: SignStep
    sign_bytes: _HexSignBytes
    signature: Annotated[str, Meta(pattern=r"^([0-9a-f]{128})?\Z")]
    lock: _HexSignBytes
    checksum: str = ""

    @property
    def position(self) -> tuple[int, int, int]:
        """What the rules compare."""
        return self.height, self.round, self.step

    def compute_checksum(self) -> str:
        """Return the SHA-256 of all other fields: a changed record must not pass for a true one."""
        return sha256(msgspec.json.encode(msgspec.structs.replace(self, checksum=""))).hexdigest()


class _Versioned(Struct, frozen=True):
    """What every version of the record has."""

    version: int


def read_sign_record(path: Path) -> SignRecord | None:
    """Return the last-signed record of a file, or None when there is none.

    Raises
    ------
    SignRecordError
        If it cannot be read or is damaged.
    """
    found = read_record_file(path)
    return None if found is None else decode_record(path, found.data)


def read_record_file(path: Path) -> SlottedRecord | None:
    """Return the newest record of a file, or None without a file; number 0 in the old form.

    Raises
    ------
    SignRecordError
        If it cannot be read, or has no record.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SignRecordError(
            f"The last-signed record {path} cannot be read ({error.strerror}): give the node's "
            "user the right to."
        ) from error
    if raw.startswith(_OLD_FORM):
        return SlottedRecord(0, raw)
    found = decode_slotted(raw)
    if found is None:
        raise make_damage_error(path)
    return found


def decode_record(path: Path, raw: bytes) -> SignRecord:
    """Return the record that `raw` encodes; `path` is for the sentence.

    Raises
    ------
    SignRecordError
        If it is damaged, or of another version.
    """
    try:
        record = decode_json(raw, SignRecord)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _require_version(path, raw)
        raise make_damage_error(path) from error
    if len(raw) > RECORD_BYTES_MAX or record.checksum != record.compute_checksum():
        raise make_damage_error(path)
    return record


def _require_version(path: Path, raw: bytes) -> None:
    """Raise if a record was whole once, but written by another version of this program."""
    try:
        version = decode_json(raw, _Versioned).version
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    if version != RECORD_VERSION:
        raise SignRecordError(
            f"The last-signed record {path} has version {version}, and this program understands "
            f"version {RECORD_VERSION}: start the node with the version that wrote it."
        )


def make_damage_error(path: Path) -> SignRecordError:
    """Return the error about a damaged record, with the way out."""
    return SignRecordError(
        f"The last-signed record {path} is damaged: restore it from a backup made after the "
        "validator's last vote, or keep this validator stopped and let the others remove it; "
        "signing without the record could be signing twice."
    )
