"""The write-ahead log as the node uses it: in a folder of files, or in memory for tests.

Owns nothing but the choice of where the segments lie; see `store.segmented_log` for what a log
keeps and promises. Never looks into a record.
"""

from pathlib import Path

from store.segment_folder import FileSegmentFolder, MemorySegmentFolder
from store.segmented_log import (
    LOG_BYTES_MAX,
    SEGMENT_BYTES_MAX,
    SEGMENTS_KEPT,
    SegmentedLog,
)


class WriteAheadLog(SegmentedLog):
    """The write-ahead log in a folder of files, for one process at a time.

    Parameters
    ----------
    folder : Path
        Created when absent.
    segment_bytes_max, log_bytes_max, segments_kept : int
        As for `SegmentedLog`.

    Raises
    ------
    LogLocked
        Another process, or another log of this one, uses the folder.
    LogDamaged, FormatUnknown, DiskFull, StorageInaccessible
    """

    def __init__(
        self,
        folder: Path,
        *,
        segment_bytes_max: int = SEGMENT_BYTES_MAX,
        log_bytes_max: int = LOG_BYTES_MAX,
        segments_kept: int = SEGMENTS_KEPT,
    ) -> None:
        segments = FileSegmentFolder(folder)
        try:
            super().__init__(
                segments,
                segment_bytes_max=segment_bytes_max,
                log_bytes_max=log_bytes_max,
                segments_kept=segments_kept,
            )
        except BaseException:
            # Whatever went wrong, the lock must not outlive the attempt.
            segments.close()
            raise


class MemoryWriteAheadLog(SegmentedLog):
    """The write-ahead log in memory, for tests and simulations.

    Parameters
    ----------
    folder : MemorySegmentFolder, optional
        What an earlier log left (`MemorySegmentFolder.reopen`); empty by default.
    segment_bytes_max, log_bytes_max, segments_kept : int
        As for `SegmentedLog`.
    """

    def __init__(
        self,
        folder: MemorySegmentFolder | None = None,
        *,
        segment_bytes_max: int = SEGMENT_BYTES_MAX,
        log_bytes_max: int = LOG_BYTES_MAX,
        segments_kept: int = SEGMENTS_KEPT,
    ) -> None:
        self.memory = MemorySegmentFolder() if folder is None else folder
        super().__init__(
            self.memory,
            segment_bytes_max=segment_bytes_max,
            log_bytes_max=log_bytes_max,
            segments_kept=segments_kept,
        )
