"""A driver among validators whose messages a test makes up.

Validators are known by capital letters in the order in which they propose: A in round 0, B in
round 1, and so on. Blocks are known by names, and their time is `BLOCK_TIME_MS`.
"""

from hashlib import sha256

from quorate.chain.ids import Hash, Height, Round, Signature
from quorate.chain.keys import Domain, PrivateKey
from quorate.chain.validators import ValidatorSet
from quorate.chain.vote import (
    BlockId,
    Commit,
    Proposal,
    Vote,
    VoteType,
    compute_proposal_sign_bytes,
    compute_vote_sign_bytes,
)

from consensus.driver import Driver
from consensus.effects import Effect, Relay
from consensus.inputs import (
    CommitReceived,
    Input,
    ProposalJudged,
    ProposalReceived,
    ProposeBlock,
    StartHeight,
    TimeoutElapsed,
    TimeoutKind,
    VoteReceived,
)
from consensus.timeouts import TimeoutConfig
from consensus.verifier import Verifier

CHAIN_ID = "transcript"
BLOCK_TIME_MS = 1_000_000
PRECISION_MS = 500
MESSAGE_DELAY_MS = 2_000
TIMEOUTS = TimeoutConfig()
PROPOSERS_KNOWN = 80


def make_keys(count: int) -> list[PrivateKey]:
    """Return keys that are the same in every run."""
    return [PrivateKey(sha256(b"validator %d" % number).digest()) for number in range(count)]


def make_block(name: str) -> BlockId:
    """Return the block id that a test calls `name`."""
    return BlockId(
        Hash(sha256(f"block {name}".encode()).digest()),
        1,
        Hash(sha256(f"parts {name}".encode()).digest()),
    )


def sign_vote(
    key: PrivateKey, type_: VoteType, height: int, round_: int, block_id: BlockId | None
) -> Vote:
    """Return a vote of the holder of `key`."""
    message = compute_vote_sign_bytes(CHAIN_ID, type_, height, round_, block_id)
    signature = key.sign(Domain.VOTE, message)
    return Vote(type_, Height(height), Round(round_), block_id, key.address, signature)


def sign_proposal(
    key: PrivateKey, height: int, round_: int, valid_round: int, block_id: BlockId, time_ms: int
) -> Proposal:
    """Return a proposal of the holder of `key`."""
    unsigned = Proposal(
        Height(height),
        Round(round_),
        Round(valid_round),
        block_id,
        time_ms,
        key.address,
        Signature(bytes(64)),
    )
    signature = key.sign(Domain.PROPOSAL, compute_proposal_sign_bytes(CHAIN_ID, unsigned))
    return Proposal(
        unsigned.height,
        unsigned.round,
        unsigned.valid_round,
        block_id,
        time_ms,
        key.address,
        signature,
    )


