"""What byzantine validators do to what their node would have sent.

Owns the behaviours, each a function from an honest message to what a peer gets instead. A
byzantine validator has its own key and can sign what it likes; it cannot forge others.
"""

import random
from enum import Enum
from hashlib import sha256

from quorate.chain.ids import Hash
from quorate.chain.keys import Domain, PrivateKey
from quorate.chain.vote import (
    BlockId,
    Proposal,
    Vote,
    compute_proposal_sign_bytes,
    compute_vote_sign_bytes,
)

from node.exchange.messages import (
    PartMessage,
    ProposalMessage,
    VotesMessage,
    decode_message,
    encode_message,
)
from p2p.network import PeerId, Priority
from tests.simulation.fabric import Tamper

REPLAYED_MAX = 64


class Behaviour(Enum):
    """How a byzantine validator misbehaves."""

    SILENT = "silent"
    EQUIVOCATE_VOTES = "equivocate votes"
    EQUIVOCATE_PROPOSALS = "equivocate proposals"
    WITHHOLD_PARTS = "withhold parts"
    WITHHOLD_VOTES = "withhold votes"
    REPLAY = "replay"
    GARBAGE = "garbage"


def make_tamper(
    behaviour: Behaviour, key: PrivateKey, chain_id: str, source: random.Random
) -> Tamper:
    """Return what a validator with this behaviour sends to a peer instead of a message."""
    remembered: list[bytes] = []

    def tamper(_peer: PeerId, priority: Priority, body: bytes) -> list[bytes]:
        if priority is not Priority.CONSENSUS:
            return [] if behaviour is Behaviour.SILENT else [body]
        message = decode_message(body)
        match behaviour:
            case Behaviour.SILENT:
                return []
            case Behaviour.EQUIVOCATE_VOTES if isinstance(message, VotesMessage):
                return [_equivocate_votes(message, key, chain_id, source)]
            case Behaviour.EQUIVOCATE_PROPOSALS if isinstance(message, ProposalMessage):
                return [_equivocate_proposal(message, key, chain_id, source)]
            case Behaviour.WITHHOLD_PARTS if isinstance(message, PartMessage):
                return []
            case Behaviour.WITHHOLD_VOTES if isinstance(message, VotesMessage):
                return [body] if source.random() < 0.3 else []
            case Behaviour.REPLAY:
                remembered.append(body)
                del remembered[:-REPLAYED_MAX]
                return [body, source.choice(remembered)]
            case Behaviour.GARBAGE:
                cut = source.randrange(len(body))
                return [body, body[:cut] + source.randbytes(8) + body[cut + 8 :]]
            case _:
                return [body]

    return tamper


def _other_block(block_id: BlockId | None, source: random.Random) -> BlockId | None:
    if block_id is None or source.random() < 0.5:
        name = Hash(sha256(source.randbytes(8)).digest())
        return BlockId(name, 1, name)
    return None


def _equivocate_votes(
    message: VotesMessage, key: PrivateKey, chain_id: str, source: random.Random
) -> bytes:
    votes = []
    for vote in message.votes:
        if vote.validator != key.address or source.random() < 0.5:
            votes.append(vote)
            continue
        block_id = _other_block(vote.block_id, source)
        raw = compute_vote_sign_bytes(chain_id, vote.type, vote.height, vote.round, block_id)
        votes.append(
            Vote(
                vote.type,
                vote.height,
                vote.round,
                block_id,
                vote.validator,
                key.sign(Domain.VOTE, raw),
            )
        )
    return encode_message(VotesMessage(tuple(votes)))


def _equivocate_proposal(
    message: ProposalMessage, key: PrivateKey, chain_id: str, source: random.Random
) -> bytes:
    honest = message.proposal
    other = _other_block(None, source)
    if honest.proposer != key.address or other is None or source.random() < 0.5:
        return encode_message(message)
    draft = Proposal(
        honest.height,
        honest.round,
        honest.valid_round,
        other,
        honest.time_ms,
        honest.proposer,
        honest.signature,
    )
    signature = key.sign(Domain.PROPOSAL, compute_proposal_sign_bytes(chain_id, draft))
    return encode_message(
        ProposalMessage(
            Proposal(
                draft.height,
                draft.round,
                draft.valid_round,
                draft.block_id,
                draft.time_ms,
                draft.proposer,
                signature,
            )
        )
    )
