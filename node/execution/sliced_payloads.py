"""Stored payloads as the ledger reads them: by slices, large ones from an open file.

Owns how a large payload is read while it is aggregated, and how many files are open for that.
Never writes, and never knows what a payload means.

Slices are read, not mapped. Pages of a map count as the process's memory from the first touch on,
one touch may map 2 MiB of each file, and an aggregation touches every byte of a training round; and
where a mapped file cannot be read, the process ends without a word.
"""

import os
import weakref
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from quorate.chain.errors import PendingError
from quorate.chain.ids import Hash

from aggregation import PayloadBytes
from store.disk import translate_os_error
from store.errors import PayloadDamaged
from store.payload_contract import Payloads

FILES_MAX: Final = 256
"""Files that stay open by default. Beyond them a file is opened for every slice."""


class SlicedPayloads:
    """The ledger's source of payloads, over a store. Safe to use from several threads.

    Parameters
    ----------
    payloads : Payloads
        What it reads from.
    files_max : int
        Files that stay open.
    verify : bool
        Whether to compare what is opened with its hash, which reads all of it.
    """

    def __init__(
        self, payloads: Payloads, *, files_max: int = FILES_MAX, verify: bool = True
    ) -> None:
        self._payloads = payloads
        self._verify = verify
        self._files_max = files_max
        self._open: weakref.WeakSet[_OpenFile] = weakref.WeakSet()

    def size(self, payload_hash: Hash, /) -> int | None:
        """Return how many bytes a payload has, or None; nothing is read."""
        return self._payloads.size(payload_hash)

    def open_memmap(self, payload_hash: Hash, /) -> PayloadBytes | None:
        """Return a payload by slices, or None; verified now if at all, not when slices are read.

        Raises
        ------
        StorageError
            If it is damaged, or cannot be read.
        """
        array = self._payloads.open_memmap(payload_hash, verify=self._verify)
        if not isinstance(array, np.memmap) or array.filename is None:
            return array
        file = _File(payload_hash, Path(array.filename), array.size)
        if len(self._open) >= self._files_max:
            return file
        opened = _OpenFile(file)
        self._open.add(opened)
        return opened


class _File:
    """A payload in a file, which is opened for every slice."""

    def __init__(self, payload_hash: Hash, path: Path, size: int) -> None:
        self.size = size
        self.path = path
        self._payload_hash = payload_hash

    def open(self) -> int:
        """Return a descriptor to read the file by."""
        try:
            return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            missing = (self._payload_hash,)
            raise PendingError(
                f"payload {self._payload_hash.hex()} was dropped while it was read", missing
            ) from error
        except OSError as error:
            raise translate_os_error(error, self.path) from error

    def read(self, descriptor: int, part: slice) -> NDArray[np.uint8]:
        """Return bytes start..stop of the open file."""
        start, stop, _ = part.indices(self.size)
        data = np.empty(max(0, stop - start), np.uint8)
        done = 0
        while done < data.size:
            try:
                count = os.preadv(descriptor, [data.data[done:]], start + done)
            except OSError as error:
                raise translate_os_error(error, self.path) from error
            if count == 0:
                raise PayloadDamaged(
                    f"The payload in {self.path} has lost its end: check the disk, remove the"
                    " file, and start the node again to fetch it from its peers."
                )
            done += count
        return data

    def __getitem__(self, part: slice, /) -> NDArray[np.uint8]:
        descriptor = self.open()
        try:
            return self.read(descriptor, part)
        finally:
            os.close(descriptor)


class _OpenFile:
    """A payload in a file that stays open, also when the payload is dropped."""

    def __init__(self, file: _File) -> None:
        self.size = file.size
        self._file = file
        self._descriptor = file.open()
        self._closing = weakref.finalize(self, os.close, self._descriptor)

    def __getitem__(self, part: slice, /) -> NDArray[np.uint8]:
        return self._file.read(self._descriptor, part)
