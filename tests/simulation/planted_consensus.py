"""Faults planted into consensus: its rules, its counting of votes, its timers.

Owns one function per fault, each changing the running program and nothing on disk.
"""

# A fault takes what the function in its place takes, and ignores it.
# ruff: noqa: ARG001, ARG005

from collections.abc import Callable
from typing import Any

from quorate.chain.validators import ValidatorSet

from consensus import algorithm
from consensus.algorithm import NIL, HeightMachine
from consensus.driver import Driver
from consensus.status import Step
from consensus.verifier import SignatureVerifier
from consensus.vote_set import Addition, VoteSet
from node.agreement.consensus_runner import ConsensusRunner
from node.execution.executor import Executor

Rule = Callable[[Any], bool]


def replace_rule(honest: Rule, faulty: Rule) -> None:
    """Let the machine try another rule in the place of one of its own."""
    algorithm.RULES = tuple(faulty if rule is honest else rule for rule in algorithm.RULES)


def accept_one_third() -> None:
    """A quorum is more than one third instead of two: f+1."""
    ValidatorSet.is_quorum = ValidatorSet.is_one_honest  # type: ignore[method-assign]


def accept_one_half() -> None:
    """A quorum is half of the power instead of more than two thirds."""
    ValidatorSet.is_quorum = (  # type: ignore[method-assign]
        lambda self, power: 2 * power >= self.total_power
    )


def quorum_off_by_one() -> None:
    """A quorum is two thirds rounded down, instead of one more."""
    ValidatorSet.is_quorum = (  # type: ignore[method-assign]
        lambda self, power: power >= 2 * self.total_power // 3
    )


def count_votes_again() -> None:
    """A vote that comes a second time counts a second time."""
    honest = VoteSet.add
    is_wanted = VoteSet.is_wanted

    def add(self: Any, index: int, vote: Any) -> Addition:
        addition = honest(self, index, vote)
        if not addition.is_counted and addition.conflicting is None:
            self._power += self._validators.validators[index].power
            self._add_power(index, vote.block_id)
            return Addition(is_counted=True)
        return addition

    def wanted(self: Any, index: int, vote: Any) -> bool:
        first = self._first.get(index)
        return is_wanted(self, index, vote) or (first is not None and first == vote)

    VoteSet.add, VoteSet.is_wanted = add, wanted  # type: ignore[method-assign]


def skip_lock_rule() -> None:
    """L22: a fresh proposal is prevoted whatever the lock."""
    honest = HeightMachine.upon_fresh_proposal_l22
    replace_rule(honest, _without_lock(honest))


def ignore_valid_round() -> None:
    """L28: the round of the shown polka is not compared with that of the lock."""
    honest = HeightMachine.upon_reproposal_l28
    replace_rule(honest, _without_lock(honest))


def _without_lock(honest: Rule) -> Rule:
    def unlocked(self: Any) -> bool:
        lock = self.locked_round, self.locked_block
        self.locked_round, self.locked_block = -1, None
        try:
            return honest(self)
        finally:
            self.locked_round, self.locked_block = lock

    return unlocked


def believe_valid_round() -> None:
    """L28: a proposal that claims a polka needs none."""

    def believing(self: Any) -> bool:
        proposal = self.keeper.current.proposal
        if self.step is not Step.PROPOSE or proposal is None or proposal.valid_round == -1:
            return False
        verdict = self.verdicts.get(proposal.block_id)
        if verdict is None:
            return False
        return bool(self._prevote(proposal.block_id if verdict.is_valid else NIL))

    replace_rule(HeightMachine.upon_reproposal_l28, believing)


def unlock_on_nil_polka() -> None:
    """L44: a nil polka takes the lock away."""
    honest = HeightMachine.upon_nil_polka_l44

    def unlocking(self: Any) -> bool:
        if not honest(self):
            return False
        self.locked_round, self.locked_block = -1, None
        return True

    replace_rule(honest, unlocking)


def never_lock() -> None:
    """L38-L39: a precommit leaves no lock."""
    honest = HeightMachine.upon_proposal_and_polka_l36

    def loose(self: Any) -> bool:
        fired = honest(self)
        self.locked_round, self.locked_block = -1, None
        return fired

    replace_rule(honest, loose)


def forget_valid_value() -> None:
    """L15-L16: a proposer makes a new block though it knows of a polka."""
    honest = HeightMachine._propose

    def propose(self: Any) -> None:
        known = self.valid_block
        self.valid_block = None
        honest(self)
        self.valid_block = known

    HeightMachine._propose = propose  # type: ignore[method-assign]


def timeliness_at_l28() -> None:
    """L28: a block that is proposed again must be timely, too."""
    honest = HeightMachine.upon_reproposal_l28

    def strict(self: Any) -> bool:
        stamped = self.keeper.current.stamped
        is_again = stamped is not None and stamped.proposal.valid_round != -1
        if self.step is Step.PROPOSE and is_again and not stamped.is_timely:
            return bool(self._prevote(NIL))
        return honest(self)

    replace_rule(honest, strict)


def creator_must_propose() -> None:
    """L28: the creator of a block that is proposed again must be the round's proposer."""
    honest = HeightMachine.upon_reproposal_l28
    creators: dict[bytes, bytes] = {}
    keep = Executor._keep

    def keep_creator(self: Any, executed: Any, **kwargs: Any) -> Any:
        creators[executed.block_id.hash] = executed.block.header.proposer
        return keep(self, executed, **kwargs)

    def strict(self: Any) -> bool:
        proposal = self.keeper.current.proposal
        is_again = proposal is not None and proposal.valid_round != -1
        if self.step is Step.PROPOSE and is_again:
            creator = creators.get(proposal.block_id.hash)
            if creator is not None and creator != proposal.proposer:
                return bool(self._prevote(NIL))
        return honest(self)

    Executor._keep = keep_creator  # type: ignore[method-assign]
    replace_rule(honest, strict)


def believe_signatures() -> None:
    """Signatures of votes are not checked."""
    SignatureVerifier.is_vote_valid = (  # type: ignore[method-assign]
        lambda self, vote, validators: vote.validator in validators.by_address
    )


def drop_timeouts() -> None:
    """Timeouts are scheduled and never elapse."""

    async def never(self: Any, timeout: Any) -> None:
        return None

    ConsensusRunner._time = never  # type: ignore[method-assign]


def never_repair() -> None:
    """Nobody sends a peer the votes that its status lacks."""
    Driver.get_repairs = lambda self, status, limit: []  # type: ignore[method-assign]


CONSENSUS_PLANTS = (
    accept_one_third,
    accept_one_half,
    quorum_off_by_one,
    count_votes_again,
    skip_lock_rule,
    ignore_valid_round,
    believe_valid_round,
    unlock_on_nil_polka,
    never_lock,
    forget_valid_value,
    timeliness_at_l28,
    creator_must_propose,
    believe_signatures,
    drop_timeouts,
    never_repair,
)
