"""Dropping what a node has stored, so that it begins again.

Owns the lists of what goes and what stays. Never drops a key, and drops the last-signed record only
when told so in so many words.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.home import Home
from node.maintenance.stopped_node import lock_stopped
from store.disk import TEMPORARY_SUFFIX, make_folder, sync_folder, translated_errors

LOCK_NAME: Final = "LOCK"
_DROPPED_NAME: Final = f"dropped{TEMPORARY_SUFFIX}"


@dataclass(frozen=True, slots=True)
class Dropped:
    """What was dropped.

    Attributes
    ----------
    paths : tuple of Path
        Files and folders that are gone.
    is_sign_record_kept : bool
        Whether the last-signed record is where it was; false as well if there was none.
    """

    paths: tuple[Path, ...]
    is_sign_record_kept: bool


def reset_state(home: Home) -> Dropped:
    """Drop blocks, state, log, payloads and pending transactions; the node fetches them again.

    Keys, settings, genesis, reports and the last-signed record stay.

    Raises
    ------
    HomeError
        If the home cannot be used, or its node runs.
    StorageError
        If something cannot be removed; do it again then.
    """
    with lock_stopped(home):
        return _drop(
            home,
            (home.blocks_folder, home.log_folder, home.payloads_folder, home.mempool_folder),
        )


def reset_all(home: Home, *, drop_sign_record: bool = False) -> Dropped:
    """Drop everything in the data folder: also known addresses, reports and what else is there.

    Keys, settings and genesis stay; so does the last-signed record, unless `drop_sign_record`.

    Raises
    ------
    HomeError, StorageError
        As `reset_state`.
    """
    with lock_stopped(home):
        with translated_errors(home.data_folder):
            paths = sorted(home.data_folder.iterdir())
        kept = {home.data_folder / LOCK_NAME}
        if not drop_sign_record:
            kept.add(home.validator_state_file)
        return _drop(home, [path for path in paths if path not in kept])


def _drop(home: Home, paths: Iterable[Path]) -> Dropped:
    """Move everything out of the way first, so that a crash leaves no half of a database."""
    dropped = home.data_folder / _DROPPED_NAME
    with translated_errors(dropped):
        # What a crash of an earlier reset has left.
        shutil.rmtree(dropped, ignore_errors=True)
    make_folder(dropped)
    moved = []
    for path in paths:
        if path == dropped:
            continue
        with translated_errors(path):
            if path.exists() or path.is_symlink():
                path.rename(dropped / path.name)
                moved.append(path)
    with translated_errors(home.data_folder):
        sync_folder(home.data_folder)
        shutil.rmtree(dropped)
    return Dropped(tuple(moved), home.validator_state_file.exists())
