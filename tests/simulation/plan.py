"""What happens in a simulated run, drawn from its seed before it begins.

Owns the choice of network, faults, schedules and their times. Never looks at the run. Some seeds
are ordinary bad luck, in which each kind of fault is switched on or off for the whole run; others
play one of the schedules that bad luck hardly ever makes (`schedules`), or give one byzantine
validator all the chances there are.
"""

import random
from dataclasses import dataclass, field, replace

from tests.simulation.byzantine import Behaviour
from tests.simulation.fabric import Conditions

Fault = tuple[object, ...]
Pairs = tuple[tuple[int, int], ...]

SCHEDULED_SHARE = 0.4
"""The share of seeds that play a schedule."""
VILLAIN_SHARE = 0.1
"""The share of seeds in which one byzantine validator has as much power as there may be."""
DISHONEST_ANSWERS = (
    Behaviour.LYING_ANSWERS,
    Behaviour.FALSE_HEIGHTS,
    Behaviour.WITHHOLD_ANSWERS,
)
DISHONEST_PROPOSALS = (
    Behaviour.INVALID_BLOCKS,
    Behaviour.WRONG_ROOTS,
    Behaviour.EQUIVOCATE_PROPOSALS,
    Behaviour.FALSE_POLKA,
)
ABOUT_PAYLOADS = (Behaviour.FALSE_PAYLOADS, Behaviour.WITHHOLD_PAYLOADS)
"""Drawn by themselves, beside what a byzantine validator does otherwise."""
ABOUT_PAYLOADS_SHARE = 0.2
OTHERWISE = tuple(each for each in Behaviour if each not in ABOUT_PAYLOADS)
MILD = Conditions(delay_s=0.002, jitter_s=0.002, loss=0.0, duplication=0.0)


@dataclass(frozen=True, slots=True)
class Plan:
    """One run.

    Attributes
    ----------
    powers : tuple of int
        Voting power of each node; 0 is a node that only follows.
    byzantine : dict of int to tuple of Behaviour
        Together less than a third of the power.
    late : frozenset of int
        Nodes that join in the middle.
    lags_s : tuple of float
        How long anything that a node waits for takes longer, at most, in virtual seconds.
    cables : tuple of pairs, or None
        Who ever links with whom; with None, everybody.
    remote : int or None
        The validator that reaches the others only through followers.
    schedule : str
        The name of one in `schedules`, or nothing; from `schedule_height` on.
    outage_s : float
        How long a schedule that cuts the power leaves it off.
    """

    seed: int
    powers: tuple[int, ...]
    byzantine: dict[int, tuple[Behaviour, ...]]
    late: frozenset[int]
    skews_ms: tuple[int, ...]
    lags_s: tuple[float, ...]
    cables: Pairs | None
    conditions: Conditions
    empty_block_interval_ms: int
    submission_gap_s: float
    safety_s: float
    faults: tuple[tuple[float, Fault], ...] = field(repr=False)
    remote: int | None = None
    schedule: str = ""
    schedule_height: int = 0
    outage_s: float = 0.0


def make_plan(seed: int) -> Plan:
    """Draw a run from its seed."""
    plan = _draw_plan(random.Random(f"{seed}/plan"), seed)
    draw = random.Random(f"{seed}/about payloads")
    byzantine = {
        number: (*said, draw.choice(ABOUT_PAYLOADS))
        if said and Behaviour.SILENT not in said and draw.random() < ABOUT_PAYLOADS_SHARE
        else said
        for number, said in plan.byzantine.items()
    }
    return replace(plan, byzantine=byzantine)


def _draw_plan(draw: random.Random, seed: int) -> Plan:
    kind = draw.random()
    if kind < VILLAIN_SHARE:
        return _draw_villain(draw, seed)
    if kind > VILLAIN_SHARE + SCHEDULED_SHARE:
        return _draw_ordinary(draw, seed)
    schedule = draw.choice(
        (
            "HiddenDecision",
            "HiddenDecision",
            "OlderPolka",
            "PowerCut",
            "HalfLocked",
            "DeadCreator",
            "DeadCreator",
            "ByRounds",
            "AtStep",
        )
    )
    height = draw.randint(2, 6)
    if schedule in {"ByRounds", "AtStep"}:
        plan = replace(_draw_ordinary(draw, seed), late=frozenset())
        return replace(plan, schedule=schedule, schedule_height=height)
    return _draw_scheduled(draw, seed, schedule, height)


