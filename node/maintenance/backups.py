"""A consistent copy of a stopped node's home.

Owns what is in a backup and its list of contents. Never copies a key or the last-signed record
unless told so: a validator that runs from an old record may sign twice.
"""

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec

from node.errors import MaintenanceError
from node.home import Home
from node.maintenance.stopped_node import hold, open_stopped
from store.disk import (
    TEMPORARY_SUFFIX,
    make_folder,
    replace_file,
    sync_folder,
    translate_os_error,
    translated_errors,
)

CONTENTS_NAME: Final = "backup.json"
CONTENTS_VERSION: Final = 1
ROOM_FACTOR: Final = 1.01
"""Free space that a copy needs, for each byte: file systems round up."""
_COPY_BYTES: Final = 1 << 20
_NOT_COPIED: Final = frozenset({"LOCK", "LOG", "LOG.old"})


@dataclass(frozen=True, slots=True)
class Backup:
    """A copy that was made.

    Attributes
    ----------
    folder : Path
    height : int
        The last decided height in it.
    files, bytes : int
    has_keys, has_sign_record : bool
    """

    folder: Path
    height: int
    files: int
    bytes: int
    has_keys: bool
    has_sign_record: bool


def back_up(
    home: Home, target: Path, *, with_keys: bool = False, with_sign_record: bool = False
) -> Backup:
    """Copy a home to a new folder that is laid out as a home itself.

    Every file is durable before the folder gets its name; ``backup.json`` in it lists the files
    with their SHA-256.

    Parameters
    ----------
    home : Home
        Of a stopped node.
    target : Path
        A folder that does not exist, or is empty.
    with_keys : bool
        Whether to copy the node's and the validator's key, too.
    with_sign_record : bool
        Whether to copy the last-signed record, too.

    Raises
    ------
    MaintenanceError
        If there is something at `target`, or not enough room.
    HomeError, ConfigError, StorageError
        If the home cannot be used or copied; nothing is left of the copy.
    """
    target = target.expanduser().absolute()
    with hold(home) as node:
        with open_stopped(node) as storage:
            height = storage.chain.height
        paths = list(_find_files(home, with_keys=with_keys, with_sign_record=with_sign_record))
        _check_target(home, target, sum(path.stat().st_size for path in paths))
        unfinished = target.with_name(target.name + TEMPORARY_SUFFIX)
        try:
            contents = _copy_all(home, paths, unfinished)
            record = {
                "version": CONTENTS_VERSION,
                "chain_id": node.genesis.chain_id,
                "genesis_hash": node.genesis.hash.hex(),
                "height": height,
                "time_ms": time.time_ns() // 1_000_000,
                "files": contents,
            }
            raw = msgspec.json.format(msgspec.json.encode(record), indent=2)
            replace_file(unfinished / CONTENTS_NAME, raw + b"\n")
            with translated_errors(target):
                if target.exists():
                    target.rmdir()
                unfinished.rename(target)
                sync_folder(target.parent)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    total = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    return Backup(target, height, len(contents), total, with_keys, with_sign_record)


def _find_files(home: Home, *, with_keys: bool, with_sign_record: bool) -> Iterator[Path]:
    """Iterate over the files that belong into a backup."""
    yield home.config_file
    yield home.genesis_file
    keys = (home.node_key_file, home.validator_key_file)
    if with_keys:
        yield from (path for path in keys if path.exists())
    if with_sign_record and home.validator_state_file.exists():
        yield home.validator_state_file
    folders = (
        home.blocks_folder,
        home.mempool_folder,
        home.payloads_folder,
        home.log_folder,
        home.reports_folder,
    )
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            is_left_over = path.name in _NOT_COPIED or path.suffix == TEMPORARY_SUFFIX
            if path.is_file() and not is_left_over:
                yield path


def _check_target(home: Home, target: Path, size: int) -> None:
    if target.is_relative_to(home.folder):
        raise MaintenanceError(
            f"{target} lies in the home folder itself: name a folder elsewhere, best on another "
            "disk."
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise MaintenanceError(f"There is something at {target} already: name a new folder.")
    make_folder(target.parent)
    with translated_errors(target.parent):
        free = shutil.disk_usage(target.parent).free
    if free < size * ROOM_FACTOR:
        raise MaintenanceError(
            f"The copy takes {size} bytes, and the disk of {target} has {free} left: make room or "
            "name a folder on another disk."
        )


def _copy_all(home: Home, paths: list[Path], target: Path) -> dict[str, dict[str, object]]:
    contents: dict[str, dict[str, object]] = {}
    with translated_errors(target):
        shutil.rmtree(target, ignore_errors=True)
    make_folder(target)
    # A home without one of them is no home.
    make_folder(target / home.config_folder.name)
    make_folder(target / home.data_folder.name)
    folders = {target}
    for path in paths:
        name = path.relative_to(home.folder)
        copy = target / name
        make_folder(copy.parent)
        folders.add(copy.parent)
        digest, size = _copy(path, copy)
        contents[str(name)] = {"sha256": digest, "bytes": size}
    for folder in sorted(folders):
        with translated_errors(folder):
            sync_folder(folder)
    return contents


def _copy(source: Path, target: Path) -> tuple[str, int]:
    """Copy a file durably, readable by its owner alone; return its SHA-256 and size."""
    digest, size = sha256(), 0
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as writer, source.open("rb") as reader:
            while piece := reader.read(_COPY_BYTES):
                digest.update(piece)
                writer.write(piece)
                size += len(piece)
            writer.flush()
            os.fsync(writer.fileno())
    except OSError as error:
        raise translate_os_error(error, target) from error
    return digest.hexdigest(), size
