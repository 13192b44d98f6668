"""Each reason to begin a height, alone."""

# The fixture `autojump_clock` works by being asked for.
# ruff: noqa: ARG001

import math
from collections.abc import Callable
from typing import Any

import pytest
import trio

from node.agreement.evidence_pool import EvidencePool
from node.agreement.height_start import EmptyBlocks, HeightStart
from tests.node.cluster import make_genesis
from tests.node.execution.chain import ExecutionChain
from tests.node.execution.test_evidence import make_evidence

NEVER = EmptyBlocks(is_enabled=False, interval_s=0)


class World:
    """A chain after its first block, where nothing is the matter."""

    def __init__(self, chain: ExecutionChain, empty_blocks: EmptyBlocks) -> None:
        self.executor: Any = Shown(chain)
        self.early: set[int] = set()
        self.fetched: set[int] = set()
        self.evidence = EvidencePool()
        self.has_transactions = False
        self.now_ms = 1000
        driver: Any = Asked(has_messages_for=lambda height: height in self.early)
        catch_up: Any = Asked(get=lambda height: 1 if height in self.fetched else None)
        self.ready_at = math.inf
        self.followed = 0
        frozen_rounds: Any = Asked(get_time=lambda: self.ready_at, follow=self._follow)
        self.start = HeightStart(
            self.executor,
            driver,
            catch_up,
            self.evidence,
            frozen_rounds,
            lambda: self.has_transactions,
            empty_blocks,
            lambda: self.now_ms,
        )

    def _follow(self) -> None:
        self.followed += 1


class Asked:
    """Answers what it is given to."""

    def __init__(self, **answers: Callable[..., object]) -> None:
        for name, answer in answers.items():
            setattr(self, name, answer)


class Shown:
    """What an executor shows of its position."""

    def __init__(self, chain: ExecutionChain) -> None:
        self.position = chain.executor.position
        self.next_due_time_ms: int | None = None


async def make_world(empty_blocks: EmptyBlocks = NEVER) -> World:
    chain = ExecutionChain(make_genesis())
    await chain.decide()
    return World(chain, empty_blocks)


async def test_nothing_is_no_reason(autojump_clock: object) -> None:
    world = await make_world()
    assert not world.start.is_due()
    assert world.start.get_time() == math.inf
    await trio.sleep(10_000)
    assert not world.start.is_due()


async def test_the_first_block_follows_at_once() -> None:
    world = World(ExecutionChain(make_genesis()), NEVER)
    assert world.start.is_due()


def set_transactions(world: World) -> None:
    world.has_transactions = True


def set_evidence(world: World) -> None:
    world.evidence.add(make_evidence(1))


REASONS: list[Callable[[World], object]] = [
    set_transactions,
    set_evidence,
    lambda world: world.early.add(2),
    lambda world: world.fetched.add(2),
]


@pytest.mark.parametrize("cause", REASONS)
async def test_each_reason_is_enough(cause: Callable[[World], object]) -> None:
    world = await make_world()
    cause(world)
    assert world.start.is_due()


async def test_messages_and_blocks_of_later_heights_are_no_reason() -> None:
    world = await make_world()
    world.early.add(3)
    world.fetched.add(3)
    assert not world.start.is_due()


async def test_a_training_round_that_is_due_is_a_reason(autojump_clock: object) -> None:
    world = await make_world()
    world.executor.next_due_time_ms = 4000
    assert not world.start.is_due()
    assert world.start.get_time() == pytest.approx(trio.current_time() + 3)
    world.now_ms = 4000
    assert world.start.is_due()
    assert world.start.get_time() == pytest.approx(trio.current_time())


async def test_a_frozen_round_is_a_reason_once_its_result_can_be_carried(
    autojump_clock: object,
) -> None:
    """Its aggregate takes as long as it takes: blocks back to back would not hasten it."""
    world = await make_world()
    world.start.note_decision()
    assert world.followed == 1
    assert not world.start.is_due()
    assert world.start.get_time() == math.inf
    world.ready_at = trio.current_time() + 3
    assert not world.start.is_due()
    assert world.start.get_time() == world.ready_at
    await trio.sleep(3)
    assert world.start.is_due()


async def test_empty_blocks_come_at_their_interval(autojump_clock: object) -> None:
    world = await make_world(EmptyBlocks(is_enabled=True, interval_s=5))
    began = trio.current_time()
    assert world.start.get_time() == began + 5
    await trio.sleep(4.9)
    assert not world.start.is_due()
    await trio.sleep(0.2)
    assert world.start.is_due()
    world.start.note_decision()
    assert not world.start.is_due()
    world.executor.next_due_time_ms = world.now_ms + 60_000
    assert world.start.get_time() == trio.current_time() + 5
