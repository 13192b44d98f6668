"""Tasks beside each other: whatever happens in one, the other's rounds are the same to the bit."""

from contextlib import suppress
from random import Random

import pytest
from quorate.chain.errors import TransactionError
from quorate.chain.ids import Hash
from quorate.chain.keys import PrivateKey
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.receipt import RoundReceipt
from quorate.chain.round_policy import RoundMode, RoundPolicy
from quorate.chain.task import BelowMinimum, TensorSpec
from quorate.chain.transaction import (
    Body,
    ChangeTaskStatus,
    FinalizeTrainingRound,
    RegisterParticipant,
    RevokeParticipant,
    SubmitEvaluation,
    TaskStatus,
)

from ledger.execution import BlockExecution
from ledger.queries import get_finalizations_due
from ledger.records import TaskRecord
from tests.ledger.chain import (
    DIMENSION,
    PARTICIPANTS,
    VALIDATORS,
    Chain,
    SlowAggregates,
    encode_weights,
    hash_of,
    make_policy,
    make_spec,
)

QUIET = PARTICIPANTS[:3]
LOUD = PARTICIPANTS[3:]
BLOCKS = 40
COST_MAX = 60
"""Enough for the quiet task's three updates of six parameters, and for two of the loud ones'."""


def make_loud_policies() -> list[RoundPolicy]:
    return [
        make_policy(deadline_ms=300, extensions_max=1),
        make_policy(deadline_ms=200, updates_min=5, below_minimum=BelowMinimum.VOID),
        make_policy(mode=RoundMode.ASYNCHRONOUS, updates_min=1, updates_max=2, staleness_max=3),
        make_policy(updates_min=1, updates_max=1, rounds_max=4),
        make_policy(updates_min=1, updates_max=5, waive_proposer_spread=False),
    ]


def run(seed: int, *, is_loud: bool) -> list[tuple[TaskRecord, tuple[RoundReceipt, ...]]]:
    """Return the quiet task's record and receipts after each block."""
    random = Random(seed)
    chain = Chain(parameters=ConsensusParameters(aggregation_cost_block_max=COST_MAX))
    quiet = chain.create_task(make_spec("quiet", policy=make_policy(deadline_ms=250)))
    loud = [
        chain.create_task(make_spec(f"loud-{index}", policy=policy), participants=0)
        for index, policy in enumerate(make_loud_policies())
    ]
    seen = []
    for height in range(BLOCKS):
        execution = chain.begin(chain.make_context())
        noise = Random(seed * 1000 + height)
        for _ in range(12 if is_loud else 0):
            make_noise(chain, execution, noise, loud)
        for key in QUIET:
            if random.random() < 0.4:
                body = chain.make_update(quiet, [random.randrange(-99, 99)] * DIMENSION)
                apply(chain, execution, key, body)
        result = execution.finish()
        chain.commit(result)
        receipts = tuple(r for r in result.receipts.rounds if r.task_id == quiet)
        seen.append((chain.get_task(quiet), receipts))
    if is_loud:
        assert sum(chain.get_task(task).training_round for task in loud) > 10
    return seen


def make_noise(chain: Chain, execution: BlockExecution, noise: Random, loud: list[Hash]) -> None:
    key, task_id = noise.choice(LOUD), noise.choice(loud)
    task = chain.get_task(task_id)
    values = [noise.choice((-32768, -1, 0, 7, 32767))] * noise.choice((DIMENSION, 1))
    bodies: list[Body] = [
        RegisterParticipant(task_id),
        RegisterParticipant(task_id),
        RevokeParticipant(task_id, noise.choice(LOUD).address),
        chain.make_update(task_id, values),
        chain.make_update(task_id, [3] * DIMENSION),
        chain.make_update(task_id, [5] * DIMENSION, training_round=noise.randrange(9)),
        chain.make_update(task_id, [5] * DIMENSION, base_weights_root=Hash(bytes(32))),
        SubmitEvaluation(task_id, task.training_round, task.weights_root, 3, 1),
        ChangeTaskStatus(task_id, noise.choice(list(TaskStatus))),
        FinalizeTrainingRound(task_id, task.training_round),
    ]
    apply(chain, execution, key, noise.choice(bodies))


def apply(chain: Chain, execution: BlockExecution, key: PrivateKey, body: Body) -> None:
    """Execute a transaction if the rules allow it."""
    nonce = execution._env.view.get_account(key.address).nonce
    signed = chain.sign(key, body, nonce=nonce)
    with suppress(TransactionError):
        execution.apply_transaction(hash_of(signed), signed)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_other_tasks_do_a_task_s_rounds_are_the_same(seed: int) -> None:
    alone, beside = run(seed, is_loud=False), run(seed, is_loud=True)
    assert [task.training_round for task, _ in alone][-1] >= 5
    assert alone == beside


def test_a_frozen_task_without_a_result_holds_up_nobody() -> None:
    slow = SlowAggregates()
    chain = Chain(
        parameters=ConsensusParameters(aggregation_cost_block_max=COST_MAX), aggregates=slow
    )
    wide = encode_weights([0] * 60)
    stuck = chain.create_task(
        make_spec(
            "stuck",
            tensors=(TensorSpec("w", (60,), 16, 12),),
            initial_weights_root=chain.payloads.put(wide),
        ),
        participants=2,
        weights=wide,
    )
    for index in (0, 1):
        body = chain.make_update(stuck, [1] * 60)
        chain.run_block(chain.sign(PARTICIPANTS[index], body))
    assert get_finalizations_due(chain.state) == ((stuck, 0),)
    slow.is_ready = True  # For what is asked for from now on; nobody carries the stuck result.
    quick = chain.create_task(make_spec("quick"), participants=2)
    for number in range(3):
        chain.submit(quick, number, number)
        assert chain.get_task(quick).training_round == number + 1
    assert chain.get_task(stuck).training_round == 0
    body = FinalizeTrainingRound(stuck, 0)
    chain.run_block(chain.sign(VALIDATORS[0], body), proposer=0)
    assert chain.get_task(stuck).training_round == 1
