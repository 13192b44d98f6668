"""Aggregation: from the updates of a training round to new weights, in exact integers.

Owns the decoding of updates, the aggregation rules and their composition, contribution scores, and
the server optimizers. Never knows of accounts, blocks or tasks' state; does no I/O, reads no
clock, draws no random number, changes no argument.

The same updates give the same bytes on every machine, for any number of threads. That holds
because every number is an integer whose bound is stated where it is computed. Floating point
serves only to multiply matrices of integers that are small enough to stay exact (`distances`).

The way of an update: `decode_update` checks its bytes; `aggregate` runs the stages of the task's
rule, found in `registry`, over columns of all updates (`columns`); `apply_optimizer` adds the
result to the weights. One file holds one rule.
"""

from aggregation.columns import PayloadBytes, UpdateColumns
from aggregation.composition import (
    Aggregate,
    aggregate,
    compute_cost,
    compute_rule_weight,
    compute_updates_min,
    get_score_name,
    is_weightable,
    keeps_aggregate,
    needs_seed,
    validate_rule,
)
from aggregation.errors import AggregationError, BoundError, RuleError, UpdateError
from aggregation.optimizer import OptimizerStep, apply_optimizer, validate_optimizer
from aggregation.updates import decode_update, open_update

__all__ = [
    "Aggregate",
    "AggregationError",
    "BoundError",
    "OptimizerStep",
    "PayloadBytes",
    "RuleError",
    "UpdateColumns",
    "UpdateError",
    "aggregate",
    "apply_optimizer",
    "compute_cost",
    "compute_rule_weight",
    "compute_updates_min",
    "decode_update",
    "get_score_name",
    "is_weightable",
    "keeps_aggregate",
    "needs_seed",
    "open_update",
    "validate_optimizer",
    "validate_rule",
]
