"""A second version of every rule, as dumb as it can be: Python integers and fractions, no numpy.

Owns nothing the product uses. Never shares a line with it: each rule is written down again from
its formula, one coordinate and one update at a time.
"""

from dataclasses import dataclass
from fractions import Fraction
from hashlib import sha256
from math import isqrt

Vector = list[int]


@dataclass
class Rule:
    """A rule's parameters and what it is given beside the updates."""

    f: int = 0
    clip_norm: int = 0
    selected: int = 0
    bucket_size: int = 0
    iterations: int = 0
    radius: int = 0
    seed: bytes = b""
    previous: Vector | None = None


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
    bound = clip_bound(updates, clip_norm)
    return [scale_to_norm(update, bound) for update in updates]


def clip_bound(updates: list[Vector], clip_norm: int) -> int:
    """Squared."""
    squares = [sum(v * v for v in update) for update in updates]
    return clip_norm**2 if clip_norm else sorted(squares)[(len(squares) - 1) // 2]


def scale_to_norm(update: Vector, squared_bound: int) -> Vector:
    square = sum(v * v for v in update)
    if square <= squared_bound:
        return update
    ratio = Fraction(isqrt(squared_bound * 2**32), isqrt(square * 2**32))
    return [round_half_away(v * ratio) for v in update]


def arc(updates: list[Vector], f: int) -> list[Vector]:
    bound = arc_bound(updates, f)
    return [scale_to_norm(update, bound) for update in updates]


def arc_bound(updates: list[Vector], f: int) -> int:
    """Squared."""
    n = len(updates)
    k = int(Fraction(2 * f, n) * (n - f))
    return sorted((sum(v * v for v in update) for update in updates), reverse=True)[k]


def permutation(n: int, seed: bytes) -> list[int]:
    drawn = [(sha256(b"quorate-bucketing" + seed + bytes([0, 0, i // 256, i % 256])), i)
             for i in range(n)]  # fmt: skip
    return [i for _, i in sorted((digest.digest(), i) for digest, i in drawn)]


def buckets(n: int, size: int, seed: bytes) -> list[list[int]]:
    order = permutation(n, seed)
    groups = []
    while order:
        groups.append(order[: size or 2])
        order = order[size or 2 :]
    return groups


def bucketing(updates: list[Vector], size: int, seed: bytes) -> list[Vector]:
    return [mean([updates[i] for i in group]) for group in buckets(len(updates), size, seed)]


def bulyan_selection(updates: list[Vector], f: int) -> list[int]:
    left = list(range(len(updates)))
    chosen = []
    while len(chosen) < len(updates) - 2 * f:
        scores = []
        for i in left:
            others = sorted(distance(updates[i], updates[j]) for j in left if j != i)
            scores.append((sum(others[: max(1, len(left) - f - 2)]), i))
        best = min(scores)[1]
        chosen.append(best)
        left.remove(best)
    return chosen


def bulyan(updates: list[Vector], f: int) -> Vector:
    selected = [updates[i] for i in bulyan_selection(updates, f)]
    aggregate = []
    for column in zip(*selected, strict=True):
        middle = sorted(column)[(len(column) - 1) // 2]
        closest = sorted(column, key=lambda value: (abs(value - middle), value))
        kept = closest[: len(updates) - 4 * f]
        aggregate.append(round_half_away(Fraction(sum(kept), len(kept))))
    return aggregate


def weighted_mean(vectors: list[list[Fraction]], weights: list[int]) -> list[Fraction]:
    total = sum(weights)
    return [
        sum((Fraction(w) * v for w, v in zip(weights, column, strict=True)), Fraction(0)) / total
        for column in zip(*vectors, strict=True)
    ]


def fraction_root(value: Fraction, scale: int) -> int:
    """floor(scale * sqrt(value))."""
    return isqrt(int(value * scale * scale))


def geometric_median_weights(updates: list[Vector], iterations: int) -> list[int]:
    exact = [[Fraction(v) for v in update] for update in updates]
    weights = [2**24] * len(updates)
    for _ in range(iterations or 8):
        z = weighted_mean(exact, weights)
        total = sum(weights)
        lengths = []
        for update in exact:
            square = sum(((a - b) ** 2 for a, b in zip(update, z, strict=True)), Fraction(0))
            lengths.append(max(total, fraction_root(square, total)))
        weights = [round_half_away(Fraction(2**24 * min(lengths), length)) for length in lengths]
    return weights


def geometric_median(updates: list[Vector], iterations: int) -> Vector:
    exact = [[Fraction(v) for v in update] for update in updates]
    combined = weighted_mean(exact, geometric_median_weights(updates, iterations))
    return [round_half_away(v) for v in combined]


def centered_clipping(
    updates: list[Vector], previous: Vector, radius: int, iterations: int
) -> tuple[Vector, list[int]]:
    rows = [[Fraction(v) for v in row] for row in [previous, *updates]]
    n, one = len(updates), 2**36
    weights = [one] + [0] * n
    factors: list[int] = []
    for _ in range(iterations or 1):
        centre = weighted_mean(rows, weights)
        gaps = [
            fraction_root(
                sum(((a - b) ** 2 for a, b in zip(row, centre, strict=True)), Fraction(0)), one
            )
            for row in rows[1:]
        ]
        bound = radius * one if radius else sorted(gaps)[(n - 1) // 2]
        factors = [2**16 if gap <= bound else int(Fraction(bound * 2**16, gap)) for gap in gaps]
        kept = 1 - Fraction(sum(factors), n * 2**16)
        moved = [
            int(weights[i + 1] * kept + Fraction(one * factors[i], n * 2**16)) for i in range(n)
        ]
        weights = [one - sum(moved), *moved]
    return [round_half_away(v) for v in weighted_mean(rows, weights)], factors


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
            weights[i] * v * a for i in members for v, a in zip(updates[i], aggregate, strict=True)
        )
        return Fraction(product, total * norm)

    everyone = list(range(len(updates)))
    return [
        compute_value(everyone) - compute_value([j for j in everyone if j != i]) for i in everyone
    ]


def score(value: Fraction) -> int:
    return max(-(2**31), min(2**31, round_half_away(value * 2**16)))


def apply_stages(stages: list[str], updates: list[Vector], rule: Rule) -> Vector:
    for stage in stages[:-1]:
        updates = apply_front(stage, updates, rule)
    return apply_final(stages[-1], updates, rule)


def apply_front(stage: str, updates: list[Vector], rule: Rule) -> list[Vector]:
    match stage:
        case "clip":
            return clip(updates, rule.clip_norm)
        case "arc":
            return arc(updates, rule.f)
        case "nnm":
            return nnm(updates, rule.f)
        case "bucketing":
            return bucketing(updates, rule.bucket_size, rule.seed)
        case other:
            raise ValueError(other)


def clipped(stages: list[str], updates: list[Vector], rule: Rule) -> list[bool]:
    """Which updates, or the buckets they are in, any stage has made shorter."""
    rows = [[i] for i in range(len(updates))]
    found = [False] * len(updates)
    for stage in stages[:-1]:
        if stage in ("clip", "arc"):
            is_clip = stage == "clip"
            bound = clip_bound(updates, rule.clip_norm) if is_clip else arc_bound(updates, rule.f)
            for members, update in zip(rows, updates, strict=True):
                # To 16 bits behind the point, as the ratio is: else nothing is scaled.
                if isqrt(sum(v * v for v in update) * 2**32) > isqrt(bound * 2**32):
                    for member in members:
                        found[member] = True
        if stage == "bucketing":
            groups = buckets(len(updates), rule.bucket_size, rule.seed)
            rows = [[member for row in group for member in rows[row]] for group in groups]
        updates = apply_front(stage, updates, rule)
    return found


def apply_final(stage: str, updates: list[Vector], rule: Rule) -> Vector:
    match stage:
        case "mean":
            return mean(updates)
        case "median":
            return median(updates)
        case "trimmed_mean":
            return trimmed_mean(updates, rule.f)
        case "krum":
            return multi_krum(updates, rule.f, 1)
        case "multi_krum":
            return multi_krum(updates, rule.f, rule.selected)
        case "bulyan":
            return bulyan(updates, rule.f)
        case "geometric_median":
            return geometric_median(updates, rule.iterations)
        case "centered_clipping":
            assert rule.previous is not None
            return centered_clipping(updates, rule.previous, rule.radius, rule.iterations)[0]
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


def adaptivity(tau: int, update_bits: int) -> int:
    """In units of 1/256 of an update's integer."""
    return max(1, round_half_away(Fraction(tau, 2**16) * 2**update_bits * 2**8))


def starting_state(name: str, tau: int, tensors: list[tuple[int, int]]) -> bytes:
    """Return all of the state before the first step; tensors are (size, update's fraction bits)."""
    d = sum(size for size, _ in tensors)
    if name == "sgd":
        return b""
    if name == "momentum":
        return bytes(8 * d)
    second = b"".join(
        min(adaptivity(tau, bits) ** 2, 2**46).to_bytes(8, "little") * size
        for size, bits in tensors
    )
    return bytes(8 * d) + second


def adaptive_step(
    name: str,
    parameters: tuple[int, int, int, int],
    state: tuple[int, int],
    weight: int,
    value: int,
    bits: tuple[int, int],
) -> tuple[int, int, int]:
    """One parameter's next weight (not clamped), first and second moment."""
    rate, beta1, beta2, tau = parameters
    first, second = state
    square = value * value
    first = round_half_away(Fraction(beta1 * first, 2**16)) + (2**16 - beta1) * value
    if name == "adagrad":
        second = min(second + square * 2**16, 2**62 - 1)
    elif name == "adam":
        second = round_half_away(Fraction(beta2 * second, 2**16)) + (2**16 - beta2) * square
    elif second > square * 2**16:
        second -= (2**16 - beta2) * square
    elif second < square * 2**16:
        second += (2**16 - beta2) * square
    weight_bits, update_bits = bits
    divisor = isqrt(second) + adaptivity(tau, update_bits)
    ratio = Fraction(round_half_away(Fraction(first * 2**16, divisor)), 2**24)
    step = round_half_away(ratio * Fraction(rate, 2**16) * 2**weight_bits)
    return weight + max(-(2**40), min(2**40, step)), first, second
