"""Wires in memory, to test what runs on a wire without a network."""

import trio
from trio.testing import MemoryReceiveStream, MemorySendStream, memory_stream_one_way_pair

from p2p.network import PeerId
from p2p.wire import WireClosed

ONE = PeerId("12D3KooWOne")
OTHER = PeerId("12D3KooWOther")


class MemoryWire:
    """One end of a stream in memory; every write is remembered."""

    def __init__(self, peer: PeerId, out: MemorySendStream, into: MemoryReceiveStream) -> None:
        self.peer = peer
        self.remote_host = "127.0.0.1"
        self.remote_address = "/ip4/127.0.0.1/tcp/1"
        self.connection: object = self
        self.writes: list[bytes] = []
        self.is_closed = False
        self.closed_by_force = False
        self.stuck: trio.Event | None = None
        self.n_writes_cancelled = 0
        self._out = out
        self._into = into

    async def read(self, bytes_max: int) -> bytes:
        try:
            return bytes(await self._into.receive_some(bytes_max))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise WireClosed("closed") from error

    async def write(self, data: bytes) -> None:
        if self.stuck is not None:
            try:
                await self.stuck.wait()
            except trio.Cancelled:
                self.n_writes_cancelled += 1
                raise
        self.writes.append(data)
        try:
            await self._out.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise WireClosed("closed") from error

    async def reset(self) -> None:
        self.is_closed = True
        if self.stuck is not None:
            self.stuck.set()
        self._out.close()
        self._into.close()
        await trio.lowlevel.checkpoint()

    async def force_close(self) -> None:
        self.closed_by_force = True
        await self.reset()


def wire_pair() -> tuple[MemoryWire, MemoryWire]:
    """Two ends of one stream: the first is held by ONE, and its peer is OTHER."""
    there_out, there_in = memory_stream_one_way_pair()
    back_out, back_in = memory_stream_one_way_pair()
    return MemoryWire(OTHER, there_out, back_in), MemoryWire(ONE, back_out, there_in)
