"""The signer: votes and proposals of this validator, never two that contradict each other.

Owns the validator key and the last-signed record: height, round, step, sign-bytes and signature,
in a file of its own. The record is checked, and durably replaced, before a signature is given
out. Rollbacks and resets of the node never touch it. Never decides what to vote for.

The rules, for a step of a height and round:

- after the last one (by height, then round, then step: proposal, prevote, precommit): signed;
- the last one itself, with the same bytes: the stored signature again (votes carry no time, so a
  node that repeats itself after a crash says the same);
- the last one itself with other bytes, or any before it: `DoubleSignError`.
"""

from enum import IntEnum
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct
from quorate.chain.errors import InvariantError
from quorate.chain.ids import Height, Round, Signature, Uint64, WireRound
from quorate.chain.keys import Domain, PrivateKey
from quorate.chain.vote import (
    Proposal,
    Vote,
    VoteType,
    compute_proposal_sign_bytes,
    compute_vote_sign_bytes,
)

from consensus.effects import UnsignedProposal, UnsignedVote
from node.errors import DoubleSignError, SignRecordError
from store.disk import replace_file

RECORD_VERSION: Final = 1
RECORD_BYTES_MAX: Final = 16_384
"""Longest last-signed record, in bytes."""

SIGN_BYTES_MAX: Final = 4096
"""Longest bytes to sign; a proposal needs some 200."""


class SignStep(IntEnum):
    """What a validator signs in a round, in the order in which it does."""

    NOTHING = 0
    PROPOSAL = 1
    PREVOTE = 2
    PRECOMMIT = 3


_STEP_OF_VOTE: Final = {
    VoteType.PREVOTE: SignStep.PREVOTE,
    VoteType.PRECOMMIT: SignStep.PRECOMMIT,
}


class SignRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """The last thing signed; byte strings in hexadecimal, all fields under `checksum`."""

    version: Annotated[int, Meta(ge=RECORD_VERSION, le=RECORD_VERSION)]
    chain_id: str
    address: str
    height: Uint64
    round: WireRound
    step: SignStep
    sign_bytes: Annotated[str, Meta(max_length=2 * SIGN_BYTES_MAX, pattern=r"^([0-9a-f]{2})*\Z")]
    signature: Annotated[str, Meta(pattern=r"^([0-9a-f]{128})?\Z")]
    checksum: str = ""

    @property
    def position(self) -> tuple[int, int, int]:
        """What the rules compare."""
        return self.height, self.round, self.step

    def compute_checksum(self) -> str:
        """Return the SHA-256 of all other fields: a changed record must not pass for a true one."""
        return sha256(msgspec.json.encode(msgspec.structs.replace(self, checksum=""))).hexdigest()


