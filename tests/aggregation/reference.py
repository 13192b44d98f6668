"""A second version of every rule, as dumb as it can be: Python integers and fractions, no numpy.

Owns nothing the product uses. Never shares a line with it: each rule is written down again from
its formula, one coordinate and one update at a time.
"""

from fractions import Fraction
from math import isqrt

Vector = list[int]


def round_half_away(value: Fraction) -> int:
    magnitude = int(abs(value) + Fraction(1, 2))
    return -magnitude if value < 0 else magnitude


def distance(left: Vector, right: Vector) -> int:
    return sum((a - b) ** 2 for a, b in zip(left, right, strict=True))


def mean(updates: list[Vector], weights: list[int] | None = None) -> Vector:
    if weights is None or not any(weights):
        weights = [1] * len(updates)
    return [
        round_half_away(
            Fraction(sum(w * v for w, v in zip(weights, column, strict=True)), sum(weights))
        )
        for column in zip(*updates, strict=True)
    ]


def trimmed_mean(updates: list[Vector], f: int) -> Vector:
    aggregate = []
    for column in zip(*updates, strict=True):
        kept = sorted(column)[f : len(column) - f]
        aggregate.append(round_half_away(Fraction(sum(kept), len(kept))))
    return aggregate


def median(updates: list[Vector]) -> Vector:
    aggregate = []
    for column in zip(*updates, strict=True):
        ordered = sorted(column)
        n = len(ordered)
        if n % 2:
            aggregate.append(ordered[n // 2])
        else:
            middle = ordered[n // 2 - 1] + ordered[n // 2]
            aggregate.append(round_half_away(Fraction(middle, 2)))
    return aggregate


def krum_scores(updates: list[Vector], f: int) -> list[int]:
    scores = []
    for i, update in enumerate(updates):
        others = [distance(update, other) for j, other in enumerate(updates) if j != i]
        scores.append(sum(sorted(others)[: len(updates) - f - 2]))
    return scores


def krum_selection(updates: list[Vector], f: int, selected: int) -> list[int]:
    scores = krum_scores(updates, f)
    ranking = sorted(range(len(updates)), key=lambda i: (scores[i], i))
    return ranking[: selected if selected else len(updates) - f]


def multi_krum(updates: list[Vector], f: int, selected: int) -> Vector:
    return mean([updates[i] for i in krum_selection(updates, f, selected)])


def clip(updates: list[Vector], clip_norm: int) -> list[Vector]:
    squares = [sum(v * v for v in update) for update in updates]
    bound = clip_norm**2 if clip_norm else sorted(squares)[(len(squares) - 1) // 2]
    clipped = []
    for update, square in zip(updates, squares, strict=True):
        if square <= bound:
            clipped.append(update)
            continue
        ratio = Fraction(isqrt(bound * 2**32), isqrt(square * 2**32))
        clipped.append([round_half_away(v * ratio) for v in update])
    return clipped


def neighbourhoods(updates: list[Vector], f: int) -> list[list[int]]:
    n = len(updates)
    return [
        sorted(range(n), key=lambda j: (distance(updates[i], updates[j]), j))[: n - f]
        for i in range(n)
    ]


def nnm(updates: list[Vector], f: int) -> list[Vector]:
    return [mean([updates[j] for j in near]) for near in neighbourhoods(updates, f)]


def in_degrees(updates: list[Vector], f: int) -> list[int]:
    n = len(updates)
    degrees = [0] * n
    for update in updates:
        distances = [distance(update, other) for other in updates]
        radius = sorted(distances)[n - f - 1]
        for j, value in enumerate(distances):
            degrees[j] += value <= radius
    return degrees


def survival(updates: list[Vector], f: int) -> list[int]:
    counts = [0] * len(updates)
    for column in zip(*updates, strict=True):
        kept = sorted(column)[f : len(column) - f]
        for i, value in enumerate(column):
            counts[i] += kept[0] <= value <= kept[-1]
    return counts


def leave_one_out(updates: list[Vector], weights: list[int], aggregate: Vector) -> list[Fraction]:
    """The definition itself: the value of all minus the value of all without one."""
    norm = sum(a * a for a in aggregate)
    if norm == 0:
        return [Fraction(0)] * len(updates)

    def compute_value(members: list[int]) -> Fraction:
        total = sum(weights[i] for i in members)
        if total == 0:
            return Fraction(0)
        product = sum(
            weights[i] * v * a
            for i in members
            for v, a in zip(updates[i], aggregate, strict=True)
        )
        return Fraction(product, total * norm)

    everyone = list(range(len(updates)))
    return [
        compute_value(everyone) - compute_value([j for j in everyone if j != i]) for i in everyone
    ]


def score(value: Fraction) -> int:
    return max(-(2**31), min(2**31, round_half_away(value * 2**16)))


def apply_stages(
    stages: list[str], updates: list[Vector], f: int, clip_norm: int, selected: int
) -> Vector:
    for stage in stages[:-1]:
        updates = clip(updates, clip_norm) if stage == "clip" else nnm(updates, f)
    match stages[-1]:
        case "mean":
            return mean(updates)
        case "median":
            return median(updates)
        case "trimmed_mean":
            return trimmed_mean(updates, f)
        case "multi_krum":
            return multi_krum(updates, f, selected)
        case other:
            raise ValueError(other)


def optimizer_step(
    learning_rate: int,
    momentum: int | None,
    weights: Vector,
    velocity: Vector,
    aggregate: Vector,
    scale_bits: list[int],
) -> tuple[Vector, Vector, int]:
    """Weights, velocity with 16 more fraction bits than the aggregate, and clamped weights."""
    following, velocities, clamped = [], [], 0
    for i, (weight, value) in enumerate(zip(weights, aggregate, strict=True)):
        direction = Fraction(value)
        if momentum is not None:
            v = round_half_away(Fraction(momentum * velocity[i], 2**16)) + value * 2**16
            velocities.append(v)
            direction = Fraction(v, 2**16)
        step = direction * Fraction(learning_rate, 2**16) * Fraction(2) ** scale_bits[i]
        exact = weight + round_half_away(step)
        bounded = max(-(2**31), min(2**31 - 1, exact))
        clamped += bounded != exact
        following.append(bounded)
    return following, velocities, clamped
