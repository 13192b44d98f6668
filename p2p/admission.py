"""Admission: who may connect, who may link, and how much a peer may forward.

Owns the rules of lists, limits and bans, with time as an argument. Never opens or closes anything.
"""

from collections import Counter
from collections.abc import Collection
from typing import Final

from p2p.network import NetworkConfig, PeerId
from p2p.scoring import ScoreBook

CONNECTIONS_SPARE: Final = 64
"""Connections beyond ``peers_max`` that may be in their handshake."""

ANNOUNCEMENTS_PER_S_MAX: Final = 200
"""Announcements taken per second from all peers; the rest is dropped."""

ANNOUNCEMENTS_PER_S_AND_PEER_MAX: Final = 50
"""Announcements taken per second from one peer; the rest is dropped."""


class Admission:
    """The rules by which peers are let in.

    Parameters
    ----------
    config
        Lists and limits.
    own_id
        Our peer id.
    scores
        Where bans are kept.
    """

    def __init__(self, config: NetworkConfig, own_id: PeerId, scores: ScoreBook) -> None:
        self._config = config
        self._own_id = own_id
        self._scores = scores
        self._forwarded: Counter[PeerId] = Counter()
        self._second = 0

    def get_peer_objection(self, peer: PeerId, now: float) -> str | None:
        """Say why a peer is not welcome at all; None when it is."""
        config = self._config
        if peer == self._own_id:
            return "it is this node"
        if config.allowed_peers is not None and peer not in config.allowed_peers:
            return "not on the list of allowed peers"
        if peer not in config.unconditional_peers and self._scores.is_banned(peer, now):
            return "banned"
        return None

    def get_connection_objection(self, peer: PeerId, n_connections: int, now: float) -> str | None:
        """Say why a connection is closed before its first stream; None when it stays."""
        objection = self.get_peer_objection(peer, now)
        if objection is not None or peer in self._config.unconditional_peers:
            return objection
        if n_connections > self._config.peers_max + CONNECTIONS_SPARE:
            return "no room for another connection"
        return None

    def get_link_objection(
        self, peer: PeerId, host: str, linked_hosts: Collection[str], now: float
    ) -> str | None:
        """Say why there is no room for a link; None when there is.

        Parameters
        ----------
        peer
            Who wants it.
        host
            IP address of the peer.
        linked_hosts
            IP address of every linked peer.
        now
            Seconds.
        """
        config = self._config
        objection = self.get_peer_objection(peer, now)
        if objection is not None or peer in config.unconditional_peers:
            return objection
        if len(linked_hosts) >= config.peers_max:
            return "no room for another peer"
        if sum(linked == host for linked in linked_hosts) >= config.peers_per_address_max:
            return "no room for another peer of this address"
        return None

    def may_forward(self, peer: PeerId, now: float) -> bool:
        """Count an announcement that `peer` forwards; tell whether it is within the limits."""
        if int(now) != self._second:
            self._second = int(now)
            self._forwarded.clear()
        self._forwarded[peer] += 1
        return (
            self._forwarded[peer] <= ANNOUNCEMENTS_PER_S_AND_PEER_MAX
            and self._forwarded.total() <= ANNOUNCEMENTS_PER_S_MAX
        )
