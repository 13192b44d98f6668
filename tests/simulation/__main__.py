"""Runs simulations: ``python -m tests.simulation --seeds 300`` or ``--seed 17``."""

# ruff: noqa: E402 - trio is replaced before anything imports it.
from tests.simulation import virtual_trio

virtual_trio.install()

import argparse
import itertools
import logging
import multiprocessing
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import nacl.bindings
import structlog

from node.mempool import slices
from tests.simulation.findings import describe_finding, make_table, write_table
from tests.simulation.planted import PLANTED
from tests.simulation.world import World

SLICE_STEP_S = 0.0007
"""What the clock of long work shows more at each look: slices end by count, not by real time."""
PROGRESS_S = 20.0
"""How often a long run tells how far it is."""


VERIFIED_MAX = 16_384
"""Signatures remembered as valid, over all nodes: each is verified once, and not once by each."""


def remember_signatures() -> None:
    """Verify each signature once: what is valid for one node is valid for all."""
    verify = nacl.bindings.crypto_sign_open
    nacl.bindings.crypto_sign_open = lru_cache(maxsize=VERIFIED_MAX)(verify)


def run_seed(seed: int) -> str:
    """Run one seed; return the digest of its trace."""
    shared_memory = Path("/dev/shm")
    folder = shared_memory if shared_memory.is_dir() else None
    looks = itertools.count()
    slices.perf_counter = lambda: next(looks) * SLICE_STEP_S  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory(dir=folder) as name:
        world = World(seed, Path(name))
        virtual_trio.run(world.run, seed=seed)
        return f"{world.trace.hexdigest()[:16]} heights {world.height}"


def try_seed(seed: int) -> tuple[int, str, str | None, str]:
    """Run one seed; return it with its digest, and if it failed with what happened, and where."""
    try:
        return seed, run_seed(seed), None, ""
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever it is, the seed has failed.
        return seed, "", describe_finding(error), "".join(traceback.format_exception(error))


def run_seeds(seeds: range, jobs: int) -> Iterator[tuple[int, str, str | None, str]]:
    """Yield the outcome of each seed, in order."""
    if jobs == 1:
        yield from map(try_seed, seeds)
        return
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap(try_seed, seeds, chunksize=4)


def report_seeds(arguments: argparse.Namespace) -> int:
    """Run seeds until one fails; tell how to see it again."""
    first, count = arguments.first, arguments.seeds
    if arguments.seed is not None:
        first, count = arguments.seed, 1
    plant = f" --plant {arguments.plant}" if arguments.plant is not None else ""
    began = told = time.monotonic()
    for seed, digest, finding, trace in run_seeds(range(first, first + count), arguments.jobs):
        if finding is not None:
            print(trace, file=sys.stderr)
            print(finding)
            print(
                f"seed {seed} FAILED; reproduce: python -m tests.simulation --seed {seed}{plant}",
                flush=True,
            )
            return 1
        if arguments.seed is not None:
            print(f"seed {seed}: trace {digest}")
        if time.monotonic() - told > PROGRESS_S:
            told = time.monotonic()
            print(f"{seed - first + 1} of {count} in {told - began:.0f} s", flush=True)
    passed = "1 seed" if count == 1 else f"{count} seeds"
    print(f"{passed} passed in {time.monotonic() - began:.0f} s")
    return 0


def main() -> int:
    """Run the seeds that the arguments name; non-zero if one fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="one seed, with the node's log")
    parser.add_argument("--jobs", type=int, default=1, help="how many processes")
    parser.add_argument(
        "--plant",
        choices=[*sorted(PLANTED), "all"],
        help="break the node on purpose; all: each fault in turn, and write the table",
    )
    arguments = parser.parse_args()
    if min(arguments.seeds, arguments.jobs) < 1 or min(arguments.first, arguments.seed or 0) < 0:
        parser.error("At least one seed and one process; seeds are not negative.")
    if arguments.plant == "all":
        rows = make_table(PLANTED, arguments.seeds, arguments.jobs)
        write_table(rows)
        return 0 if all(row.seed is not None for row in rows) else 1
    if arguments.plant is not None:
        PLANTED[arguments.plant]()
    remember_signatures()
    level = logging.INFO if arguments.seed is not None else logging.CRITICAL
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))
    return report_seeds(arguments)


if __name__ == "__main__":
    sys.exit(main())
