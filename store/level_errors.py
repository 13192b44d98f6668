"""What LevelDB's errors mean, in the store's terms.

LevelDB reports a status as a sentence, which is all that plyvel passes on; the operating system's
part of it is the text of `strerror`. Owns this reading of sentences. Never touches a file.
"""

import errno
import os
from pathlib import Path

import plyvel
from quorate.chain.errors import StorageError

from store.disk import translate_os_error
from store.errors import DatabaseDamaged, DatabaseLocked, StorageClosed

CHAIN_WAY_OUT = (
    "move it away, keep the validator's last-signed record where it is, and start the node again "
    "to fetch the chain from its peers"
)
"""What a node may do about a database of decided blocks, if there is no backup of it."""

# A missing file is not among them: it is damage.
_OS_ERRORS = tuple(
    (code, os.strerror(code))
    for code in (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EIO,
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.EMFILE,
        errno.ENFILE,
    )
)


def translate_level_error(
    error: Exception, folder: Path, way_out: str = CHAIN_WAY_OUT
) -> StorageError:
    """Return the store's error for one that plyvel raised, with the way out in its message.

    Parameters
    ----------
    error : plyvel.Error or RuntimeError
        plyvel raises RuntimeError when the database is closed.
    folder : Path
        The database's folder.
    way_out : str
        What may be done about damage, if there is no backup.

    Returns
    -------
    StorageError
        `DatabaseDamaged`, `DatabaseLocked`, `DiskFull`, `StorageInaccessible`, `StorageClosed`.
    """
    detail = error.args[0] if error.args else ""
    text = detail.decode(errors="replace") if isinstance(detail, bytes) else str(detail)
    if isinstance(error, RuntimeError):
        return StorageClosed(f"The database in {folder} is closed ({text}): start the node again.")
    if isinstance(error, plyvel.IOError):
        if text.startswith("IO error: lock "):
            return DatabaseLocked(
                f"The database in {folder} is in use by another process: stop that one first, or "
                "give this node a home folder of its own."
            )
        for code, sentence in _OS_ERRORS:
            if sentence in text:
                return translate_os_error(OSError(code, sentence), folder)
    return DatabaseDamaged(describe_damage(folder, text, way_out))


def describe_damage(folder: Path, detail: str, way_out: str = CHAIN_WAY_OUT) -> str:
    """Return the sentence about a damaged database, with the way out."""
    return (
        f"The database in {folder} is damaged ({detail}): check the disk, then restore the folder "
        f"from a backup; or {way_out}."
    )
