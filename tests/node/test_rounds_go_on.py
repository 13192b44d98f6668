"""Whole nodes whose participants vanish, come late, twice or in floods: rounds go on."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import trio
from quorate.chain.errors import ErrorCode, TransactionError
from quorate.chain.ids import Hash
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.receipt import AbsenceReason, RoundOutcome, RoundReceipt, SealCause
from quorate.chain.round_policy import RoundMode
from quorate.chain.transaction import RegisterParticipant, Transfer

from ledger import aggregates
from ledger.aggregates import AggregateInputs, AggregateOutput
from ledger.context import PayloadSource
from tests.node.cluster import USERS, make_config, make_genesis, open_cluster, sign
from tests.node.test_training import Trainer

OTHERS = USERS[5:]


def get_round(trainer: Trainer) -> int:
    return trainer.tasks()[0].record.training_round


def get_last(trainer: Trainer) -> RoundReceipt:
    receipts = [r for r in trainer.get_receipts(0) if r.task_id == trainer.task_id]
    return receipts[-1]


def full(trainer: Trainer, value: int) -> np.ndarray:
    return np.full(trainer.dimension, value)


async def send(trainer: Trainer, *users: int) -> None:
    for user in users:
        await trainer.update(user, full(trainer, 3 + user))


async def test_rounds_end_without_who_has_vanished(tmp_path: Path) -> None:
    config = make_config(create_empty_blocks=False)
    async with open_cluster(tmp_path, config=config) as cluster:
        trainer = Trainer(cluster, 20)
        await trainer.begin(deadline_ms=700, updates_min=3, silent_rounds_max=1)
        first = get_round(trainer)
        causes = []
        for number in range(first, first + 4):
            await send(trainer, 0, 1, 2)
            await trainer.wait_for_round(number + 1)
            receipt = get_last(trainer)
            assert receipt.outcome is RoundOutcome.FINALIZED
            assert receipt.absence_count == 2
            causes.append(receipt.cause)
        # Two rounds wait for them until the deadline; from then on they are excused.
        assert causes[:2] == [SealCause.DEADLINE] * 2
        assert causes[2:] == [SealCause.EVERYONE] * 2
        assert {a.reason for a in receipt.absences} == {AbsenceReason.EXCUSED}
        # One comes back.
        await send(trainer, 4, 0, 1, 2)
        await trainer.wait_for_round(first + 5)
        assert (get_last(trainer).absence_count, len(get_last(trainer).updates)) in ((1, 4), (2, 3))


async def test_too_few_updates_end_in_a_void_round_and_not_in_silence(tmp_path: Path) -> None:
    config = make_config(create_empty_blocks=False)
    async with open_cluster(tmp_path, config=config) as cluster:
        trainer = Trainer(cluster, 20)
        await trainer.begin(deadline_ms=400, updates_min=4, extensions_max=2)
        number = get_round(trainer)
        await send(trainer, 0, 1)
        await trainer.wait_for_round(number + 1)
        receipt = get_last(trainer)
        assert (receipt.outcome, receipt.extension_count) == (RoundOutcome.VOID, 2)
        await send(trainer, 0, 1, 2, 3, 4)
        await trainer.wait_for_round(number + 2)
        assert get_last(trainer).outcome is RoundOutcome.FINALIZED


async def test_late_stale_and_second_updates_are_refused_and_the_round_goes_on(
    tmp_path: Path,
) -> None:
    async with open_cluster(tmp_path) as cluster:
        trainer = Trainer(cluster, 20)
        await trainer.begin(updates_min=4, updates_max=4)
        number = get_round(trainer)
        late = trainer.make_update(4, full(trainer, 9))
        await send(trainer, 0, 1, 2, 3)
        await trainer.wait_for_round(number + 1)
        stale_root = late[0].base_weights_root
        await send(trainer, 0)
        await trainer.wait(lambda: all(t.record.update_count == 1 for t in trainer.tasks()))
        second = trainer.make_update(0, full(trainer, 8))
        stale = trainer.make_update(4, full(trainer, 7), base_weights_root=stale_root)
        for user, (body, payload), code in (
            (4, late, ErrorCode.WRONG_TRAINING_ROUND),
            (0, second, ErrorCode.DUPLICATE_UPDATE),
            (4, stale, ErrorCode.STALE_WEIGHTS),
        ):
            with pytest.raises(TransactionError) as caught:
                await trainer.submit(user, body, payload)
            assert caught.value.code is code
        await send(trainer, 1, 2, 3)
        await trainer.wait_for_round(number + 2)
        assert len(get_last(trainer).updates) == 4


async def test_a_flood_of_one_account_leaves_room_for_the_others(tmp_path: Path) -> None:
    parameters = ConsensusParameters(transactions_per_sender_max=5)
    async with open_cluster(tmp_path, genesis=make_genesis(parameters=parameters)) as cluster:
        trainer = Trainer(cluster, 20)
        await trainer.begin()
        number = get_round(trainer)
        flooder, mempool = USERS[7], cluster.members[0].running.services.mempool
        unknown = Hash(b"?" * 32)
        with pytest.raises(TransactionError, match="no task"):
            await mempool.submit_local(sign(flooder, 0, RegisterParticipant(unknown)), None)
        flood = [sign(flooder, nonce, Transfer(USERS[0].address, 1)) for nonce in range(40)]
        await mempool.submit_local_many([(raw, None) for raw in flood])
        await send(trainer, 0, 1, 2, 3, 4)
        await trainer.wait_for_round(number + 1)
        await trainer.wait(lambda: mempool.count == 0)
        counts = trainer.count_transactions(flooder)
        assert sum(counts) == 40
        assert max(counts) == 5


async def test_an_asynchronous_task_goes_on_with_whoever_is_there(tmp_path: Path) -> None:
    async with open_cluster(tmp_path) as cluster:
        trainer = Trainer(cluster, 20)
        await trainer.begin(
            mode=RoundMode.ASYNCHRONOUS, updates_min=3, updates_max=3, staleness_max=4
        )
        number = get_round(trainer)
        old = trainer.make_update(4, full(trainer, 64))
        for turn in range(2):
            await send(trainer, 0, 1, 2)
            await trainer.wait_for_round(number + turn + 1)
        # What was made two rounds ago counts, by its age.
        await trainer.submit(4, *old)
        await send(trainer, 0, 1)
        await trainer.wait_for_round(number + 3)
        by_address = {u.participant: u for u in get_last(trainer).updates}
        slow = by_address[trainer.keys[4].address]
        assert (slow.staleness, slow.factor) == (2, 37_837)
        assert len({task.record.weights_root for task in trainer.tasks()}) == 1


# --- one task's trouble is no other's -------------------------------------------------------------


@contextmanager
def holding(
    monkeypatch: pytest.MonkeyPatch, is_held: Callable[[AggregateInputs], bool]
) -> Iterator[threading.Event]:
    """Let aggregates of some inputs take as long as the event is not set; the rest is real."""
    released, real = threading.Event(), aggregates.compute_aggregate

    def compute(inputs: AggregateInputs, payloads: PayloadSource) -> AggregateOutput:
        if is_held(inputs):
            released.wait(30)
        return real(inputs, payloads)

    monkeypatch.setattr("ledger.sealed_sets.compute_aggregate", compute)
    monkeypatch.setattr("node.execution.frozen_rounds.compute_aggregate", compute)
    try:
        yield released
    finally:
        released.set()


async def test_a_stuck_task_neither_delays_the_other_nor_makes_empty_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(create_empty_blocks=False)
    parameters = ConsensusParameters(aggregation_cost_block_max=1_000_000)
    genesis = make_genesis(parameters=parameters)
    with holding(monkeypatch, lambda inputs: inputs.dimension > 1000) as released:
        async with open_cluster(tmp_path, config=config, genesis=genesis) as cluster:
            stuck = Trainer(cluster, 300_000, "stuck")
            quick = Trainer(cluster, 20, "quick", OTHERS)
            await stuck.begin()
            await quick.begin(updates_min=3, updates_max=3)
            number, first = get_round(stuck), get_round(quick)
            await send(stuck, 0, 1, 2, 3, 4)
            await stuck.wait(lambda: all(t.record.frozen is not None for t in stuck.tasks()))
            # Nothing else to do: nobody makes blocks for a result that is not there.
            await trio.sleep(0.3)
            height = cluster.members[0].height
            await trio.sleep(1.0)
            assert cluster.members[0].height == height
            for turn in range(3):
                await send(quick, 0, 1, 2)
                await quick.wait_for_round(first + turn + 1)
            assert get_last(quick).outcome is RoundOutcome.FINALIZED
            assert get_round(stuck) == number
            released.set()
            await stuck.wait_for_round(number + 1)
            assert get_last(stuck).outcome is RoundOutcome.FINALIZED
            await cluster.wait_for_height(max(m.height for m in cluster.members))
            assert len({task.record.weights_root for task in stuck.tasks()}) == 1


async def test_what_one_task_is_sent_changes_nothing_of_the_other(tmp_path: Path) -> None:
    """The same updates, beside a task full of trouble and alone: the same weights."""
    roots = []
    for has_trouble in (False, True):
        (tmp_path / str(has_trouble)).mkdir()
        async with open_cluster(tmp_path / str(has_trouble), validators=1) as cluster:
            quiet = Trainer(cluster, 20, "quiet")
            loud = Trainer(cluster, 20, "loud", OTHERS)
            await quiet.begin()
            if has_trouble:
                await loud.begin(deadline_ms=150, updates_min=3, extensions_max=1)
            for turn in range(3):
                if has_trouble:
                    await send(loud, turn)
                    with pytest.raises(TransactionError):
                        await loud.submit(0, *loud.make_update(0, np.full(7, 1)))
                await send(quiet, 0, 1, 2, 3, 4)
                await quiet.wait_for_round(turn + 1)
            roots.append(quiet.tasks()[0].record.weights_root)
    assert roots[0] == roots[1]
