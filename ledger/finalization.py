"""The transaction that carries the result of a frozen training round.

Owns who may carry it, and takes the result over. Never computes it: the aggregate source has it,
or the block has no verdict yet.
"""

from quorate.chain.errors import ErrorCode, InvariantError, TransactionError
from quorate.chain.ids import Address
from quorate.chain.transaction import FinalizeTrainingRound

from ledger.aggregates import RESULT_BYTES_PER_BLOCK_MAX, RESULTS_PER_BLOCK_MAX
from ledger.environment import Environment
from ledger.round_ends import finalize_training_round, get_frozen_set
from ledger.rounds import has_room_for_result
from ledger.sealed_sets import get_aggregate, make_frozen_inputs


def validate_finalize_training_round(
    env: Environment, sender: Address, body: FinalizeTrainingRound
) -> None:
    """Check that the block's proposer names a frozen training round, and has room for its result.

    Raises
    ------
    TransactionError
        `unknown_task`, `not_authorized`, `wrong_training_round` or `quota_exceeded`.
    """
    task = env.get_task(body.task_id)
    if sender != env.context.proposer:
        raise TransactionError(
            ErrorCode.NOT_AUTHORIZED,
            "Only the proposer of a block carries the result of a training round in it; nodes do"
            " so by themselves.",
        )
    if task.frozen is None or body.training_round != task.frozen.training_round:
        raise TransactionError(
            ErrorCode.WRONG_TRAINING_ROUND,
            f"Training round {body.training_round} is not frozen: there is no result to carry.",
        )
    if not has_room_for_result(env, task, env.view.get_task_spec(body.task_id)):
        raise TransactionError(
            ErrorCode.QUOTA_EXCEEDED,
            f"A block brings at most {RESULTS_PER_BLOCK_MAX} results of training rounds, of"
            f" {RESULT_BYTES_PER_BLOCK_MAX} bytes together unless it is a single one: a later block"
            " has room for this one.",
        )


def apply_finalize_training_round(env: Environment, body: FinalizeTrainingRound) -> None:
    """Take over the result of a frozen training round.

    Raises
    ------
    PendingError
        If the result is being computed; then nothing has changed.
    """
    task_id = body.task_id
    task, spec = env.get_task(task_id), env.view.get_task_spec(task_id)
    inputs = make_frozen_inputs(env.view, task_id, task, spec)
    sealed = get_frozen_set(env, task_id, task)
    if inputs is None or sealed is None:
        raise InvariantError("a training round that is not frozen was to take over a result")
    finalize_training_round(env, task_id, task, sealed, get_aggregate(env, inputs))
