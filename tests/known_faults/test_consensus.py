"""Faults of others inside consensus; sources in docs/known_faults.md."""

from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from quorate.chain.validators import (
    POWER_MAX,
    PRIORITY_SPREAD_FACTOR,
    ValidatorSet,
    ValidatorUpdate,
)
from quorate.chain.vote import VoteType

from consensus.driver import Driver
from consensus.effects import Decide, Effect
from consensus.inputs import Input, StartHeight, TimeoutKind, VoteReceived
from node.agreement.consensus_runner import ConsensusRunner
from node.agreement.inbox import Incoming
from p2p.network import PeerId
from tests.consensus.expectations import schedule
from tests.consensus.scenario import TIMEOUTS, Scenario, make_keys
from tests.node.cluster import make_config, make_genesis, make_key, open_cluster
from tests.node.execution.chain import sign_vote

KEYS = make_keys(6)
POWERS = st.one_of(st.integers(1, 100), st.just(POWER_MAX))
CHANGES = st.lists(
    st.tuples(st.integers(0, 5), st.one_of(st.just(0), POWERS), st.integers(1, 4)), max_size=30
)


@settings(max_examples=60, deadline=None)
@given(st.lists(POWERS, min_size=2, max_size=5), CHANGES)
def test_proposer_priorities_run_away(
    powers: list[int], changes: list[tuple[int, int, int]]
) -> None:
    current = ValidatorSet.from_powers(
        (key.public_key, power) for key, power in zip(KEYS, powers, strict=False)
    )
    for index, power, turns in changes:
        members = {validator.public_key for validator in current.validators}
        key = KEYS[index].public_key
        if power or (key in members and len(members) > 1):
            current = current.apply_updates([ValidatorUpdate(key, power)])
        current = current.advance(turns)
        priorities = [validator.priority for validator in current.validators]
        assert max(priorities) - min(priorities) <= PRIORITY_SPREAD_FACTOR * current.total_power
        assert abs(sum(priorities)) < len(priorities)


def test_leaving_and_joining_again_brings_no_turn() -> None:
    current = ValidatorSet.from_powers((key.public_key, 10) for key in KEYS[:4])
    cheat, turns = KEYS[0].public_key, 0
    for _ in range(200):
        has_proposed = current.proposer.public_key == cheat
        turns += has_proposed
        current = current.advance(1)
        if has_proposed:
            # What it owes for its turn would be forgotten.
            current = current.apply_updates([ValidatorUpdate(cheat, 0)])
            current = current.apply_updates([ValidatorUpdate(cheat, 10)])
    assert 0 < turns <= 50


def test_the_timeout_flag_is_not_reset_between_heights_and_rounds() -> None:
    scenario = Scenario("D")
    for height in (1, 2, 3):
        scenario.start()
        for round_ in (0, 1):
            # L47 must hold in each round of each height, whatever the ones before have seen.
            duration = TIMEOUTS.precommit_ms + round_ * TIMEOUTS.precommit_delta_ms
            effects = scenario.precommit("A", None, round_) + scenario.precommit("B", "X", round_)
            assert effects == []
            assert scenario.precommit("C", "Y", round_) == [
                schedule_at(height, TimeoutKind.PRECOMMIT, round_, duration)
            ]
            scenario.timeout(TimeoutKind.PRECOMMIT, round_)
            assert scenario.driver.round == round_ + 1
        scenario.commit("ABC", "Z", 2)
        decided = scenario.judge("Z")
        assert [type(effect) for effect in decided] == [Decide]


def schedule_at(height: int, kind: TimeoutKind, round_: int, duration_ms: int) -> Effect:
    effect = schedule(kind, round_, duration_ms)
    return type(effect)(kind, height, round_, duration_ms)


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> list[Input]:
    """What the drivers of this process are fed, in order."""
    inputs: list[Input] = []
    receive = Driver.receive

    def note(driver: Driver, input_: Input) -> list[Effect]:
        inputs.append(input_)
        return receive(driver, input_)

    monkeypatch.setattr(Driver, "receive", note)
    return inputs


async def test_votes_are_processed_before_the_log_is_replayed(
    tmp_path: Path, received: list[Input], monkeypatch: pytest.MonkeyPatch
) -> None:
    # One of four is alone: it votes nil in some rounds, and is stopped in the middle.
    config = make_config(timeout_propose_ms=20, timeout_prevote_ms=20, timeout_precommit_ms=20)
    async with open_cluster(tmp_path, 0, genesis=make_genesis(4), config=config) as cluster:
        member = cluster.add(make_key(1))
        await cluster.start(member)
        with trio.fail_after(10):
            while len(received) < 3:  # noqa: ASYNC110
                await trio.sleep(0.01)
        await cluster.stop(member)
        before = list(received)
        received.clear()
        vote = VoteReceived(sign_vote(make_key(2), VoteType.PRECOMMIT, 1, None))
        recover = ConsensusRunner._recover

        def be_called_upon(runner: ConsensusRunner) -> None:
            runner.receive(Incoming(vote, PeerId("early")))
            recover(runner)

        monkeypatch.setattr(ConsensusRunner, "_recover", be_called_upon)
        await cluster.start(member)
        with trio.fail_after(10):
            while vote not in received:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert isinstance(received[0], StartHeight)
        replayed = received[: received.index(vote)]
        assert replayed[: len(before)] == before
