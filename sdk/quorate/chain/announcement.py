"""Announcements: a validator's word that it has certain payloads on its disk.

Owns the message, what is signed and its verification. Never judges who is a validator, and never
counts power.

An announcement is no promise for ever: it carries the time at which it was made, so that old ones
can be told from new ones when somebody sends them again.
"""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from quorate.chain.codec import encode
from quorate.chain.ids import (
    Address,
    Hash,
    PublicKey,
    Uint64,
    WireAddress,
    WireHash,
    WireSignature,
)
from quorate.chain.keys import Domain, PrivateKey, is_signature_valid

ANNOUNCED_PER_MESSAGE_MAX = 256


class PayloadAnnouncement(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What a validator says to have stored durably, when (in ms), and its signature."""

    validator: WireAddress
    time_ms: Uint64
    payload_hashes: Annotated[
        tuple[WireHash, ...], Meta(min_length=1, max_length=ANNOUNCED_PER_MESSAGE_MAX)
    ]
    signature: WireSignature


def sign_announcement(
    key: PrivateKey, chain_id: str, time_ms: int, payload_hashes: Sequence[Hash]
) -> PayloadAnnouncement:
    """Return a signed announcement of payloads that the key's holder has on its disk.

    Raises
    ------
    ValueError
        If there are none, or more than `ANNOUNCED_PER_MESSAGE_MAX`.
    """
    if not 1 <= len(payload_hashes) <= ANNOUNCED_PER_MESSAGE_MAX:
        raise ValueError(f"an announcement names 1 to {ANNOUNCED_PER_MESSAGE_MAX} payloads")
    hashes = tuple(payload_hashes)
    message = _encode_signed(chain_id, key.address, time_ms, hashes)
    signature = key.sign(Domain.PAYLOADS, message)
    return PayloadAnnouncement(key.address, time_ms, hashes, signature)


def is_announcement_valid(
    announcement: PayloadAnnouncement, chain_id: str, public_key: PublicKey
) -> bool:
    """Tell whether the key with that address signed exactly this, for this chain."""
    message = _encode_signed(
        chain_id, announcement.validator, announcement.time_ms, announcement.payload_hashes
    )
    return is_signature_valid(public_key, Domain.PAYLOADS, message, announcement.signature)


def _encode_signed(
    chain_id: str, validator: Address, time_ms: int, payload_hashes: tuple[Hash, ...]
) -> bytes:
    return encode((chain_id, validator, time_ms, payload_hashes))