def _draw_scheduled(draw: random.Random, seed: int, schedule: str, height: int) -> Plan:
    """Return a network in which nothing else happens than its schedule, or hardly anything."""
    count = draw.choice((4, 4, 4, 5, 7)) if schedule == "HiddenDecision" else 4
    powers = _draw_powers(draw, count) if schedule != "OlderPolka" else (10,) * count
    byzantine: dict[int, tuple[Behaviour, ...]] = {}
    remote, cables = None, None
    if schedule == "DeadCreator":
        powers = (draw.choice((1, 10)),) * count
        dead = draw.randrange(count)
        byzantine[dead] = ()
        if draw.random() < 0.7:
            # One validator is linked with followers alone.
            remote = draw.choice([number for number in range(count) if number != dead])
            hubs = tuple(range(count, count + draw.choice((1, 2))))
            powers += (0,) * len(hubs)
            near = [number for number in range(len(powers)) if number != remote]
            cables = tuple((a, b) for a in near for b in near if a < b)
            cables += tuple((remote, hub) for hub in hubs)
    everybody = range(len(powers))
    outage_s = 0.0
    if schedule in {"PowerCut", "HalfLocked"}:
        outage_s = draw.choice((0.1, 1.0, 600.0))
    return Plan(
        seed=seed,
        powers=powers,
        byzantine=byzantine,
        late=frozenset(),
        skews_ms=tuple(draw.randint(-100, 100) for _ in everybody),
        lags_s=tuple(0.0 for _ in everybody),
        cables=cables,
        conditions=replace(MILD, delay_s=draw.choice((0.0005, 0.004))),
        empty_block_interval_ms=draw.choice((100, 300)),
        submission_gap_s=draw.choice((0.1, 0.3)),
        safety_s=20.0 + outage_s,
        faults=(),
        remote=remote,
        schedule=schedule,
        schedule_height=height,
        outage_s=outage_s,
    )


