"""A validator that was away for many blocks: it catches up and votes again without a restart.

Owns a network of four real processes, one of which is stopped with SIGSTOP for as long as the
others need for those blocks. Its votes are proven by stopping another one: without them the rest
would have no quorum.

Run as `python -m bench.away [--blocks 5000] [--json FILE]`; it ends with 1 when the
validator does not vote.
"""

import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Final

from bench.command_line import (
    add_json_option,
    make_parser,
    report,
    run,
    whole_number,
    write_json,
)
from bench.errors import BenchError
from bench.machine import describe_machine
from bench.testbed import Testbed, open_testbed

BLOCKS: Final = 5_000
BLOCKS_MAX: Final = 1_000_000
NODES: Final = 4
BLOCKS_AFTERWARDS: Final = 20
AWAY_SECONDS_MAX: Final = 1_800.0
RETURN_SECONDS_MAX: Final = 300.0
_POLL_S: Final = 0.1


def measure_return(blocks: int) -> tuple[int, float]:
    """Return how many blocks the validator was behind, and the seconds until it was level.

    Raises
    ------
    QuorateError
        If a node fails, or the validator does not come back.
    """
    with open_testbed(NODES, (), empty_block_interval_ms=0) as testbed:
        away = testbed.network.processes[-1].process
        left = _get_height(testbed, NODES - 1)
        away.send_signal(signal.SIGSTOP)
        try:
            report(f"one validator is away at height {left}")
            _wait(lambda: _get_height(testbed, 0) >= left + blocks, AWAY_SECONDS_MAX)
        finally:
            away.send_signal(signal.SIGCONT)
        behind = _get_height(testbed, 0) - left
        report(f"it is back, {behind} blocks behind")
        begun = time.monotonic()
        _wait(
            lambda: _get_height(testbed, NODES - 1) >= _get_height(testbed, 0) - 1,
            RETURN_SECONDS_MAX,
        )
        seconds = time.monotonic() - begun
        testbed.network.processes[1].process.terminate()
        testbed.network.processes[1].process.wait()
        alone = _get_height(testbed, 0)
        _wait(lambda: _get_height(testbed, 0) >= alone + BLOCKS_AFTERWARDS, RETURN_SECONDS_MAX)
        return behind, seconds


def _get_height(testbed: Testbed, node: int) -> int:
    status = testbed.network.get_statuses()[node]
    return 0 if status is None else status.height


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"The network did not get there within {seconds:g} s.")
        time.sleep(_POLL_S)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, let a validator be away, and print how it came back."""
    parser = make_parser("bench.away", "Measure how a validator that was away comes back.")
    parser.add_argument(
        "--blocks",
        type=whole_number(1, BLOCKS_MAX),
        default=BLOCKS,
        metavar="NUMBER",
        help="how many it misses",
    )
    add_json_option(parser)
    options = parser.parse_args(arguments)

    def work() -> None:
        behind, seconds = measure_return(options.blocks)
        rate = behind / seconds
        print(
            f"{behind} blocks behind, level after {seconds:.1f} s ({rate:,.0f}/s), and it votes "
            "again"
        )
        figures = {"blocks_behind": behind, "seconds": seconds, "blocks_per_s": rate}
        document = {"machine": asdict(describe_machine()), "figures": figures}
        write_json(options.json, document)

    return run(work)


if __name__ == "__main__":
    sys.exit(main())
