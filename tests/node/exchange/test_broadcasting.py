"""Relays: every message reaches everybody in a connected network, and few get it twice."""

import os
from typing import Any

import pytest
from quorate.chain.block import PART_BYTES, split_block
from quorate.chain.ids import Hash, Height
from quorate.chain.vote import BlockId, VoteType

from node.exchange.block_assembly import BlockAssembly
from node.exchange.broadcasting import PARTS_PER_REPAIR_MAX, Broadcaster
from node.exchange.messages import (
    PartMessage,
    VotesMessage,
    compute_neighbour,
    decode_message,
)
from p2p.network import PeerId, Priority
from tests.node.exchange.scripted import ScriptedNetwork
from tests.node.execution.chain import VALIDATORS, sign_vote

A, B, C, D = (PeerId(name) for name in "abcd")
VOTE = sign_vote(VALIDATORS[0], VoteType.PREVOTE, 5, None)


def make_broadcaster(*peers: PeerId) -> tuple[Broadcaster, ScriptedNetwork]:
    network: Any = ScriptedNetwork()
    broadcaster = Broadcaster(network)
    for peer in peers:
        broadcaster.on_peer_connected(peer)
    return broadcaster, network


def name(*peers: PeerId) -> frozenset[bytes]:
    return frozenset(map(compute_neighbour, peers))


def test_a_message_goes_to_those_its_sender_does_not_reach() -> None:
    broadcaster, network = make_broadcaster(A, B, C)
    assert set(broadcaster.get_relay_targets(A)) == {B, C}  # Nothing known: to all.
    broadcaster.on_neighbours(A, name(B, D))
    assert set(broadcaster.get_relay_targets(A)) == {C}
    broadcaster.relay(VOTE, A)
    assert [(peer, priority) for peer, priority, _ in network.sent] == [(C, Priority.CONSENSUS)]
    assert decode_message(network.sent[0][2]) == VotesMessage((VOTE,))
    broadcaster.on_neighbours(A, name(B, C))
    network.sent.clear()
    broadcaster.relay(VOTE, A)
    assert network.sent == []


def test_links_that_come_and_go_change_the_targets() -> None:
    broadcaster, _ = make_broadcaster(A, B)
    broadcaster.on_neighbours(A, name(B))
    assert set(broadcaster.get_relay_targets(A)) == set()
    broadcaster.on_peer_connected(C)
    assert set(broadcaster.get_relay_targets(A)) == {C}
    broadcaster.on_peer_disconnected(C)
    assert set(broadcaster.get_relay_targets(A)) == set()
    broadcaster.on_peer_disconnected(A)
    broadcaster.on_peer_connected(A)
    assert set(broadcaster.get_relay_targets(A)) == {B}  # What it said before no longer counts.
    assert set(broadcaster.neighbours) == name(A, B)


@pytest.mark.parametrize("links", ["ab bc cd", "ab bc cd da", "ab ac ad", "ab ac bc cd"])
def test_relays_reach_everybody_in_a_connected_network(links: str) -> None:
    pairs = [(PeerId(pair[0]), PeerId(pair[1])) for pair in links.split()]
    linked = {
        peer: {x for pair in pairs if peer in pair for x in pair if x != peer}
        for peer in (A, B, C, D)
    }
    nodes: dict[PeerId, tuple[Broadcaster, ScriptedNetwork]] = {}
    for peer, others in linked.items():
        nodes[peer] = make_broadcaster(*sorted(others))
        for other in others:
            nodes[peer][0].on_neighbours(other, name(*linked[other]))
    for origin, firsts in linked.items():
        heard = {origin}
        waiting = [(origin, first) for first in firsts]
        while waiting:
            sender, receiver = waiting.pop()
            if receiver in heard:
                continue
            heard.add(receiver)
            targets = nodes[receiver][0].get_relay_targets(sender)
            waiting += [(receiver, target) for target in targets]
        assert heard == set(linked)


def test_repair_sends_missing_parts_and_not_more_than_its_limit() -> None:
    raw = os.urandom((PARTS_PER_REPAIR_MAX + 4) * PART_BYTES)
    root, pieces = split_block(raw)
    parts = BlockAssembly().add_whole(BlockId(Hash(bytes(32)), len(pieces), root), raw)
    broadcaster, network = make_broadcaster(A)
    limit = PARTS_PER_REPAIR_MAX
    assert broadcaster.send_parts_to(A, Height(5), parts, b"\x03", limit) == limit
    sent = [decode_message(body) for _, _, body in network.sent]
    indices = [message.part.index for message in sent if isinstance(message, PartMessage)]
    assert indices == list(range(2, 2 + PARTS_PER_REPAIR_MAX))
    network.sent.clear()
    assert broadcaster.send_parts_to(A, Height(5), parts, b"\xff" * 32, limit) == 0
    assert network.sent == []
