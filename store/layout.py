"""Where everything lies in the database: one byte says the kind, the rest of the key orders it.

============  ==================================  ==========================================
prefix        rest of the key                     value
============  ==================================  ==========================================
``m``         a name                              facts about the database itself
``B C R``     height                              block, commit, receipts
``N``         height                              block hash
``X``         height                              transaction hashes, one after the other
``I``         block hash                          height
``T``         transaction hash                    height, index (4 bytes)
``S``         bucket (4 bytes), state key         state value
``D``         document name, 0, height            the document from that height on
``P``         payload hash                        a small payload
``L``         payload hash                        size (8 bytes) and chunk hashes of a large one
``U``         height                              the state entries that the block replaced
============  ==================================  ==========================================

Integers are big-endian, so that keys sort as numbers do; a height has 8 bytes. Owns the names of
the prefixes. A change to any of them is a new `FORMAT_VERSION`.
"""

FORMAT_VERSION = 2

META = b"m"
BLOCK = b"B"
COMMIT = b"C"
RECEIPTS = b"R"
BLOCK_HASH = b"N"
TRANSACTION_HASHES = b"X"
HEIGHT_BY_HASH = b"I"
TRANSACTION = b"T"
STATE = b"S"
DOCUMENT = b"D"
PAYLOAD = b"P"
CHUNK_LIST = b"L"
UNDO = b"U"

HEIGHT_BYTES = 8
INDEX_BYTES = 4
BUCKET_BYTES = 4


def encode_height(height: int) -> bytes:
    """Return a height as 8 bytes that sort as the height does."""
    return height.to_bytes(HEIGHT_BYTES, "big")


def get_range(prefix: bytes) -> tuple[bytes, bytes]:
    """Return the start and the end of the keys that begin with `prefix`.

    Parameters
    ----------
    prefix : bytes
        Not made of 0xFF bytes alone.
    """
    stem = prefix.rstrip(b"\xff")
    return prefix, stem[:-1] + bytes([stem[-1] + 1])
