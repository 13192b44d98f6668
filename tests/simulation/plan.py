"""What happens in a simulated run, drawn from its seed before it begins.

Owns the choice of network, faults and their times. Never looks at the run.
"""

import random
from dataclasses import dataclass, field

from tests.simulation.byzantine import Behaviour
from tests.simulation.fabric import Conditions

Fault = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """One run."""

    seed: int
    powers: tuple[int, ...]
    byzantine: dict[int, Behaviour]
    late: frozenset[int]
    skews_ms: tuple[int, ...]
    conditions: Conditions
    empty_block_interval_ms: int
    submission_gap_s: float
    safety_s: float
    faults: tuple[tuple[float, Fault], ...] = field(repr=False)


def make_plan(seed: int) -> Plan:
    """Draw a run from its seed."""
    draw = random.Random(f"{seed}/plan")
    count = draw.choice((4, 4, 4, 4, 5, 7))
    safety_s = draw.uniform(2.0, 5.0)
    byzantine: dict[int, Behaviour] = {}
    if draw.random() < 0.5:
        for number in draw.sample(range(count), (count - 1) // 3):
            byzantine[number] = draw.choice(list(Behaviour))
    honest = [number for number in range(count) if number not in byzantine]
    late = frozenset(draw.sample(honest, 1)) if draw.random() < 0.2 else frozenset()
    faults: list[tuple[float, Fault]] = []
    for _ in range(draw.choice((0, 1, 2, 4))):
        faults.extend(_draw_fault(draw, honest, count, safety_s))
    faults.extend((draw.uniform(0.5, safety_s), ("start", number)) for number in sorted(late))
    faults.sort(key=lambda fault: fault[0])
    return Plan(
        seed=seed,
        powers=tuple(10 for _ in range(count)),
        byzantine=byzantine,
        late=late,
        skews_ms=tuple(draw.randint(-150, 150) for _ in range(count)),
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


def _draw_fault(
    draw: random.Random, honest: list[int], count: int, safety_s: float
) -> list[tuple[float, Fault]]:
    begin = draw.uniform(0.1, safety_s)
    end = begin + draw.uniform(0.05, 1.5)
    victim = draw.choice(honest)
    match draw.randrange(8):
        case 0:
            return [(begin, ("crash", victim, draw.random() < 0.5)), (end, ("start", victim))]
        case 1:
            return [
                (begin, ("crash_at_write", victim, draw.randint(1, 40))),
                (end, ("start", victim)),
            ]
        case 2 | 6 | 7:
            return [
                *((begin, ("crash_at_write", each, draw.randint(1, 30))) for each in honest),
                *((end, ("start", each)) for each in honest),
            ]
        case 3:
            return [(begin, ("cut", _draw_cut(draw, count))), (end, ("cut", ()))]
        case 4:
            return [(begin, ("loss", draw.uniform(0.1, 0.6))), (end, ("loss", 0.0))]
        case _:
            return [(begin, ("skew", victim, draw.randint(-2_000, 2_000)))]


def _draw_cut(draw: random.Random, count: int) -> tuple[tuple[int, int], ...]:
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
