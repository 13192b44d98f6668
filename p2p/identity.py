"""Peer ids: which name an Ed25519 key has on the network.

Owns the derivation alone, so that a command can show a node's id without loading py-libp2p. Never
holds a key.
"""

import re
from typing import Final

from nacl.signing import SigningKey

from p2p.network import PeerId

_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

_ED25519_MULTIHASH_PREFIX: Final = bytes.fromhex("0024" + "08011220")
"""Identity multihash of 36 bytes, around a protobuf: key type 1 (Ed25519), 32 bytes of key."""

_PEER_ID: Final = re.compile(rf"[{_ALPHABET}]{{40,64}}")


def get_peer_id(key_seed: bytes) -> PeerId:
    """Give the peer id of the Ed25519 key with a 32-byte seed.

    Source: libp2p specification "Peer Ids and Keys", sections "Keys" and "Peer Ids".
    """
    public_key = bytes(SigningKey(key_seed).verify_key)
    return PeerId(_encode_base58(_ED25519_MULTIHASH_PREFIX + public_key))


def is_peer_id(text: str) -> bool:
    """Tell whether `text` has the form of a peer id."""
    return _PEER_ID.fullmatch(text) is not None


def _encode_base58(raw: bytes) -> str:
    number = int.from_bytes(raw, "big")
    digits = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_ALPHABET[digit])
    n_leading_zeros = len(raw) - len(raw.lstrip(b"\0"))
    return _ALPHABET[0] * n_leading_zeros + "".join(reversed(digits))