class Scenario:
    """One driver, and the hands that feed it.

    Parameters
    ----------
    me : str or None
        Which validator the driver is; None for a driver that only follows.
    powers : tuple of int
        The voting powers; with equal ones the letters are the order of proposing.
    verifier : Verifier, optional
        Replaces the check of signatures.
    """

    def __init__(
        self,
        me: str | None = "D",
        powers: tuple[int, ...] = (1, 1, 1, 1),
        verifier: Verifier | None = None,
        last_height: int = 0,
    ) -> None:
        keys = make_keys(len(powers))
        self.validators = ValidatorSet.from_powers(
            (key.public_key, power) for key, power in zip(keys, powers, strict=True)
        )
        by_address = {key.address: key for key in keys}
        turned, turns = self.validators, [self.validators.proposer.address]
        for _ in range(1, PROPOSERS_KNOWN):
            turned = turned.advance(1)
            turns.append(turned.proposer.address)
        # A dict remembers the order in which each was seen first.
        order = dict.fromkeys([*turns, *by_address])
        self.names = {address: chr(ord("A") + i) for i, address in enumerate(order)}
        self.proposers = [self.names[address] for address in turns]
        self.keys = {name: by_address[address] for address, name in self.names.items()}
        self.blocks: dict[BlockId, str] = {}
        self.address = None if me is None else self.keys[me].address
        self.height = last_height
        self.inputs: list[Input] = []
        self.driver = Driver(
            CHAIN_ID,
            self.address,
            TIMEOUTS,
            verifier,
            last_height=last_height,
            validators=self.validators,
        )

    def block(self, name: str | None) -> BlockId | None:
        """Return the block id called `name`, or None for nil."""
        return None if name is None else self.named_block(name)

    def named_block(self, name: str) -> BlockId:
        """Return the block id called `name`."""
        block_id = make_block(name)
        self.blocks[block_id] = name
        return block_id

    def power_of(self, name: str) -> int:
        """Return the voting power of a validator."""
        return self.validators.by_address[self.keys[name].address].power

    def proposer_of(self, round_: int) -> str:
        """Return the letter of the proposer of a round."""
        return self.proposers[round_]

    def feed(self, input_: Input, *, with_relays: bool = False) -> list[Effect]:
        """Feed the driver; relays are left out unless asked for."""
        self.inputs.append(input_)
        effects = self.driver.receive(input_)
        return [e for e in effects if with_relays or not isinstance(e, Relay)]

    def start(self, height: int | None = None) -> list[Effect]:
        """Start a height, by default the next one."""
        self.height = self.driver.height + 1 if height is None else height
        return self.feed(
            StartHeight(
                Height(self.height),
                self.validators.validators,
                BLOCK_TIME_MS,
                PRECISION_MS,
                MESSAGE_DELAY_MS,
            )
        )

    def make_proposal(
        self,
        block: str,
        round_: int = 0,
        valid_round: int = -1,
        *,
        by: str | None = None,
        time_ms: int = BLOCK_TIME_MS,
        height: int | None = None,
    ) -> Proposal:
        """Return a signed proposal, by default of the round's proposer."""
        key = self.keys[self.proposer_of(round_) if by is None else by]
        return sign_proposal(
            key,
            self.height if height is None else height,
            round_,
            valid_round,
            self.named_block(block),
            time_ms,
        )

    def propose(
        self,
        block: str,
        round_: int = 0,
        valid_round: int = -1,
        *,
        by: str | None = None,
        received_ms: int = BLOCK_TIME_MS,
        time_ms: int = BLOCK_TIME_MS,
    ) -> list[Effect]:
        """Let a proposal arrive."""
        proposal = self.make_proposal(block, round_, valid_round, by=by, time_ms=time_ms)
        return self.feed(ProposalReceived(proposal, received_ms))

    def judge(
        self, block: str, *, is_valid: bool = True, time_ms: int = BLOCK_TIME_MS
    ) -> list[Effect]:
        """Let the verdict on a block arrive."""
        block_id = self.named_block(block)
        return self.feed(ProposalJudged(Height(self.height), block_id, is_valid, time_ms))

    def make_vote(
        self,
        name: str,
        type_: VoteType,
        block: str | None,
        round_: int = 0,
        height: int | None = None,
    ) -> Vote:
        """Return a signed vote."""
        at = self.height if height is None else height
        return sign_vote(self.keys[name], type_, at, round_, self.block(block))

    def prevote(self, names: str, block: str | None, round_: int = 0) -> list[Effect]:
        """Let prevotes of several validators arrive, in this order."""
        return self._vote(VoteType.PREVOTE, names, block, round_)

    def precommit(self, names: str, block: str | None, round_: int = 0) -> list[Effect]:
        """Let precommits of several validators arrive, in this order."""
        return self._vote(VoteType.PRECOMMIT, names, block, round_)

    def make_commit(self, names: str, block: str, round_: int = 0) -> Commit:
        """Return the commit that precommits of these validators make."""
        signatures = [Signature(b"")] * len(self.validators)
        for name in names:
            vote = self.make_vote(name, VoteType.PRECOMMIT, block, round_)
            signatures[self.validators.index_by_address[vote.validator]] = vote.signature
        return Commit(
            Height(self.height), Round(round_), self.named_block(block), tuple(signatures)
        )

    def commit(self, names: str, block: str, round_: int = 0) -> list[Effect]:
        """Let a commit arrive."""
        return self.feed(CommitReceived(self.make_commit(names, block, round_)))

    def propose_block(self, block: str, round_: int = 0) -> list[Effect]:
        """Answer a request for a proposal."""
        block_id = self.named_block(block)
        return self.feed(ProposeBlock(Height(self.height), Round(round_), block_id, BLOCK_TIME_MS))

    def timeout(self, kind: TimeoutKind, round_: int = 0) -> list[Effect]:
        """Let a timeout elapse."""
        return self.feed(TimeoutElapsed(kind, Height(self.height), Round(round_)))

    def _vote(self, type_: VoteType, names: str, block: str | None, round_: int) -> list[Effect]:
        effects: list[Effect] = []
        for name in names:
            effects += self.feed(VoteReceived(self.make_vote(name, type_, block, round_)))
        return effects
