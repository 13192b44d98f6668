"""The facts about a stored chain: its format, and the heights at which it begins and ends.

Owns their stored form, and what is said when they make no sense. Never reads or writes them.
"""

from store import layout
from store.errors import DatabaseDamaged, FormatUnknown
from store.layout import encode_height


def encode_facts(initial_height: int, base: int, height: int) -> bytes:
    """Return the stored form of the first, the lowest stored and the last decided height."""
    return encode_height(initial_height) + encode_height(base) + encode_height(height)


def decode_facts(facts: bytes) -> tuple[int, int, int]:
    """Return the first, the lowest stored and the last decided height.

    Raises
    ------
    DatabaseDamaged
        They make no sense.
    """
    size = layout.HEIGHT_BYTES
    initial_height, base, height = (
        int.from_bytes(facts[start : start + size], "big") for start in range(0, 3 * size, size)
    )
    is_empty = base == height == 0
    is_ordered = is_empty or initial_height <= base <= height
    if len(facts) != 3 * size or not (initial_height > 0 and is_ordered):
        raise DatabaseDamaged(describe_contradiction(f"its facts are {facts.hex()}"))
    return initial_height, base, height


def check_format(stored: bytes) -> None:
    """Refuse a database of another format.

    Raises
    ------
    FormatUnknown
    """
    version = int.from_bytes(stored, "big")
    if version != layout.FORMAT_VERSION:
        raise FormatUnknown(
            f"The database has format {version}, and this version understands format "
            f"{layout.FORMAT_VERSION}: start the node with the version that wrote it, or move the "
            "database away and start again to fetch the chain from its peers."
        )


def describe_contradiction(detail: str) -> str:
    """Return what is told of a chain whose records do not fit together, with the way out."""
    return (
        f"The chain in the database contradicts itself ({detail}): restore the database from a "
        "backup; or move it away, keep the validator's last-signed record where it is, and start "
        "the node again to fetch the chain from its peers."
    )
