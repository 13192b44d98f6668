"""Transcripts: scripts in, printed effects out, in files that a stranger can read.

Lines that begin with `#` are remarks, indented lines are what the driver answered, and every other
line is an instruction:

    start [height=N]
    proposal BLOCK [round=N] [valid_round=N] [by=NAME] [time=MS] [received=MS]
    verdict BLOCK valid|invalid [time=MS]
    prevote NAMES BLOCK|nil [round=N]
    precommit NAMES BLOCK|nil [round=N]
    commit NAMES BLOCK [round=N]
    block BLOCK [round=N]
    timeout propose|prevote|precommit [round=N]
    own

NAMES are letters of validators, in the order in which they propose. `own` feeds the driver's own
broadcasts back, signed. Times are milliseconds after the time that blocks have by default. The
first line of a file is `driver NAME|none [powers=N,N,...]`.

After each instruction come the effects and, after `=`, the state they leave. To write the answers
anew: UPDATE_TRANSCRIPTS=1 pytest tests/consensus/test_transcripts.py
"""

from typing import assert_never

from quorate.chain.vote import BlockId

from consensus.effects import (
    Broadcast,
    Decide,
    Effect,
    JudgeProposal,
    Relay,
    ReportEvidence,
    RequestProposal,
    ScheduleTimeout,
    UnsignedProposal,
    UnsignedVote,
)
from consensus.inputs import ProposalReceived, TimeoutKind, VoteReceived
from consensus.status import Step
from tests.consensus.scenario import BLOCK_TIME_MS, Scenario, sign_proposal, sign_vote


def rewrite(text: str) -> str:
    """Return a transcript with the answers that the driver gives today."""
    lines = text.splitlines()
    asked = [line for line in lines if not line.startswith(" ")]
    player: Player | None = None
    answered: list[str] = []
    for line in asked:
        answered.append(line)
        if not line or line.startswith("#"):
            continue
        words, options = _split(line)
        if player is None:
            if words[0] != "driver":
                raise ValueError(f"a transcript begins with `driver`, not {line!r}")
            player = Player(words[1], options.get("powers", "1,1,1,1"))
        else:
            answered += player.play(words, options)
    return "\n".join(answered) + "\n"


def _split(line: str) -> tuple[list[str], dict[str, str]]:
    words = [word for word in line.split() if "=" not in word]
    options = dict(word.split("=", 1) for word in line.split() if "=" in word)
    return words, options


class Player:
    """Plays the instructions of one transcript."""

    def __init__(self, me: str, powers: str) -> None:
        self.me = me
        self.scenario = Scenario(
            None if me == "none" else me, tuple(int(power) for power in powers.split(","))
        )
        self.own: list[UnsignedVote | UnsignedProposal] = []

    def play(self, words: list[str], options: dict[str, str]) -> list[str]:
        """Carry out an instruction and return the lines of the answer."""
        effects = self.perform(words, options)
        lines = [f"    {self.describe(effect)}" for effect in effects]
        return [*lines, f"    = {self.describe_state()}"]

    def perform(self, words: list[str], options: dict[str, str]) -> list[Effect]:
        """Carry out an instruction and return the effects."""
        scenario = self.scenario
        round_ = int(options.get("round", "0"))
        time_ms = BLOCK_TIME_MS + int(options.get("time", "0"))
        match words:
            case ["start"]:
                height = options.get("height")
                effects = scenario.start(None if height is None else int(height))
            case ["proposal", block]:
                effects = scenario.propose(
                    block,
                    round_,
                    int(options.get("valid_round", "-1")),
                    by=options.get("by"),
                    time_ms=time_ms,
                    received_ms=BLOCK_TIME_MS + int(options.get("received", "0")),
                )
            case ["verdict", block, verdict]:
                effects = scenario.judge(block, is_valid=verdict == "valid", time_ms=time_ms)
            case ["prevote", names, block]:
                effects = scenario.prevote(names, None if block == "nil" else block, round_)
            case ["precommit", names, block]:
                effects = scenario.precommit(names, None if block == "nil" else block, round_)
            case ["commit", names, block]:
                effects = scenario.commit(names, block, round_)
            case ["block", block]:
                effects = scenario.propose_block(block, round_)
            case ["timeout", kind]:
                effects = scenario.timeout(TimeoutKind[kind.upper()], round_)
            case ["own"]:
                effects = self.feed_own()
            case _:
                raise ValueError(f"no such instruction: {words}")
        self.own += [e.content for e in effects if isinstance(e, Broadcast)]
        return effects

    def feed_own(self) -> list[Effect]:
        """Sign and feed back what the driver has broadcast."""
        key = self.scenario.keys[self.me]
        contents, self.own = self.own, []
        effects: list[Effect] = []
        for content in contents:
            if isinstance(content, UnsignedVote):
                vote = sign_vote(key, content.type, content.height, content.round, content.block_id)
                effects += self.scenario.feed(VoteReceived(vote))
            else:
                proposal = sign_proposal(
                    key,
                    content.height,
                    content.round,
                    content.valid_round,
                    content.block_id,
                    content.time_ms,
                )
                effects += self.scenario.feed(ProposalReceived(proposal, content.time_ms))
        return effects

    def describe(self, effect: Effect) -> str:
        """Return an effect in words."""
        match effect:
            case Broadcast(content=UnsignedVote() as vote):
                value = self.describe_block(vote.block_id)
                return f"broadcast {vote.type.name.lower()} {value} round={vote.round}"
            case Broadcast(content=UnsignedProposal() as proposal):
                value = self.describe_block(proposal.block_id)
                return (
                    f"broadcast proposal {value} round={proposal.round} "
                    f"valid_round={proposal.valid_round}"
                )
            case ScheduleTimeout():
                kind = effect.kind.name.lower()
                return f"schedule {kind} round={effect.round} in {effect.duration_ms} ms"
            case RequestProposal():
                return f"request proposal round={effect.round}"
            case JudgeProposal():
                source = "its proposal" if effect.proposal is not None else "a quorum's votes"
                value = self.describe_block(effect.block_id)
                return f"judge {value} round={effect.round}, known from {source}"
            case Decide():
                value = self.describe_block(effect.commit.block_id)
                signers = sum(1 for signature in effect.commit.signatures if signature)
                return f"decide {value} round={effect.round} with {signers} precommits"
            case ReportEvidence():
                first = effect.evidence.first
                name = self.scenario.names[first.validator]
                return f"evidence of two {first.type.name.lower()}s of {name} round={first.round}"
            case Relay():
                return "relay"
            case _:
                assert_never(effect)

    def describe_block(self, block_id: BlockId | None) -> str:
        """Return the name of a block."""
        return "nil" if block_id is None else self.scenario.blocks[block_id]

    def describe_state(self) -> str:
        """Return height, round, step, lock and valid value."""
        driver = self.scenario.driver
        state = f"height {driver.height} round {driver.round} {driver.step.name.lower()}"
        machine = driver._machine
        if machine is None or driver.step is Step.DECIDED:
            return state
        if machine.locked_block is not None:
            block = self.describe_block(machine.locked_block)
            state += f", locked {block} in {machine.locked_round}"
        if machine.valid_block is not None:
            block = self.describe_block(machine.valid_block)
            state += f", valid {block} in {machine.valid_round}"
        return state
