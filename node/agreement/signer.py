"""The signer: votes and proposals of this validator, never two that contradict each other.

Owns the validator key and the last-signed record: height, round, step, sign-bytes and signature,
in a file of its own (`store.slotted_file`). The record is checked, and durably replaced, before a
signature is given out. Rollbacks and resets of the node never touch it. Never decides what to vote
for.

The rules, for a step of a height and round:

- after the last one (by height, then round, then step: proposal, prevote, precommit): signed;
- the last one itself, with the same bytes: the stored signature again (votes carry no time, so a
  node that repeats itself after a crash says the same);
- the last one itself with other bytes, or any before it: `DoubleSignError`.

The record also keeps the last precommit for a block of its height. Whatever becomes of the log, a
validator that comes back knows which block it is locked on, and votes for no other.

An own message that comes from a peer and is newer than the record tells that the record is not
the newest one, or that somebody else signs with the key: the node stops.
"""

from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct
from quorate.chain.codec import decode
from quorate.chain.errors import DecodeError, InvariantError
from quorate.chain.ids import Height, Round, Signature, WireHeight, WireRound
from quorate.chain.keys import Domain, PrivateKey, is_signature_valid
from quorate.chain.validators import ValidatorSet
from quorate.chain.vote import (
    BlockId,
    Commit,
    Proposal,
    Vote,
    VoteType,
    compute_proposal_sign_bytes,
    compute_vote_sign_bytes,
    get_precommits,
)

from consensus.algorithm import Lock
from consensus.effects import UnsignedProposal, UnsignedVote
from node.agreement.sign_record import (
    RECORD_VERSION,
    SIGN_BYTES_MAX,
    SignRecord,
    SignStep,
    decode_record,
    make_damage_error,
    read_record_file,
)
from node.errors import DoubleSignError, SignRecordError
from store.slotted_file import SlottedRecord, create_slotted, write_slotted

_STEP_OF_VOTE: Final = {
    VoteType.PREVOTE: SignStep.PREVOTE,
    VoteType.PRECOMMIT: SignStep.PRECOMMIT,
}


