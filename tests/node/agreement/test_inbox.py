"""The inbox: how much of it peers may fill, and what wakes the loop."""

import pytest
import trio
from quorate.chain.ids import Height, Round

from consensus.inputs import TimeoutElapsed, TimeoutKind
from node.agreement.inbox import INBOX_MAX, Inbox, Incoming
from p2p.network import PeerId

ITEM = Incoming(TimeoutElapsed(TimeoutKind.PROPOSE, Height(1), Round(0)), PeerId("p"))


async def test_a_full_inbox_drops_what_peers_send_and_keeps_room_for_the_node() -> None:
    inbox = Inbox()
    for _ in range(INBOX_MAX + 3):
        inbox.put_from_peer(ITEM)
    assert (len(inbox), inbox.dropped) == (INBOX_MAX, 3)
    own = Incoming(ITEM.input)
    inbox.put_own(own)
    taken = [inbox.get_nowait() for _ in range(len(inbox))]
    assert taken[-1] is own
    with pytest.raises(trio.WouldBlock):
        inbox.get_nowait()


async def test_a_call_to_look_is_left_once() -> None:
    inbox = Inbox()
    for _ in range(3):
        inbox.wake()
    assert await inbox.get() is None
    inbox.put_own(ITEM)
    inbox.wake()
    assert len(inbox) == 1
