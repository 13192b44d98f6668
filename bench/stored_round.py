"""Aggregate a training round larger than memory, from files, and tell the memory it took.

Owns the demonstration: it writes n updates of d parameters into a folder, aggregates them through
rows that read their columns from the files, and prints seconds and the peak of resident memory.
Never keeps an update in memory.

Run as `python -m bench.stored_round --n 100 --dim 30000000 --rule trimmed_mean --folder FOLDER`,
which needs 2 n d bytes on disk; the files are removed at the end.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from quorate.chain.task import AggregationRule

from aggregation import aggregate, keeps_aggregate, needs_seed
from bench.aggregation_cases import RULES, compute_num_byzantine

ITEM_BYTES = 2
TILE_VALUES = 1 << 20


class StoredUpdate:
    """An update in a file, of which only the columns that are asked for are read.

    Reading rather than mapping: pages of a map count as resident until the kernel wants them back.
    """

    dtype = np.dtype(np.int16)

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self.shape = (path.stat().st_size // ITEM_BYTES,)

    def __getitem__(self, columns: slice, /) -> NDArray[np.int16]:
        """Return columns start..stop."""
        start, stop, _ = columns.indices(self.shape[0])
        size = ITEM_BYTES * (stop - start)
        data = os.pread(self._file.fileno(), size, ITEM_BYTES * start)
        if len(data) != size:
            raise OSError(f"a read of {size} bytes of an update gave {len(data)}")
        return np.frombuffer(data, "<i2").astype(np.int16, copy=False)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def write_update(path: Path, index: int, dimension: int) -> None:
    """Write an update: noise around a direction that all have in common."""
    generator = np.random.default_rng(index)
    tile = generator.integers(-3000, 3000, TILE_VALUES, np.int16)
    with path.open("wb") as file:
        for start in range(0, dimension, TILE_VALUES):
            part = np.roll(tile, start % 997) + np.int16(500 - start // TILE_VALUES)
            file.write(part[: dimension - start].astype("<i2").tobytes())


def run(options: argparse.Namespace, folder: Path) -> None:
    """Write the round, aggregate it, and print what that took."""
    paths = [folder / f"update-{index}" for index in range(options.n)]
    for index, path in enumerate(paths):
        write_update(path, index, options.dim)
    rule = AggregationRule(RULES[options.rule], compute_num_byzantine(options.rule, options.n))
    updates = [StoredUpdate(path) for path in paths]
    wall, cpu = time.perf_counter(), time.process_time()
    result = aggregate(
        rule,
        updates,
        seed=b"seed" if needs_seed(rule) else None,
        previous=np.zeros(options.dim, np.int16) if keeps_aggregate(rule) else None,
    )
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    for update in updates:
        update.close()
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size_mb = options.n * options.dim * ITEM_BYTES / 2**20
    print(
        f"{options.rule}: n = {options.n}, d = {options.dim:,}, {size_mb:,.0f} MiB of updates:"
        f" {wall:.1f} s ({cpu:.1f} s of processor time), {peak_mb:,.0f} MiB resident at most,"
        f" aggregate {result.vector[:4].tolist()}..."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, and run in a folder that is removed afterwards."""
    parser = argparse.ArgumentParser(prog="bench.stored_round", description=__doc__)
    parser.add_argument("--n", type=int, default=100, help="updates of the round")
    parser.add_argument("--dim", type=int, default=30_000_000, help="parameters of the model")
    parser.add_argument("--rule", choices=RULES, default="trimmed_mean")
    parser.add_argument("--folder", type=Path, help="where there is room; a temporary one")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        run(options, Path(folder))


if __name__ == "__main__":
    main()
