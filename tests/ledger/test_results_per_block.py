"""How many results of training rounds a block brings: as many as can be held at a time."""

import pytest
from quorate.chain.errors import ErrorCode
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.receipt import RoundOutcome
from quorate.chain.task import AggregationRule, OptimizerName, ServerOptimizer, Stage
from quorate.chain.transaction import FinalizeTrainingRound, SignedTransaction

from ledger.aggregates import RESULTS_PER_BLOCK_MAX, compute_result_bytes
from tests.ledger.chain import (
    DIMENSION,
    VALIDATORS,
    Chain,
    get_receipt,
    make_policy,
    make_spec,
)

OPTIMIZERS = (
    ServerOptimizer(OptimizerName.SGD),
    ServerOptimizer(OptimizerName.MOMENTUM, momentum=1 << 15),
    ServerOptimizer(OptimizerName.ADAM, adaptivity=1 << 6),
)


def seal_together(chain: Chain, count: int) -> list[int]:
    """Let `count` tasks reach their deadline at once; return how many rounds end in each block."""
    task_ids = [
        chain.create_task(make_spec(f"task-{index}", policy=make_policy()), participants=4)
        for index in range(count)
    ]
    for task_id in task_ids:
        chain.submit(task_id, 1, 2)
    ends = []
    after_ms = 20_000
    while chain.state.next_due_time_ms is not None:
        ends.append(len(chain.run_block(after_ms=after_ms).receipts.rounds))
        after_ms = 1
    return ends


def test_a_block_brings_no_more_results_than_can_be_held_at_a_time() -> None:
    assert seal_together(Chain(), RESULTS_PER_BLOCK_MAX + 3) == [RESULTS_PER_BLOCK_MAX, 3]


@pytest.mark.parametrize(("results", "ends"), [(3, [3, 1]), (1, [1] * 4), (0, [1] * 4)])
def test_a_block_brings_no_more_bytes_of_results_but_one(
    results: int, ends: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.rounds.RESULT_BYTES_PER_BLOCK_MAX", results * 4 * DIMENSION)
    assert seal_together(Chain(), 4) == ends


def test_the_bytes_of_a_result_are_known_before_it_is() -> None:
    for optimizer in OPTIMIZERS:
        for stages in ((Stage.MEAN,), (Stage.CENTERED_CLIPPING,)):
            chain = Chain()
            spec = make_spec(rule=AggregationRule(stages, 0), optimizer=optimizer)
            task_id = chain.create_task(spec, participants=2)
            result = chain.submit(task_id, 1, 2)
            get_receipt(result, RoundOutcome.FINALIZED)
            size = compute_result_bytes(spec.rule, spec.optimizer, spec.dimension)
            assert sum(map(len, result.artifacts.values())) == size


def carry_frozen(chain: Chain, count: int) -> list[SignedTransaction]:
    """Let `count` tasks freeze a training round; return what carries their results."""
    carried = []
    for index in range(count):
        spec = make_spec(f"task-{index}", policy=make_policy(updates_max=2))
        task_id = chain.create_task(spec, participants=2)
        get_receipt(chain.submit(task_id, 1, 2), RoundOutcome.FROZEN)
        body = FinalizeTrainingRound(task_id, 0)
        carried.append(chain.sign(VALIDATORS[0], body, ahead=index))
    return carried


def test_results_of_frozen_rounds_are_as_many_at_most() -> None:
    chain = Chain(parameters=ConsensusParameters(aggregation_cost_block_max=0))
    *fitting, last = carry_frozen(chain, RESULTS_PER_BLOCK_MAX + 1)
    words = f"{RESULTS_PER_BLOCK_MAX} results"
    chain.assert_refused(last, ErrorCode.QUOTA_EXCEEDED, words, *fitting, proposer=0)
    assert len(chain.run_block(*fitting, proposer=0).receipts.rounds) == RESULTS_PER_BLOCK_MAX
    chain.run_block(last, proposer=0)


def test_results_of_frozen_rounds_have_as_many_bytes_but_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ledger.rounds.RESULT_BYTES_PER_BLOCK_MAX", 2 * 4 * DIMENSION)
    chain = Chain(parameters=ConsensusParameters(aggregation_cost_block_max=0))
    *fitting, last = carry_frozen(chain, 3)
    chain.assert_refused(last, ErrorCode.QUOTA_EXCEEDED, "bytes", *fitting, proposer=0)
    monkeypatch.setattr("ledger.rounds.RESULT_BYTES_PER_BLOCK_MAX", 1)
    first, second = fitting
    chain.assert_refused(second, ErrorCode.QUOTA_EXCEEDED, "bytes", first, proposer=0)
    for signed in (first, second, last):
        chain.run_block(signed, proposer=0)
