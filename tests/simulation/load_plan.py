"""What users do in a simulated run, drawn from its seed before it begins.

Owns the choice of tasks, rules, sizes, paces and of how slow aggregation is. Never looks at the
run, and draws from a source of its own, so that the faults of a seed stay what they are.
"""

import random
from dataclasses import dataclass, replace

from msgspec import structs
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.round_policy import (
    BelowMinimum,
    RoundMode,
    RoundPolicy,
    StalenessWeighting,
)
from quorate.chain.task import (
    FIXED_POINT_ONE,
    AggregationRule,
    OptimizerName,
    ServerOptimizer,
    Stage,
    UpdateCodec,
)

from aggregation import validate_rule
from aggregation.errors import RuleError

SMALL_DIMENSION = 24
LARGE_DIMENSION = 33_000
"""Updates of so many int16 have more than 64 KiB: they do not ride along, peers pull them."""
TWINS_SHARE = 0.06
"""The share of seeds in which several tasks are alike."""
FREEZING_COST = 10
"""As a block's budget it freezes every training round."""

_ADAPTIVITY = FIXED_POINT_ONE // 1000
RULES = (
    AggregationRule((Stage.MEAN,), 0),
    AggregationRule((Stage.MEDIAN,), 0),
    AggregationRule((Stage.TRIMMED_MEAN,), 1),
    AggregationRule((Stage.CLIP, Stage.NNM, Stage.TRIMMED_MEAN), 1),
    AggregationRule((Stage.KRUM,), 0),
    AggregationRule((Stage.MULTI_KRUM,), 0),
    AggregationRule((Stage.BULYAN,), 0),
    AggregationRule((Stage.BUCKETING, Stage.MEDIAN), 0),
    AggregationRule((Stage.ARC, Stage.MEAN), 0),
    AggregationRule((Stage.CENTERED_CLIPPING,), 0),
    AggregationRule((Stage.GEOMETRIC_MEDIAN,), 0),
)
OPTIMIZERS = (
    ServerOptimizer(OptimizerName.SGD),
    ServerOptimizer(OptimizerName.SGD),
    ServerOptimizer(OptimizerName.MOMENTUM, momentum=FIXED_POINT_ONE // 2),
    ServerOptimizer(
        OptimizerName.ADAM,
        momentum=FIXED_POINT_ONE // 2,
        second_moment_decay=FIXED_POINT_ONE // 2,
        adaptivity=_ADAPTIVITY,
    ),
)


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """A task, who takes part in it, and when.

    Attributes
    ----------
    begins_s, gap_s : float
        When it is created, and the virtual seconds between what a participant does, on average.
    """

    name: str
    dimension: int
    rule: AggregationRule
    optimizer: ServerOptimizer
    policy: RoundPolicy
    codec: UpdateCodec
    top_k: int
    example_count_max: int
    authority: int
    participants: tuple[int, ...]
    begins_s: float
    gap_s: float


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What users do.

    Attributes
    ----------
    parameters : ConsensusParameters
        Of the genesis.
    other_parameters : ConsensusParameters or None
        What validators change them to, at `changes_s`.
    fee : int
        What a transaction pays.
    is_inline : bool
        Whether small aggregates are computed on the spot, as they are by default.
    aggregation_s : float
        The most virtual seconds that an aggregate takes in the background.
    has_stranger : bool
        Whether a peer without a stake passes on what nobody can complete.
    is_narrow : bool
        Whether the limits of queues and caches are so small that the run reaches them.
    """

    tasks: tuple[TaskPlan, ...]
    parameters: ConsensusParameters
    other_parameters: ConsensusParameters | None
    changes_s: float
    fee: int
    is_inline: bool
    aggregation_s: float
    has_stranger: bool
    is_narrow: bool


def make_load_plan(seed: int, users: int) -> LoadPlan:
    """Draw what `users` users do in a run."""
    plan = _draw_plan(random.Random(f"{seed}/load plan"), users)
    draw = random.Random(f"{seed}/twins")
    return _draw_twins(draw, plan, users) if draw.random() < TWINS_SHARE else plan


def _draw_plan(draw: random.Random, users: int) -> LoadPlan:
    freezing = ConsensusParameters(aggregation_cost_block_max=FREEZING_COST)
    parameters, other = draw.choice(
        (
            (ConsensusParameters(), None),
            (ConsensusParameters(), None),
            (freezing, None),
            (freezing, ConsensusParameters()),
            (ConsensusParameters(), freezing),
        )
    )
    return LoadPlan(
        tasks=tuple(_draw_task(draw, i, users) for i in range(draw.choice((0, 1, 1, 1, 2)))),
        parameters=parameters,
        other_parameters=other,
        changes_s=draw.uniform(0.2, 3.0),
        fee=draw.choice((0, 0, 3)),
        is_inline=draw.random() < 0.4,
        aggregation_s=draw.choice((0.003, 0.1, 1.0)),
        has_stranger=draw.random() < 0.3,
        is_narrow=draw.random() < 0.2,
    )


def _draw_twins(draw: random.Random, plan: LoadPlan, users: int) -> LoadPlan:
    """Return a plan with tasks that are alike: their training rounds end in the same blocks.

    Their aggregates take a thread, and a block that ends these rounds needs all of them at once.
    """
    one = _draw_task(draw, 0, users)
    policy = structs.replace(
        one.policy,
        deadline_ms=draw.choice((200, 400)),
        updates_min=1,
        updates_max=users,
        mode=RoundMode.SYNCHRONOUS,
        rounds_max=0,
    )
    one = replace(
        one,
        rule=draw.choice([rule for rule in RULES if _is_possible(rule, 1)]),
        example_count_max=0,
        policy=policy,
        begins_s=0.0,
        gap_s=0.1,
    )
    count = draw.choice((2, 3))
    return replace(
        plan,
        tasks=tuple(replace(one, name=f"twin-{number}") for number in range(count)),
        parameters=ConsensusParameters(),
        other_parameters=None,
        is_inline=False,
        aggregation_s=draw.choice((0.003, 0.1)),
    )


def _draw_task(draw: random.Random, number: int, users: int) -> TaskPlan:
    participants = draw.sample(range(users), draw.randint(3, 5))
    updates_min = draw.randint(1, len(participants))
    policy = RoundPolicy(
        deadline_ms=draw.choice((200, 500, 900)),
        updates_min=updates_min,
        updates_max=draw.randint(updates_min, len(participants) + 1),
        below_minimum=draw.choice((BelowMinimum.EXTEND, BelowMinimum.VOID)),
        staleness_max=draw.choice((0, 0, 2)),
        waive_proposer_spread=draw.random() < 0.5,
        rounds_max=draw.choice((0, 0, 0, 2)),
        mode=draw.choice((RoundMode.SYNCHRONOUS, RoundMode.SYNCHRONOUS, RoundMode.ASYNCHRONOUS)),
        staleness_weighting=draw.choice(list(StalenessWeighting)),
        silent_rounds_max=draw.choice((0, 1, 3)),
        extensions_max=draw.choice((1, 16)),
    )
    rule = draw.choice([rule for rule in RULES if _is_possible(rule, updates_min)])
    dimension = draw.choice((SMALL_DIMENSION, SMALL_DIMENSION, LARGE_DIMENSION))
    codec = draw.choice((UpdateCodec.DENSE_INT16, *UpdateCodec))
    is_weightable = rule.stages == (Stage.MEAN,)
    return TaskPlan(
        name=f"task-{number}",
        dimension=dimension,
        rule=rule,
        optimizer=draw.choice(OPTIMIZERS),
        policy=policy,
        codec=codec,
        top_k=dimension // 2 if codec is UpdateCodec.TOP_K_INT16 else 0,
        example_count_max=50 if is_weightable and draw.random() < 0.5 else 0,
        authority=draw.choice(participants),
        participants=tuple(participants),
        begins_s=draw.uniform(0.0, 1.0),
        gap_s=draw.choice((0.1, 0.3)),
    )


def _is_possible(rule: AggregationRule, updates_min: int) -> bool:
    try:
        validate_rule(rule, updates_min)
    except RuleError:
        return False
    return True
