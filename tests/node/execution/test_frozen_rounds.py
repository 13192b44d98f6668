"""Frozen rounds over a real executor: who has a result is carried, who has none holds up nobody."""

import math
from collections.abc import Callable

from quorate.chain.ids import Hash
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.receipt import RoundOutcome
from quorate.chain.transaction import FinalizeTrainingRound, decode_transaction

from ledger.aggregates import AggregateInputs, AggregateOutput
from node.execution.frozen_rounds import GRACE_MAX_S, GRACE_SHARE, READY_MAX, RETRY_S
from tests.node.agreement.test_proposing import World
from tests.node.cluster import make_genesis
from tests.node.execution.chain import ExecutionChain, Training


class HeldAggregates:
    """Computes what it is told to; everything else is being computed for ever."""

    def __init__(self) -> None:
        self.held: set[Hash] = set()
        self.asked: list[Hash] = []

    def get(
        self, inputs: AggregateInputs, compute: Callable[[], AggregateOutput], /
    ) -> AggregateOutput | None:
        self.asked.append(inputs.task_id)
        return None if inputs.task_id in self.held else compute()


async def freeze_tasks(count: int) -> tuple[World, HeldAggregates, list[Hash]]:
    """So many tasks with a frozen round each, all of them held."""
    aggregates = HeldAggregates()
    chain = ExecutionChain(
        make_genesis(parameters=ConsensusParameters(aggregation_cost_block_max=0))
    )
    chain.executor._aggregates = aggregates
    chain.aggregates = aggregates  # type: ignore[assignment]
    ids = []
    for number in range(count):
        training = Training(chain, 10, 2, name=f"task-{number}")
        await training.begin()
        await chain.decide(*(training.make_update(user, user)[0] for user in range(2)))
        ids.append(training.task_id)
    aggregates.held.update(ids)
    assert len(chain.executor.finalizations_due) == count
    return World(chain), aggregates, ids


async def test_one_slow_result_holds_back_no_other() -> None:
    world, aggregates, ids = await freeze_tasks(3)
    # Of whichever task comes first in order, the result is not here.
    stuck = min(ids)
    aggregates.held -= set(ids) - {stuck}
    executed = await world.proposer.make_block()
    bodies = [decode_transaction(raw).transaction.body for raw in executed.block.transactions]
    assert all(isinstance(body, FinalizeTrainingRound) for body in bodies)
    ended = {receipt.task_id for receipt in executed.result.receipts.rounds}
    assert ended == set(ids) - {stuck}
    world.chain.commit(executed)
    assert [task for task, _ in world.chain.executor.finalizations_due] == [stuck]
    # Blocks go on without it, and carry it when it is there.
    world.now_ms = world.chain.next_time_ms
    world.chain.commit(await world.proposer.make_block())
    assert world.frozen_rounds.get_time() == math.inf
    aggregates.held.clear()
    world.now_ms = world.chain.next_time_ms
    (receipt,) = (await world.proposer.make_block()).result.receipts.rounds
    assert (receipt.task_id, receipt.outcome) == (stuck, RoundOutcome.FINALIZED)


async def test_the_others_are_given_time_to_have_the_result_too() -> None:
    world, aggregates, (task_id,) = await freeze_tasks(1)
    rounds = world.frozen_rounds
    assert (rounds.get_ready(), rounds.get_time()) == ([], math.inf)
    world.clock_s = 8.0
    aggregates.held.clear()
    assert rounds.get_time() == 8.0 + 8.0 / GRACE_SHARE
    assert rounds.get_ready() == []
    assert len((await world.proposer.make_block()).transaction_hashes) == 0
    world.clock_s = 10.0
    assert rounds.get_ready() == [(task_id, 0)]


async def test_the_time_given_is_bounded() -> None:
    world, aggregates, _ = await freeze_tasks(1)
    world.frozen_rounds.follow()
    world.clock_s = 100_000.0
    aggregates.held.clear()
    assert world.frozen_rounds.get_time() == world.clock_s + GRACE_MAX_S


async def test_no_more_results_are_asked_for_than_are_remembered() -> None:
    world, aggregates, ids = await freeze_tasks(READY_MAX + 2)
    aggregates.held.clear()
    assert len(world.frozen_rounds.get_ready()) == READY_MAX
    aggregates.asked.clear()
    world.frozen_rounds.follow()
    assert aggregates.asked == []
    world.chain.commit(await world.proposer.make_block())
    assert len(world.frozen_rounds.get_ready()) == 2
    assert set(ids) >= set(aggregates.asked)


async def test_a_missing_payload_is_no_result_and_no_error() -> None:
    world, aggregates, (task_id,) = await freeze_tasks(1)
    aggregates.held.clear()
    kept = world.chain.executor._payloads
    world.frozen_rounds._payloads = type(kept)()
    assert (world.frozen_rounds.get_ready(), world.frozen_rounds.get_time()) == ([], math.inf)
    # It is looked for again, but not all the time.
    aggregates.asked.clear()
    world.frozen_rounds._payloads = kept
    world.clock_s = RETRY_S - 0.1
    assert world.frozen_rounds.get_ready() == []
    assert aggregates.asked == []
    world.clock_s = RETRY_S * 1.5
    world.frozen_rounds.follow()
    world.clock_s = 10.0
    assert world.frozen_rounds.get_ready() == [(task_id, 0)]
