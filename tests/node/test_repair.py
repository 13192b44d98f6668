"""What one status of a peer can make a node send."""

import os
from types import SimpleNamespace
from typing import Any

from quorate.chain.block import PART_BYTES, split_block
from quorate.chain.ids import Hash, Height, Round
from quorate.chain.vote import BlockId

from consensus.status import RoundStatus, Step
from node.exchange.block_assembly import BlockAssembly
from node.exchange.broadcasting import PARTS_PER_REPAIR_MAX, Broadcaster
from node.exchange.messages import (
    NodeStatus,
    PartMessage,
    PartsStatus,
    decode_message,
    encode_message,
)
from node.reactor import Reactor
from p2p.network import PeerId
from tests.node.exchange.scripted import ScriptedNetwork


def test_one_status_brings_a_bounded_number_of_parts_the_newest_blocks_first() -> None:
    network: Any = ScriptedNetwork()
    assembly = BlockAssembly()
    roots = []
    for number in range(3):
        raw = os.urandom(10 * PART_BYTES)
        root, pieces = split_block(raw)
        assembly.add_whole(BlockId(Hash(bytes([number]) * 32), len(pieces), root), raw)
        roots.append(root)
    parts: Any = SimpleNamespace(
        network=network,
        assembly=assembly,
        broadcaster=Broadcaster(network),
        catch_up=SimpleNamespace(on_status=lambda *_: None),
        executor=SimpleNamespace(position=SimpleNamespace(height=Height(4), next_height=Height(5))),
        runner=SimpleNamespace(is_waiting=False),
        driver=SimpleNamespace(get_repairs=lambda *_: []),
    )
    status = NodeStatus(
        Height(4),
        Height(1),
        RoundStatus(Height(5), Round(0), Step.PROPOSE, ()),
        tuple(PartsStatus(root, b"") for root in roots),
        (),
    )
    Reactor(parts).on_status(PeerId("a"), encode_message(status))
    sent = [decode_message(body) for _, _, body in network.sent]
    named = [message.parts_root for message in sent if isinstance(message, PartMessage)]
    assert len(named) == PARTS_PER_REPAIR_MAX
    assert named == [roots[2]] * 10 + [roots[1]] * (PARTS_PER_REPAIR_MAX - 10)
