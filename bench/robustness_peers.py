"""ByzFL's rules under the attacks of `quorate bench robustness`, on the same trainings, in floats.

Owns the server that aggregates with ByzFL (the dependency group `peers`). Attacks, participants,
batches and hyper-parameters are those of `node.robustness`; only what becomes of the updates is
another's, and no update is rounded.

Run as `python -m bench.robustness_peers --rule clip+nnm+trimmed_mean --seeds 3 --results FILE`;
with the rules' results in a file of `quorate bench robustness --results`, `--ours FILE` prints
them beside.
"""

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
from quorate.chain.task import AggregationRule, Stage

from bench.command_line import make_parser, parse_file, report, run, whole_number
from node.demo.digits import Floats, Model
from node.robustness.case import Case
from node.robustness.grid import SETTINGS, Grid, Summary, make_cases, summarize
from node.robustness.learning import Hyperparameters
from node.robustness.running import JOBS_MAX, count_processors, read_results, run_cases

RULES: Final = ("nnm+trimmed_mean", "clip+nnm+trimmed_mean", "arc+nnm+trimmed_mean")
STAGES: Final = (
    Stage.MEAN,
    Stage.MEDIAN,
    Stage.TRIMMED_MEAN,
    Stage.KRUM,
    Stage.MULTI_KRUM,
    Stage.GEOMETRIC_MEDIAN,
    Stage.NNM,
    Stage.ARC,
    Stage.CLIP,
)
SEEDS_MAX: Final = 1_000
STEPS_MAX: Final = 100_000


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


def parse_rule(text: str) -> str:
    """Return a rule whose stages all have their like in ByzFL."""
    for name in text.split("+"):
        if name not in STAGES:
            raise argparse.ArgumentTypeError(f"{name!r} is none of the stages {', '.join(STAGES)}.")
    return text


def _clip(vectors: Floats) -> Floats:
    import byzfl  # noqa: PLC0415

    bound = float(np.median(np.linalg.norm(vectors, axis=1)))
    clipped: Floats = byzfl.Clipping(bound)(vectors)
    return clipped


def _get_parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "bench.robustness_peers",
        "Train under ByzFL's rules with the attacks of `quorate bench robustness`.",
    )
    parser.add_argument(
        "--rule",
        action="append",
        type=parse_rule,
        metavar="STAGES",
        help=f"stages joined by +; may be repeated; {', '.join(RULES)} unless given",
    )
    for name, maximum, default, what in (
        ("--seeds", SEEDS_MAX, 3, "trainings of each case"),
        ("--steps", STEPS_MAX, Hyperparameters().steps, "training rounds of each training"),
        ("--jobs", JOBS_MAX, count_processors(), "processes side by side"),
    ):
        parser.add_argument(
            name, type=whole_number(1, maximum), default=default, metavar="NUMBER", help=what
        )
    parser.add_argument(
        "--results",
        type=parse_file,
        metavar="FILE",
        help="keep here what each case came to, as JSON; the same command goes on there",
    )
    parser.add_argument(
        "--ours",
        type=parse_file,
        metavar="FILE",
        help="results of `quorate bench robustness`, to be printed beside",
    )
    return parser


def describe(summary: Summary | None) -> str:
    """Return the accuracy without an attack and under the worst one, in percent."""
    if summary is None or summary.worst is None or summary.clean is None:
        return "-"
    attack, accuracy = summary.worst
    return f"{100 * summary.clean:.1f} > {100 * accuracy:.1f} {attack}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, train, and print a line for each rule and setting."""
    parser = _get_parser()
    options = parser.parse_args(arguments)
    if find_spec("byzfl") is None:
        parser.error("ByzFL is not installed here: pip install --group peers")
    grid = Grid(
        tuple(options.rule or RULES),
        seeds=options.seeds,
        parameters=Hyperparameters(steps=options.steps),
    )
    cases = make_cases(grid)
    if not cases:
        parser.error("None of these rules tolerates 4 hostile participants of 20.")
    left = "nothing was kept: name a file with --results"
    if options.results is not None:
        left = f"the same command goes on with what is in {options.results}"
    return run(lambda: compare(grid, cases, options.jobs, options.results, options.ours), left=left)


def compare(
    grid: Grid, cases: Sequence[Case], jobs: int, results: Path | None, others: Path | None
) -> None:
    """Train, and print a line for each rule and setting."""
    ended = itertools.count(1)
    outcomes = run_cases(
        cases,
        grid.parameters,
        jobs=jobs,
        path=results,
        on_outcome=lambda case, _: report(
            f"{next(ended)} of {len(cases)}: {case.rule}, f={case.num_byzantine}, {case.attack}"
        ),
        make_server=ByzflServer,
    )
    found = {} if others is None else read_results(others, grid.parameters)
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
    sys.exit(main())
