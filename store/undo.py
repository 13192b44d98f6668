"""What the last blocks changed in the state, so that one can be taken back.

Owns the record of the state entries that a block replaced, and how long it is kept. Never knows
what an entry means, and never decides to go back.
"""

from quorate.chain.codec import decode, encode
from quorate.chain.errors import DecodeError

from store import layout
from store.database import Batch, Database
from store.errors import DatabaseDamaged, NothingToUndo
from store.layout import encode_height

UNDO_HEIGHTS_MAX = 16
"""How many of the last blocks can be taken back."""

_Entries = tuple[tuple[bytes, bytes | None], ...]


def record_undo(database: Database, batch: Batch, height: int, keys: list[bytes]) -> None:
    """Add to a batch what is under `keys` before it, and drop the record that is too old.

    Parameters
    ----------
    database : Database
        As it is before the batch.
    batch : Batch
        That of the block.
    height : int
        The block's.
    keys : list of bytes
        The database keys of the state entries that the block writes or deletes.
    """
    get = database.get
    before: _Entries = tuple((key, get(key)) for key in keys)
    batch.put(layout.UNDO + encode_height(height), encode(before))
    if height > UNDO_HEIGHTS_MAX:
        batch.delete(layout.UNDO + encode_height(height - UNDO_HEIGHTS_MAX))


def has_undo(database: Database, height: int) -> bool:
    """Return whether it is recorded what the block of a height replaced."""
    return database.get(layout.UNDO + encode_height(height)) is not None


def describe_missing(height: int) -> NothingToUndo:
    """Return the error about a block that cannot be taken back, with the way out."""
    return NothingToUndo(
        f"Block {height} cannot be taken back: the database does not have the state before it. "
        "Restore a backup, or let the node fetch the chain from its peers again with `quorate "
        "reset-state`."
    )


def load_undo(database: Database, height: int) -> _Entries | None:
    """Return the entries that the block of a height replaced, or None when it is not recorded.

    Raises
    ------
    DatabaseDamaged
        The record makes no sense.
    """
    raw = database.get(layout.UNDO + encode_height(height))
    if raw is None:
        return None
    try:
        entries: _Entries = decode(_Entries, raw, len(raw))
    except DecodeError as error:
        raise DatabaseDamaged(
            f"The database's record of what block {height} changed cannot be read ({error}): "
            "restore the database from a backup."
        ) from error
    return entries
