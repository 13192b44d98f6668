"""Blocks and proposals that a byzantine proposer makes up.

Owns how an own proposal becomes another one: a twin that is as good, a block with a wrong root,
an invalid one, a proposal that claims a polka. Never decides who is deceived about anything else.
"""

import random
from collections.abc import Callable
from enum import Enum

import msgspec
from quorate.chain.block import (
    Block,
    BlockPart,
    compute_block_id,
    compute_last_commit_root,
    compute_transactions_root,
    split_block,
)
from quorate.chain.codec import decode, encode
from quorate.chain.errors import DecodeError, PendingError, TransactionError
from quorate.chain.ids import Address, Hash, Height, Round
from quorate.chain.keys import Domain, PrivateKey
from quorate.chain.parameters import BLOCK_BYTES_MAX
from quorate.chain.transaction import compute_transaction_hash, decode_transaction
from quorate.chain.vote import (
    COMMIT_BYTES_MAX,
    BlockId,
    Commit,
    Proposal,
    Vote,
    compute_proposal_sign_bytes,
    compute_vote_sign_bytes,
)

from ledger.execution import BlockExecution
from node.exchange.block_assembly import BlockAssembly
from node.exchange.messages import (
    PartMessage,
    ProposalMessage,
    StoredBlock,
    VotesMessage,
    decode_message,
    encode_message,
)
from node.execution.executor import Executor
from p2p.network import PeerId

REMEMBERED_MAX = 16
"""Forged proposals that are remembered, the newest."""


class Forgery(Enum):
    """What a proposer makes of its own proposal."""

    SIBLING = "another block that is as good"
    WRONG_ROOT = "a wrong root"
    INVALID = "an invalid block"
    FALSE_POLKA = "a valid round that never was"


class Forged(msgspec.Struct):
    """A forged proposal, its block's parts, and whom it is shown to."""

    honest: BlockId
    proposal: Proposal
    parts: list[BlockPart]
    share: float
    shown_to: dict[PeerId, bool]


class Forger:
    """Replaces own proposals, and own votes for them, on their way to some peers.

    Parameters
    ----------
    forgeries : list of Forgery
        What it does; with none, everything passes.
    key : PrivateKey
        Its own.
    chain_id : str
    source : random.Random
    """

    def __init__(
        self, forgeries: list[Forgery], key: PrivateKey, chain_id: str, source: random.Random
    ) -> None:
        self._forgeries = forgeries
        self._key = key
        self._chain_id = chain_id
        self._random = source
        self._forged: dict[tuple[int, int], Forged] = {}
        self._assembly: BlockAssembly | None = None
        self._executor: Executor | None = None

    def follow(self, assembly: BlockAssembly, executor: Executor) -> None:
        """Take the blocks to alter, and the state for others, from the node that runs now."""
        self._assembly, self._executor = assembly, executor

    def other_block(self, height: int) -> BlockId | None:
        """Return a block of the height that was made up, if there is one."""
        found = [forged for (at, _), forged in self._forged.items() if at == height]
        return found[0].proposal.block_id if found else None

    def forge(self, peer: PeerId, body: bytes) -> list[bytes]:
        """Return what a peer gets instead of a consensus message."""
        if not self._forgeries:
            return [body]
        try:
            message = decode_message(body)
        except DecodeError:
            return [body]
        match message:
            case ProposalMessage(proposal) if proposal.proposer == self._key.address:
                forged = self._get(proposal, peer)
                if forged is None:
                    return [body]
                height, root = proposal.height, forged.proposal.block_id.parts_root
                parts = [PartMessage(height, root, part) for part in forged.parts]
                return [
                    encode_message(ProposalMessage(forged.proposal)),
                    *map(encode_message, parts),
                ]
            case PartMessage():
                is_hidden = any(
                    forged.honest.parts_root == message.parts_root and forged.shown_to.get(peer)
                    for forged in self._forged.values()
                )
                return [] if is_hidden else [body]
            case VotesMessage(votes):
                return [encode_message(VotesMessage(tuple(self._vote(v, peer) for v in votes)))]
        return [body]

    def _get(self, proposal: Proposal, peer: PeerId) -> Forged | None:
        at = (proposal.height, proposal.round)
        forged = self._forged.get(at)
        if forged is None:
            forged = self._make(proposal)
            if forged is None:
                return None
            self._forged[at] = forged
            if len(self._forged) > REMEMBERED_MAX:
                del self._forged[next(iter(self._forged))]
        if forged.honest != proposal.block_id:
            return None
        is_shown = forged.shown_to.get(peer)
        if is_shown is None:
            is_shown = forged.shown_to[peer] = self._random.random() < forged.share
        return forged if is_shown else None

    def _make(self, proposal: Proposal) -> Forged | None:
        if self._assembly is None or proposal.valid_round != -1:
            return None
        parts = self._assembly.get(proposal.block_id.parts_root)
        if parts is None or parts.raw is None:
            return None
        block = decode(Block, parts.raw, BLOCK_BYTES_MAX)
        forgery = self._random.choice(self._forgeries)
        if forgery is Forgery.FALSE_POLKA:
            if proposal.round == 0:
                return None
            proposal_ = msgspec.structs.replace(
                proposal, valid_round=Round(self._random.randrange(proposal.round))
            )
            _, split = split_block(parts.raw)
            return Forged(proposal.block_id, self._sign(proposal_), split, self._draw_share(), {})
        altered = (
            _execute_sibling(self._executor, block, self._random)
            if forgery is Forgery.SIBLING
            else ALTERATIONS[forgery](block, self._random)
        )
        if altered is None:
            return None
        raw = encode(altered)
        _, split = split_block(raw)
        drafted = msgspec.structs.replace(
            proposal,
            block_id=compute_block_id(altered, raw),
            time_ms=altered.header.time_ms,
        )
        return Forged(proposal.block_id, self._sign(drafted), split, self._draw_share(), {})

    def _draw_share(self) -> float:
        """To all, or to some: two halves that saw different blocks agree on neither."""
        return self._random.choice((0.5, 1.0))

    def _sign(self, proposal: Proposal) -> Proposal:
        raw = compute_proposal_sign_bytes(self._chain_id, proposal)
        return msgspec.structs.replace(proposal, signature=self._key.sign(Domain.PROPOSAL, raw))

    def _vote(self, vote: Vote, peer: PeerId) -> Vote:
        """Return an own vote for the own block as a vote for what the peer was shown instead."""
        forged = self._forged.get((vote.height, vote.round))
        if (
            forged is None
            or vote.validator != self._key.address
            or vote.block_id != forged.honest
            or not forged.shown_to.get(peer)
        ):
            return vote
        block_id = forged.proposal.block_id
        raw = compute_vote_sign_bytes(self._chain_id, vote.type, vote.height, vote.round, block_id)
        signature = self._key.sign(Domain.VOTE, raw)
        return msgspec.structs.replace(vote, block_id=block_id, signature=signature)


