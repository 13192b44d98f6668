"""Time every aggregation rule beside Flower and ByzFL: a table for people, JSON for comparing.

Owns the comparison. Never judges a figure: machines differ, and so do their neighbours.

Run as `python -m bench.aggregation --n 32 100 --dim 100000 1000000 10000000 [--json FILE]`. Every
case has a process of its own, one after the other, with as many threads as `--threads` says (one by
default, as a node has). Ratios are of processor time, which other work on the machine disturbs
least; milliseconds of both kinds are in the JSON. Libraries that are not installed are left out:
`pip install --group peers` brings them.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from quorate.chain.task import AggregationRule

from aggregation import compute_updates_min
from bench.aggregation_cases import (
    BYZFL,
    BYZFL_NUMPY,
    FLOWER,
    OURS,
    PEERS,
    RULES,
    Figures,
    compute_num_byzantine,
    is_available,
)

CASE_SECONDS_MAX: Final = 60
MEMORY_MIB_DEFAULT: Final = 12 << 10


@dataclass(frozen=True)
class Failure:
    """A case without figures: it took too long, or wanted too much memory."""

    library: str
    rule: str
    n_updates: int
    dimension: int
    cause: str


Outcome = Figures | Failure


def run_case(
    library: str,
    rule: str,
    n_updates: int,
    dimension: int,
    *,
    threads: int,
    memory_mib: int,
    seconds_max: int = CASE_SECONDS_MAX,
) -> Outcome:
    """Measure one case in a process of its own."""
    case = (library, rule, n_updates, dimension)
    limits = {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"}
    environment = os.environ | {
        **dict.fromkeys(limits, str(threads)),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    command = [sys.executable, "-m", "bench.aggregation_cases", *map(str, case)]
    try:
        finished = subprocess.run(
            [*command, str(threads), str(memory_mib)],
            env=environment,
            cwd=Path(__file__).resolve().parents[1],
            capture_output=True,
            text=True,
            timeout=seconds_max,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Failure(*case, f"over {seconds_max} s")
    if finished.returncode == 0:
        return Figures(**json.loads(finished.stdout.splitlines()[-1]))
    cause = find_memory_cause(finished.stderr, memory_mib)
    if cause is None:
        raise RuntimeError(f"{case} failed:\n{finished.stderr}")
    return Failure(*case, cause)


def find_memory_cause(errors: str, memory_mib: int) -> str | None:
    """Return what a case lacked, by what it wrote before it ended, or None if it was not memory."""
    by_torch = re.search(r"you tried to allocate (\d+) bytes", errors)
    if by_torch is not None:
        return f"wants {int(by_torch[1]) / 1e9:.0f} GB"
    by_numpy = re.search(r"Unable to allocate ([\d.]+) ([MGT]iB)", errors)
    if by_numpy is not None:
        size = float(by_numpy[1]) * {"MiB": 2**20, "GiB": 2**30, "TiB": 2**40}[by_numpy[2]]
        return f"wants {size / 1e9:.0f} GB"
    return f"over {memory_mib / 1024:.0f} GiB" if "MemoryError" in errors else None


def run_all(options: argparse.Namespace) -> list[Outcome]:
    """Measure all cases, one after the other, printing a line for each rule and size."""
    libraries = [library for library in (OURS, *PEERS) if is_available(library)]
    outcomes: list[Outcome] = []
    print_heading()
    for n_updates in options.n:
        for dimension in options.dim:
            for rule in options.rules:
                f = compute_num_byzantine(rule, n_updates)
                if compute_updates_min(AggregationRule(RULES[rule], f)) > n_updates:
                    continue
                row = [
                    run_case(
                        library,
                        rule,
                        n_updates,
                        dimension,
                        threads=options.threads,
                        memory_mib=options.memory_mib,
                        seconds_max=options.case_seconds,
                    )
                    for library in libraries
                    if library == OURS or rule in PEERS[library]
                ]
                print_row(rule, n_updates, f, dimension, row)
                outcomes += row
    return outcomes


def print_heading() -> None:
    """Print what the columns are."""
    print(
        f"{'rule':18} {'n':>4} {'f':>3} {'d':>10} {'ms':>9} {'ns/value':>8} {'peak':>5}"
        f" {'flower ms':>10} {'ratio':>6} {'peak':>5} {'byzfl ms':>10} {'ratio':>6} {'peak':>5}"
    )


def print_row(rule: str, n_updates: int, f: int, dimension: int, row: Sequence[Outcome]) -> None:
    """Print one rule: ours, then each peer with how many times as long it took."""
    found = {outcome.library: outcome for outcome in row}
    ours = found[OURS]
    # Of ByzFL's two ways the faster one counts.
    ways = [found[way] for way in (BYZFL, BYZFL_NUMPY) if way in found]
    if ways:
        found[BYZFL] = min(ways, key=_get_cpu_ms)
    cells = [f"{rule:18} {n_updates:4} {f:3} {dimension:10,}"]
    if isinstance(ours, Failure):
        cells.append(f"{ours.cause:>24}")
    else:
        per_value = ours.cpu_ms * 1e6 / (n_updates * dimension)
        cells.append(f"{ours.cpu_ms:9.1f} {per_value:8.2f} {ours.peak_ratio:5.1f}")
    for library in (FLOWER, BYZFL):
        peer = found.get(library)
        if peer is None:
            cells.append(f"{'-':>10} {'':6} {'':5}")
        elif isinstance(peer, Failure) or isinstance(ours, Failure):
            cause = peer.cause if isinstance(peer, Failure) else ""
            cells.append(f"{cause:>10} {'':6} {'':5}")
        else:
            ratio = peer.cpu_ms / ours.cpu_ms
            cells.append(f"{peer.cpu_ms:10.1f} {ratio:6.2f} {peer.peak_ratio:5.1f}")
    print(" ".join(cells), flush=True)


def _get_cpu_ms(outcome: Outcome) -> float:
    return outcome.cpu_ms if isinstance(outcome, Figures) else float("inf")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print, and write JSON if asked to."""
    parser = argparse.ArgumentParser(prog="bench.aggregation", description="Time every rule.")
    parser.add_argument("--n", type=int, nargs="+", default=[32, 100], help="updates of a round")
    parser.add_argument("--dim", type=int, nargs="+", default=[10**5, 10**6, 10**7])
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument("--threads", type=int, default=1, help="threads of each library")
    parser.add_argument("--memory-mib", type=int, default=MEMORY_MIB_DEFAULT, help="per case")
    parser.add_argument("--case-seconds", type=int, default=CASE_SECONDS_MAX, help="per case")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    outcomes = run_all(options)
    if options.json:
        figures = {"cases": [asdict(outcome) for outcome in outcomes]}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
