"""The identifiers of the chain: what a height, a round, an address or a hash is.

Owns the names of scalar types and their bounds. Never computes anything but an address.
Bounds live in the types, so that the codec refuses a value outside them on decoding.
"""

import hashlib
from typing import Annotated, NewType

from msgspec import Meta

HASH_BYTES = 32
ADDRESS_BYTES = 20
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64

INT64_MAX = 2**63 - 1
UINT32_MAX = 2**32 - 1
ROUND_MAX = 2**31 - 1
CHAIN_ID_BYTES_MAX = 50

Height = NewType("Height", int)
Round = NewType("Round", int)
Address = NewType("Address", bytes)
Hash = NewType("Hash", bytes)
PublicKey = NewType("PublicKey", bytes)
Signature = NewType("Signature", bytes)

# Annotations for wire fields. msgspec applies the bounds when it converts a decoded message.
Uint32 = Annotated[int, Meta(ge=0, le=UINT32_MAX)]
Uint64 = Annotated[int, Meta(ge=0, le=INT64_MAX)]
"""A non-negative integer that fits a signed 64-bit one (amounts, nonces, times in ms)."""
Int64 = Annotated[int, Meta(ge=-INT64_MAX, le=INT64_MAX)]
WireHeight = Annotated[Height, Meta(ge=0, le=INT64_MAX)]
WireRound = Annotated[Round, Meta(ge=0, le=ROUND_MAX)]
ValidRound = Annotated[Round, Meta(ge=-1, le=ROUND_MAX)]
"""A round, or -1 for "none" (Algorithm 1's validRound)."""
WireAddress = Annotated[Address, Meta(min_length=ADDRESS_BYTES, max_length=ADDRESS_BYTES)]
WireHash = Annotated[Hash, Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]
OptionalHash = Annotated[Hash, Meta(max_length=HASH_BYTES)]
"""A hash, or the empty byte string for "none"."""
WirePublicKey = Annotated[PublicKey, Meta(min_length=PUBLIC_KEY_BYTES, max_length=PUBLIC_KEY_BYTES)]
WireSignature = Annotated[Signature, Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]
ChainId = Annotated[
    str, Meta(min_length=1, max_length=CHAIN_ID_BYTES_MAX, pattern=r"^[A-Za-z0-9_.-]+\Z")
]
Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.:/-]+\Z")]
"""A short identifier chosen by a person: a task, a tensor, a metric, an organization."""

NO_ROUND = Round(-1)
NO_HASH = Hash(b"")


def compute_address(public_key: PublicKey) -> Address:
    """Return the address of a public key: the first 20 bytes of its SHA-256.

    Parameters
    ----------
    public_key : bytes, 32
        An Ed25519 public key.

    Returns
    -------
    bytes, 20
    """
    return Address(hashlib.sha256(public_key).digest()[:ADDRESS_BYTES])
