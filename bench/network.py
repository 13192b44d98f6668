"""Measure a network of four processes: a table for people, JSON for comparing.

Owns the order of the measurements and how they are shown. Never judges a figure: machines differ.

Run as `python -m bench.network [--seconds 30] [--only transfers latency] [--json FILE]`.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from quorate.chain.task import AggregationRule
from rich.console import Console
from rich.table import Table

from aggregation import compute_updates_min
from bench.aggregation import run_case
from bench.aggregation_cases import OURS, RULES, compute_num_byzantine
from bench.aggregation_results import Failure, Limits, Outcome
from bench.command_line import (
    SECONDS_MAX,
    add_json_option,
    make_parser,
    positive_number,
    report,
    run,
    whole_number,
    write_json,
)
from bench.figures import Figures, IntervalFigures, LoadFigures, compute_interval
from bench.machine import Memory, describe_machine
from bench.testbed import Testbed, open_testbed
from bench.training import measure_updates
from bench.transfers import BATCH_SIZE, calibrate, list_senders, measure_latency, measure_transfers
from bench.watching import BlockWatch

PHASES: Final = ("interval", "transfers", "latency", "updates", "aggregation")
SECONDS: Final = 30.0
DEPTH: Final = 4_000
AGGREGATION_UPDATES: Final = 32
AGGREGATION_DIMENSION: Final = 100_000
NODES_MAX: Final = 16
DEPTH_MAX: Final = 1_000_000
PER_S_MAX: Final = 1_000_000.0
SETTLE_S: Final = 1.0


def measure(
    phases: Sequence[str], seconds: float, n_nodes: int, depth: int, per_s: float | None
) -> Figures:
    """Measure what is asked for.

    Parameters
    ----------
    phases : sequence of str
        Some of `PHASES`.
    seconds : float
        How long each load lasts.
    n_nodes : int
        How many validators.
    depth : int
        Transfers under way at a time in closed loop.
    per_s : float or None
        The rate of the open loop; half of what the closed loop reached without one.

    Raises
    ------
    QuorateError
        If the network fails, or does not do what it should.
    """
    figures = Figures()
    if "interval" in phases:
        report("starting the nodes; empty blocks follow each other without delay")
        with open_testbed(n_nodes, (), empty_block_interval_ms=0) as testbed:
            figures.interval = _measure_interval(testbed, seconds)
    if {"transfers", "latency", "updates"} & set(phases):
        report("starting the nodes")
        accounts = [key.address for each in list_senders(n_nodes) for key in each.make_keys()]
        with open_testbed(n_nodes, accounts) as testbed:
            _measure_loads(testbed, figures, phases, seconds, depth, per_s)
    if "aggregation" in phases:
        report("aggregating")
        figures.aggregation = _measure_aggregation()
    return figures


def _measure_aggregation() -> list[Outcome]:
    """Time every rule that so many updates admit, on one thread as in a node."""
    n_updates, dimension = AGGREGATION_UPDATES, AGGREGATION_DIMENSION
    return [
        run_case(OURS, rule, n_updates, dimension, Limits())
        for rule, stages in RULES.items()
        if compute_updates_min(AggregationRule(stages, compute_num_byzantine(rule, n_updates)))
        <= n_updates
    ]


def _measure_interval(testbed: Testbed, seconds: float) -> IntervalFigures:
    time.sleep(SETTLE_S)
    report(f"empty blocks for {seconds:g} s")
    with BlockWatch(testbed.urls[0]) as watch:
        time.sleep(seconds)
        return compute_interval(watch.arrivals)


def _measure_loads(
    testbed: Testbed,
    figures: Figures,
    phases: Sequence[str],
    seconds: float,
    depth: int,
    per_s: float | None,
) -> None:
    expected = 0.0
    if "transfers" in phases or ("latency" in phases and per_s is None):
        expected = calibrate(testbed, depth, report)
    if "transfers" in phases:
        figures.transfers = measure_transfers(testbed, seconds, depth, expected, report)
        expected = figures.transfers.per_s_wall
    if "latency" in phases:
        figures.latency = measure_latency(testbed, seconds, per_s or expected / 2, report)
    if "updates" in phases:
        figures.updates = measure_updates(testbed, seconds, report)


def make_table(figures: Figures) -> Table:
    """Return the figures as people read them, with the marks that they are held against."""
    table = Table("figure", "measured", "mark", title="Quorate on one machine")
    table.columns[1].justify = table.columns[2].justify = "right"
    if (interval := figures.interval) is not None:
        table.add_row("block interval, no load, median", f"{interval.median_ms:.1f} ms", "50 ms")
        table.add_row("block interval, no load, p99", f"{interval.p99_ms:.1f} ms")
    if figures.transfers is not None:
        _add_load(table, "transfers", figures.transfers, "2,500/s")
    if (latency := figures.latency) is not None:
        offered = f"at {latency.offered_per_s:,.0f}/s"
        table.add_row(f"submission to decision {offered}, p50", f"{latency.p50_ms:.0f} ms")
        table.add_row(f"submission to decision {offered}, p99", f"{latency.p99_ms:.0f} ms")
    if (updates := figures.updates) is not None:
        _add_load(table, "updates", updates.load, "")
        table.add_row("training rounds finalized", f"{updates.rounds_per_s:.1f}/s")
    for case in figures.aggregation or ():
        name = f"{case.rule}, n = {case.n_updates}, d = {case.dimension:,}"
        table.add_row(name, case.cause if isinstance(case, Failure) else f"{case.wall_ms:.1f} ms")
    return table


def _add_load(table: Table, what: str, load: LoadFigures, mark: str) -> None:
    table.add_row(f"{what} committed", f"{load.per_s_wall:,.0f}/s", mark)
    table.add_row(f"{what} committed, by block time", f"{load.per_s_block_time:,.0f}/s")
    table.add_row(f"CPU for 1,000 {what}, all nodes", f"{load.cpu_s_per_1000:.2f} s")
    table.add_row(
        f"CPU for one of the {what} and one node", f"{load.cpu_us_per_transaction_and_node:.0f} us"
    )
    table.add_row(
        f"processors busy with {what}: nodes, load",
        f"{load.nodes_processors:.2f}, {load.load_processors:.2f}",
    )
    table.add_row(f"memory of a node after {what}", _show_memory(load.memory), "300 MB")


def _show_memory(memory: Sequence[Memory]) -> str:
    return f"{max(each.now_mb for each in memory):.0f} MB"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure, print, and write JSON if asked to."""
    parser = make_parser("bench.network", "Measure a network of processes on this machine.")
    parser.add_argument(
        "--seconds",
        type=positive_number(SECONDS_MAX),
        default=SECONDS,
        help="how long a load lasts",
    )
    parser.add_argument(
        "--only", nargs="+", choices=PHASES, default=PHASES, metavar="PHASE", help="some of all"
    )
    parser.add_argument(
        "--nodes",
        type=whole_number(1, NODES_MAX),
        default=4,
        metavar="NUMBER",
        help="how many validators",
    )
    parser.add_argument(
        "--depth",
        # With less, no batch would ever go.
        type=whole_number(BATCH_SIZE, DEPTH_MAX),
        default=DEPTH,
        metavar="NUMBER",
        help="transfers under way at a time",
    )
    parser.add_argument(
        "--rate",
        type=positive_number(PER_S_MAX),
        help="transfers/s of the latency measurement; half of what was committed, unless given",
    )
    add_json_option(parser)
    options = parser.parse_args(arguments)

    def work() -> None:
        figures = measure(options.only, options.seconds, options.nodes, options.depth, options.rate)
        Console().print(make_table(figures))
        settings = {"seconds": options.seconds, "nodes": options.nodes, "depth": options.depth}
        document = {
            "machine": asdict(describe_machine()),
            "settings": settings,
            "figures": asdict(figures),
        }
        write_json(options.json, document)

    return run(work)


if __name__ == "__main__":
    sys.exit(main())
