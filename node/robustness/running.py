"""Running many cases: side by side, resumable, and stopped cleanly.

Owns the processes and the file of results, a line a case. Never decides which cases there are.

The file is only ever added to. Cases that it has are not run again, unless it has them for other
hyper-parameters; a last line that was cut off counts for nothing.
"""

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from io import TextIOWrapper
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import msgspec
from quorate.chain.errors import QuorateError
from quorate.chain.known_types import decode_json

from node.robustness.case import Case, IntegerServer, MakeServer, Outcome, run_case
from node.robustness.learning import Hyperparameters

JOBS_MAX: Final = 64
WAITING_MAX: Final = 4
"""Cases handed to each process ahead, so that none waits and few are lost by a stop."""
RESULTS_BYTES_MAX: Final = 1 << 26


class ResultsError(QuorateError):
    """A file of results that cannot be read."""


@dataclass(frozen=True)
class Finished:
    """A line of the file of results."""

    case: Case
    parameters: Hyperparameters
    outcome: Outcome


def count_processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_results(path: Path, parameters: Hyperparameters) -> dict[Case, Outcome]:
    """Return the outcomes in a file that were reached with these hyper-parameters.

    Raises
    ------
    ResultsError
        If a line but the last is no result, or the file is too long to be one of results.
    """
    if not path.exists():
        return {}
    if path.stat().st_size > RESULTS_BYTES_MAX:
        raise ResultsError(f"{path} has more than {RESULTS_BYTES_MAX} bytes: it is another file.")
    found: dict[Case, Outcome] = {}
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            finished = decode_json(line, Finished)
        except (msgspec.DecodeError, ValueError) as error:
            if number == len(lines):
                break  # Cut off by a stop in the middle of a write.
            raise ResultsError(f"Line {number} of {path} is no result: {error}.") from error
        if finished.parameters == parameters:
            found[finished.case] = finished.outcome
    return found


def run_cases(
    cases: Sequence[Case],
    parameters: Hyperparameters,
    *,
    jobs: int,
    path: Path | None,
    on_outcome: Callable[[Case, Outcome], None],
    make_server: MakeServer = IntegerServer,
) -> dict[Case, Outcome]:
    """Run cases that the file of results does not have yet; return what became of all of them.

    Parameters
    ----------
    cases : sequence of Case
    parameters : Hyperparameters
    jobs : int
        Processes side by side; 1: in this one.
    path : Path or None
        The file of results, added to while cases end.
    on_outcome : callable
        Called for each case, those in the file first.
    make_server : callable
        As for `run_case`; the file does not say which.

    Raises
    ------
    ResultsError
        If the file cannot be read.
    KeyboardInterrupt
        When interrupted; the processes are gone, and the file has whatever had ended.
    """
    known = {} if path is None else read_results(path, parameters)
    outcomes = {case: known[case] for case in cases if case in known}
    for case, outcome in outcomes.items():
        on_outcome(case, outcome)
    missing = [case for case in cases if case not in known]
    with ExitStack() as stack:
        file = None if path is None else stack.enter_context(_open_for_adding(path))
        for case, outcome in _run_missing(missing, parameters, jobs, make_server):
            outcomes[case] = outcome
            if file is not None:
                line = msgspec.json.encode(Finished(case, parameters, outcome)).decode()
                file.write(line + "\n")
                file.flush()
            on_outcome(case, outcome)
    return outcomes


def _open_for_adding(path: Path) -> TextIOWrapper:
    """Open a file of results, without the line that was cut off at its end, if there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = path.read_bytes() if path.exists() else b""
    if data and not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)
    return path.open("a", encoding="utf-8")


def _run_missing(
    cases: Sequence[Case], parameters: Hyperparameters, jobs: int, make_server: MakeServer
) -> Iterator[tuple[Case, Outcome]]:
    if jobs == 1 or len(cases) <= 1:
        for case in cases:
            yield case, run_case(case, parameters, make_server)
        return
    # Started anew rather than forked: nothing of this process, its terminal or threads, is shared.
    pool = ProcessPoolExecutor(
        min(jobs, len(cases)), mp_context=get_context("spawn"), initializer=_ignore_interrupts
    )
    try:
        yield from _collect(
            lambda case: pool.submit(run_case, case, parameters, make_server),
            cases,
            jobs * WAITING_MAX,
        )
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _collect(
    submit: Callable[[Case], Future[Outcome]], cases: Iterable[Case], waiting_max: int
) -> Iterator[tuple[Case, Outcome]]:
    left, at_work = iter(cases), dict[Future[Outcome], Case]()
    while True:
        for case in left:
            at_work[submit(case)] = case
            if len(at_work) >= waiting_max:
                break
        if not at_work:
            return
        done, _ = wait(at_work, return_when=FIRST_COMPLETED)
        for future in done:
            yield at_work.pop(future), future.result()


def _ignore_interrupts() -> None:
    """Leave Ctrl-C, which a terminal sends to all its processes, to the first of them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