def _draw_ordinary(draw: random.Random, seed: int) -> Plan:
    count = draw.choice((*(4,) * 12, *(5,) * 4, 6, 6, 7, 7, 8, 9, 10))
    safety_s = draw.uniform(1.5, 4.0)
    powers = _draw_powers(draw, count)
    byzantine = _draw_byzantine(draw, powers)
    if count < 10 and draw.random() < 0.15:
        powers += (0,)
    everybody = range(len(powers))
    honest = [number for number in everybody if number not in byzantine]
    late = frozenset(draw.sample(honest, 1)) if draw.random() < 0.2 else frozenset()
    lags_s = [0.0 for _ in everybody]
    if draw.random() < 0.2:
        for number in draw.sample(honest, draw.randint(1, max(1, len(honest) // 2))):
            lags_s[number] = draw.choice((0.002, 0.01, 0.04))
    # Each kind of fault is there in some runs and absent in others, so that those that hide each
    # other are also seen alone.
    kinds = [kind for kind in FAULT_KINDS if draw.random() < 0.5]
    faults: list[tuple[float, Fault]] = []
    for _ in range(draw.choice((0, 1, 2, 4)) if kinds else 0):
        faults.extend(_draw_fault(draw, draw.choice(kinds), honest, len(powers), safety_s))
    faults.extend((draw.uniform(0.5, safety_s), ("start", number)) for number in sorted(late))
    faults.sort(key=lambda fault: fault[0])
    return Plan(
        seed=seed,
        powers=powers,
        byzantine=byzantine,
        late=late,
        skews_ms=tuple(draw.randint(-150, 150) for _ in everybody),
        lags_s=tuple(lags_s),
        cables=_draw_cables(draw, honest, len(powers)) if draw.random() < 0.3 else None,
        conditions=Conditions(
            delay_s=draw.choice((0.0005, 0.002, 0.02)),
            jitter_s=draw.choice((0.0005, 0.004, 0.03)),
            loss=draw.choice((0.0, 0.0, 0.02, 0.15)),
            duplication=draw.choice((0.0, 0.1)),
        ),
        empty_block_interval_ms=draw.choice((100, 300)),
        submission_gap_s=draw.choice((0.05, 0.2)),
        safety_s=safety_s,
        faults=tuple(faults),
    )


def _draw_powers(draw: random.Random, count: int) -> tuple[int, ...]:
    match draw.randrange(4):
        case 0 | 1:
            return (10,) * count
        case 2:
            return (1,) * count
        case _:
            return tuple(draw.randint(1, 10) for _ in range(count))


def _draw_byzantine(
    draw: random.Random, powers: tuple[int, ...]
) -> dict[int, tuple[Behaviour, ...]]:
    """Return byzantine validators with less than a third of the power, as many as there is room."""
    byzantine: dict[int, tuple[Behaviour, ...]] = {}
    if draw.random() < 0.5:
        return byzantine
    for number in draw.sample(range(len(powers)), len(powers)):
        power = powers[number] + sum(powers[each] for each in byzantine)
        if 3 * power < sum(powers):
            byzantine[number] = _draw_behaviours(draw, draw.choice((1, 1, 2, 3)))
    return byzantine


def _draw_behaviours(draw: random.Random, count: int) -> tuple[Behaviour, ...]:
    behaviours = tuple(draw.sample(OTHERWISE, count))
    # Whoever is silent does nothing else.
    return (Behaviour.SILENT,) if Behaviour.SILENT in behaviours else behaviours


def _draw_villain(draw: random.Random, seed: int) -> Plan:
    """Return a network with one byzantine validator of as much power as there may be.

    It proposes more often than others; and if it answers falsely, somebody has to ask it.
    """
    plan = _draw_ordinary(draw, seed)
    powers = draw.choice(((10, 10, 10, 14), (3, 3, 3, 4), (10, 10, 10, 10, 19)))
    villain = len(powers) - 1
    behaviours = draw.choice((DISHONEST_ANSWERS, DISHONEST_PROPOSALS, OTHERWISE[1:]))
    said = tuple(draw.sample(behaviours, draw.choice((1, 2))))
    pairs: Pairs | None = None
    late: frozenset[int] = frozenset()
    faults: tuple[tuple[float, Fault], ...] = ()
    if behaviours is DISHONEST_ANSWERS:
        # It joins late, and besides the villain it knows one other.
        late, others = frozenset({0}), range(1, len(powers))
        pairs = tuple((a, b) for a in others for b in others if a < b)
        pairs += ((0, villain), (0, draw.choice(others[:-1])))
        faults = ((plan.safety_s / 2, ("start", 0)),)
    return replace(
        plan,
        powers=powers,
        byzantine={villain: said},
        late=late,
        skews_ms=tuple(draw.randint(-100, 100) for _ in powers),
        lags_s=tuple(0.0 for _ in powers),
        cables=pairs,
        conditions=replace(MILD, delay_s=draw.choice((0.0005, 0.004))),
        empty_block_interval_ms=100,
        faults=faults,
    )


def _draw_cables(draw: random.Random, honest: list[int], count: int) -> Pairs:
    """Return a ring, a chain of cliques or a tree with some more links, over the honest nodes.

    They stay connected without the others, since a byzantine node passes on nothing.
    """
    order = draw.sample(honest, len(honest))
    pairs: dict[tuple[int, int], None] = {}
    if draw.random() < 0.5:
        for index, number in enumerate(order):
            pairs[number, order[(index + 1) % len(order)]] = None
    else:
        for index in range(1, len(order)):
            pairs[draw.choice(order[:index]), order[index]] = None
        for _ in range(draw.randrange(len(order))):
            one, other = draw.sample(order, 2)
            pairs[one, other] = None
    for number in range(count):
        if number not in honest:
            for other in draw.sample(honest, 2):
                pairs[number, other] = None
    return tuple(pairs)


FAULT_KINDS = (
    "crash",
    "crash at write",
    "crash all",
    "crash all at write",
    "cut",
    "loss",
    "skew",
    "full disk",
    "slow",
)


def _draw_fault(
    draw: random.Random, kind: str, honest: list[int], count: int, safety_s: float
) -> list[tuple[float, Fault]]:
    begin = draw.uniform(0.1, safety_s)
    end = begin + draw.uniform(0.05, 1.5)
    victim = draw.choice(honest)
    match kind:
        case "crash":
            return [(begin, ("crash", victim, draw.random() < 0.5)), (end, ("start", victim))]
        case "crash at write":
            return [
                (begin, ("crash_at_write", victim, draw.randint(1, 40))),
                (end, ("start", victim)),
            ]
        case "crash all":
            return [
                *((begin, ("crash", each, True)) for each in honest),
                *((end, ("start", each)) for each in honest),
            ]
        case "crash all at write":
            return [
                *((begin, ("crash_at_write", each, draw.randint(1, 30))) for each in honest),
                *((end, ("start", each)) for each in honest),
            ]
        case "cut":
            return [(begin, ("cut", _draw_cut(draw, count))), (end, ("cut", ()))]
        case "loss":
            return [(begin, ("loss", draw.uniform(0.1, 0.6))), (end, ("loss", 0.0))]
        case "full disk":
            return [(begin, ("full", victim, draw.randint(1, 20))), (end, ("room", victim))]
        case "slow":
            return [(begin, ("lag", victim, draw.choice((0.02, 0.1)))), (end, ("lag", victim, 0.0))]
        case _:
            return [(begin, ("skew", victim, draw.randint(-2_000, 2_000)))]


def _draw_cut(draw: random.Random, count: int) -> Pairs:
    """Return the directed pairs that a partition cuts: half, single, ring, or one way."""
    everybody = list(range(count))
    match draw.randrange(4):
        case 0:
            one = set(draw.sample(everybody, count // 2))
        case 1:
            one = {draw.choice(everybody)}
        case 2:
            order = draw.sample(everybody, count)
            near = {(order[i], order[(i + step) % count]) for i in range(count) for step in (1, -1)}
            pairs = ((a, b) for a in everybody for b in everybody if a != b)
            return tuple(sorted(pair for pair in pairs if pair not in near))
        case _:
            deaf = draw.choice(everybody)
            return tuple((other, deaf) for other in everybody if other != deaf)
    return tuple(sorted((a, b) for a in everybody for b in everybody if (a in one) != (b in one)))
