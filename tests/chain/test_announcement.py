"""Announcements of payloads: signed by one validator, for one chain, within bounds."""

import msgspec
import pytest
from quorate.chain.announcement import (
    ANNOUNCED_PER_MESSAGE_MAX,
    PayloadAnnouncement,
    is_announcement_valid,
    sign_announcement,
)
from quorate.chain.codec import decode, encode
from quorate.chain.errors import DecodeError
from quorate.chain.keys import Domain

from tests.chain.samples import CHAIN_ID, KEYS, make_hash

HASHES = (make_hash("one"), make_hash("two"))


def test_a_signed_announcement_is_valid_for_its_signer_and_chain() -> None:
    made = sign_announcement(KEYS[0], CHAIN_ID, 5, HASHES)
    assert made.validator == KEYS[0].address
    assert is_announcement_valid(made, CHAIN_ID, KEYS[0].public_key)
    assert not is_announcement_valid(made, CHAIN_ID, KEYS[1].public_key)
    assert not is_announcement_valid(made, CHAIN_ID + "2", KEYS[0].public_key)


@pytest.mark.parametrize(
    "change",
    [
        {"time_ms": 6},
        {"payload_hashes": HASHES[:1]},
        {"payload_hashes": HASHES[::-1]},
        {"validator": KEYS[1].address},
        {"signature": bytes(64)},
    ],
)
def test_nothing_of_it_can_be_changed(change: dict[str, object]) -> None:
    made = sign_announcement(KEYS[0], CHAIN_ID, 5, HASHES)
    forged = msgspec.structs.replace(made, **change)
    assert not is_announcement_valid(forged, CHAIN_ID, KEYS[0].public_key)


def test_a_signature_for_something_else_is_none() -> None:
    made = sign_announcement(KEYS[0], CHAIN_ID, 5, HASHES)
    signed = encode((CHAIN_ID, KEYS[0].address, 5, HASHES))
    assert made.signature == KEYS[0].sign(Domain.PAYLOADS, signed)
    other = msgspec.structs.replace(made, signature=KEYS[0].sign(Domain.VOTE, signed))
    assert not is_announcement_valid(other, CHAIN_ID, KEYS[0].public_key)


def test_bounds() -> None:
    many = tuple(make_hash(str(number)) for number in range(ANNOUNCED_PER_MESSAGE_MAX + 1))
    made = sign_announcement(KEYS[0], CHAIN_ID, 5, many[1:])
    assert decode(PayloadAnnouncement, encode(made), 1 << 20) == made
    for hashes in (many, ()):
        with pytest.raises(ValueError, match="1 to 256"):
            sign_announcement(KEYS[0], CHAIN_ID, 5, hashes)
        with pytest.raises(DecodeError):
            decode(
                PayloadAnnouncement,
                encode(msgspec.structs.replace(made, payload_hashes=hashes)),
                1 << 20,
            )
