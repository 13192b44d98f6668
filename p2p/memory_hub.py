"""Where networks in memory meet, and the switches that break what lies between them.

Owns who listens where, partitions, frozen nodes and the rule that drops messages. Never delivers.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import trio

from p2p.address import Address
from p2p.network import ListenError, PeerId, Priority

if TYPE_CHECKING:
    from p2p.memory import MemoryNetwork

DropRule = Callable[[PeerId, PeerId, Priority, bytes], bool]
"""Called with sender, receiver, priority and body; true drops the message."""


class MemoryHub:
    """Where networks of one process meet.

    Attributes
    ----------
    drop
        Rule that drops messages on their way; None drops nothing.
    latency_s
        Seconds that every delivery takes.
    """

    def __init__(self) -> None:
        self.drop: DropRule | None = None
        self.latency_s = 0.0
        self._networks: dict[PeerId, MemoryNetwork] = {}
        self._locations: dict[str, PeerId] = {}
        self._groups: tuple[frozenset[PeerId], ...] = ()
        self._frozen: set[PeerId] = set()
        self._thawed = trio.Event()
        self._last_port = 49151

    def partition(self, *groups: Iterable[PeerId]) -> None:
        """Cut every link between different groups, and allow none until `heal`.

        Peers in no group form one more group together.
        """
        self._groups = tuple(frozenset(group) for group in groups)
        for network in self._networks.values():
            network.close_links(lambda a, b: not self.is_reachable(a, b))

    def heal(self) -> None:
        """End the partition; networks link again by themselves."""
        self._groups = ()

    def freeze(self, peer: PeerId) -> None:
        """Let `peer` neither send nor receive, while its links stay until they time out."""
        self._frozen.add(peer)

    def thaw(self, peer: PeerId) -> None:
        """End what `freeze` did."""
        self._frozen.discard(peer)
        self._thawed.set()
        self._thawed = trio.Event()

    async def wait_thawed(self, *peers: PeerId) -> None:
        """Wait until none of `peers` is frozen."""
        while not self._frozen.isdisjoint(peers):
            await self._thawed.wait()

    def is_frozen(self, peer: PeerId) -> bool:
        """Tell whether `peer` is frozen."""
        return peer in self._frozen

    def is_reachable(self, one: PeerId, other: PeerId) -> bool:
        """Tell whether no partition lies between two peers."""
        groups = self._groups
        return next((g for g in groups if one in g), None) is next(
            (g for g in groups if other in g), None
        )

    def add(self, network: "MemoryNetwork", listen: Address) -> Address:
        """Register a network that listens; give its address with the port filled in.

        Raises
        ------
        ListenError
            If the address is taken.
        """
        port = listen.port
        if port == 0:
            self._last_port += 1
            port = self._last_port
        address = Address(listen.host_kind, listen.host, port, network.peer_id)
        if address.location in self._locations:
            raise ListenError(f"cannot listen on {listen.location}: the port is in use")
        if network.peer_id in self._networks:
            raise ListenError(f"cannot listen on {listen.location}: the node runs already")
        self._locations[address.location] = network.peer_id
        self._networks[network.peer_id] = network
        return address

    def remove(self, network: "MemoryNetwork", address: Address) -> None:
        """Forget a network that has stopped."""
        del self._locations[address.location]
        del self._networks[network.peer_id]

    def get(self, address: Address) -> "MemoryNetwork | None":
        """Give the network that listens at `address`, if it is the one named there."""
        peer = self._locations.get(address.location)
        if peer is None or address.peer_id not in {None, peer}:
            return None
        return self._networks[peer]
