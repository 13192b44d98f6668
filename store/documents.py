"""Small named records of a chain, with a version for each height at which they changed.

Owns their keys, their limits and the search for the version that held at a height. Never knows
which heights there are, nor what a document says.
"""

from collections.abc import Iterator, Mapping

from quorate.chain.errors import InvariantError

from store import layout
from store.database import Database
from store.layout import encode_height, get_range

DOCUMENT_NAME_BYTES_MAX = 64
DOCUMENT_BYTES_MAX = 16 << 20
DOCUMENTS_MAX = (1 << 16) + 64
"""Documents given with one block: of every task that a chain may have, and then some."""


def check_documents(documents: Mapping[str, bytes]) -> None:
    """Refuse documents that are out of bounds.

    Raises
    ------
    InvariantError
        There are too many, one is too large, or a name is empty, too long or has a zero byte.
    """
    if len(documents) > DOCUMENTS_MAX:
        raise InvariantError(f"{len(documents)} documents exceed the limit of {DOCUMENTS_MAX}.")
    for name, document in documents.items():
        if not 0 < len(name.encode()) <= DOCUMENT_NAME_BYTES_MAX or "\0" in name:
            raise InvariantError(f"{name!r} cannot be the name of a document.")
        if len(document) > DOCUMENT_BYTES_MAX:
            raise InvariantError(
                f"Document {name!r} has {len(document)} bytes; the limit is {DOCUMENT_BYTES_MAX}."
            )


def get_document_key(name: str, height: int) -> bytes:
    """Return the key of the version that a document has from `height` on."""
    return _get_prefix(name) + encode_height(height)


def load_version(database: Database, name: str, height: int) -> bytes | None:
    """Return the newest version of a document at or below a height, or None."""
    versions = database.iterate(_get_prefix(name), get_document_key(name, height + 1), reverse=True)
    return next((document for _, document in versions), None)


def find_old_versions(database: Database, height: int) -> Iterator[tuple[bytes, None]]:
    """Yield the deletion of each version that a newer one replaces at `height` or below."""
    newer_name = None
    for key, _ in database.iterate(*get_range(layout.DOCUMENT), reverse=True):
        name, at_height = key[: -layout.HEIGHT_BYTES], key[-layout.HEIGHT_BYTES :]
        if at_height > encode_height(height):
            continue
        if name == newer_name:
            yield key, None
        newer_name = name


def find_versions_at(database: Database, height: int) -> Iterator[tuple[bytes, None]]:
    """Yield the deletion of each version that a document was given at `height` itself."""
    start, stop = get_range(layout.DOCUMENT)
    while True:
        key = next((key for key, _ in database.iterate(start, stop)), None)
        if key is None:
            return
        prefix = key[: -layout.HEIGHT_BYTES]
        at_height = prefix + encode_height(height)
        if database.get(at_height) is not None:
            yield at_height, None
        start = get_range(prefix)[1]


def _get_prefix(name: str) -> bytes:
    return layout.DOCUMENT + name.encode() + b"\0"
