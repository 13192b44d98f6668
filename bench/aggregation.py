"""Time every aggregation rule: a table for people, JSON for comparing.

Owns the measurement of the aggregation package. Never judges a figure: machines differ.

Run as `python -m bench.aggregation --n 32 --dim 100000 1000000 [--json FILE]`. Set
OPENBLAS_NUM_THREADS=1 to measure what one node does on one core.
"""

import argparse
import json
import resource
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from quorate.chain.task import DEFAULT_RULE, AggregationRule, Stage

from aggregation import aggregate, compute_cost, compute_updates_min

COMPOSITIONS: tuple[tuple[Stage, ...], ...] = (
    (Stage.MEAN,),
    (Stage.CLIP, Stage.MEAN),
    (Stage.MEDIAN,),
    (Stage.TRIMMED_MEAN,),
    (Stage.MULTI_KRUM,),
    (Stage.NNM, Stage.TRIMMED_MEAN),
    DEFAULT_RULE,
)
REPEATS_MAX = 5
SECONDS_PER_RULE = 2.0


@dataclass(frozen=True)
class Timing:
    """One rule's figures: the best of some runs, in milliseconds, and its cost in the protocol."""

    rule: str
    n_updates: int
    dimension: int
    num_byzantine: int
    best_ms: float
    ns_per_value: float
    cost: int


def make_updates(n_updates: int, dimension: int) -> list[NDArray[np.int16]]:
    """Draw updates that have a direction in common, of differing lengths."""
    generator = np.random.default_rng(0)
    common = generator.normal(0, 1000, dimension).astype(np.float32)
    updates = []
    for index in range(n_updates):
        noise = generator.standard_normal(dimension, np.float32) * 2000
        scaled = (common + noise) * (0.5 + index / n_updates)
        updates.append(np.clip(scaled, -32767, 32767).astype(np.int16))
    return updates


def time_rule(rule: AggregationRule, updates: Sequence[NDArray[np.int16]]) -> Timing:
    """Aggregate a few times, for about two seconds at most, and keep the best time."""
    best = float("inf")
    spent = 0.0
    for _ in range(REPEATS_MAX):
        started = time.perf_counter()
        aggregate(rule, updates)
        elapsed = time.perf_counter() - started
        best = min(best, elapsed)
        spent += elapsed
        if spent > SECONDS_PER_RULE:
            break
    n_updates, dimension = len(updates), updates[0].size
    return Timing(
        rule=" > ".join(rule.stages),
        n_updates=n_updates,
        dimension=dimension,
        num_byzantine=rule.num_byzantine,
        best_ms=best * 1e3,
        ns_per_value=best * 1e9 / (n_updates * dimension),
        cost=compute_cost(rule, n_updates, dimension),
    )


def time_all(n_updates: int, dimension: int) -> list[Timing]:
    """Time every composition that so many updates admit, with a quarter of them hostile."""
    updates = make_updates(n_updates, dimension)
    timings = []
    for stages in COMPOSITIONS:
        num_byzantine = 0 if stages == (Stage.MEAN,) else n_updates // 4
        rule = AggregationRule(stages, num_byzantine)
        if compute_updates_min(rule) <= n_updates:
            timings.append(time_rule(rule, updates))
    return timings


def print_table(timings: Sequence[Timing]) -> None:
    """Print one line a rule."""
    print(f"{'rule':30} {'n':>5} {'f':>4} {'d':>10} {'ms':>10} {'ns/value':>9} {'cost':>13}")
    for timing in timings:
        print(
            f"{timing.rule:30} {timing.n_updates:5} {timing.num_byzantine:4}"
            f" {timing.dimension:10,} {timing.best_ms:10.2f} {timing.ns_per_value:9.2f}"
            f" {timing.cost:13,}"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print, and write JSON if asked to."""
    parser = argparse.ArgumentParser(prog="bench.aggregation", description="Time every rule.")
    parser.add_argument("--n", type=int, nargs="+", default=[32], help="updates of a round")
    parser.add_argument("--dim", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    timings = [
        timing
        for n_updates in options.n
        for dimension in options.dim
        for timing in time_all(n_updates, dimension)
    ]
    print_table(timings)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of the process: {peak_mb:.0f} MiB")
    if options.json:
        figures = {"timings": [asdict(timing) for timing in timings], "peak_mib": peak_mb}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
