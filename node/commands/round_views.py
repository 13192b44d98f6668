"""Training rounds as people read them: a line of a history, or one round in full.

Owns the choice and the names of what is printed. Never asks a node.
"""

from quorate.chain.receipt import RoundReceipt, UpdateReceipt
from quorate.chain.round_policy import STALENESS_FACTOR_ONE
from quorate.rpc_types import TrainingRound

from node.commands.printing import Value

SCORE_ONE = 1 << 16


def make_history_row(state: TrainingRound) -> dict[str, Value]:
    """Return what a history says of a training round that has ended."""
    receipt = state.receipt
    updates = () if receipt is None else receipt.updates
    return {
        "round": state.training_round,
        "outcome": state.status,
        "height": state.height,
        "cause": None if receipt is None else receipt.cause.name.lower(),
        "updates": len(updates),
        "set_aside": sum(update.is_set_aside for update in updates),
        "clipped": sum(update.is_clipped for update in updates),
        "stale": sum(update.staleness > 0 for update in updates),
        "absent": 0 if receipt is None else receipt.absence_count,
        "loss": None if receipt is None else _find_loss(receipt),
        "weights_root": b"" if receipt is None else receipt.weights_root,
    }


def make_round_record(state: TrainingRound) -> dict[str, Value]:
    """Return what there is to say of a training round as a whole."""
    receipt = state.receipt
    if receipt is None:
        return {
            "round": state.training_round,
            "status": state.status,
            "base_weights_root": state.base_weights_root,
            "opened_time_ms": state.opened_time_ms,
            "deadline_ms": state.deadline_ms,
            "updates": len(state.updates),
            "participants": state.participants,
            "awaited": state.awaited,
            "extensions": state.extensions,
        }
    rule = receipt.rule
    return {
        "round": state.training_round,
        "outcome": state.status,
        "height": state.height,
        "cause": receipt.cause.name.lower(),
        "rule": [] if rule is None else [str(stage) for stage in rule.stages],
        "num_byzantine": None if rule is None else rule.num_byzantine,
        "score": receipt.score_name.name.lower(),
        "seed": receipt.seed or None,
        "base_weights_root": receipt.base_weights_root,
        "weights_root": receipt.weights_root,
        "set_root": receipt.set_root,
        "saturated": receipt.saturated,
        "clamped": receipt.clamped,
        "participants": receipt.registered_count,
        "awaited": receipt.awaited_count,
        "absent": receipt.absence_count,
        "extensions": receipt.extension_count,
        "evaluations": receipt.evaluation_count,
        "medians": [f"{each.name} {each.value / SCORE_ONE:g}" for each in receipt.evaluations],
    }


def make_participant_rows(state: TrainingRound) -> list[dict[str, Value]]:
    """Return a row for each participant that a training round knows of, and what became of it."""
    receipt = state.receipt
    if receipt is None:
        return [
            {
                "participant": bytes(update.participant),
                "outcome": "counted",
                "score": None,
                "clipped": False,
                "staleness": update.staleness,
                "factor": None,
                "examples": update.example_count,
                "weight": None,
            }
            for update in state.updates
        ]
    is_void = receipt.rule is None
    rows = [_make_update_row(update, is_void=is_void) for update in receipt.updates]
    rows += [
        {
            "participant": absence.participant,
            "outcome": absence.reason.name.lower(),
            "score": None,
            "clipped": False,
            "staleness": None,
            "factor": None,
            "examples": None,
            "weight": None,
        }
        for absence in receipt.absences
    ]
    return rows


def _make_update_row(update: UpdateReceipt, *, is_void: bool) -> dict[str, Value]:
    outcome = "set aside" if update.is_set_aside else "counted"
    return {
        "participant": update.participant,
        "outcome": "void" if is_void else outcome,
        "score": round(update.score / SCORE_ONE, 4),
        "clipped": update.is_clipped,
        "staleness": update.staleness,
        "factor": round(update.factor / STALENESS_FACTOR_ONE, 4),
        "examples": update.example_count,
        "weight": update.weight,
    }


def _find_loss(receipt: RoundReceipt) -> float | None:
    losses = [each.value / SCORE_ONE for each in receipt.evaluations if each.name == "loss"]
    return round(losses[0], 6) if losses else None
