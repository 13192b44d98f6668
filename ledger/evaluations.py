"""Evaluations: measurements of a task's current weights, and their medians.

Owns who may evaluate what, the medians of a training round's receipt, and which finalized weights
were best. Never sees the data somebody measured on.
"""

from collections.abc import Sequence

from msgspec.structs import replace
from quorate.chain.errors import ErrorCode, TransactionError
from quorate.chain.ids import Address, Hash
from quorate.chain.receipt import MedianMetric
from quorate.chain.transaction import Role, SubmitEvaluation

from aggregation.arithmetic import divide_rounded_exact
from ledger.environment import Environment
from ledger.keys import get_evaluation_key, get_evaluator_key, get_task_key
from ledger.membership import is_permissioned, validate_role
from ledger.records import BestWeights, EvaluationRecord, EvaluatorRecord, TaskRecord

EVALUATIONS_PER_ROUND_MAX = 1024
LOSS = "loss"


def validate_submit_evaluation(env: Environment, sender: Address, body: SubmitEvaluation) -> None:
    """Check an evaluation of a task's current weights.

    On a permissioned chain auditors evaluate; on an open one, participants of the task and its
    authority. A completed task's last weights can be evaluated, too.

    Raises
    ------
    TransactionError
        `not_admitted`, `not_authorized`, `unknown_task`, `wrong_training_round`,
        `unknown_weights`, `malformed`, `already_exists` or `round_full`.
    """
    validate_role(env, sender, Role.AUDITOR)
    task = env.get_task(body.task_id)
    registration = env.view.get_registration(body.task_id, sender)
    is_known = sender == task.authority or registration is not None
    if not is_permissioned(env) and not is_known:
        raise TransactionError(
            ErrorCode.NOT_AUTHORIZED,
            "Only the task's authority and its registered participants evaluate its weights:"
            " register first.",
        )
    if body.training_round not in (task.training_round, task.evaluated_round):
        raise TransactionError(
            ErrorCode.WRONG_TRAINING_ROUND,
            f"The evaluation is for training round {body.training_round}, open is"
            f" {task.training_round}: evaluate the weights it starts from.",
        )
    if body.weights_root != task.weights_root:
        raise TransactionError(
            ErrorCode.UNKNOWN_WEIGHTS,
            f"The evaluation is of the weights {body.weights_root.hex()}, current are"
            f" {task.weights_root.hex()}: evaluate these.",
        )
    names = [metric.name for metric in body.metrics]
    if LOSS in names or len(set(names)) != len(names):
        raise TransactionError(
            ErrorCode.MALFORMED,
            f"An evaluation names each metric once and none {LOSS!r}, which has its own place:"
            " rename them.",
        )
    _validate_slot(env, sender, task, body)


def _validate_slot(
    env: Environment, sender: Address, task: TaskRecord, body: SubmitEvaluation
) -> None:
    known = env.view.get(get_evaluator_key(body.task_id, sender), EvaluatorRecord)
    if known is not None and known.training_round == task.evaluated_round:
        raise TransactionError(
            ErrorCode.ALREADY_EXISTS,
            f"The sender has evaluated the weights of training round {task.evaluated_round}"
            " already: wait for the next ones.",
        )
    if task.evaluation_count >= EVALUATIONS_PER_ROUND_MAX:
        raise TransactionError(
            ErrorCode.ROUND_FULL,
            f"These weights have {EVALUATIONS_PER_ROUND_MAX} evaluations, the limit: wait for the"
            " next ones.",
        )


def apply_submit_evaluation(env: Environment, sender: Address, body: SubmitEvaluation) -> None:
    """Keep the evaluation until the training round ends."""
    view, task_id = env.view, body.task_id
    task = env.get_task(task_id)
    slot = task.evaluation_count
    view.put(
        get_evaluation_key(task_id, slot),
        EvaluationRecord(sender, body.loss, body.example_count, body.metrics),
    )
    view.put(get_evaluator_key(task_id, sender), EvaluatorRecord(task.evaluated_round))
    view.put(get_task_key(task_id), replace(task, evaluation_count=slot + 1))


def compute_median(values: Sequence[int]) -> int:
    """Return the median; of an even number, the mean of the middle two, half away from zero."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return divide_rounded_exact(ordered[middle - 1] + ordered[middle], 2)


def compute_medians(evaluations: Sequence[EvaluationRecord]) -> tuple[MedianMetric, ...]:
    """Return the median loss, then that of each metric over those who report it, by name."""
    if not evaluations:
        return ()
    values: dict[str, list[int]] = {}
    for evaluation in evaluations:
        for metric in evaluation.metrics:
            values.setdefault(metric.name, []).append(metric.value)
    loss = compute_median([evaluation.loss for evaluation in evaluations])
    metrics = (MedianMetric(name, compute_median(values[name])) for name in sorted(values))
    return (MedianMetric(LOSS, loss), *metrics)


def compute_best_weights(
    task: TaskRecord, evaluations: Sequence[EvaluationRecord]
) -> BestWeights | None:
    """Return the better of the best weights so far and the current ones, by median loss.

    Of equals the earlier stay.
    """
    if not evaluations:
        return task.best
    loss = compute_median([evaluation.loss for evaluation in evaluations])
    if task.best is not None and task.best.loss <= loss:
        return task.best
    return BestWeights(task.evaluated_round, task.weights_root, loss)


def take_evaluations(
    env: Environment, task_id: Hash, task: TaskRecord
) -> tuple[EvaluationRecord, ...]:
    """Return the evaluations of the training round that ends, and delete them."""
    keys = [get_evaluation_key(task_id, slot) for slot in range(task.evaluation_count)]
    evaluations = tuple(env.view.get_existing(key, EvaluationRecord) for key in keys)
    for key in keys:
        env.view.delete(key)
    return evaluations
