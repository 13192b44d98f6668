"""The errors of the store: what failed on the disk, and the way out.

::

    StorageError (the machine's fault: the node stops, the message says the way out)
    ├── DiskFull              no space, no quota, or a file size limit
    ├── StorageInaccessible   permissions, a read-only disk, input/output errors
    ├── StorageClosed         used after close, or after an earlier write failed
    ├── FormatUnknown         written by another version of this program
    ├── DatabaseDamaged
    ├── DatabaseLocked        in use by another process
    ├── NothingToUndo         the state before the last block is not kept
    ├── LogDamaged            before its tail; a torn tail is cut silently
    ├── LogLocked             in use by another process
    ├── LogFull               the log has reached its limit of bytes
    ├── MarkMissing           the log does not hold the end of that height
    └── PayloadDamaged        a stored payload no longer has its hash
    PayloadRefused (the sender's or the submitter's fault: nothing was stored)
    ├── PayloadMismatch       the bytes do not have the expected hash
    ├── PayloadTooLarge       more bytes than one payload may have
    ├── PayloadSpaceExhausted the payload store has reached its limit of bytes or of arrivals
    ├── PayloadIncomplete     chunks of it are missing
    └── PayloadAbandoned      it arrived too slowly, and what was here of it was dropped

Owns the classes. Misuse by this program itself is an `InvariantError` of `quorate.chain.errors`.
Never decides what follows: the catcher does.
"""

# Each name says what is the matter; a suffix would only repeat the base class.
# ruff: noqa: N818

from quorate.chain.errors import QuorateError, StorageError


class DiskFull(StorageError):
    """The operating system refused to store more bytes."""


class StorageInaccessible(StorageError):
    """A file or folder cannot be read or written."""


class StorageClosed(StorageError):
    """The store was closed, or an earlier failure of a write made it unusable."""


class FormatUnknown(StorageError):
    """The stored data has a format that this version does not understand."""


class DatabaseDamaged(StorageError):
    """LevelDB's files are not what LevelDB wrote."""


class DatabaseLocked(StorageError):
    """Another process, or another part of this one, has the database open."""


class NothingToUndo(StorageError):
    """The last block cannot be taken back."""


class LogDamaged(StorageError):
    """The write-ahead log has lost or changed records that had been made durable."""


class LogLocked(StorageError):
    """Another process, or another part of this one, has the log open."""


class LogFull(StorageError):
    """The write-ahead log has reached its limit of bytes without a decided height."""


class MarkMissing(StorageError):
    """The write-ahead log does not hold the end-of-height marker that was asked for."""


class PayloadDamaged(StorageError):
    """The stored bytes of a payload no longer have the payload's hash."""


class PayloadRefused(QuorateError):
    """A payload that is not stored; nothing changed."""


class PayloadMismatch(PayloadRefused):
    """The bytes do not have the hash under which they were announced."""


class PayloadTooLarge(PayloadRefused):
    """The payload has more bytes than one payload may have."""


class PayloadSpaceExhausted(PayloadRefused):
    """Storing the payload would pass the payload store's limit of bytes or of arrivals."""


class PayloadIncomplete(PayloadRefused):
    """The payload cannot be finished while chunks of it are missing."""


class PayloadAbandoned(PayloadRefused):
    """Nobody went on with the payload for too long, and what had arrived is no longer here."""
