"""What a training round's receipt says: who was counted and how, who was not, and why.

Owns the contents of receipts. Never ends a training round.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from quorate.chain.ids import NO_HASH, Hash
from quorate.chain.receipt import (
    ABSENCES_MAX,
    Absence,
    AbsenceReason,
    RoundOutcome,
    RoundReceipt,
    ScoreName,
    SealCause,
    UpdateReceipt,
)
from quorate.chain.task import TaskSpec

from aggregation import get_score_name, needs_seed
from ledger.activity import get_awaited_count, is_awaited
from ledger.aggregates import AggregateOutput
from ledger.environment import Environment
from ledger.evaluations import compute_medians
from ledger.keys import get_participant_key, get_registration_key
from ledger.records import (
    WITHDRAWALS_LISTED_MAX,
    EvaluationRecord,
    ParticipantRecord,
    RegistrationRecord,
    SealRecord,
    TaskRecord,
    UpdateRecord,
)
from ledger.sealed_sets import compute_factor, compute_set_root, compute_staleness

REGISTRATIONS_LISTED_MAX = ABSENCES_MAX - WITHDRAWALS_LISTED_MAX
"""Of a task with more participants a receipt only counts those that were silent."""
REGISTRATIONS_LISTED_BLOCK_MAX = 1 << 16
"""The most participants that all receipts of a block look at to list who was silent."""


@dataclass(frozen=True, slots=True)
class SealedSet:
    """A training round that takes no more updates.

    Attributes
    ----------
    training_round : int
    updates : sequence of UpdateRecord
        In canonical order.
    seed : bytes, 32
    seal : SealRecord
        How it was sealed.
    """

    training_round: int
    updates: Sequence[UpdateRecord]
    seed: Hash
    seal: SealRecord


def make_seal(env: Environment, task_id: Hash, task: TaskRecord, cause: SealCause) -> SealRecord:
    """Return what is to be said of a training round that is sealed now."""
    silent_count = task.registered_count - task.update_count
    return SealRecord(
        cause,
        task.registered_count,
        get_awaited_count(task),
        task.extension_count,
        task.withdrawn_count + silent_count,
        (*task.withdrawn, *_list_silent(env, task_id, task)),
    )


def _list_silent(env: Environment, task_id: Hash, task: TaskRecord) -> list[Absence]:
    count = task.registered_count
    if (
        count == task.update_count
        or count > REGISTRATIONS_LISTED_MAX
        or env.registrations_listed + count > REGISTRATIONS_LISTED_BLOCK_MAX
    ):
        return []
    env.registrations_listed += count
    silent = []
    for slot in range(count):
        holder = env.view.get_existing(get_participant_key(task_id, slot), ParticipantRecord)
        key = get_registration_key(task_id, holder.participant)
        registration = env.view.get_existing(key, RegistrationRecord)
        if registration.counted_round != task.training_round:
            is_excused = not is_awaited(task, registration)
            reason = AbsenceReason.EXCUSED if is_excused else AbsenceReason.SILENT
            silent.append(Absence(holder.participant, reason))
    return silent


def make_round_receipt(
    task_id: Hash,
    task: TaskRecord,
    spec: TaskSpec,
    sealed: SealedSet,
    outcome: RoundOutcome,
    *,
    weights_root: Hash | None = None,
    output: AggregateOutput | None = None,
    evaluations: Sequence[EvaluationRecord] = (),
) -> RoundReceipt:
    """Return the receipt of a training round.

    Parameters
    ----------
    task_id : bytes, 32
    task : TaskRecord
        With the weights that the result is, or would have been, added to.
    spec : TaskSpec
    sealed : SealedSet
    outcome : RoundOutcome
    weights_root : bytes, 32, optional
        The weights that follow; by default those before.
    output : AggregateOutput, optional
        The result.
    evaluations : sequence of EvaluationRecord
        Of the weights before.
    """
    is_void, seal = outcome is RoundOutcome.VOID, sealed.seal
    return RoundReceipt(
        task_id=task_id,
        training_round=sealed.training_round,
        outcome=outcome,
        base_weights_root=task.weights_root,
        weights_root=task.weights_root if weights_root is None else weights_root,
        set_root=compute_set_root(task, sealed.updates),
        updates=_make_update_receipts(task, spec, sealed.updates, output),
        saturated=0 if output is None else output.saturated,
        clamped=0 if output is None else output.clamped,
        evaluation_count=len(evaluations),
        evaluations=compute_medians(evaluations),
        cause=seal.cause,
        rule=None if is_void else spec.rule,
        score_name=ScoreName.NONE if output is None else get_score_name(spec.rule),
        seed=NO_HASH if is_void or not needs_seed(spec.rule) else sealed.seed,
        registered_count=seal.registered_count,
        awaited_count=seal.awaited_count,
        extension_count=seal.extension_count,
        absence_count=seal.absence_count,
        absences=seal.absences,
    )


def _make_update_receipts(
    task: TaskRecord,
    spec: TaskSpec,
    updates: Sequence[UpdateRecord],
    output: AggregateOutput | None,
) -> tuple[UpdateReceipt, ...]:
    nothing = [False] * len(updates)
    scores = [0] * len(updates) if output is None else output.scores
    set_aside = nothing if output is None else output.set_aside
    clipped = nothing if output is None else output.clipped
    judged = zip(updates, scores, set_aside, clipped, strict=True)
    # Where nobody counts an example, the mean weighs all the same.
    is_weighted = spec.example_count_max > 0 and any(update.example_count for update in updates)
    return tuple(
        UpdateReceipt(
            update.participant,
            update.payload_hash,
            score,
            is_set_aside,
            is_clipped,
            compute_staleness(task, update),
            compute_factor(task, spec.policy, update),
            update.example_count,
            update.example_count if is_weighted else 1,
        )
        for update, score, is_set_aside, is_clipped in judged
    )
