"""Runs simulations: ``python -m tests.simulation --seeds 300`` or ``--seed 17``."""

# ruff: noqa: E402 - trio is replaced before anything imports it.
from tests.simulation import virtual_trio

virtual_trio.install()

import argparse
import itertools
import logging
import sys
import tempfile
import time
import traceback
from pathlib import Path

import structlog

from node.mempool import slices
from tests.simulation.planted import PLANTED
from tests.simulation.world import World

SLICE_STEP_S = 0.0007
"""What the clock of long work shows more at each look: slices end by count, not by real time."""


def run_seed(seed: int) -> str:
    """Run one seed; return the digest of its trace."""
    shared_memory = Path("/dev/shm")
    folder = shared_memory if shared_memory.is_dir() else None
    looks = itertools.count()
    slices.perf_counter = lambda: next(looks) * SLICE_STEP_S
    with tempfile.TemporaryDirectory(dir=folder) as name:
        world = World(seed, Path(name))
        virtual_trio.run(world.run, seed=seed)
        return f"{world.trace.hexdigest()[:16]} heights {world.height}"


def main() -> int:
    """Run the seeds that the arguments name; non-zero if one fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="one seed, with the node's log")
    parser.add_argument("--plant", choices=sorted(PLANTED), help="break the node on purpose")
    arguments = parser.parse_args()
    if arguments.plant is not None:
        PLANTED[arguments.plant]()
    level = logging.INFO if arguments.seed is not None else logging.CRITICAL
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))
    first = arguments.first if arguments.seed is None else arguments.seed
    count = arguments.seeds if arguments.seed is None else 1
    began = time.monotonic()
    for seed in range(first, first + count):
        try:
            digest = run_seed(seed)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            traceback.print_exception(error)
            print(f"seed {seed} FAILED; reproduce: python -m tests.simulation --seed {seed}")
            return 1
        if arguments.seed is not None:
            print(f"seed {seed}: trace {digest}")
    print(f"{count} seeds passed in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
