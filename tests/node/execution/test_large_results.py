"""Results of frozen rounds that the cache has no room for: each still gets into a block."""

from collections.abc import Callable

import pytest
import trio
from quorate.chain.errors import PendingError

from ledger.aggregates import AggregateInputs, AggregateOutput
from node.execution import aggregates as aggregates_module
from node.execution import frozen_rounds as frozen_rounds_module
from node.execution.aggregates import BackgroundAggregates
from node.execution.frozen_rounds import FrozenRounds
from tests.node.execution.test_aggregates import Work, make_inputs
from tests.node.execution.test_frozen_rounds import HeldAggregates, World, freeze_tasks


class CountedAggregates(BackgroundAggregates):
    """Background aggregates whose computations are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.computed = 0

    def get(
        self, inputs: AggregateInputs, compute: Callable[[], AggregateOutput], /
    ) -> AggregateOutput | None:
        def compute_counted() -> AggregateOutput:
            self.computed += 1
            return compute()

        return super().get(inputs, compute_counted)


def follow_anew(world: World, source: BackgroundAggregates | HeldAggregates) -> FrozenRounds:
    """Give a world another source of results."""
    world.chain.executor._aggregates = source
    rounds = FrozenRounds(world.chain.executor, source, world.chain.payloads, lambda: world.clock_s)
    world.proposer._frozen_rounds = world.frozen_rounds = rounds
    return rounds


async def follow_until_ready(world: World, source: BackgroundAggregates, count: int) -> None:
    with trio.fail_after(5):
        while True:
            done = source.done
            if len(world.frozen_rounds.get_ready()) >= count:
                return
            await done.wait()


@pytest.mark.parametrize("pusher", ["another frozen round", "a training round of every block"])
async def test_a_result_that_waits_for_a_block_is_not_pushed_out(
    monkeypatch: pytest.MonkeyPatch, pusher: str
) -> None:
    """Two of them would push each other out for ever, and each node would have another one."""
    count = 2 if pusher == "another frozen round" else 1
    world, _, _ = await freeze_tasks(count)
    monkeypatch.setattr(aggregates_module, "INLINE_COST_MAX", 0)
    monkeypatch.setattr(aggregates_module, "CACHED_BYTES_MAX", 0)
    source = CountedAggregates()
    follow_anew(world, source)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.run)
        await follow_until_ready(world, source, count)
        if count == 1:
            monkeypatch.setattr(aggregates_module, "INLINE_COST_MAX", 10**9)
            BackgroundAggregates.get(source, make_inputs(99, is_large=False), Work())
            monkeypatch.setattr(aggregates_module, "INLINE_COST_MAX", 0)
        executed = await world.proposer.make_block()
        nursery.cancel_scope.cancel()
    assert len(executed.result.receipts.rounds) == count
    assert source.computed == count


async def test_a_result_is_let_go_when_its_block_is_decided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world, _, _ = await freeze_tasks(1)
    monkeypatch.setattr(aggregates_module, "CACHED_MAX", 0)
    source = CountedAggregates()
    rounds = follow_anew(world, source)
    assert len(rounds.get_ready()) == 1
    assert len(source._held) == 1
    world.chain.commit(await world.proposer.make_block())
    assert rounds.get_ready() == []
    assert len(source._held) == 0


async def test_large_results_are_asked_for_one_after_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A block carries one of them, and each takes as much memory as all that are not large."""
    monkeypatch.setattr(frozen_rounds_module, "RESULT_BYTES_PER_BLOCK_MAX", 0)
    world, aggregates, ids = await freeze_tasks(3)
    rounds = follow_anew(world, aggregates)
    aggregates.asked.clear()
    rounds.follow()
    rounds.follow()
    # Also while it is computed: what is computed beside it would have to be thrown away.
    (first,) = set(aggregates.asked)
    aggregates.held.clear()
    assert [task for task, _ in rounds.get_ready()] == [first]
    for left in (2, 1, 0):
        world.chain.commit(await world.proposer.make_block())
        world.now_ms = world.chain.next_time_ms
        assert len(rounds.get_ready()) == min(left, 1)
    assert set(aggregates.asked) == set(ids)


async def test_a_node_that_was_away_asks_for_the_same_large_result_as_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else each had another one, and none of them what a block of the other carries."""
    monkeypatch.setattr(frozen_rounds_module, "RESULT_BYTES_PER_BLOCK_MAX", 0)
    world, aggregates, ids = await freeze_tasks(4)
    assert ids != sorted(ids)
    while ids:
        # It finds all of them frozen at once, as after a restart.
        rounds = follow_anew(world, aggregates)
        aggregates.asked.clear()
        rounds.follow()
        assert set(aggregates.asked) == {ids.pop(0)}
        aggregates.held.difference_update(aggregates.asked)
        world.chain.commit(await world.proposer.make_block())
        world.now_ms = world.chain.next_time_ms


async def test_a_large_round_without_its_payloads_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frozen_rounds_module, "RESULT_BYTES_PER_BLOCK_MAX", 0)
    world, _, _ = await freeze_tasks(2)
    (first, _), (second, _) = world.chain.executor.finalizations_due

    class Lacking(HeldAggregates):
        def get(
            self, inputs: AggregateInputs, compute: Callable[[], AggregateOutput], /
        ) -> AggregateOutput | None:
            if inputs.task_id == first:
                raise PendingError("a payload is not here", inputs.payload_hashes)
            return super().get(inputs, compute)

    rounds = follow_anew(world, Lacking())
    assert [task for task, _ in rounds.get_ready()] == [second]
