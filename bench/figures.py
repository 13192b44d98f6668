"""The figures of a network benchmark, as JSON shows them.

Owns their names, units and the arithmetic from blocks to rates. Never measures.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.aggregation_results import Outcome
from bench.errors import BenchError
from bench.machine import Memory
from bench.watching import Arrival


@dataclass(frozen=True, slots=True)
class IntervalFigures:
    """Time from one block to the next without load, by arrival of their events.

    `mean_block_time_ms` is by the blocks' own times.
    """

    blocks: int
    median_ms: float
    p99_ms: float
    mean_block_time_ms: float


@dataclass(frozen=True, slots=True)
class Cost:
    """What the nodes and the load cost over a phase.

    Attributes
    ----------
    seconds : float
        How long the phase was.
    nodes_cpu_s, load_cpu_s : float
        Processor time of all nodes together, and of the process that makes the load.
    memory : list of Memory
        Of each node, at the end.
    """

    seconds: float
    nodes_cpu_s: float
    load_cpu_s: float
    memory: list[Memory]


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """Transactions decided in a sustained load.

    Attributes
    ----------
    transactions, blocks, first_height, last_height : int
        What was counted: the transactions of the blocks from `first_height` to `last_height`.
    per_s_wall, per_s_block_time : float
        Over the time between the arrivals of the block before the first and the last, and over
        the time between these blocks' own times.
    cpu_s_per_1000 : float
        Processor seconds of all nodes together for 1,000 transactions.
    cpu_us_per_transaction_and_node : float
        The same for one transaction and one node.
    load_processors : float
        Processors that the load itself kept busy.
    nodes_processors : float
        Processors that the nodes kept busy.
    has_run_out : bool
        Whether the prepared load ended before the time.
    """

    transactions: int
    blocks: int
    first_height: int
    last_height: int
    per_s_wall: float
    per_s_block_time: float
    cpu_s_per_1000: float
    cpu_us_per_transaction_and_node: float
    nodes_processors: float
    load_processors: float
    memory: list[Memory]
    refused: dict[str, int]
    has_run_out: bool = False


@dataclass(frozen=True, slots=True)
class LatencyFigures:
    """Time from submission to the arrival of the block, of every transaction of an open loop."""

    offered_per_s: float
    transactions: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    refused: dict[str, int]


@dataclass(frozen=True, slots=True)
class UpdateFigures:
    """Updates decided in a sustained load, and the training rounds that they made.

    Attributes
    ----------
    load : LoadFigures
        The updates are its transactions.
    tasks, participants, parameters : int
        Tasks, participants of each, parameters of the model.
    rounds : int
        Training rounds finalized within the time.
    updates_aggregated : int
        The updates that these rounds counted.
    """

    load: LoadFigures
    tasks: int
    participants: int
    parameters: int
    rounds: int
    rounds_per_s: float
    updates_aggregated: int


@dataclass(slots=True)
class Figures:
    """Everything that was measured; None where it was not asked for."""

    interval: IntervalFigures | None = None
    transfers: LoadFigures | None = None
    latency: LatencyFigures | None = None
    updates: UpdateFigures | None = None
    aggregation: list[Outcome] | None = None


def compute_interval(arrivals: Sequence[Arrival]) -> IntervalFigures:
    """Return the figures of consecutive blocks.

    Raises
    ------
    BenchError
        If there are too few.
    """
    _require_blocks(arrivals)
    by_arrival = np.diff([each.seconds for each in arrivals]) * 1e3
    by_time = np.diff([each.time_ms for each in arrivals])
    return IntervalFigures(
        blocks=len(arrivals),
        median_ms=float(np.median(by_arrival)),
        p99_ms=float(np.percentile(by_arrival, 99)),
        mean_block_time_ms=float(by_time.mean()),
    )


def compute_load(
    arrivals: Sequence[Arrival],
    n_nodes: int,
    cost: Cost,
    refused: Counter[str],
    *,
    has_run_out: bool = False,
) -> LoadFigures:
    """Return the figures of consecutive blocks under load; the first one begins the time.

    Raises
    ------
    BenchError
        If there are too few.
    """
    _require_blocks(arrivals)
    first, last = arrivals[0], arrivals[-1]
    counted = arrivals[1:]
    transactions = sum(each.transactions for each in counted)
    if not transactions:
        raise BenchError("No transaction was decided within the time: measure longer.")
    per_s = transactions / (last.seconds - first.seconds)
    decided = per_s * cost.seconds
    return LoadFigures(
        transactions=transactions,
        blocks=len(counted),
        first_height=counted[0].height,
        last_height=last.height,
        per_s_wall=per_s,
        per_s_block_time=transactions / ((last.time_ms - first.time_ms) / 1e3),
        cpu_s_per_1000=cost.nodes_cpu_s / decided * 1e3,
        cpu_us_per_transaction_and_node=cost.nodes_cpu_s / decided / n_nodes * 1e6,
        nodes_processors=cost.nodes_cpu_s / cost.seconds,
        load_processors=cost.load_cpu_s / cost.seconds,
        memory=cost.memory,
        refused=dict(refused),
        has_run_out=has_run_out,
    )


def compute_latency(
    latencies_s: Sequence[float], offered_per_s: float, refused: Counter[str]
) -> LatencyFigures:
    """Return the figures of the latencies of transactions, in seconds.

    Raises
    ------
    BenchError
        If there are none.
    """
    if not latencies_s:
        raise BenchError("No transaction was decided within the time: measure longer.")
    p50, p99 = np.percentile(latencies_s, [50, 99]) * 1e3
    return LatencyFigures(
        offered_per_s=offered_per_s,
        transactions=len(latencies_s),
        p50_ms=float(p50),
        p99_ms=float(p99),
        max_ms=max(latencies_s) * 1e3,
        refused=dict(refused),
    )


def _require_blocks(arrivals: Sequence[Arrival]) -> None:
    if len(arrivals) < 2:
        raise BenchError(f"Only {len(arrivals)} blocks came within the time: measure longer.")
    heights = [each.height for each in arrivals]
    if heights != list(range(heights[0], heights[0] + len(heights))):
        raise BenchError("The events left out blocks: this is a defect of the node.")
