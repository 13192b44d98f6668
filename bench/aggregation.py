"""Time every aggregation rule beside Flower and ByzFL: a table for people, JSON for comparing.

Owns the comparison. Never judges a figure: machines differ, and so do their neighbours.

Run as `python -m bench.aggregation --n 32 100 --dim 100000 1000000 10000000 --results FILE`. Every
case has a process of its own, one after the other, with as many threads as `--threads` says (one by
default, as a node has). With `--results`, what a case came to is added to a file as soon as it
ends, and the same command goes on there after an interruption. Ratios are of processor time, which
other work on the machine disturbs least; milliseconds of both kinds are in the JSON (`--json`).
Libraries that are not installed are left out: `pip install --group peers` brings them.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from quorate.chain.task import PARAMETERS_MAX, UPDATES_PER_ROUND_MAX, AggregationRule

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
from bench.aggregation_results import Case, Failure, Limits, Outcome, Results, get_case
from bench.command_line import (
    add_json_option,
    make_parser,
    parse_file,
    report,
    run,
    whole_number,
    write_json,
)
from bench.errors import BenchError
from bench.machine import describe_machine

KILLED: Final = "killed"
"""By the kernel, which ends whoever is largest when memory is short."""
BROKEN: Final = "failed"
"""A peer, for a cause of its own, which is told on standard error."""
LIMIT_MAX: Final = 1_000_000
"""No limit of a case is higher: a week has fewer seconds, and 900 GB are fewer MiB."""


def run_case(library: str, rule: str, n_updates: int, dimension: int, limits: Limits) -> Outcome:
    """Measure one case in a process of its own.

    Raises
    ------
    BenchError
        If it is ours, and fails for another cause than its limits.
    """
    case = (library, rule, n_updates, dimension)
    variables = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    environment = os.environ | {
        **dict.fromkeys(variables, str(limits.threads)),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    command = [sys.executable, "-m", "bench.aggregation_cases", *map(str, case)]
    try:
        finished = _run_bound(
            [*command, str(limits.threads), str(limits.memory_mib)],
            environment,
            limits.case_seconds,
        )
    except subprocess.TimeoutExpired:
        return Failure(*case, f"over {limits.case_seconds} s")
    if finished.returncode == 0:
        return Figures(**json.loads(finished.stdout.splitlines()[-1]))
    cause = find_memory_cause(finished.stderr, limits.memory_mib)
    if cause is None and finished.returncode == -signal.SIGKILL:
        cause = KILLED
    if cause is None and library != OURS:
        report(f"{library} failed: {finished.stderr.strip().rpartition(chr(10))[2]}")
        cause = BROKEN
    if cause is None:
        raise BenchError(f"The case {case} failed:\n{finished.stderr}")
    return Failure(*case, cause)


def _run_bound(
    command: Sequence[str], environment: Mapping[str, str], seconds_max: int
) -> subprocess.CompletedProcess[str]:
    """Run a process that ends with this one: when its standard input does.

    An interruption may come before `subprocess` knows of the process it has started.
    """
    reading, writing = os.pipe()
    try:
        return subprocess.run(
            command,
            env=environment,
            cwd=Path(__file__).resolve().parents[1],
            stdin=reading,
            capture_output=True,
            text=True,
            timeout=seconds_max,
            check=False,
        )
    finally:
        os.close(reading)
        os.close(writing)


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


def run_all(rows: Sequence[Sequence[Case]], limits: Limits, path: Path | None) -> list[Outcome]:
    """Measure cases, one after the other, printing a line for each rule and size.

    Parameters
    ----------
    rows : sequence of sequence of Case
        As `make_rows` returns them.
    limits : Limits
    path : Path or None
        A file of results: what it has is not measured again, and the others are added to it.

    Raises
    ------
    BenchError
        If that file is none of results, or a case of ours fails for another cause than its limits.
    """
    results = Results(limits, path)
    n_cases = sum(map(len, rows))
    n_known = sum(results.find(case) is not None for row in rows for case in row)
    if n_known:
        report(f"{n_known} of {n_cases} cases are in {path}; remove it to measure them again")
    outcomes: list[Outcome] = []
    print_heading()
    for row in rows:
        found: list[Outcome] = []
        for case in row:
            outcome = results.find(case)
            if outcome is None:
                number = len(outcomes) + len(found) + 1
                library, rule, n_updates, dimension = case
                report(f"{number} of {n_cases}: {library}, {rule}, n={n_updates}, d={dimension:,}")
                outcome = run_case(*case, limits)
                # What says nothing of a rule's cost, the next run tries again.
                if not (isinstance(outcome, Failure) and outcome.cause in (KILLED, BROKEN)):
                    results.add(outcome)
            found.append(outcome)
        print_row(found)
        outcomes += found
    return outcomes


def make_rows(
    counts: Sequence[int], dimensions: Sequence[int], rules: Sequence[str]
) -> list[list[Case]]:
    """Return the cases, those of one rule and size together, ours first.

    A rule is left out where there are too few updates for it, and a library where it has no such
    rule or is not installed.
    """
    libraries = [library for library in (OURS, *PEERS) if is_available(library)]
    return [
        [
            (library, rule, n_updates, dimension)
            for library in libraries
            if library == OURS or rule in PEERS[library]
        ]
        for n_updates in dict.fromkeys(counts)
        for dimension in dict.fromkeys(dimensions)
        for rule in dict.fromkeys(rules)
        if _compute_updates_min(rule, n_updates) <= n_updates
    ]


def _compute_updates_min(rule: str, n_updates: int) -> int:
    f = compute_num_byzantine(rule, n_updates)
    return compute_updates_min(AggregationRule(RULES[rule], f))


def print_heading() -> None:
    """Print what the columns are."""
    print(
        f"{'rule':18} {'n':>4} {'f':>3} {'d':>10} {'ms':>9} {'ns/value':>8} {'peak':>5}"
        f" {'flower ms':>10} {'ratio':>6} {'peak':>5} {'byzfl ms':>10} {'ratio':>6} {'peak':>5}"
    )


def print_row(row: Sequence[Outcome]) -> None:
    """Print one rule: ours, then each peer with how many times as long it took."""
    _, rule, n_updates, dimension = get_case(row[0])
    f = compute_num_byzantine(rule, n_updates)
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure, print, and write JSON if asked to."""
    parser = make_parser(
        "bench.aggregation", "Time every aggregation rule beside Flower and ByzFL."
    )
    parser.add_argument(
        "--n",
        type=whole_number(1, UPDATES_PER_ROUND_MAX),
        nargs="+",
        default=[32, 100],
        metavar="UPDATES",
        help="updates of a round",
    )
    parser.add_argument(
        "--dim",
        type=whole_number(1, PARAMETERS_MAX),
        nargs="+",
        default=[10**5, 10**6, 10**7],
        metavar="PARAMETERS",
        help="parameters of an update",
    )
    parser.add_argument(
        "--rules", nargs="+", choices=RULES, default=list(RULES), metavar="RULE", help="some of all"
    )
    for name, default, what in (
        ("--threads", Limits().threads, "threads of each library"),
        (
            "--memory-mib",
            Limits().memory_mib,
            "MiB of memory a case may take for its inputs and its work",
        ),
        (
            "--case-seconds",
            Limits().case_seconds,
            "seconds a case may take, with its start and its inputs",
        ),
    ):
        parser.add_argument(
            name, type=whole_number(1, LIMIT_MAX), default=default, metavar="NUMBER", help=what
        )
    add_json_option(parser)
    parser.add_argument(
        "--results",
        type=parse_file,
        metavar="FILE",
        help="keep here what each case came to; the same command goes on there",
    )
    options = parser.parse_args(arguments)
    limits = Limits(options.threads, options.memory_mib, options.case_seconds)

    def work() -> None:
        rows = make_rows(options.n, options.dim, options.rules)
        if not rows:
            raise BenchError("None of these rules takes so few updates.")
        outcomes = run_all(rows, limits, options.results)
        document = {
            "machine": asdict(describe_machine()),
            "settings": asdict(limits),
            "cases": [asdict(outcome) for outcome in outcomes],
        }
        write_json(options.json, document)

    left = "nothing was kept: name a file with --results"
    if options.results is not None:
        left = f"the same command goes on with what is in {options.results}"
    return run(work, left=left)


if __name__ == "__main__":
    sys.exit(main())