class Signer:
    """Signs for one validator on one chain, after making the fact durable.

    Every call that signs something new takes as long as the disk takes for two small syncs.

    Parameters
    ----------
    key : PrivateKey
        The validator key.
    state_path : Path
        The file of the last-signed record; its folder exists.
    chain_id : str
        The chain.
    is_record_optional : bool
        Whether a missing record stands for "nothing signed yet". True for a chain at genesis, or
        when the operator vouches for it with an explicit flag: then a record that says so is
        written at once.

    Raises
    ------
    SignRecordError
        If the record is missing though it must not be, damaged, or of another key or chain.
    StorageError
        If the record cannot be written.
    """

    def __init__(
        self,
        key: PrivateKey,
        state_path: Path,
        chain_id: str,
        *,
        is_record_optional: bool = False,
    ) -> None:
        self._key = key
        self._path = state_path
        self._chain_id = chain_id
        record = _read_record(state_path)
        if record is None:
            if not is_record_optional:
                raise SignRecordError(
                    f"The last-signed record {state_path} of the validator key is missing: "
                    "restore it from where the validator ran last; without it the validator could "
                    "sign twice. If this key has never signed, or stopped long ago everywhere, "
                    "start once with --accept-missing-sign-record."
                )
            record = self._seal(0, 0, SignStep.NOTHING, b"", b"")
            self._write(record)
        elif (record.chain_id, record.address) != (chain_id, key.address.hex()):
            raise SignRecordError(
                f"The last-signed record {state_path} belongs to validator {record.address} on "
                f"chain {record.chain_id}, not to {key.address.hex()} on {chain_id}: put key, "
                "record and genesis of one validator together."
            )
        self._record = record

    @property
    def key(self) -> PrivateKey:
        """The validator key; its address and public key are whom this signs for."""
        return self._key

    @property
    def last_signed(self) -> SignRecord:
        """The record as it is on the disk."""
        return self._record

    def sign_vote(self, unsigned: UnsignedVote) -> Vote:
        """Sign a vote, or return the same one again.

        Raises
        ------
        DoubleSignError
            If it contradicts or precedes what was signed last. Nothing was signed.
        StorageError
            If the record cannot be written. No signature leaves.
        """
        sign_bytes = compute_vote_sign_bytes(
            self._chain_id, unsigned.type, unsigned.height, unsigned.round, unsigned.block_id
        )
        signature = self._sign(
            Domain.VOTE, unsigned.height, unsigned.round, _STEP_OF_VOTE[unsigned.type], sign_bytes
        )
        return Vote(
            unsigned.type,
            Height(unsigned.height),
            Round(unsigned.round),
            unsigned.block_id,
            self._key.address,
            signature,
        )

    def sign_proposal(self, unsigned: UnsignedProposal) -> Proposal:
        """Sign a proposal, or return the same one again.

        Raises
        ------
        DoubleSignError, StorageError
            As `sign_vote`.
        """
        proposal = Proposal(
            Height(unsigned.height),
            Round(unsigned.round),
            Round(unsigned.valid_round),
            unsigned.block_id,
            unsigned.time_ms,
            self._key.address,
            Signature(b""),
        )
        signature = self._sign(
            Domain.PROPOSAL,
            unsigned.height,
            unsigned.round,
            SignStep.PROPOSAL,
            compute_proposal_sign_bytes(self._chain_id, proposal),
        )
        return msgspec.structs.replace(proposal, signature=signature)

    def _sign(
        self, domain: Domain, height: int, round_: int, step: SignStep, sign_bytes: bytes
    ) -> Signature:
        last = self._record
        position = (height, round_, step)
        if position == last.position:
            if sign_bytes.hex() == last.sign_bytes:
                return Signature(bytes.fromhex(last.signature))
            raise DoubleSignError(
                f"This validator has already signed another {step.name.lower()} at height "
                f"{height}, round {round_}: nothing was signed. If the node repeats this, stop "
                "every other process that uses the same validator key."
            )
        if position < last.position:
            raise DoubleSignError(
                f"This validator has already signed a {last.step.name.lower()} at height "
                f"{last.height}, round {last.round}, after the {step.name.lower()} of height "
                f"{height}, round {round_}: nothing was signed. Let the node catch up, and stop "
                "every other process that uses the same validator key."
            )
        if len(sign_bytes) > SIGN_BYTES_MAX:
            raise InvariantError(f"{len(sign_bytes)} bytes to sign exceed {SIGN_BYTES_MAX}")
        signature = self._key.sign(domain, sign_bytes)
        record = self._seal(height, round_, step, sign_bytes, signature)
        self._write(record)
        self._record = record
        return signature

    def _seal(
        self, height: int, round_: int, step: SignStep, sign_bytes: bytes, signature: bytes
    ) -> SignRecord:
        record = SignRecord(
            RECORD_VERSION,
            self._chain_id,
            self._key.address.hex(),
            height,
            Round(round_),
            step,
            sign_bytes.hex(),
            signature.hex(),
        )
        return msgspec.structs.replace(record, checksum=record.compute_checksum())

    def _write(self, record: SignRecord) -> None:
        replace_file(self._path, msgspec.json.encode(record) + b"\n")


def _read_record(path: Path) -> SignRecord | None:
    try:
        with path.open("rb") as file:
            raw = file.read(RECORD_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SignRecordError(
            f"The last-signed record {path} cannot be read ({error.strerror}): give the node's "
            "user the right to."
        ) from error
    try:
        record = msgspec.json.decode(raw, type=SignRecord)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _damaged(path) from error
    if len(raw) > RECORD_BYTES_MAX or record.checksum != record.compute_checksum():
        raise _damaged(path)
    return record


def _damaged(path: Path) -> SignRecordError:
    return SignRecordError(
        f"The last-signed record {path} is damaged: restore it from a backup made after the "
        "validator's last vote, or keep this validator stopped and let the others remove it; "
        "signing without the record could be signing twice."
    )
