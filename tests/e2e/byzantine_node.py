"""A node that misbehaves on purpose: ``python -m tests.e2e.byzantine_node HOW HOME``.

Owns the changes to the node's own classes, made in this process alone, before the node starts.
Everything else is the node as it is. For tests only: it signs what costs a validator its power.
"""

import dataclasses
import itertools
import sys
from typing import Any, Final

from msgspec import structs
from quorate.chain.block import compute_block_id
from quorate.chain.codec import encode
from quorate.chain.ids import Hash
from quorate.chain.keys import Domain, PrivateKey
from quorate.chain.vote import BlockId, Vote, compute_vote_sign_bytes

from consensus.effects import UnsignedVote
from node.agreement.proposing import Proposer
from node.agreement.signer import Signer
from node.exchange.broadcasting import Broadcaster
from node.exchange.messages import VotesMessage, decode_status, encode_message
from node.process import main
from node.reactor import Reactor
from p2p.network import Priority
from tests.e2e.network import CHAIN_ID

EVERY: Final = 5
"""One own message in so many is a lie, so that the others get on with their work between."""
FALSE_HEIGHT: Final = 10**9
OTHER: Final = BlockId(Hash(b"\xbb" * 32), 1, Hash(b"\xbb" * 32))

_counter = itertools.count()


def is_time_to_lie() -> bool:
    return next(_counter) % EVERY == 0


def equivocate() -> None:
    """Send a second vote against the first: to every second peer, which then has both."""
    keys: list[PrivateKey] = []
    honest_sign, honest_send = Signer.sign_vote, Broadcaster.send_vote

    def sign_vote(self: Signer, unsigned: UnsignedVote) -> Vote:
        keys[:] = [self.key]
        return honest_sign(self, unsigned)

    def send_vote(self: Broadcaster, vote: Vote) -> None:
        if not is_time_to_lie():
            honest_send(self, vote)
            return
        block_id = OTHER if vote.block_id is None else None
        sign_bytes = compute_vote_sign_bytes(CHAIN_ID, vote.type, vote.height, vote.round, block_id)
        signature = keys[0].sign(Domain.VOTE, sign_bytes)
        lie = Vote(vote.type, vote.height, vote.round, block_id, vote.validator, signature)
        for index, peer in enumerate(self._names):
            votes = (vote, lie) if index % 2 else (vote,)
            self._network.send(peer, Priority.CONSENSUS, encode_message(VotesMessage(votes)))

    Signer.sign_vote = sign_vote  # type: ignore[method-assign]
    Broadcaster.send_vote = send_vote  # type: ignore[method-assign]


def withhold() -> None:
    """Keep own proposals, or their parts, from everybody, and vote all the same."""
    honest_send = Broadcaster.send_proposal

    def send_proposal(self: Broadcaster, proposal: Any, _parts: Any) -> None:
        if next(_counter) % 2:
            honest_send(self, proposal, None)

    Broadcaster.send_proposal = send_proposal  # type: ignore[method-assign]


def lie_about_roots() -> None:
    """Propose blocks whose state root is not what their execution gives."""
    honest_make = Proposer.make_block

    async def make_block(self: Proposer) -> Any:
        executed = await honest_make(self)
        if not is_time_to_lie():
            return executed
        header = structs.replace(executed.block.header, state_root=Hash(b"\x66" * 32))
        block = structs.replace(executed.block, header=header)
        raw = encode(block)
        return dataclasses.replace(
            executed, block=block, raw=raw, block_id=compute_block_id(block, raw)
        )

    Proposer.make_block = make_block  # type: ignore[method-assign]


def lie_about_heights() -> None:
    """Claim now and then to be far ahead, and then to be at the beginning."""
    honest_status = Reactor.get_status

    def get_status(self: Reactor) -> bytes:
        status = decode_status(honest_status(self))
        height = {1: FALSE_HEIGHT, 2: 0}.get(next(_counter) % EVERY, status.height)
        return encode_message(structs.replace(status, height=height))

    Reactor.get_status = get_status  # type: ignore[method-assign]


def misbehave(how: str) -> None:
    """Change this process by the name of a behaviour (`manifest.Behaviour`)."""
    changes = {
        "equivocate": equivocate,
        "withhold": withhold,
        "wrong_root": lie_about_roots,
        "false_status": lie_about_heights,
    }
    for change in changes.values() if how == "everything" else [changes[how]]:
        change()
    # It hears its own lies from others, and goes on.
    Signer.notice = lambda _self, _message: None  # type: ignore[method-assign]
    Signer.notice_commit = lambda _self, _commit, _validators: None  # type: ignore[method-assign]


if __name__ == "__main__":
    misbehave(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
