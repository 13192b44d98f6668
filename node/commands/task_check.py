"""What a task means, in sentences, before anybody creates it.

Owns the words. Never judges: the ledger's own rules do, so that what is said here is what a node
would say.
"""

from msgspec.structs import replace
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.round_policy import (
    STALENESS_FACTOR_ONE,
    BelowMinimum,
    compute_staleness_factor,
)
from quorate.chain.task import FIXED_POINT_ONE, AggregationRule, RoundPolicy, Stage, TaskSpec
from quorate.chain.weights import WEIGHT_BYTES

from aggregation import (
    RuleError,
    compute_cost,
    compute_rule_weight,
    compute_updates_min,
    validate_rule,
)
from aggregation.registry import FINAL_STAGES, PRE_AGGREGATIONS, StageEntry
from ledger.tasks import find_fault
from node.config.quantities import render_duration


def find_task_fault(spec: TaskSpec) -> str | None:
    """Return why every node would refuse a task, and what to do about it, or None."""
    return find_fault(spec)


def explain_task(spec: TaskSpec, *, has_weights: bool) -> list[str]:
    """Return what a valid task means, a sentence or two each; of sizes only with its weights."""
    return [
        *_explain_rule(spec),
        *_explain_rounds(spec.policy),
        *_explain_staleness(spec.policy),
        *(_explain_sizes(spec) if has_weights else ()),
    ]


def _explain_rule(spec: TaskSpec) -> list[str]:
    rule, policy = spec.rule, spec.policy
    f = rule.num_byzantine
    lines = [f"Updates become one by {' > '.join(rule.stages)}."]
    for stage in rule.stages:
        bound = _get_entry(stage)
        needed = f"{bound.compute_updates_min(f)} updates"
        if bound.updates_per_byzantine:
            needed = f"{bound.bound} = {needed} (num_byzantine is {f})"
        lines.append(
            f"{stage} needs n >= {needed}; a training round has at least {policy.updates_min}."
        )
    if f == 0:
        lines.append(
            f"num_byzantine is 0: one hostile participant can decide the result. {_advise(rule)}"
        )
    else:
        lines.append(
            f"Up to {f} of the registered participants may be hostile; nobody knows which, and a"
            f" round may end with only {policy.updates_min} updates, {f} of them theirs."
        )
    return lines


def _advise(rule: AggregationRule) -> str:
    tolerant = replace(rule, num_byzantine=1)
    needed = compute_updates_min(tolerant)
    try:
        validate_rule(tolerant, needed)
    except RuleError:
        return "This rule tolerates none: put clip or arc in front, or take another one."
    return f"To tolerate one, raise it, with updates_min at least {needed}."


def _get_entry(stage: Stage) -> StageEntry:
    return PRE_AGGREGATIONS[stage] if stage in PRE_AGGREGATIONS else FINAL_STAGES[stage]


def _explain_rounds(policy: RoundPolicy) -> list[str]:
    deadline = render_duration(policy.deadline_ms)
    ends = (
        f"A training round ends with {policy.updates_max} updates, as soon as everybody awaited has"
        f" sent one, or {deadline} of block time after it opened, with {policy.updates_min} at"
        " least."
    )
    lines = [ends]
    if policy.below_minimum is BelowMinimum.VOID:
        lines.append("With fewer at its deadline it is void.")
    else:
        lines.append(
            f"With fewer at its deadline it is extended by {deadline}, {policy.extensions_max}"
            " times at most, and then void."
        )
    if policy.silent_rounds_max:
        lines.append(
            f"Who has sent nothing in {policy.silent_rounds_max} rounds in a row is not awaited,"
            " until it sends again."
        )
    else:
        lines.append("Everybody registered is awaited until the deadline, however long silent.")
    if policy.waive_proposer_spread:
        lines.append("A single proposer may choose the set of updates: the spread is waived.")
    if policy.rounds_max:
        lines.append(f"The task completes after {policy.rounds_max} training rounds.")
    return lines


def _explain_staleness(policy: RoundPolicy) -> list[str]:
    lines = []
    if policy.is_asynchronous:
        lines.append(
            "The task is asynchronous: an update counts in the buffer that is open when it"
            f" arrives, and {policy.updates_max} fill one."
        )
    if policy.staleness_max:
        oldest = compute_staleness_factor(policy.staleness_weighting, policy.staleness_max)
        lines.append(
            f"Base weights may be up to {policy.staleness_max} training rounds old; the oldest"
            f" update counts {oldest / STALENESS_FACTOR_ONE:.2f} of a fresh one."
        )
    else:
        lines.append("Every update starts from the newest weights; older ones are refused.")
    return lines


def _explain_sizes(spec: TaskSpec) -> list[str]:
    policy, cost_max = spec.policy, ConsensusParameters().aggregation_cost_block_max
    cost = compute_cost(spec.rule, policy.updates_max, spec.dimension)
    where = (
        "the block that seals a round has its result"
        if cost <= cost_max
        else "a full round is frozen first, and a later block has its result"
    )
    optimizer = spec.optimizer
    model = (
        f"The model has {spec.dimension} parameters: {WEIGHT_BYTES * spec.dimension} bytes of"
        f" weights, {spec.update_layout.size} bytes an update in {spec.codec.name.lower()}."
    )
    aggregation = (
        f"A full round costs {policy.updates_max} updates x {spec.dimension} parameters x"
        f" {compute_rule_weight(spec.rule)}, the weight of the rule, = {cost} units to aggregate; a"
        f" block may spend {cost_max} units, unless the chain's aggregation_cost_block_max says"
        f" otherwise: {where}."
    )
    step = (
        f"The server optimizer is {optimizer.name} with a learning rate of"
        f" {optimizer.learning_rate / FIXED_POINT_ONE:g}."
    )
    return [model, aggregation, step]
