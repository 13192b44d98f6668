"""Ethernet cables between network namespaces that lose and delay what they carry.

A cable is a pair of TAP devices and a thread that carries frames from one to the other. It needs
``/dev/net/tun`` and the right to make devices, and nothing else of the kernel: the packet
schedulers that could do the same are missing in many.

Owns the devices and the threads. Never looks into a frame.
"""

import fcntl
import os
import random
import select
import struct
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Final

TUN_DEVICE: Final = "/dev/net/tun"
FRAME_BYTES_MAX: Final = 65_536
FRAMES_MAX: Final = 20_000
"""Frames on their way in one cable; more of them are lost, as in a full queue of a router."""
BURST_MAX: Final = 256
"""Frames taken from one end before the other end has its turn."""
_POLL_S: Final = 0.1

# Of linux/if_tun.h: a device for Ethernet frames, without a header in front of each.
_TUNSETIFF: Final = 0x400454CA
_IFF_TAP: Final = 0x0002
_IFF_NO_PI: Final = 0x1000


def open_tap(name: str) -> int:
    """Make a TAP device in this process's network namespace; return its file descriptor.

    The device ends with the descriptor, and may be moved to another namespace meanwhile.
    """
    descriptor = os.open(TUN_DEVICE, os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(
            descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI)
        )
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


class Cable:
    """A cable between two new devices.

    Parameters
    ----------
    near, far : str
        Names of the devices, at most 15 characters each.
    seed : int
        Of what is lost.

    Attributes
    ----------
    delay_s : float
        What each frame takes, in both directions.
    loss : float
        Which share of the frames is lost, in both directions, each for itself.
    n_carried, n_lost : int
    """

    def __init__(self, near: str, far: str, seed: int = 0) -> None:
        self.delay_s = 0.0
        self.loss = 0.0
        self.n_carried = 0
        self.n_lost = 0
        self._draw = random.Random(seed)
        self._ends = open_tap(near), open_tap(far)
        self._under_way: deque[tuple[float, int, bytes]] = deque()
        self._is_closed = False
        self._thread = threading.Thread(target=self._carry, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Take the cable away, and both devices with it."""
        self._is_closed = True
        self._thread.join()
        for end in self._ends:
            os.close(end)

    def _carry(self) -> None:
        while not self._is_closed:
            now_s = time.monotonic()
            while self._under_way and self._under_way[0][0] <= now_s:
                _, sink, frame = self._under_way.popleft()
                # Nobody takes a frame at a device that is down, or whose queue is full.
                with suppress(OSError):
                    os.write(sink, frame)
                    self.n_carried += 1
            wait_s = min(self._under_way[0][0] - now_s, _POLL_S) if self._under_way else _POLL_S
            readable, _, _ = select.select(self._ends, (), (), max(wait_s, 0.0))
            for end in readable:
                self._take(end, self._ends[1] if end == self._ends[0] else self._ends[0])

    def _take(self, source: int, sink: int) -> None:
        for _ in range(BURST_MAX):
            try:
                frame = os.read(source, FRAME_BYTES_MAX)
            except OSError:
                return
            if self._draw.random() < self.loss or len(self._under_way) >= FRAMES_MAX:
                self.n_lost += 1
            else:
                self._under_way.append((time.monotonic() + self.delay_s, sink, frame))
