"""What the clause tests expect of the driver, in few words."""

from quorate.chain.vote import VoteType

from consensus.effects import Broadcast, ScheduleTimeout, UnsignedVote
from consensus.inputs import TimeoutKind
from consensus.status import Step
from tests.consensus.scenario import Scenario, make_block


def prevote(block: str | None, round_: int = 0) -> Broadcast:
    block_id = None if block is None else make_block(block)
    return Broadcast(UnsignedVote(VoteType.PREVOTE, 1, round_, block_id))


def precommit(block: str | None, round_: int = 0) -> Broadcast:
    block_id = None if block is None else make_block(block)
    return Broadcast(UnsignedVote(VoteType.PRECOMMIT, 1, round_, block_id))


def schedule(kind: TimeoutKind, round_: int, duration_ms: int) -> ScheduleTimeout:
    return ScheduleTimeout(kind, 1, round_, duration_ms)


def start_locked(*, others: str = "AB") -> Scenario:
    """Return D in round 1, locked on X in round 0."""
    scenario = Scenario("D")
    scenario.start()
    scenario.propose("X")
    scenario.judge("X")
    assert scenario.prevote(others + "D", "X") == [precommit("X")]
    scenario.timeout(TimeoutKind.PRECOMMIT)
    assert (scenario.driver.round, scenario.driver.step) == (1, Step.PROPOSE)
    return scenario
