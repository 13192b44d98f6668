"""What this process computes with: BLAS's kernel and threads, numpy's extensions, the hash seed.

Owns asking the libraries themselves, since a variable that they do not read changes nothing. Never
sets anything: whoever starts the process does, before numpy is loaded.
"""

import ctypes
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from aggregation import columns


@dataclass(frozen=True)
class Machine:
    """What a process computes with.

    Attributes
    ----------
    kernel : str
        OpenBLAS's name for the processor it computes for; empty if numpy has another BLAS.
    threads : int
        BLAS's threads; 0 if numpy has another BLAS.
    extensions : list of str
        The vector extensions that numpy uses beside those it cannot do without.
    hash_of_text : int
        Depends on the hash seed alone.
    block_values : int
        How many integers a block has.
    """

    kernel: str
    threads: int
    extensions: list[str]
    hash_of_text: int
    block_values: int


def describe_machine() -> dict[str, object]:
    """Describe this process."""
    kernel, threads = ask_openblas()
    return asdict(
        Machine(kernel, threads, find_extensions(), hash("text"), columns.BLOCK_VALUES),
    )


def ask_openblas() -> tuple[str, int]:
    """Return the kernel and the number of threads of the OpenBLAS that numpy has loaded."""
    maps = Path("/proc/self/maps")
    if sys.platform != "linux" or not maps.exists():
        return "", 0
    loaded = {line.split()[-1] for line in maps.read_text().splitlines() if "openblas" in line}
    for path in sorted(loaded):
        library = ctypes.CDLL(path)
        for prefix, suffix in (("scipy_", "64_"), ("scipy_", ""), ("", "64_"), ("", "")):
            name = getattr(library, f"{prefix}openblas_get_corename{suffix}", None)
            if name is not None:
                name.restype = ctypes.c_char_p
                threads = getattr(library, f"{prefix}openblas_get_num_threads{suffix}")
                return name().decode(), int(threads())
    return "", 0


def find_extensions() -> list[str]:
    """The vector extensions that this numpy uses and could do without, on this processor."""
    simd = np.show_config(mode="dicts")["SIMD Extensions"]
    return [str(name) for name in simd.get("found", [])]


def count_processors() -> int:
    """How many processors this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
