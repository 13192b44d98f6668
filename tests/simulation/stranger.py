"""A peer without a stake, that passes on updates and keeps their payloads back.

Owns what it sends. It holds nothing, claims nothing, and answers no request but with a refusal.
"""

import trio
from quorate.chain.codec import encode
from quorate.chain.ids import Height

from node.exchange.messages import (
    NodeStatus,
    TransactionEntry,
    TransactionsMessage,
    encode_message,
)
from p2p.identity import get_peer_id
from p2p.network import PeerId, Priority, RequestRefused
from tests.simulation.fabric import Fabric, SimNetwork
from tests.simulation.machines import make_key

STRANGER_ID = get_peer_id(make_key(900).seed)


class Stranger:
    """A peer that everybody is linked with."""

    def __init__(self, fabric: Fabric) -> None:
        self._network = SimNetwork(fabric, STRANGER_ID)

    async def run(self) -> None:
        """Stay linked until cancelled."""
        await self._network.run(self)

    def tell(self, raw: bytes) -> None:
        """Pass a transaction on to everybody, without its payload."""
        message = TransactionsMessage((TransactionEntry(raw, None),))
        self._network.broadcast(Priority.MEMPOOL, encode_message(message))

    def on_peer_connected(self, peer: PeerId) -> None:
        """Everybody is welcome."""

    def on_peer_disconnected(self, peer: PeerId) -> None:
        """Nobody is missed."""

    def on_message(self, peer: PeerId, priority: Priority, body: bytes) -> None:
        """Nothing is of interest."""

    def on_announcement(self, peer: PeerId, body: bytes) -> None:
        """Nothing is of interest."""

    def on_status(self, peer: PeerId, body: bytes) -> None:
        """Nothing is of interest."""

    def get_status(self) -> bytes:
        """Say that nothing is here."""
        return encode(NodeStatus(Height(0), Height(0), None, (), ()))

    async def handle_request(self, peer: PeerId, body: bytes) -> bytes:  # noqa: ARG002
        """Refuse."""
        await trio.lowlevel.checkpoint()
        raise RequestRefused("nothing is here")
