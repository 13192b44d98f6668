"""Transfers: as many as the network takes, and at a rate of one's own.

Owns the two measurements of transfers. Never starts a node.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final

from quorate.chain.ids import Hash

from bench.errors import BenchError
from bench.figures import Cost, LatencyFigures, LoadFigures, compute_latency, compute_load
from bench.signing import Batch, Senders, sign_all
from bench.submitting import ClosedLoopSender, OpenLoopSender, Room, Sender
from bench.testbed import Testbed
from bench.watching import Arrival, BlockWatch, read_transactions

SENDERS_PER_NODE: Final = 250
BATCH_SIZE: Final = 250
WARM_UP_S: Final = 2.0
DRAIN_S: Final = 60.0
"""The longest that what was accepted may take to be decided once nothing more comes."""

CALIBRATION_S: Final = 4.0
CALIBRATION_PER_S_MAX: Final = 6_000
MARGIN: Final = 1.5
"""More transfers are signed than the calibration lets expect, so that they do not run out."""

TIMETABLE_INTERVAL_S: Final = 0.1
"""From one batch of a node to the next in open loop."""
CONNECTIONS_PER_NODE: Final = 4
"""Connections that take turns in open loop, so that a late answer delays no later batch."""

_POLL_S: Final = 0.05

Progress = Callable[[str], None]


def list_senders(n_nodes: int) -> list[Senders]:
    """Return all accounts that the measurements of transfers use, for the genesis document."""
    return [
        *_make_groups("calibration", n_nodes),
        *_make_groups("closed loop", n_nodes),
        *_make_groups("open loop", n_nodes * CONNECTIONS_PER_NODE),
    ]


def calibrate(testbed: Testbed, depth: int, progress: Progress) -> float:
    """Return about how many transfers a second the network takes."""
    figures = _run_closed_loop(
        testbed, "calibration", CALIBRATION_PER_S_MAX, CALIBRATION_S, depth, progress
    )
    return figures.per_s_wall


def measure_transfers(
    testbed: Testbed, seconds: float, depth: int, expected_per_s: float, progress: Progress
) -> LoadFigures:
    """Measure transfers in closed loop.

    Parameters
    ----------
    testbed : Testbed
    seconds : float
        How long, after a warm-up.
    depth : int
        Transfers under way at a time, of all nodes.
    expected_per_s : float
        From `calibrate`.
    progress : callable
        Told what is being done.

    Raises
    ------
    BenchError
        If an accepted transfer was lost, or decided twice.
    """
    return _run_closed_loop(
        testbed, "closed loop", expected_per_s * MARGIN, seconds, depth, progress
    )


def _run_closed_loop(
    testbed: Testbed,
    group: str,
    per_s: float,
    seconds: float,
    depth: int,
    progress: Progress,
) -> LoadFigures:
    n_nodes = len(testbed.urls)
    count = int(per_s * (seconds + WARM_UP_S) / n_nodes)
    progress(f"signing {count * n_nodes:,} transfers")
    signed = sign_all(_make_groups(group, n_nodes), count, BATCH_SIZE)
    room = Room(depth)
    senders = [
        ClosedLoopSender(url, batches, room)
        for url, batches in zip(testbed.urls, signed, strict=True)
    ]

    def upon_block(arrival: Arrival) -> None:
        room.give_back(arrival.transactions)

    with BlockWatch(testbed.urls[0], upon_block) as watch:
        try:
            _start(senders)
            progress(f"transfers for {WARM_UP_S:g} s before the clock starts")
            _wait(WARM_UP_S, senders)
            progress(f"transfers for {seconds:g} s")
            meter = Meter(testbed)
            ends_early = _wait(seconds, senders, until=lambda: any(s.has_run_out for s in senders))
            cost = meter.read()
        finally:
            room.stop()
        for sender in senders:
            sender.finish()
        progress("waiting until everything is decided")
        n_accepted = sum(len(sender.accepted) for sender in senders)
        _drain(watch, n_accepted)
        arrivals = watch.get_between(meter.start, meter.start + cost.seconds)
        _check_decided(testbed, senders, watch.arrivals)
    refused = sum((sender.refused for sender in senders), Counter[str]())
    return compute_load(arrivals, n_nodes, cost, refused, has_run_out=ends_early)


def measure_latency(
    testbed: Testbed, seconds: float, per_s: float, progress: Progress
) -> LatencyFigures:
    """Measure the time from submission to decision in open loop.

    A batch counts from the moment it is due by the timetable to the moment the event of its block
    arrives from the node that it was handed to.

    Parameters
    ----------
    testbed : Testbed
    seconds : float
        How long, after a warm-up.
    per_s : float
        Transfers a second, of all nodes together.
    progress : callable
        Told what is being done.

    Raises
    ------
    BenchError
        If an accepted transfer was lost, or decided twice.
    """
    n_nodes = len(testbed.urls)
    batch_size = max(1, round(per_s * TIMETABLE_INTERVAL_S / n_nodes))
    n_batches = int((seconds + WARM_UP_S) / TIMETABLE_INTERVAL_S / CONNECTIONS_PER_NODE) + 1
    groups = _make_groups("open loop", n_nodes * CONNECTIONS_PER_NODE)
    progress(f"signing {len(groups) * n_batches * batch_size:,} transfers")
    signed = sign_all(groups, n_batches * batch_size, batch_size)
    with ExitStack() as stack:
        watches = {url: stack.enter_context(BlockWatch(url)) for url in testbed.urls}
        start = time.monotonic() + 1.0
        senders = list(_plan_timetable(testbed.urls, signed, start))
        offered_per_s = batch_size / TIMETABLE_INTERVAL_S * n_nodes
        progress(f"{offered_per_s:,.0f} transfers/s for {seconds:g} s")
        _start(senders)
        _wait(1.0 + seconds + WARM_UP_S, senders)
        for sender in senders:
            sender.finish()
        n_accepted = sum(len(sender.accepted) for sender in senders)
        for watch in watches.values():
            _drain(watch, n_accepted)
        decided = _check_decided(testbed, senders, watches[testbed.urls[0]].arrivals)
        latencies = []
        for sender in senders:
            arrived = {each.height: each.seconds for each in watches[sender.url].arrivals}
            latencies += [
                arrived[decided[transaction_hash]] - due
                for transaction_hash, due in sender.accepted.items()
                if due >= start + WARM_UP_S
            ]
    refused = sum((sender.refused for sender in senders), Counter[str]())
    return compute_latency(latencies, offered_per_s, refused)


class Meter:
    """Measures from its making on."""

    def __init__(self, testbed: Testbed) -> None:
        self._testbed = testbed
        self._cpu_s = testbed.read_cpu_seconds()
        self._load_cpu_s = time.process_time()
        self.start = time.monotonic()

    def read(self) -> Cost:
        """Return what was used since then."""
        return Cost(
            seconds=time.monotonic() - self.start,
            nodes_cpu_s=self._testbed.read_cpu_seconds() - self._cpu_s,
            load_cpu_s=time.process_time() - self._load_cpu_s,
            memory=self._testbed.read_memory(),
        )


def _make_groups(group: str, count: int) -> list[Senders]:
    return [Senders(group, i * SENDERS_PER_NODE, SENDERS_PER_NODE) for i in range(count)]


def _plan_timetable(
    urls: Sequence[str], signed: Sequence[Sequence[Batch]], start: float
) -> list[Sender]:
    """Spread the batches evenly over time: node after node, connection after connection."""
    senders: list[Sender] = []
    for number, batches in enumerate(signed):
        turn, node = divmod(number, len(urls))
        first = start + TIMETABLE_INTERVAL_S * (turn + node / len(urls))
        interval_s = TIMETABLE_INTERVAL_S * CONNECTIONS_PER_NODE
        senders.append(OpenLoopSender(urls[node], batches, first, interval_s))
    return senders


def _start(senders: Sequence[Sender]) -> None:
    for sender in senders:
        sender.start()


def _wait(
    seconds: float, senders: Sequence[Sender], until: Callable[[], bool] = lambda: False
) -> bool:
    """Wait while all is well; tell whether the condition ended it before the time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for sender in senders:
            sender.check()
        if until():
            return True
        time.sleep(_POLL_S)
    return False


def _drain(watch: BlockWatch, n_accepted: int) -> None:
    """Wait until as many transactions are decided as were accepted."""
    deadline = time.monotonic() + DRAIN_S
    while (n_decided := sum(each.transactions for each in watch.arrivals)) < n_accepted:
        if time.monotonic() > deadline:
            raise BenchError(
                f"Of {n_accepted} accepted transactions {n_decided} were decided within "
                f"{DRAIN_S:g} s of the last: this is a defect of the node."
            )
        time.sleep(_POLL_S)


def _check_decided(
    testbed: Testbed, senders: Sequence[Sender], arrivals: Sequence[Arrival]
) -> dict[Hash, int]:
    """Return the height of each transaction of these blocks; all accepted ones are among them."""
    decided = read_transactions(testbed.urls[0], [each.height for each in arrivals])
    lost = sum(not decided.keys() >= sender.accepted.keys() for sender in senders)
    if lost:
        raise BenchError("Accepted transfers are in no block: this is a defect of the node.")
    return decided
