"""What a node does with what its peers send: decode, route, repair, answer.

Owns the routing of link messages, statuses, announcements and requests. Never blocks (each
synchronous method returns at once) and holds no rule: what is decoded goes to the consensus loop,
the mempool, the catch-up or the payload exchange. A message that can't be decoded lowers its
sender's score.
"""

from collections.abc import Callable
from dataclasses import dataclass

import structlog
from quorate.chain.errors import DecodeError, SignatureError
from quorate.chain.ids import Height

from consensus.driver import Driver
from consensus.inputs import ProposalReceived, VoteReceived
from node.agreement.consensus_runner import ConsensusRunner
from node.agreement.evidence_pool import EvidencePool
from node.agreement.inbox import Incoming, IncomingPart
from node.exchange.announcements import PayloadAnnouncements
from node.exchange.block_assembly import BlockAssembly
from node.exchange.broadcasting import PARTS_PER_REPAIR_MAX, Broadcaster
from node.exchange.catching_up import CatchUp
from node.exchange.messages import (
    NEIGHBOURS_MAX,
    EvidenceMessage,
    NodeStatus,
    PartMessage,
    PartsStatus,
    PayloadAnnouncementsMessage,
    PendingHashesMessage,
    ProposalMessage,
    TransactionsMessage,
    VotesMessage,
    decode_message,
    decode_status,
    encode_message,
)
from node.exchange.serving import Server
from node.exchange.transaction_gossip import TransactionGossip
from node.execution.executor import Executor
from p2p.network import Network, PeerId, Priority
from store.chain_store import ChainStore

MALFORMED_PENALTY = 50
BAD_EVIDENCE_PENALTY = 20
REPAIR_MESSAGES_MAX = 256
"""Votes and proposals sent to a peer in answer to one status."""
STATUS_PARTS_MAX = 8

_log = structlog.get_logger("reactor")


@dataclass(frozen=True, slots=True)
class ReactorParts:
    """Where messages go."""

    network: Network
    driver: Driver
    runner: ConsensusRunner
    executor: Executor
    assembly: BlockAssembly
    broadcaster: Broadcaster
    catch_up: CatchUp
    evidence: EvidencePool
    gossip: TransactionGossip
    announcements: PayloadAnnouncements
    server: Server
    store: ChainStore
    now_ms: Callable[[], int]


class Reactor:
    """The network's handler (`p2p.network.NetworkHandler`)."""

    def __init__(self, parts: ReactorParts) -> None:
        self._parts = parts

    def on_peer_connected(self, peer: PeerId) -> None:
        """Begin to exchange statuses."""
        _log.info("peer_connected", peer=peer)
        self._parts.broadcaster.on_peer_connected(peer)
        self._parts.announcements.on_peer_connected(peer)
        self._parts.network.send_status_now()

    def on_peer_disconnected(self, peer: PeerId) -> None:
        """Forget what the peer said."""
        _log.info("peer_disconnected", peer=peer)
        self._parts.broadcaster.on_peer_disconnected(peer)
        self._parts.catch_up.on_peer_disconnected(peer)

    def on_message(self, peer: PeerId, priority: Priority, body: bytes) -> None:  # noqa: ARG002
        """Route a message; the priority it came with means nothing to the receiver."""
        try:
            message = decode_message(body)
        except DecodeError as error:
            self._parts.network.report(peer, MALFORMED_PENALTY, str(error))
            return
        match message:
            case ProposalMessage(proposal):
                received = ProposalReceived(proposal, self._parts.now_ms())
                self._parts.runner.receive(Incoming(received, peer))
            case PartMessage():
                self._parts.runner.receive(IncomingPart(message, peer))
            case VotesMessage(votes):
                for vote in votes:
                    self._parts.runner.receive(Incoming(VoteReceived(vote), peer))
            case TransactionsMessage(entries):
                self._parts.gossip.receive(peer, entries)
            case PendingHashesMessage(hashes):
                self._parts.gossip.receive_hashes(peer, hashes)
            case EvidenceMessage():
                self._receive_evidence(peer, message)
            case PayloadAnnouncementsMessage(announcements):
                self._parts.announcements.receive(peer, announcements)

    def on_announcement(self, peer: PeerId, body: bytes) -> None:
        """Route a gossiped announcement: it only ever names pending transactions."""
        try:
            message = decode_message(body)
        except DecodeError as error:
            self._parts.network.report(peer, MALFORMED_PENALTY, str(error))
            return
        if isinstance(message, PendingHashesMessage):
            self._parts.gossip.receive_hashes(peer, message.hashes)
        else:
            self._parts.network.report(peer, MALFORMED_PENALTY, "unexpected announcement")

    def get_status(self) -> bytes:
        """Return what rides on this node's heartbeats."""
        position = self._parts.executor.position
        is_started = not self._parts.runner.is_waiting
        return encode_message(
            NodeStatus(
                height=position.height,
                earliest_height=Height(max(self._parts.store.base, 0)),
                round_status=self._parts.driver.get_status() if is_started else None,
                parts=tuple(
                    PartsStatus(parts.block_id.parts_root, parts.bitmap)
                    for parts in self._parts.assembly.part_sets()[-STATUS_PARTS_MAX:]
                )
                if is_started
                else (),
                neighbours=self._parts.broadcaster.neighbours[:NEIGHBOURS_MAX],
            )
        )

    def on_status(self, peer: PeerId, body: bytes) -> None:
        """Note what a peer has, and send it what it lacks of the running height."""
        try:
            status = decode_status(body)
        except DecodeError as error:
            self._parts.network.report(peer, MALFORMED_PENALTY, str(error))
            return
        self._parts.catch_up.on_status(peer, status.height, status.earliest_height)
        self._parts.broadcaster.on_neighbours(peer, frozenset(status.neighbours))
        position = self._parts.executor.position
        is_level = status.height == position.height and not self._parts.runner.is_waiting
        if not is_level or status.round_status is None:
            return
        missing = self._parts.driver.get_repairs(status.round_status, REPAIR_MESSAGES_MAX)
        self._parts.broadcaster.send_votes_to(peer, missing)
        had = {item.parts_root: item.bitmap for item in status.parts}
        room = PARTS_PER_REPAIR_MAX
        for parts in reversed(self._parts.assembly.part_sets()):
            bitmap = had.get(parts.block_id.parts_root)
            if bitmap is not None and room > 0:
                room -= self._parts.broadcaster.send_parts_to(
                    peer, position.next_height, parts, bitmap, room
                )

    async def handle_request(self, peer: PeerId, body: bytes) -> bytes:
        """Answer a pull."""
        return await self._parts.server.answer(peer, body)

    def _receive_evidence(self, peer: PeerId, message: EvidenceMessage) -> None:
        for raw in message.evidence:
            try:
                evidence = self._parts.executor.assess_evidence(raw, self._parts.now_ms())
            except (DecodeError, SignatureError) as error:
                self._parts.network.report(peer, BAD_EVIDENCE_PENALTY, str(error))
                return
            if evidence is not None and self._parts.evidence.add(evidence):
                self._parts.broadcaster.relay(EvidenceMessage((raw,)), peer)
                self._parts.runner.wake()
