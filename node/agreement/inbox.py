"""The inbox of the consensus loop: what peers send, and what the node's own tasks answer.

Owns the queue and its limits. What peers send is dropped when too much waits (the status exchange
repairs it); the node's own answers always find room. Never looks into an input.
"""

from dataclasses import dataclass
from typing import Final

import trio
from quorate.chain.vote import Commit

from consensus.inputs import Input
from node.exchange.messages import PartMessage
from p2p.network import PeerId

INBOX_MAX: Final = 16_384
"""Items from peers that wait for the loop."""
OWN_ITEMS_MAX: Final = 4_096
"""Room beside them for the node's own items, of which there are a few per round at most."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A consensus input from a peer, or from this node if `peer` is None."""

    input: Input
    peer: PeerId | None = None


@dataclass(frozen=True, slots=True)
class IncomingPart:
    """A part of a proposed block."""

    message: PartMessage
    peer: PeerId


Item = Incoming | IncomingPart | Commit | None
"""What the inbox holds; a commit is a decision that has been executed, None a call to look."""


class Inbox:
    """Items for the consensus loop, in order of arrival."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[Item](INBOX_MAX + OWN_ITEMS_MAX)
        self.dropped = 0

    def __len__(self) -> int:
        return self._receive.statistics().current_buffer_used

    def put_from_peer(self, item: Incoming | IncomingPart) -> None:
        """Queue what a peer sent; drop it when too much waits."""
        if len(self) >= INBOX_MAX:
            self.dropped += 1
        else:
            self._send.send_nowait(item)

    def put_own(self, item: Item) -> None:
        """Queue what the node itself has to say."""
        self._send.send_nowait(item)

    def wake(self) -> None:
        """Make the loop look around, unless it will anyway."""
        if not len(self):
            self._send.send_nowait(None)

    async def get(self) -> Item:
        """Wait for the next item."""
        return await self._receive.receive()

    def get_nowait(self) -> Item:
        """Return the next item; raises `trio.WouldBlock` when there is none."""
        return self._receive.receive_nowait()
