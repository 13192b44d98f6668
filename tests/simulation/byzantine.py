"""What byzantine validators say instead of what their program would have them say.

Owns the behaviours: what becomes of a message, a status or an answer on its way to a peer, and of
the lock that should bind. A byzantine validator has its own key and signs what it likes; it cannot
forge others. Which blocks it makes up is in `forgery`.
"""

import random
from enum import Enum
from typing import TYPE_CHECKING

import msgspec
from quorate.chain.announcement import ANNOUNCED_PER_MESSAGE_MAX, sign_announcement
from quorate.chain.errors import DecodeError
from quorate.chain.ids import Address, Hash, Height, Round
from quorate.chain.keys import Domain, PrivateKey
from quorate.chain.vote import BlockId, Vote, VoteType, compute_vote_sign_bytes

from node.exchange.messages import (
    BlocksAnswer,
    GetBlocks,
    GetChunk,
    GetChunkHashes,
    GetTransactions,
    NodeStatus,
    PartMessage,
    PayloadAnnouncementsMessage,
    PendingHashesMessage,
    VotesMessage,
    decode_message,
    decode_request,
    decode_status,
    encode_message,
)
from p2p.network import BODY_BYTES_MAX, PeerId, Priority
from tests.simulation.forgery import Forger, Forgery, forge_decided

if TYPE_CHECKING:
    from node.composition import Node

REPLAYED_MAX = 64
MADE_UP_HASHES = 8
FAR_VOTES = 8
OVERSIZED = bytes(BODY_BYTES_MAX + 1)
ZEROS = bytes(BODY_BYTES_MAX)


class Behaviour(Enum):
    """How a byzantine validator misbehaves; it may do several of these at a time."""

    SILENT = "silent"
    EQUIVOCATE_VOTES = "equivocate votes"
    EQUIVOCATE_PROPOSALS = "equivocate proposals"
    WRONG_ROOTS = "wrong roots"
    INVALID_BLOCKS = "invalid blocks"
    FALSE_POLKA = "claims polkas that never were"
    AMNESIA = "forgets its lock"
    WITHHOLD_PARTS = "withhold parts"
    WITHHOLD_VOTES = "withhold votes"
    WITHHOLD_ANSWERS = "withhold answers"
    LYING_ANSWERS = "lying answers"
    REPLAY = "replay"
    GARBAGE = "garbage"
    OVERSIZED = "oversized"
    FORGED_VOTES = "votes in others' names"
    FALSE_HEIGHTS = "false heights"
    FAR_VOTES = "votes for far heights and rounds"
    FALSE_ANNOUNCEMENTS = "announces what it does not hold"
    FALSE_PAYLOADS = "announces payloads that it does not hold"
    WITHHOLD_PAYLOADS = "announces payloads and never serves them"


FORGERIES = {
    Behaviour.EQUIVOCATE_PROPOSALS: Forgery.SIBLING,
    Behaviour.WRONG_ROOTS: Forgery.WRONG_ROOT,
    Behaviour.INVALID_BLOCKS: Forgery.INVALID,
    Behaviour.FALSE_POLKA: Forgery.FALSE_POLKA,
}


