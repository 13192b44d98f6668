"""What waits to be written on one link, most urgent first.

Owns the bounded queues of a link and the waking of its one writer. Never writes itself.
"""

from collections import deque
from typing import Final

import trio

from p2p.network import QUEUE_BYTES_MAX, QUEUE_MESSAGES_MAX, Priority

CONTROL_FRAMES_MAX: Final = 64
"""Frames of the link itself (echoes of heartbeats, addresses) that may wait."""


class Outbox:
    """Bounded queues of frames: control, then `Priority` in its order, and one heartbeat.

    Frames that wait are of the same bytes object on every link of a broadcast.
    """

    __slots__ = ("_bytes", "_control", "_event", "_heartbeat", "_limits", "_queues", "closed")

    def __init__(self) -> None:
        self.closed = False
        self._control: deque[bytes] = deque()
        self._heartbeat: bytes | None = None
        self._queues: tuple[deque[bytes], ...] = tuple(deque() for _ in Priority)
        self._bytes = [0] * len(Priority)
        self._limits = tuple((QUEUE_MESSAGES_MAX[p], QUEUE_BYTES_MAX[p]) for p in Priority)
        self._event = trio.Event()

    def __len__(self) -> int:
        return sum(map(len, self._queues)) + len(self._control) + (self._heartbeat is not None)

    def put(self, priority: Priority, frame: bytes) -> bool:
        """Queue a frame; False when the queue of its priority is full or the outbox closed."""
        messages_max, bytes_max = self._limits[priority]
        queue = self._queues[priority]
        n_bytes = self._bytes[priority] + len(frame)
        if self.closed or len(queue) >= messages_max or n_bytes > bytes_max:
            return False
        queue.append(frame)
        self._bytes[priority] = n_bytes
        self._event.set()
        return True

    def put_control(self, frame: bytes) -> bool:
        """Queue a frame of the link itself; False when full or closed."""
        if self.closed or len(self._control) >= CONTROL_FRAMES_MAX:
            return False
        self._control.append(frame)
        self._event.set()
        return True

    def put_heartbeat(self, frame: bytes) -> None:
        """Set the heartbeat to send next; one that is still waiting is out of date and goes."""
        if not self.closed:
            self._heartbeat = frame
            self._event.set()

    def take(self, bytes_max: int, *, with_bulk: bool) -> tuple[list[bytes], int]:
        """Take the next frames to write together.

        Parameters
        ----------
        bytes_max
            Frames are added while they sum up to no more; the first is taken whatever its size.
        with_bulk
            Whether frames of `Priority.BULK` may be taken now.

        Returns
        -------
        list of bytes, int
            The frames, none when nothing may be written now; how many of their bytes are bulk.
        """
        n_bulk_bytes = 0
        frames: list[bytes] = []
        room = bytes_max
        if self._heartbeat is not None:
            frames.append(self._heartbeat)
            room -= len(self._heartbeat)
            self._heartbeat = None
        while self._control and (room > 0 or not frames):
            frame = self._control.popleft()
            frames.append(frame)
            room -= len(frame)
        for priority in Priority:
            queue = self._queues[priority]
            if priority is Priority.BULK and not with_bulk:
                break
            while queue and (len(queue[0]) <= room or not frames):
                frame = queue.popleft()
                self._bytes[priority] -= len(frame)
                frames.append(frame)
                room -= len(frame)
                if priority is Priority.BULK:
                    n_bulk_bytes += len(frame)
            if queue:
                break
        return frames, n_bulk_bytes

    def is_empty_but_bulk(self) -> bool:
        """Tell whether nothing waits, or nothing but `Priority.BULK`."""
        return len(self) == len(self._queues[Priority.BULK])

    async def wait(self) -> None:
        """Wait for the next `put` or `close`; only the one writer may."""
        if not self.closed:
            self._event = trio.Event()
            await self._event.wait()

    def close(self) -> None:
        """Take no more frames; the writer wakes and writes what is left."""
        self.closed = True
        self._event.set()

    def clear(self) -> None:
        """Close, and throw away what waits."""
        self._control.clear()
        self._heartbeat = None
        for priority, queue in zip(Priority, self._queues, strict=True):
            queue.clear()
            self._bytes[priority] = 0
        self.close()
