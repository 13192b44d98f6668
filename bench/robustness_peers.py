"""ByzFL's rules under the attacks of `quorate bench robustness`, on the same trainings, in floats.

Owns the server that aggregates with ByzFL (the dependency group `peers`). Attacks, participants,
batches and hyper-parameters are those of `node.robustness`; only what becomes of the updates is
another's, and no update is rounded.

Run as `python -m bench.robustness_peers --rule clip+nnm+trimmed_mean --seeds 3 --results FILE`;
with the rules' results in a file of `quorate bench robustness --results`, `--ours FILE` prints
them beside.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from quorate.chain.task import AggregationRule, Stage

from node.demo.digits import Floats, Model
from node.robustness.grid import SETTINGS, Grid, Summary, make_cases, summarize
from node.robustness.learning import Hyperparameters
from node.robustness.running import count_processors, read_results, run_cases

RULES: Final = ("nnm+trimmed_mean", "clip+nnm+trimmed_mean", "arc+nnm+trimmed_mean")


class ByzflServer:
    """Aggregates floats with ByzFL's rules.

    Where ours has a parameter of its own choice, ByzFL's is given the same: `clip` cuts at the
    median of the norms.
    """

    def __init__(self, rule: AggregationRule, initial: Model) -> None:
        self._stages = [_make_stage(stage, rule.num_byzantine) for stage in rule.stages]
        self.model = [layer.copy() for layer in initial]

    def apply(self, updates: Floats) -> None:
        """Take one step; see `node.robustness.case.Server.apply`."""
        vectors = updates.copy()  # Some of ByzFL's rules write to what they are given.
        for stage in self._stages:
            vectors = stage(vectors)
        start = 0
        for layer in self.model:
            np.add(layer, vectors[start : start + layer.size].reshape(layer.shape), out=layer)
            start += layer.size


def _make_stage(stage: Stage, f: int) -> Callable[[Floats], Floats]:
    import byzfl  # noqa: PLC0415 - of the dependency group peers.

    makers: dict[Stage, Callable[[], Callable[[Floats], Floats]]] = {
        Stage.MEAN: byzfl.Average,
        Stage.MEDIAN: byzfl.Median,
        Stage.TRIMMED_MEAN: lambda: byzfl.TrMean(f),
        Stage.KRUM: lambda: byzfl.Krum(f),
        Stage.MULTI_KRUM: lambda: byzfl.MultiKrum(f),
        Stage.GEOMETRIC_MEDIAN: lambda: byzfl.GeometricMedian(nu=1e-6, T=8),
        Stage.NNM: lambda: byzfl.NNM(f),
        Stage.ARC: lambda: byzfl.ARC(f),
        Stage.CLIP: lambda: _clip,
    }
    return makers[stage]()


def _clip(vectors: Floats) -> Floats:
    import byzfl  # noqa: PLC0415

    bound = float(np.median(np.linalg.norm(vectors, axis=1)))
    clipped: Floats = byzfl.Clipping(bound)(vectors)
    return clipped


def _get_arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.robustness_peers", description=__doc__)
    parser.add_argument("--rule", action="append", help="stages joined by +; may be repeated")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=Hyperparameters().steps)
    parser.add_argument("--jobs", type=int, default=count_processors())
    parser.add_argument("--results", type=Path, help="where outcomes are kept; goes on there")
    parser.add_argument("--ours", type=Path, help="results of `quorate bench robustness`")
    return parser


def describe(summary: Summary | None) -> str:
    """Return the accuracy without an attack and under the worst one, in percent."""
    if summary is None or summary.worst is None or summary.clean is None:
        return "-"
    attack, accuracy = summary.worst
    return f"{100 * summary.clean:.1f} > {100 * accuracy:.1f} {attack}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, train, and print a line for each rule and setting."""
    options = _get_arguments().parse_args(arguments)
    grid = Grid(
        tuple(options.rule or RULES),
        seeds=options.seeds,
        parameters=Hyperparameters(steps=options.steps),
    )
    cases = make_cases(grid)
    outcomes = run_cases(
        cases,
        grid.parameters,
        jobs=options.jobs,
        path=options.results,
        on_outcome=lambda _case, _outcome: None,
        make_server=ByzflServer,
    )
    found = {} if options.ours is None else read_results(options.ours, grid.parameters)
    tables = [
        {(each.rule, each.num_byzantine, each.alpha): each for each in summarize(part)}
        for part in (outcomes, {case: found[case] for case in cases if case in found})
    ]
    print(f"{'rule':<26}{'setting':<16}{'ByzFL, floats':<24}Quorate, integers")
    for num_byzantine, alpha in SETTINGS:
        for rule in grid.rules:
            theirs, ours = (describe(each.get((rule, num_byzantine, alpha))) for each in tables)
            setting = f"f={num_byzantine} alpha={alpha:g}"
            print(f"{rule:<26}{setting:<16}{theirs:<24}{ours}")


if __name__ == "__main__":
    main()
