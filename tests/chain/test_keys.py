"""Signatures: for one purpose, one key, one message."""

import pytest
from quorate.chain.errors import SignatureError
from quorate.chain.ids import PublicKey, Signature, compute_address
from quorate.chain.keys import Domain, PrivateKey, is_signature_valid, verify_signature

from tests.chain.samples import KEYS

KEY = KEYS[0]


def test_a_seed_makes_the_key_of_rfc_8032() -> None:
    # Section 7.1, test 1: the same seed gives the same public key in every implementation.
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    key = PrivateKey(seed)
    assert key.public_key.hex() == (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    )
    assert key.seed == seed
    assert key.address == compute_address(key.public_key)
    assert len(key.address) == 20


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_seed_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        PrivateKey(bytes(length))


def test_generated_keys_differ() -> None:
    assert PrivateKey.generate().seed != PrivateKey.generate().seed


def test_a_key_never_shows_its_secret() -> None:
    assert KEY.seed.hex() not in repr(KEY)
    assert KEY.address.hex() in repr(KEY)
    with pytest.raises(AttributeError):
        KEY.extra = 1  # type: ignore[attr-defined]


def test_signing_is_deterministic() -> None:
    assert KEY.sign(Domain.VOTE, b"m") == KEY.sign(Domain.VOTE, b"m")


@pytest.mark.parametrize("signed", list(Domain))
@pytest.mark.parametrize("checked", list(Domain))
def test_a_signature_is_worth_nothing_in_another_domain(signed: Domain, checked: Domain) -> None:
    signature = KEY.sign(signed, b"message")
    valid = is_signature_valid(KEY.public_key, checked, b"message", signature)
    assert valid == (signed is checked)


def test_the_domain_cannot_be_moved_into_the_message() -> None:
    signature = KEY.sign(Domain.VOTE, b"message")
    prefixed = b"quorate/vote\0message"
    for domain in Domain:
        assert not is_signature_valid(KEY.public_key, domain, prefixed, signature)
    prefixes = [b"quorate/" + d.value.encode() + b"\0" for d in Domain]
    assert not any(a != b and a.startswith(b) for a in prefixes for b in prefixes)


def test_whatever_is_altered_is_refused() -> None:
    signature = KEY.sign(Domain.VOTE, b"message")

    def is_valid(key: bytes, message: bytes, sig: bytes) -> bool:
        return is_signature_valid(PublicKey(key), Domain.VOTE, message, Signature(sig))

    assert is_valid(KEY.public_key, b"message", signature)
    assert not is_valid(KEYS[1].public_key, b"message", signature)
    assert not is_valid(KEY.public_key, b"massage", signature)
    for place in (0, 31, 32, 63):
        flipped = bytearray(signature)
        flipped[place] ^= 1
        assert not is_valid(KEY.public_key, b"message", bytes(flipped))
    for length in (0, 63):
        assert not is_valid(KEY.public_key, b"message", signature[:length])
    assert not is_valid(KEY.public_key, b"message", signature + b"\0")
    assert not is_valid(KEY.public_key[:31], b"message", signature)
    assert not is_valid(KEY.public_key + b"\0", b"message", signature)
    assert not is_valid(bytes(32), b"message", signature)  # A point of small order.


def test_a_signature_shifted_by_the_group_order_is_refused() -> None:
    order = 2**252 + 27742317777372353535851937790883648493
    signature = KEY.sign(Domain.VOTE, b"message")
    scalar = int.from_bytes(signature[32:], "little") + order
    malleated = signature[:32] + scalar.to_bytes(32, "little")
    assert not is_signature_valid(KEY.public_key, Domain.VOTE, b"message", Signature(malleated))


def test_verify_signature_names_the_signer() -> None:
    signature = KEY.sign(Domain.PROPOSAL, b"message")
    verify_signature(KEY.public_key, Domain.PROPOSAL, b"message", signature)
    with pytest.raises(SignatureError, match=f"bad vote signature of {KEY.address.hex()}"):
        verify_signature(KEY.public_key, Domain.VOTE, b"message", signature)
