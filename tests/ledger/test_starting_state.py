"""What a task's first training round starts from, though nothing of it is stored.

Owns the comparison with a whole starting state, and that only at the start there is none.
"""

import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from quorate.chain.content import compute_content_hash
from quorate.chain.errors import InvariantError
from quorate.chain.ids import Hash
from quorate.chain.merkle import EMPTY_ROOT
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.receipt import RoundOutcome
from quorate.chain.round_policy import BelowMinimum, RoundMode
from quorate.chain.task import (
    FIXED_POINT_ONE,
    AggregationRule,
    OptimizerName,
    ServerOptimizer,
    Stage,
    TensorSpec,
    UpdateCodec,
    UpdateLayout,
)

from aggregation import BoundError
from ledger.aggregates import (
    AggregateInputs,
    AggregateOutput,
    AggregateUpdate,
    InlineAggregates,
    compute_aggregate,
)
from ledger.queries import get_frozen_inputs
from tests.aggregation import reference
from tests.ledger.chain import (
    DIMENSION,
    MEAN,
    PARTICIPANTS,
    VALIDATORS,
    Chain,
    Payloads,
    get_receipt,
    make_policy,
    make_spec,
)
from tests.ledger.test_rounds import finalize

KEEPING = AggregationRule((Stage.CENTERED_CLIPPING,), 0, radius=2_000_000)
MOMENTUM = ServerOptimizer(OptimizerName.MOMENTUM, FIXED_POINT_ONE, 1 << 15)
ADAM = ServerOptimizer(OptimizerName.ADAM, FIXED_POINT_ONE, 58_982, 64_880, 66)
OPTIMIZERS = (
    ServerOptimizer(OptimizerName.SGD),
    MOMENTUM,
    ServerOptimizer(OptimizerName.ADAGRAD, FIXED_POINT_ONE, 58_982, 0, 66),
    ADAM,
    ServerOptimizer(OptimizerName.YOGI, FIXED_POINT_ONE, 58_982, 64_880, 66),
)
SIZES = (70_000, 1, 40_000)
"""Tensors that the blocks of a rule (up to 2^15 columns) and the parts of a step (2^16) cut."""
TENSORS = tuple(
    TensorSpec(f"tensor-{index}", (size,), 20, bits)
    for index, (size, bits) in enumerate(zip(SIZES, (10, 4, 30), strict=True))
)


def make_whole_state(rule: AggregationRule, optimizer: ServerOptimizer) -> bytes:
    """All of what a task starts from, built at once."""
    kept = bytes(2 * sum(SIZES)) if rule is KEEPING else b""
    scales = [(tensor.size, tensor.update_fraction_bits) for tensor in TENSORS]
    return kept + reference.starting_state(optimizer.name, optimizer.adaptivity, scales)


def make_inputs(
    payloads: Payloads, rule: AggregationRule, optimizer: ServerOptimizer
) -> AggregateInputs:
    """The inputs of a first training round."""
    generator = np.random.default_rng(3)
    d = sum(SIZES)
    rows: list[NDArray[Any]] = [
        generator.integers(-32_767, 32_767, d, dtype=np.int16) for _ in range(3)
    ]
    for row in rows:
        row[::2] = 0
    updates = tuple(
        AggregateUpdate(key.address, payloads.put(row.astype("<i2").tobytes()), 1)
        for key, row in zip(PARTICIPANTS, rows, strict=False)
    )
    weights = generator.integers(-(2**30), 2**30, d).astype("<i4").tobytes()
    return AggregateInputs(
        Hash(bytes(32)),
        0,
        rule,
        Hash(bytes(32)),
        optimizer,
        TENSORS,
        UpdateLayout(UpdateCodec.DENSE_INT16, d),
        payloads.put(weights),
        EMPTY_ROOT,
        updates,
        is_weighted=False,
    )


