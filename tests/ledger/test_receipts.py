"""What a training round's receipt says of each update, under every rule."""

import numpy as np
import pytest
from msgspec.structs import replace
from quorate.chain.codec import decode, encode
from quorate.chain.ids import NO_HASH, Hash
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.receipt import (
    RECEIPTS_BYTES_MAX,
    Absence,
    AbsenceReason,
    BlockReceipts,
    RoundOutcome,
    RoundReceipt,
    ScoreName,
    SealCause,
    UpdateReceipt,
)
from quorate.chain.task import UPDATES_PER_ROUND_MAX, AggregationRule, Stage
from quorate.chain.transaction import FinalizeTrainingRound

from aggregation import get_score_name
from ledger.indexes import OPEN_UPDATES_MAX
from ledger.round_receipts import REGISTRATIONS_LISTED_BLOCK_MAX
from tests.ledger.chain import (
    DIMENSION,
    PARTICIPANTS,
    VALIDATORS,
    Chain,
    get_receipt,
    make_policy,
    make_spec,
)

FREE = ConsensusParameters(aggregation_cost_block_max=0)
EVERY = make_policy(updates_min=5, updates_max=5)


def test_every_rule_names_its_score() -> None:
    names = {
        stage: get_score_name(AggregationRule((stage,), 0))
        for stage in Stage.__members__.values()
        if stage not in {Stage.CLIP, Stage.ARC, Stage.NNM, Stage.BUCKETING}
    }
    assert ScoreName.NONE not in names.values()
    assert names[Stage.MEAN] is ScoreName.LEAVE_ONE_OUT
    assert names[Stage.CENTERED_CLIPPING] is ScoreName.CLIPPING
    rule = AggregationRule((Stage.CLIP, Stage.NNM, Stage.TRIMMED_MEAN), 1)
    assert get_score_name(rule) is ScoreName.IN_DEGREE


def test_a_receipt_names_rule_score_clipped_and_set_aside() -> None:
    chain = Chain()
    rule = AggregationRule((Stage.CLIP, Stage.NNM, Stage.TRIMMED_MEAN), 1)
    task_id = chain.create_task(make_spec(rule=rule, policy=EVERY), participants=5)
    receipt = get_receipt(chain.submit(task_id, 5, 6, 7, 6, -30_000), RoundOutcome.FINALIZED)
    assert (receipt.rule, receipt.score_name) == (rule, ScoreName.IN_DEGREE)
    assert (receipt.cause, receipt.seed) == (SealCause.MAXIMUM, NO_HASH)
    by_address = {update.participant: update for update in receipt.updates}
    hostile = by_address[PARTICIPANTS[4].address]
    assert (hostile.is_clipped, hostile.is_set_aside) == (True, True)
    assert hostile.score < min(u.score for u in receipt.updates if u is not hostile)
    assert [u.is_set_aside for u in receipt.updates].count(True) == 1
    # The median of the norms is the bound: who is at it or below is not clipped.
    clipped = {a for a, u in by_address.items() if u.is_clipped}
    assert clipped == {PARTICIPANTS[4].address, PARTICIPANTS[2].address}
    assert {u.example_count for u in receipt.updates} == {10}
    assert {(u.weight, u.factor, u.staleness) for u in receipt.updates} == {(1, 65_536, 0)}


@pytest.mark.parametrize("cost_max", [0, 10**6])
def test_a_seed_is_shown_where_the_rule_reads_it(cost_max: int) -> None:
    chain = Chain(parameters=ConsensusParameters(aggregation_cost_block_max=cost_max))
    rule = AggregationRule((Stage.BUCKETING, Stage.MEDIAN), 1)
    task_id = chain.create_task(make_spec(rule=rule, policy=EVERY), participants=5)
    (receipt,) = chain.submit(task_id, 1, 2, 3, 4, 5).receipts.rounds
    assert len(receipt.seed) == 32
    if cost_max == 0:
        assert (receipt.outcome, receipt.score_name) == (RoundOutcome.FROZEN, ScoreName.NONE)
        body = FinalizeTrainingRound(task_id, 0)
        result = chain.run_block(chain.sign(VALIDATORS[0], body), proposer=0)
        done = get_receipt(result, RoundOutcome.FINALIZED)
        kept = ("seed", "cause", "rule", "set_root", "registered_count", "awaited_count")
        assert all(getattr(done, name) == getattr(receipt, name) for name in kept)
        assert done.score_name is ScoreName.SURVIVAL


def test_the_weight_is_the_example_count_where_the_task_weighs_by_it() -> None:
    chain = Chain()
    spec = make_spec(example_count_max=50, policy=make_policy(updates_max=2))
    task_id = chain.create_task(spec, participants=2)
    receipt = get_receipt(chain.submit(task_id, 1, 2), RoundOutcome.FINALIZED)
    assert {(u.example_count, u.weight) for u in receipt.updates} == {(10, 10)}


def test_who_all_count_no_examples_weigh_the_same() -> None:
    chain = Chain()
    spec = make_spec(example_count_max=50, policy=make_policy(updates_max=2))
    task_id = chain.create_task(spec, participants=2)
    for index, value in enumerate((1, 3)):
        update = chain.make_update(task_id, [value] * DIMENSION, example_count=0)
        result = chain.run_block(chain.sign(PARTICIPANTS[index], update))
    receipt = get_receipt(result, RoundOutcome.FINALIZED)
    assert {(u.example_count, u.weight, u.is_set_aside) for u in receipt.updates} == {(0, 1, False)}


def test_all_receipts_of_a_block_fit_into_their_bound() -> None:
    """As many updates as the chain may hold, each at its longest, and all absences of a block."""
    update = UpdateReceipt(
        PARTICIPANTS[0].address,
        Hash(bytes(32)),
        2**31,
        is_set_aside=True,
        is_clipped=True,
        staleness=1025,
        factor=65_536,
        example_count=2**32 - 1,
        weight=2**32 - 1,
    )
    absence = Absence(PARTICIPANTS[0].address, AbsenceReason.EXCUSED)
    bare = RoundReceipt(
        bytes(32),
        2**60,
        RoundOutcome.FINALIZED,
        bytes(32),
        bytes(32),
        bytes(32),
        (),
        2**60,
        2**60,
        1024,
        (),
        seed=bytes(32),
        rule=AggregationRule((Stage.CLIP, Stage.NNM, Stage.TRIMMED_MEAN), 1),
        registered_count=2**20,
        awaited_count=2**20,
        absence_count=2**20,
    )
    full = replace(bare, updates=(update,) * UPDATES_PER_ROUND_MAX, absences=(absence,) * 512)
    raw = encode(BlockReceipts((), (full,)))
    assert decode(BlockReceipts, raw, RECEIPTS_BYTES_MAX).rounds == (full,)
    updates = OPEN_UPDATES_MAX * len(encode(update))
    absences = REGISTRATIONS_LISTED_BLOCK_MAX * len(encode(absence))
    # With the fewest updates in each, sixteen to a round on average, this is the block's bound.
    assert updates + absences + OPEN_UPDATES_MAX // 16 * len(encode(bare)) < RECEIPTS_BYTES_MAX


def test_an_update_that_changes_nothing_is_one_of_the_set_all_the_same() -> None:
    chain = Chain()
    task_id = chain.create_task(make_spec(policy=make_policy(updates_max=2)), participants=2)
    receipt = get_receipt(chain.submit(task_id, 0, 0), RoundOutcome.FINALIZED)
    assert receipt.base_weights_root == receipt.weights_root
    assert len(receipt.updates) == 2
    assert np.int64(sum(update.score for update in receipt.updates)) == 0
