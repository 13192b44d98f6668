"""The figures of a training round of a large model, and how people read them.

Owns their names and units, what a phase of the round is, and the table. Never runs a round.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from rich.table import Table

from bench.machine import Memory, read_cpu_seconds
from bench.testbed import Testbed
from bench.watching import Arrival

MARK_MB_PER_S, MARK_BLOCKS_PER_S = 30, 2
SAMPLE_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Phase:
    """What went on for a while.

    Attributes
    ----------
    seconds : float
    blocks_per_s : float
        A block counts when the first of the nodes tells of it.
    longest_gap_s : float
        The longest time in which no node told of a block.
    longest_node_gap_s : float
        The longest time in which one of the nodes told of none: it may lack what the others have.
    nodes_cpu_s, load_cpu_s : float
        Processor time of all nodes together, and of the process that uploads.
    """

    seconds: float
    blocks_per_s: float
    longest_gap_s: float
    longest_node_gap_s: float
    nodes_cpu_s: float
    load_cpu_s: float


@dataclass(frozen=True, slots=True)
class LargeRoundFigures:
    """A training round of a large model.

    Attributes
    ----------
    parameters, participants, nodes : int
    update_mb, updates_mb : float
        Megabytes (10^6 bytes) of one update, and of all.
    committed_mb_per_s : float
        All updates, over the time from the first byte uploaded to the block of the last update.
    uploaded_mb_per_s : float
        The same until the last answer of a node to an upload.
    moving : Phase
        From the first byte to the block of the last update.
    aggregating : Phase
        From there to the block with the result.
    finalized_s : float
        From the first byte to the block with the result.
    is_frozen : bool
        Whether the result came in a later block than the one that sealed the round.
    memory : list of Memory
        Resident memory of each node, the peak over both phases.
    weights_root : str
        The same on all nodes, and of the aggregation beside them.
    download_mb_per_s : float
        The new weights, verified, from all nodes into a file.
    """

    parameters: int
    participants: int
    nodes: int
    update_mb: float
    updates_mb: float
    committed_mb_per_s: float
    uploaded_mb_per_s: float
    moving: Phase
    aggregating: Phase
    finalized_s: float
    is_frozen: bool
    memory: list[Memory]
    weights_root: str
    download_mb_per_s: float


class CpuSampler(threading.Thread):
    """Notes the processor time of the nodes and of this process, some times a second."""

    def __init__(self, testbed: Testbed) -> None:
        super().__init__(name="cpu", daemon=True)
        self._pids = testbed.pids
        self._is_stopped = threading.Event()
        self._samples: list[tuple[float, float, float]] = []

    def run(self) -> None:
        """Sample until stopped."""
        while not self._is_stopped.wait(SAMPLE_S):
            try:
                nodes = sum(read_cpu_seconds(pid) for pid in self._pids)
            except OSError:
                return  # A node has ended: whoever waits for it tells.
            self._samples.append((time.monotonic(), nodes, time.process_time()))

    def stop(self) -> None:
        """End the thread."""
        self._is_stopped.set()
        self.join()

    def get_between(self, start: float, end: float) -> tuple[float, float]:
        """Return the processor seconds of the nodes and of this process within a time."""
        seconds, nodes, load = (np.array(column) for column in zip(*self._samples, strict=True))
        spent = [np.interp([start, end], seconds, values) for values in (nodes, load)]
        return float(spent[0][1] - spent[0][0]), float(spent[1][1] - spent[1][0])


def merge_arrivals(of_nodes: Sequence[Sequence[Arrival]]) -> list[Arrival]:
    """Return each block once, as the first of the nodes told of it."""
    first: dict[int, Arrival] = {}
    for arrivals in of_nodes:
        for each in arrivals:
            known = first.get(each.height)
            if known is None or each.seconds < known.seconds:
                first[each.height] = each
    return [first[height] for height in sorted(first)]


def make_phase(
    of_nodes: Sequence[Sequence[Arrival]], sampler: CpuSampler, start: float, end: float
) -> Phase:
    """Return what went on between two moments of the monotonic clock."""
    within = [each for each in merge_arrivals(of_nodes) if start < each.seconds <= end]
    nodes_cpu_s, load_cpu_s = sampler.get_between(start, end)
    return Phase(
        seconds=end - start,
        blocks_per_s=len(within) / (end - start) if end > start else 0.0,
        longest_gap_s=_find_longest_gap(within, start, end),
        longest_node_gap_s=max(_find_longest_gap(each, start, end) for each in of_nodes),
        nodes_cpu_s=nodes_cpu_s,
        load_cpu_s=load_cpu_s,
    )


def _find_longest_gap(arrivals: Sequence[Arrival], start: float, end: float) -> float:
    inner = sorted(each.seconds for each in arrivals if start < each.seconds <= end)
    return max(after - before for before, after in pairwise([start, *inner, end]))


def make_table(figures: LargeRoundFigures) -> Table:
    """Return the figures as people read them, with the marks that they are held against."""
    title = (
        f"{figures.participants} updates of {figures.update_mb:g} MB, {figures.parameters:,} "
        f"parameters, {figures.nodes} nodes"
    )
    table = Table("figure", "measured", "mark", title=title)
    table.columns[1].justify = table.columns[2].justify = "right"
    committed = f"{figures.committed_mb_per_s:.1f} MB/s"
    table.add_row("updates committed", committed, f"{MARK_MB_PER_S} MB/s")
    table.add_row("updates uploaded", f"{figures.uploaded_mb_per_s:.1f} MB/s")
    for name, phase in (("moving", figures.moving), ("aggregating", figures.aggregating)):
        rate = f"{phase.blocks_per_s:.1f}/s"
        table.add_row(f"blocks while {name}", rate, f"{MARK_BLOCKS_PER_S}/s")
        gaps = f"{phase.longest_gap_s:.2f} s, {phase.longest_node_gap_s:.2f} s"
        table.add_row("longest time without one: of all, of a node", gaps)
        table.add_row(f"seconds of {name}", f"{phase.seconds:.1f} s")
        table.add_row(f"CPU of all nodes while {name}", f"{phase.nodes_cpu_s:.1f} s", "")
    table.add_row("first byte to finalized weights", f"{figures.finalized_s:.1f} s")
    table.add_row("CPU of the uploads", f"{figures.moving.load_cpu_s:.1f} s")
    peak = max(each.peak_mb for each in figures.memory)
    table.add_row("memory of a node, at most", f"{peak:.0f} MB")
    table.add_row("weights downloaded from all nodes", f"{figures.download_mb_per_s:.0f} MB/s")
    table.add_row("weights on all nodes, and beside them", figures.weights_root[:16])
    return table
