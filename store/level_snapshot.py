"""A second folder with what a closed database holds, to look at it without touching the first.

Owns the knowledge of which of LevelDB's files may be shared. Never opens a database.
"""

import os
import shutil
from pathlib import Path

from store.disk import make_folder, translated_errors

_NOT_CONTENT = ("LOCK", "LOG", "LOG.old")
_IMMUTABLE = (".ldb", ".sst")


def snapshot_level(folder: Path, target: Path) -> None:
    """Make `target` a database with the contents of `folder`, which nobody has open.

    Tables are linked where the file system can, since LevelDB never changes one; the rest is
    copied.

    Parameters
    ----------
    folder : Path
        A database's folder; one that is missing is taken for empty.
    target : Path
        A folder that does not exist yet.

    Raises
    ------
    DiskFull, StorageInaccessible
    """
    make_folder(target)
    with translated_errors(folder):
        if not folder.exists():
            return
        for path in sorted(folder.iterdir()):
            if path.name in _NOT_CONTENT or not path.is_file():
                continue
            copy = target / path.name
            if path.suffix in _IMMUTABLE:
                try:
                    os.link(path, copy)
                    continue
                except OSError:
                    # Another file system, or one without links: a copy does as well.
                    pass
            shutil.copyfile(path, copy)
