"""Disks that lose power: what was not synced may be gone, from the end on.

Owns the faults of storage. A plan may let the power fail at the n-th write from now on; whoever
writes then sees `PowerLoss`, and nothing reaches the disk any more until the next start. Or it
lets the disk fill up: whoever writes sees `DiskFull`, half of a record may be there, and there is
room again later.
"""

import random
from dataclasses import dataclass, field

from store.database import Batch, MemoryDatabase
from store.errors import DiskFull
from store.memory_payloads import MemoryPayloadStore
from store.segment_folder import MemorySegmentFolder
from store.write_ahead_log import MemoryWriteAheadLog

LOST_WHOLLY = 0.5
"""How often a power failure takes all that was not synced, instead of some of the end of it."""


class PowerLoss(BaseException):
    """The machine is off, at this very instruction."""


@dataclass(eq=False)
class Power:
    """Counts the writes of one machine, and fails at the planned one."""

    writes_left: int | None = None
    is_off: bool = False
    writes: int = 0
    room: int | None = None
    """Writes until the disk is full; None is plenty."""
    has_refused: bool = False
    """Whether the disk has been full since the last start."""

    def use(self) -> None:
        """Do one write, or fail."""
        if self.is_off:
            raise PowerLoss
        if self.room is not None:
            if self.room <= 0:
                self.has_refused = True
                raise DiskFull("no space is left on the simulated disk")
            self.room -= 1
        self.writes += 1
        if self.writes_left is not None:
            self.writes_left -= 1
            if self.writes_left <= 0:
                self.is_off = True
                raise PowerLoss


class SimDatabase(MemoryDatabase):
    """A database whose batches are durable from the last synced one back."""

    def __init__(self, power: Power) -> None:
        super().__init__()
        self._power = power
        self._undo: list[dict[bytes, bytes | None]] = []

    def write(self, batch: Batch, *, sync: bool) -> None:
        """Apply a batch; remember how to take it back until a sync."""
        self._power.use()
        self._undo.append({key: self.get(key) for key, _ in batch.operations})
        super().write(batch, sync=sync)
        if sync:
            self._undo.clear()

    def restart(self, power: Power, lost: random.Random | None) -> "SimDatabase":
        """Return what the next process finds; with `lost`, unsynced batches may be gone."""
        if lost is not None and self._undo:
            is_all = lost.random() < LOST_WHOLLY
            kept = 0 if is_all else lost.randint(0, len(self._undo))
            for undo in reversed(self._undo[kept:]):
                batch = Batch()
                batch.operations += list(undo.items())
                super().write(batch, sync=True)
        successor = SimDatabase(power)
        batch = Batch()
        batch.operations += list(self.iterate(b"", b"\xff" * 80))
        MemoryDatabase.write(successor, batch, sync=True)
        return successor


class SimSegmentFolder(MemorySegmentFolder):
    """Segments of the log on such a disk."""

    def __init__(self, power: Power) -> None:
        super().__init__()
        self.power = power

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Append, if there is power; a full disk takes half."""
        try:
            self.power.use()
        except DiskFull:
            super().append(bytes(data)[: len(data) // 2])
            raise
        super().append(data)

    def sync(self) -> None:
        """Make durable, if there is power."""
        self.power.use()
        super().sync()

    def restart(self, power: Power, lost: random.Random | None) -> "SimSegmentFolder":
        """Return what the next process finds; with `lost`, the unsynced end is torn anywhere."""
        successor = SimSegmentFolder(power)
        for index, segment in self._segments.items():
            size = len(segment)
            if lost is not None:
                # All of it, or some of it: with several machines, some of it is hardly ever all.
                is_all = lost.random() < LOST_WHOLLY
                size = self._synced[index] if is_all else lost.randint(self._synced[index], size)
            successor._segments[index] = segment[:size]
            successor._synced[index] = size
        return successor


@dataclass(eq=False)
class Disk:
    """Everything of one machine that survives it."""

    power: Power = field(default_factory=Power)
    blocks: SimDatabase = field(init=False)
    journal: SimDatabase = field(init=False)
    payloads: MemoryPayloadStore = field(default_factory=MemoryPayloadStore)
    segments: SimSegmentFolder = field(init=False)
    log: MemoryWriteAheadLog = field(init=False)
    sign_record: bytes | None = None

    def __post_init__(self) -> None:
        self.blocks, self.journal = SimDatabase(self.power), SimDatabase(self.power)
        self.segments = SimSegmentFolder(self.power)
        self.log = MemoryWriteAheadLog(self.segments)

    def switch_off(self) -> None:
        """Let nothing reach the disk any more."""
        self.power.is_off = True

    def restart(self, lost: random.Random | None) -> None:
        """Become what the next process finds; `lost` draws what a power failure took."""
        self.power = Power(room=self.power.room)
        self.blocks = self.blocks.restart(self.power, lost)
        self.journal = self.journal.restart(self.power, lost)
        self.payloads = self.payloads.reopen()
        self.segments = self.segments.restart(self.power, lost)
        self.log = MemoryWriteAheadLog(self.segments)