class Byzantine:
    """One byzantine validator's mouth (`fabric.Deceiver`).

    Parameters
    ----------
    behaviours : tuple of Behaviour
        None at all is an honest validator that counts as byzantine: it may fall silent for good.
    key : PrivateKey
        Its own.
    chain_id : str
    source : random.Random
    """

    def __init__(
        self,
        behaviours: tuple[Behaviour, ...],
        key: PrivateKey,
        chain_id: str,
        source: random.Random,
    ) -> None:
        self._behaviours = behaviours
        self._key = key
        self._chain_id = chain_id
        self._random = source
        self._remembered: list[bytes] = []
        self._names: list[bytes] = []
        self._node: Node | None = None
        self._announced_ms = 0
        forgeries = [FORGERIES[each] for each in behaviours if each in FORGERIES]
        self._forger = Forger(forgeries, key, chain_id, source)

    def possess(self, node: "Node") -> None:
        """Take over what is not said but done: conscience and lock."""
        services, self._node = node.services, node
        self._names = list(services.executor.position.validators.by_address)
        if services.signer is not None:
            # It knows that it signs twice.
            services.signer.notice = lambda _: None  # type: ignore[method-assign, assignment]
        self._forger.follow(services.runner._parts.assembly, services.executor)
        if Behaviour.AMNESIA not in self._behaviours:
            return
        driver, receive = services.driver, services.driver.receive

        def forgetful(input_: object) -> object:
            machine = driver._machine
            if machine is not None:
                machine.locked_round, machine.locked_block = -1, None
            return receive(input_)  # type: ignore[arg-type]

        driver.receive = forgetful  # type: ignore[method-assign, assignment]

    # What the fabric asks.

    def send(self, peer: PeerId, priority: Priority, body: bytes) -> list[bytes]:
        """Return what a peer gets instead of one message."""
        if Behaviour.SILENT in self._behaviours:
            return []
        if priority is not Priority.CONSENSUS:
            return [body]
        bodies = self._forger.forge(peer, body)
        for behaviour in self._behaviours:
            bodies = [told for each in bodies for told in self._alter(behaviour, each)]
        return bodies

    def tell_status(
        self,
        peer: PeerId,  # noqa: ARG002 - all are told the same.
        body: bytes,
    ) -> tuple[bytes | None, list[bytes]]:
        """Return what a peer gets instead of a status, and what else it gets beside it."""
        if Behaviour.SILENT in self._behaviours:
            return None, []
        more: list[bytes] = []
        if Behaviour.FALSE_ANNOUNCEMENTS in self._behaviours:
            made_up = tuple(self._make_hash() for _ in range(MADE_UP_HASHES))
            more.append(encode_message(PendingHashesMessage(made_up)))
        if Behaviour.FALSE_PAYLOADS in self._behaviours and self._node is not None:
            more.append(self._announce_falsely(self._node))
        if Behaviour.FAR_VOTES in self._behaviours:
            more.append(self._make_far_votes(decode_status(body)))
        if Behaviour.OVERSIZED in self._behaviours and self._random.random() < 0.2:
            more.append(self._random.choice((OVERSIZED, ZEROS)))
        if Behaviour.FALSE_HEIGHTS in self._behaviours and self._random.random() < 0.7:
            return self._tell_false_height(decode_status(body)), more
        return body, more

    def answer(
        self,
        peer: PeerId,  # noqa: ARG002 - all are told the same.
        request: bytes,
        answer: bytes | Exception,
    ) -> bytes | Exception | None:
        """Return what a peer gets instead of an answer; None is silence."""
        if Behaviour.SILENT in self._behaviours:
            return None
        if Behaviour.WITHHOLD_ANSWERS in self._behaviours and self._random.random() < 0.7:
            return None
        if Behaviour.WITHHOLD_PAYLOADS in self._behaviours and isinstance(
            decode_request(request), GetChunk | GetChunkHashes
        ):
            return None
        if Behaviour.LYING_ANSWERS not in self._behaviours or isinstance(answer, Exception):
            return answer
        return self._lie(request, answer)

    # How it is done.

    def _alter(self, behaviour: Behaviour, body: bytes) -> list[bytes]:
        match behaviour:
            case Behaviour.EQUIVOCATE_VOTES:
                return [self._equivocate(body)]
            case Behaviour.WITHHOLD_PARTS:
                return [] if isinstance(self._decode(body), PartMessage) else [body]
            case Behaviour.WITHHOLD_VOTES:
                is_vote = isinstance(self._decode(body), VotesMessage)
                return [] if is_vote and self._random.random() < 0.7 else [body]
            case Behaviour.FORGED_VOTES:
                return [body, *self._forge_votes(body)]
            case Behaviour.REPLAY:
                # The first ones stay: they are of heights that are long over.
                if len(self._remembered) < REPLAYED_MAX:
                    self._remembered.append(body)
                else:
                    self._remembered[self._random.randrange(REPLAYED_MAX // 2, REPLAYED_MAX)] = body
                return [body, self._random.choice(self._remembered)]
            case Behaviour.GARBAGE:
                cut = self._random.randrange(len(body))
                return [body, body[:cut] + self._random.randbytes(8) + body[cut + 8 :]]
            case _:
                return [body]

    def _decode(self, body: bytes) -> object:
        try:
            return decode_message(body)
        except DecodeError:
            return None

    def _make_hash(self) -> Hash:
        return Hash(self._random.randbytes(32))

    def _equivocate(self, body: bytes) -> bytes:
        message = self._decode(body)
        if not isinstance(message, VotesMessage):
            return body
        votes = []
        for vote in message.votes:
            if vote.validator != self._key.address or self._random.random() < 0.5:
                votes.append(vote)
                continue
            block_id = None
            if vote.block_id is None or self._random.random() < 0.5:
                name = self._make_hash()
                block_id = self._forger.other_block(vote.height) or BlockId(name, 1, name)
            votes.append(self._sign_vote(msgspec.structs.replace(vote, block_id=block_id)))
        return encode_message(VotesMessage(tuple(votes)))

    def _forge_votes(self, body: bytes) -> list[bytes]:
        """Say the same in the name of others, under the own signature."""
        message = self._decode(body)
        if not isinstance(message, VotesMessage):
            return []
        own = [vote for vote in message.votes if vote.validator == self._key.address]
        forged = tuple(
            msgspec.structs.replace(vote, validator=Address(name), block_id=block_id)
            for vote in own
            for name in self._names
            for block_id in (vote.block_id, None)
            if name != self._key.address
        )
        return [encode_message(VotesMessage(forged))] if forged else []

    def _sign_vote(self, vote: Vote) -> Vote:
        raw = compute_vote_sign_bytes(
            self._chain_id, vote.type, vote.height, vote.round, vote.block_id
        )
        return msgspec.structs.replace(vote, signature=self._key.sign(Domain.VOTE, raw))

    def _make_far_votes(self, status: NodeStatus) -> bytes:
        votes = []
        for _ in range(FAR_VOTES):
            draft = Vote(
                self._random.choice((VoteType.PREVOTE, VoteType.PRECOMMIT)),
                Height(status.height + self._random.choice((1, 1, 2, 3, 1_000, 2**40))),
                Round(self._random.choice((0, 1, 7, 1_000, 2**30))),
                self._random.choice((None, BlockId(self._make_hash(), 1, self._make_hash()))),
                self._key.address,
                self._key.sign(Domain.VOTE, b""),
            )
            votes.append(self._sign_vote(draft))
        return encode_message(VotesMessage(tuple(votes)))

    def _announce_falsely(self, node: "Node") -> bytes:
        """Announce what it waits for itself, what others may lack, and what is nowhere."""
        mempool = node.services.mempool
        lacked = [each.payload_hash for each in mempool._held.get_for_payload()]
        names = [name for name in (*lacked, *mempool.large.hashes) if name is not None]
        names = names[: ANNOUNCED_PER_MESSAGE_MAX - MADE_UP_HASHES]
        names += [self._make_hash() for _ in range(MADE_UP_HASHES)]
        # Others take an announcement for a new one if its time is later.
        self._announced_ms = max(self._announced_ms + 1, node.services.now_ms())
        made = sign_announcement(self._key, self._chain_id, self._announced_ms, names)
        return encode_message(PayloadAnnouncementsMessage((made,)))

    def _tell_false_height(self, status: NodeStatus) -> bytes:
        height = self._random.choice(
            (status.height + 1, status.height + 50, status.height + 10**9, status.height // 2, 0)
        )
        earliest = self._random.choice((status.earliest_height, height, height + 1))
        return encode_message(
            msgspec.structs.replace(status, height=Height(height), earliest_height=Height(earliest))
        )

    def _lie(self, request: bytes, answer: bytes) -> bytes:
        asked = decode_request(request)
        if isinstance(asked, GetTransactions) or self._random.random() < 0.3:
            return answer
        if not isinstance(asked, GetBlocks):
            cut = self._random.randrange(max(1, len(answer)))
            garbled = answer[:cut] + self._random.randbytes(1) + answer[cut + 1 :]
            return self._random.choice((b"", answer[: len(answer) // 2], garbled))
        blocks = list(msgspec.msgpack.decode(answer, type=BlocksAnswer).blocks)
        if not blocks:
            return answer
        match self._random.choice((0, 1, 2, 3, 4, 4, 4, 4, 4, 5)):
            case 0:
                blocks.reverse()
            case 1:
                del blocks[self._random.randrange(len(blocks))]
            case 2:
                victim = self._random.randrange(len(blocks))
                commit = blocks[self._random.randrange(len(blocks))].commit
                blocks[victim] = msgspec.structs.replace(blocks[victim], commit=commit)
            case 3:
                victim = self._random.randrange(len(blocks))
                block = bytearray(blocks[victim].block)
                block[self._random.randrange(len(block))] ^= 1 + self._random.randrange(255)
                blocks[victim] = msgspec.structs.replace(blocks[victim], block=bytes(block))
            case 4:
                victim = self._random.randrange(len(blocks))
                blocks[victim] = forge_decided(blocks[victim], self._random)
            case _:
                blocks.clear()
        return encode_message(BlocksAnswer(tuple(blocks), 0, b""))
