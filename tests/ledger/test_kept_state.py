"""What training rounds leave to the next beside weights, and the seed that a block leaves to it.

Owns that the chain hands a rule its last aggregate, its optimizer's state, and a seed that no
proposer or participant of the sealing block chose.
"""

from dataclasses import replace
from hashlib import sha256

import numpy as np
from quorate.chain.codec import encode
from quorate.chain.content import compute_content_hash
from quorate.chain.ids import Hash
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.receipt import RoundOutcome
from quorate.chain.task import AggregationRule, OptimizerName, ServerOptimizer, Stage

from ledger.aggregates import AggregateInputs, AggregateOutput, InlineAggregates
from ledger.queries import get_frozen_inputs
from tests.ledger.chain import (
    DIMENSION,
    VALIDATORS,
    Chain,
    get_receipt,
    make_policy,
    make_spec,
)
from tests.ledger.test_rounds import finalize

FREE = ConsensusParameters(aggregation_cost_block_max=0)


class RecordedAggregates(InlineAggregates):
    """Computes on the spot, and keeps what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[AggregateInputs] = []

    def get(self, inputs: AggregateInputs, compute: object, /) -> AggregateOutput:
        self.asked.append(inputs)
        return super().get(inputs, compute)  # type: ignore[arg-type]


def test_the_last_aggregate_and_the_moments_are_carried_from_round_to_round() -> None:
    chain = Chain()
    rule = AggregationRule((Stage.CENTERED_CLIPPING,), 0, radius=1000)
    optimizer = ServerOptimizer(OptimizerName.ADAM, 1 << 16, 1 << 15, 1 << 15, 1 << 16)
    spec = make_spec(rule=rule, optimizer=optimizer)
    task_id = chain.create_task(spec, participants=2)
    first = 0
    # All update values are equal, so that every distance from the centre is |value| sqrt(6).
    for value, centre in ((100, 100), (150, 150), (600, 150 + 408), (600, 600)):
        result = chain.submit(task_id, value, value)
        task = chain.get_task(task_id)
        state = result.artifacts[task.optimizer_root]
        assert len(state) == 18 * DIMENSION
        kept = np.frombuffer(state[: 2 * DIMENSION], "<i2")
        assert kept.tolist() == [centre] * DIMENSION
        moments = np.frombuffer(state[2 * DIMENSION :], "<i8")
        first = first // 2 + centre * 2**15
        assert moments[:DIMENSION].tolist() == [first] * DIMENSION
        assert task.optimizer_root == compute_content_hash(state)


def test_buckets_follow_from_the_block_before() -> None:
    aggregates = RecordedAggregates()
    chain = Chain(aggregates=aggregates)
    rule = AggregationRule((Stage.BUCKETING, Stage.MEDIAN), 0)
    task_id = chain.create_task(make_spec(rule=rule), participants=2)
    other = chain.create_task(make_spec("other", rule=rule), participants=2)
    for training_round in range(2):
        for task in (task_id, other):
            context = chain.make_context()
            result = chain.submit(task, 1, 2)
            assert get_receipt(result, RoundOutcome.FINALIZED).task_id == task
            seed = encode((context.last_block_hash, task, training_round))
            assert aggregates.asked[-1].seed == Hash(sha256(seed).digest())
    assert len({inputs.seed for inputs in aggregates.asked}) == 4


def test_a_frozen_round_keeps_the_seed_of_the_block_that_sealed_it() -> None:
    aggregates = RecordedAggregates()
    chain = Chain(parameters=FREE, aggregates=aggregates)
    rule = AggregationRule((Stage.BUCKETING, Stage.MEDIAN), 0)
    spec = make_spec(rule=rule, policy=make_policy())
    task_id = chain.create_task(spec, participants=2)
    before = chain.make_context().last_block_hash
    get_receipt(chain.submit(task_id, 1, 2), RoundOutcome.FROZEN)
    inputs = get_frozen_inputs(chain.state, task_id)
    assert inputs is not None
    assert inputs.seed == Hash(sha256(encode((before, task_id, 0))).digest())
    chain.run_block()
    signed = chain.sign(VALIDATORS[1], finalize(task_id))
    get_receipt(chain.run_block(signed, proposer=1), RoundOutcome.FINALIZED)
    assert aggregates.asked == [inputs]


def test_a_result_is_cached_by_its_seed_only_if_the_rule_reads_it() -> None:
    aggregates = RecordedAggregates()
    chain = Chain(aggregates=aggregates)
    task_id = chain.create_task(make_spec(), participants=2)
    chain.submit(task_id, 1, 2)
    (inputs,) = aggregates.asked
    other = Hash(bytes(32))
    assert replace(inputs, seed=other).key == inputs.key
    bucketed = replace(inputs, rule=AggregationRule((Stage.BUCKETING, Stage.MEAN), 0))
    assert replace(bucketed, seed=other).key != bucketed.key
