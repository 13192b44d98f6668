"""Ed25519 keys and domain-separated signatures (PyNaCl).

Owns signing, verification and the domains that keep a signature made for one purpose from being
worth anything for another. Never reads or writes key files, and never prints a secret.
"""

from enum import StrEnum

import nacl.bindings
import nacl.exceptions
import nacl.utils

from quorate.chain.errors import SignatureError
from quorate.chain.ids import (
    PUBLIC_KEY_BYTES,
    SIGNATURE_BYTES,
    Address,
    PublicKey,
    Signature,
    compute_address,
)

SEED_BYTES = 32


class Domain(StrEnum):
    """What a signature is for. The domain is the first part of the signed bytes."""

    TRANSACTION = "transaction"
    VOTE = "vote"
    PROPOSAL = "proposal"
    PARAMETERS = "parameters"
    PAYLOADS = "payloads"


_PREFIX = {domain: b"quorate/" + domain.value.encode() + b"\0" for domain in Domain}


class PrivateKey:
    """An Ed25519 signing key, made from a seed of 32 bytes.

    Parameters
    ----------
    seed : bytes, 32
        The secret.

    Raises
    ------
    ValueError
        If the seed has another length.
    """

    __slots__ = ("_secret", "address", "public_key")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a key seed has {SEED_BYTES} bytes, not {len(seed)}")
        public, self._secret = nacl.bindings.crypto_sign_seed_keypair(seed)
        self.public_key = PublicKey(public)
        self.address: Address = compute_address(self.public_key)

    @classmethod
    def generate(cls) -> "PrivateKey":
        """Make a new key from the operating system's randomness."""
        return cls(nacl.utils.random(SEED_BYTES))

    @property
    def seed(self) -> bytes:
        """The secret seed, 32 bytes: for key files, never for logs."""
        return self._secret[:SEED_BYTES]

    def sign(self, domain: Domain, message: bytes) -> Signature:
        """Sign `message` for one purpose.

        Returns
        -------
        bytes, 64
            Deterministic (RFC 8032), so signing the same bytes twice is harmless.
        """
        signed = nacl.bindings.crypto_sign(_PREFIX[domain] + message, self._secret)
        return Signature(signed[:SIGNATURE_BYTES])

    def __repr__(self) -> str:
        return f"PrivateKey(address={self.address.hex()})"


def is_signature_valid(
    public_key: PublicKey, domain: Domain, message: bytes, signature: Signature
) -> bool:
    """Tell whether `signature` is one of `public_key` over `message` for this purpose."""
    if len(signature) != SIGNATURE_BYTES or len(public_key) != PUBLIC_KEY_BYTES:
        return False
    try:
        nacl.bindings.crypto_sign_open(signature + _PREFIX[domain] + message, public_key)
    except nacl.exceptions.BadSignatureError:
        return False
    return True


def verify_signature(
    public_key: PublicKey, domain: Domain, message: bytes, signature: Signature
) -> None:
    """Raise unless `signature` is valid.

    Raises
    ------
    SignatureError
        If it is not.
    """
    if not is_signature_valid(public_key, domain, message, signature):
        raise SignatureError(f"bad {domain.value} signature of {compute_address(public_key).hex()}")