class _VoteContent(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What the sign-bytes of a vote say (`compute_vote_sign_bytes`)."""

    chain_id: str
    type: VoteType
    height: WireHeight
    round: WireRound
    block_id: BlockId | None


class Signer:
    """Signs for one validator on one chain, after making the fact durable.

    Every call that signs something new takes as long as the disk takes for a small sync.

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
        when the operator vouches for it: then a record that says so is written at once.
    is_vouched : bool
        Whether the operator vouches, with an explicit flag, that nobody else has the key. Then an
        own message from a peer that is newer than the record is taken into it.

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
        is_vouched: bool = False,
    ) -> None:
        self._is_vouched = is_vouched
        self._key = key
        self._path = state_path
        self._chain_id = chain_id
        self._slotted: SlottedRecord | None = None
        found = read_record_file(state_path)
        record = None if found is None else decode_record(state_path, found.data)
        if record is None:
            if not (is_record_optional or is_vouched):
                raise SignRecordError(
                    f"The last-signed record {state_path} of the validator key is missing: "
                    "restore it from where the validator ran last; without it the validator could "
                    "sign twice. If this key has never signed, or stopped long ago everywhere, "
                    "start once with --accept-missing-sign-record."
                )
            record = self._seal((0, 0, SignStep.NOTHING), b"", b"", "")
            self._write(record)
        elif (record.chain_id, record.address) != (chain_id, key.address.hex()):
            raise SignRecordError(
                f"The last-signed record {state_path} belongs to validator {record.address} on "
                f"chain {record.chain_id}, not to {key.address.hex()} on {chain_id}: put key, "
                "record and genesis of one validator together."
            )
        elif found is not None and found.number > 0:
            self._slotted = found
        else:
            self._write(record)
        self._record = record

    @property
    def key(self) -> PrivateKey:
        """The validator key; its address and public key are whom this signs for."""
        return self._key

    @property
    def last_signed(self) -> SignRecord:
        """The record as it is on the disk."""
        return self._record

    @property
    def lock(self) -> Lock | None:
        """The block that this validator has precommitted last at the height of the record."""
        if not self._record.lock:
            return None
        content = _decode_vote(bytes.fromhex(self._record.lock))
        if content is None or content.block_id is None:
            raise make_damage_error(self._path)
        return Lock(content.height, content.round, content.block_id)

    def notice(self, message: Vote | Proposal) -> None:
        """Look at a message in this validator's name that came from a peer.

        Only one that is newer than the record, or contradicts it, means anything. Messages that
        this validator did not sign are left to others to refuse.

        Raises
        ------
        SignRecordError
            If this validator has signed it, and the record does not know. Taken into the record
            instead if the operator has vouched that nobody else has the key.
        DoubleSignError
            If it contradicts what this signer has signed itself.
        StorageError
            If the record cannot be written.
        """
        author = message.validator if isinstance(message, Vote) else message.proposer
        if author != self._key.address:
            return
        domain, step = Domain.PROPOSAL, SignStep.PROPOSAL
        if isinstance(message, Vote):
            domain, step = Domain.VOTE, _STEP_OF_VOTE[message.type]
            sign_bytes = compute_vote_sign_bytes(
                self._chain_id, message.type, message.height, message.round, message.block_id
            )
        else:
            sign_bytes = compute_proposal_sign_bytes(self._chain_id, message)
        last, position = self._record, (message.height, message.round, step)
        is_known = position < last.position or sign_bytes.hex() == last.sign_bytes
        if is_known or not is_signature_valid(
            self._key.public_key, domain, sign_bytes, message.signature
        ):
            return
        said = f"A {step.name.lower()} of this validator for height {message.height}, round "
        said += f"{message.round} came from the network"
        if position == last.position:
            raise DoubleSignError(
                f"{said}, and this node has signed another one: another process signs with the "
                "same validator key. Stop every other one, then start this node again."
            )
        if not self._is_vouched:
            raise SignRecordError(
                f"{said}, but the last-signed record {self._path} ends with height {last.height}, "
                f"round {last.round}: either the record is not the newest one (restored from a "
                "backup, or another machine's), or another process signs with the same key. Stop "
                "every other process with this key, and restore the record from where the "
                "validator ran last; only if that is lost for good, start with "
                "--accept-missing-sign-record until the node has caught up."
            )
        self._keep(position, sign_bytes, message.signature)

    def notice_commit(self, commit: Commit, validators: ValidatorSet) -> None:
        """Look for this validator's precommit in a commit that came from a peer; see `notice`.

        Parameters
        ----------
        commit : Commit
            With a signature, possibly empty, for each of `validators`.
        validators : ValidatorSet
            Of its height.
        """
        for vote in get_precommits(commit, validators):
            self.notice(vote)

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
        self._keep(position, sign_bytes, signature)
        return signature

    def _keep(
        self, position: tuple[int, int, SignStep], sign_bytes: bytes, signature: bytes
    ) -> None:
        """Make a position the last one, on the disk and then here."""
        height, _, step = position
        lock = self._record.lock if height == self._record.height else ""
        if step is SignStep.PRECOMMIT:
            content = _decode_vote(sign_bytes)
            if content is not None and content.block_id is not None:
                lock = sign_bytes.hex()
        record = self._seal(position, sign_bytes, signature, lock)
        self._write(record)
        self._record = record

    def _seal(
        self, position: tuple[int, int, SignStep], sign_bytes: bytes, signature: bytes, lock: str
    ) -> SignRecord:
        height, round_, step = position
        record = SignRecord(
            RECORD_VERSION,
            self._chain_id,
            self._key.address.hex(),
            height,
            Round(round_),
            step,
            sign_bytes.hex(),
            signature.hex(),
            lock,
        )
        return msgspec.structs.replace(record, checksum=record.compute_checksum())

    def _write(self, record: SignRecord) -> None:
        raw = msgspec.json.encode(record)
        if self._slotted is None:
            self._slotted = create_slotted(self._path, raw)
        else:
            self._slotted = write_slotted(self._path, self._slotted, raw)


def _decode_vote(sign_bytes: bytes) -> _VoteContent | None:
    try:
        return decode(_VoteContent, sign_bytes, SIGN_BYTES_MAX)
    except DecodeError:
        return None