@pytest.mark.parametrize("rule", [MEAN, KEEPING], ids=["mean", "keeping"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: optimizer.name)
def test_an_empty_state_gives_what_a_whole_one_gives(
    optimizer: ServerOptimizer, rule: AggregationRule
) -> None:
    payloads = Payloads()
    start = make_inputs(payloads, rule, optimizer)
    whole = make_whole_state(rule, optimizer)
    output = compute_aggregate(start, payloads)
    if whole:
        stored = replace(start, optimizer_root=payloads.put(whole))
        assert output == compute_aggregate(stored, payloads)
    else:
        assert output.optimizer_root == EMPTY_ROOT
    assert output.optimizer_root == compute_content_hash(bytes(output.optimizer_state))
    assert len(output.optimizer_state) == len(whole)
    assert output.clamped == 0


def measure_peak(inputs: AggregateInputs, payloads: Payloads) -> int:
    tracemalloc.start()
    try:
        compute_aggregate(inputs, payloads)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_first_round_takes_no_more_memory_than_another() -> None:
    payloads = Payloads()
    start = make_inputs(payloads, KEEPING, ADAM)
    whole = make_whole_state(KEEPING, ADAM)
    stored = replace(start, optimizer_root=payloads.put(whole))
    # Both read once before, so that what numpy keeps for later is no part of the difference.
    measure_peak(start, payloads)
    assert measure_peak(start, payloads) < measure_peak(stored, payloads) + len(whole) // 64


@pytest.mark.parametrize("rule", [MEAN, KEEPING], ids=["mean", "keeping"])
@pytest.mark.parametrize("more", [-16, -8, 8, 16])
def test_a_stored_state_of_another_length_is_refused(rule: AggregationRule, more: int) -> None:
    payloads = Payloads()
    inputs = make_inputs(payloads, rule, ADAM)
    whole = make_whole_state(rule, ADAM)
    state = whole[:more] if more < 0 else whole + bytes(more)
    with pytest.raises(BoundError, match=f"the state of adam has {16 * sum(SIZES) + more} bytes"):
        compute_aggregate(replace(inputs, optimizer_root=payloads.put(state)), payloads)


def test_a_stored_state_that_ends_with_the_kept_aggregate_is_no_start() -> None:
    payloads = Payloads()
    inputs = make_inputs(payloads, KEEPING, ADAM)
    root = payloads.put(make_whole_state(KEEPING, ADAM)[: 2 * sum(SIZES)])
    with pytest.raises(BoundError, match="the state of adam has 0 bytes"):
        compute_aggregate(replace(inputs, optimizer_root=root), payloads)


class OtherStates(InlineAggregates):
    """Computes on the spot, and puts another state in its place."""

    def __init__(self, state: bytes) -> None:
        self.state = state

    def get(self, inputs: AggregateInputs, compute: Any, /) -> AggregateOutput:
        output = super().get(inputs, compute)
        root = compute_content_hash(self.state)
        return replace(output, optimizer_state=self.state, optimizer_root=root)


@pytest.mark.parametrize(
    ("optimizer", "rule", "state"),
    [
        (ADAM, MEAN, b""),
        (MOMENTUM, MEAN, b""),
        (OPTIMIZERS[0], KEEPING, b""),
        (ADAM, KEEPING, bytes(16 * DIMENSION)),
        (OPTIMIZERS[0], MEAN, bytes(8)),
    ],
    ids=["adam", "momentum", "kept", "kept-and-adam", "sgd"],
)
def test_no_result_leaves_a_state_that_is_not_the_tasks(
    optimizer: ServerOptimizer, rule: AggregationRule, state: bytes
) -> None:
    chain = Chain(aggregates=OtherStates(state))
    task_id = chain.create_task(make_spec(rule=rule, optimizer=optimizer), participants=2)
    with pytest.raises(InvariantError, match=f"leaves a state of {len(state)} bytes"):
        chain.submit(task_id, 1, 2)


def test_a_void_first_round_leaves_the_start() -> None:
    chain = Chain()
    policy = make_policy(below_minimum=BelowMinimum.VOID)
    task_id = chain.create_task(make_spec(optimizer=MOMENTUM, policy=policy), participants=2)
    chain.submit(task_id, 5)
    get_receipt(chain.run_block(after_ms=20_000), RoundOutcome.VOID)
    assert chain.get_task(task_id).optimizer_root == EMPTY_ROOT
    result = chain.submit(task_id, 7, 7)
    state = result.artifacts[chain.get_task(task_id).optimizer_root]
    assert np.frombuffer(state, "<i8").tolist() == [7 << 16] * DIMENSION


@pytest.mark.parametrize("mode", list(RoundMode))
def test_a_frozen_first_round_waits_for_no_state(mode: RoundMode) -> None:
    chain = Chain(parameters=ConsensusParameters(aggregation_cost_block_max=0))
    policy = make_policy(mode=mode, updates_max=2)
    spec = make_spec(rule=KEEPING, optimizer=MOMENTUM, policy=policy)
    task_id = chain.create_task(spec, participants=2)
    velocity = 0
    for training_round in range(2):
        before = chain.get_task(task_id)
        get_receipt(chain.submit(task_id, 8, 8), RoundOutcome.FROZEN)
        inputs = get_frozen_inputs(chain.state, task_id)
        assert inputs is not None
        assert inputs.optimizer_root == before.optimizer_root
        is_start = before.optimizer_root == EMPTY_ROOT
        assert is_start is (training_round == 0)
        assert len(inputs.payload_hashes) == (3 if is_start else 4)
        signed = chain.sign(VALIDATORS[1], finalize(task_id, training_round))
        result = chain.run_block(signed, proposer=1)
        assert EMPTY_ROOT not in result.released_payloads
        velocity = velocity // 2 + (8 << 16)
        state = result.artifacts[chain.get_task(task_id).optimizer_root]
        assert np.frombuffer(state[: 2 * DIMENSION], "<i2").tolist() == [8] * DIMENSION
        assert np.frombuffer(state[2 * DIMENSION :], "<i8").tolist() == [velocity] * DIMENSION