def forge_decided(stored: StoredBlock, source: random.Random) -> StoredBlock:
    """Return another block in the place of a decided one, with a commit that nobody signed."""
    block = decode(Block, stored.block, BLOCK_BYTES_MAX)
    block = _replace_header(block, time_ms=block.header.time_ms + source.randint(1, 3))
    commit = decode(Commit, stored.commit, COMMIT_BYTES_MAX)
    raw = encode(block)
    false = msgspec.structs.replace(commit, block_id=compute_block_id(block, raw))
    return StoredBlock(raw, encode(false))


Alteration = Callable[[Block, random.Random], Block]


def _replace_header(block: Block, **changes: object) -> Block:
    header = msgspec.structs.replace(block.header, **changes)
    return msgspec.structs.replace(block, header=header)


def _execute_sibling(
    executor: Executor | None, block: Block, source: random.Random
) -> Block | None:
    """Return a block of another time with fewer transactions, executed: it is as good."""
    if executor is None or block.evidence or block.header.height != executor.position.next_height:
        return None
    time_ms = block.header.time_ms + source.randint(1, 3)
    kept = block.transactions[: source.randint(0, len(block.transactions))]
    context = executor._make_context(time_ms, block.header.proposer, ())
    execution = BlockExecution(executor.state, context, executor._payloads, executor._aggregates)
    try:
        for raw in kept:
            execution.apply_transaction(compute_transaction_hash(raw), decode_transaction(raw))
        result = execution.finish()
    except (TransactionError, PendingError):
        return None
    header = executor._make_header(time_ms, block.header.proposer, kept, (), result)
    return Block(header, kept, (), block.last_commit)


def _falsify_root(block: Block, source: random.Random) -> Block:
    root = source.choice(("state_root", "receipts_root", "model_root"))
    return _replace_header(block, **{root: Hash(source.randbytes(32))})


def _replace_transactions(block: Block, transactions: tuple[bytes, ...]) -> Block:
    block = msgspec.structs.replace(block, transactions=transactions)
    return _replace_header(block, transactions_root=compute_transactions_root(transactions))


def _invalidate(block: Block, source: random.Random) -> Block:
    header = block.header
    match source.randrange(9):
        case 0:
            return _replace_header(block, height=Height(header.height + 1))
        case 1:
            return _replace_header(block, time_ms=max(0, header.time_ms - 10**7))
        case 2:
            return _replace_header(block, proposer=Address(source.randbytes(20)))
        case 3:
            return _replace_header(block, next_validators_root=Hash(source.randbytes(32)))
        case 4 if block.transactions:
            # The first one a second time: its nonce is used up.
            return _replace_transactions(block, (*block.transactions, block.transactions[0]))
        case 5:
            return _replace_transactions(block, (*block.transactions, source.randbytes(100)))
        case 6 if block.last_commit is not None:
            signatures = (b"", *block.last_commit.signatures[1:])
            commit = msgspec.structs.replace(
                block.last_commit, signatures=signatures, round=Round(block.last_commit.round + 1)
            )
            block = msgspec.structs.replace(block, last_commit=commit)
            return _replace_header(block, last_commit_root=compute_last_commit_root(commit))
        case 7:
            return _replace_header(block, chain_id=header.chain_id + "x")
        case _:
            return _replace_header(block, transactions_root=Hash(source.randbytes(32)))


ALTERATIONS: dict[Forgery, Alteration] = {
    Forgery.WRONG_ROOT: _falsify_root,
    Forgery.INVALID: _invalidate,
}
