"""Sending consensus messages, and relaying those of others to where they are new.

Owns who is linked with whom, as the peers' statuses tell. Never decides what is worth sending.

A message is relayed to the linked peers that are not linked with the peer it came from: in a full
mesh to nobody, in any connected network to everybody in the end.
"""

from quorate.chain.codec import encode
from quorate.chain.evidence import DuplicateVoteEvidence
from quorate.chain.ids import Hash, Height
from quorate.chain.vote import Proposal, Vote

from node.exchange.block_assembly import PartSet
from node.exchange.messages import (
    EvidenceMessage,
    Message,
    PartMessage,
    ProposalMessage,
    VotesMessage,
    compute_neighbour,
    encode_message,
)
from p2p.network import Network, PeerId, Priority

PARTS_PER_REPAIR_MAX = 16
"""Parts sent to a peer in answer to one status, of all blocks together."""


class Broadcaster:
    """Sends to all linked peers, or to those that the sender of a message does not reach.

    Parameters
    ----------
    network : Network
        The links.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._names: dict[PeerId, bytes] = {}
        self._neighbours: dict[PeerId, frozenset[bytes]] = {}
        self._reached: dict[PeerId, tuple[PeerId, ...]] = {}

    def on_peer_connected(self, peer: PeerId) -> None:
        """Begin to send to a peer."""
        self._names[peer] = compute_neighbour(peer)
        self._reached.clear()

    def on_peer_disconnected(self, peer: PeerId) -> None:
        """Forget a peer."""
        self._names.pop(peer, None)
        self._neighbours.pop(peer, None)
        self._reached.clear()

    def on_neighbours(self, peer: PeerId, neighbours: frozenset[bytes]) -> None:
        """Note whom a peer is linked with."""
        if self._neighbours.get(peer) != neighbours:
            self._neighbours[peer] = neighbours
            self._reached.clear()

    @property
    def neighbours(self) -> tuple[bytes, ...]:
        """The short names of this node's own linked peers."""
        return tuple(self._names.values())

    def send_vote(self, vote: Vote) -> None:
        """Send an own vote to all."""
        self._send(VotesMessage((vote,)))

    def send_proposal(self, proposal: Proposal, parts: PartSet | None) -> None:
        """Send an own proposal to all, with the block's parts."""
        self._send(ProposalMessage(proposal))
        if parts is not None:
            root = proposal.block_id.parts_root
            for index in sorted(parts.parts):
                self._send(PartMessage(proposal.height, root, parts.parts[index]))

    def send_evidence(self, evidence: DuplicateVoteEvidence) -> None:
        """Send evidence to all."""
        self._send(EvidenceMessage((encode(evidence),)))

    def relay(
        self, message: Vote | Proposal | PartMessage | EvidenceMessage, sender: PeerId
    ) -> None:
        """Pass a peer's message on to the linked peers that `sender` is not linked with."""
        targets = self.get_relay_targets(sender)
        if not targets:
            return
        wrapped: Message
        match message:
            case Vote():
                wrapped = VotesMessage((message,))
            case Proposal():
                wrapped = ProposalMessage(message)
            case PartMessage() | EvidenceMessage():
                wrapped = message
        body = encode_message(wrapped)
        for peer in targets:
            self._network.send(peer, Priority.CONSENSUS, body)

    def get_relay_targets(self, sender: PeerId) -> tuple[PeerId, ...]:
        """Return the linked peers that a message of `sender` may not have reached."""
        known = self._reached.get(sender)
        if known is None:
            reached = self._neighbours.get(sender, frozenset())
            known = tuple(
                peer for peer, name in self._names.items() if peer != sender and name not in reached
            )
            self._reached[sender] = known
        return known

    def send_votes_to(self, peer: PeerId, messages: list[Vote | Proposal]) -> None:
        """Send a peer the messages of a round that its status lacks."""
        votes = tuple(message for message in messages if isinstance(message, Vote))
        for message in messages:
            if isinstance(message, Proposal):
                self._send_to(peer, ProposalMessage(message))
        if votes:
            self._send_to(peer, VotesMessage(votes))

    def send_parts_to(
        self, peer: PeerId, height: Height, parts: PartSet, had: bytes, count_max: int
    ) -> int:
        """Send a peer up to `count_max` of the parts that its bitmap lacks; return how many."""
        bitmap = int.from_bytes(had, "little")
        root = Hash(parts.block_id.parts_root)
        missing = [index for index in sorted(parts.parts) if not bitmap >> index & 1]
        sent = missing[:count_max]
        for index in sent:
            self._send_to(peer, PartMessage(height, root, parts.parts[index]))
        return len(sent)

    def _send(self, message: Message) -> None:
        self._network.broadcast(Priority.CONSENSUS, encode_message(message))

    def _send_to(self, peer: PeerId, message: Message) -> None:
        self._network.send(peer, Priority.CONSENSUS, encode_message(message))
