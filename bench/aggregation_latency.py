"""Measure how consensus keeps its rhythm while all validators aggregate a large training round.

Owns the load: a task of many parameters whose participants all submit, so that a block freezes the
round and every node aggregates it in the background, while empty blocks follow each other without
delay. The figure is the time from one block to the next, at a client of one node: without load, and
from the block that freezes the round to the one after the block that carries its result. Never
judges a figure: machines differ.

Run as `python -m bench.aggregation_latency [--updates 32] [--rounds 3] [--json FILE]`.

By default updates are sparse, so that they travel with their transactions and no payload is on its
way while the clock runs; they are aggregated as all others, over every parameter. With
`--codec int16` they are dense.
"""

import queue
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

import numpy as np
from quorate.chain.content import compute_content_hash
from quorate.chain.ids import Hash
from quorate.chain.keys import PrivateKey
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.task import (
    DEFAULT_RULE,
    PARAMETERS_MAX,
    AggregationRule,
    RoundPolicy,
    UpdateCodec,
)
from quorate.chain.transaction import RegisterParticipant, SubmitUpdate
from quorate.client import Client
from quorate.rpc_types import Event
from quorate.task_draft import draft_task

from bench.command_line import (
    SECONDS_MAX,
    add_json_option,
    make_parser,
    positive_number,
    report,
    run,
    whole_number,
    write_json,
)
from bench.errors import BenchError
from bench.figures import IntervalFigures, compute_interval
from bench.machine import describe_machine
from bench.signing import make_key, sign
from bench.testbed import Testbed, open_testbed
from bench.watching import Arrival, BlockWatch, EventThread

NODES: Final = 4
TOP_K: Final = 10_000
"""Parameters that a sparse update names: 60,000 bytes, which travel with the transaction."""
DEADLINE_MS: Final = 3_600_000
SETTLE_S: Final = 3.0
ROUND_S_MAX: Final = 300.0
POLL_S: Final = 0.05
UPDATES_MAX: Final = 1_000
ROUNDS_MAX: Final = 1_000
CODECS: Final = {"top_k_int16": UpdateCodec.TOP_K_INT16, "int16": UpdateCodec.DENSE_INT16}
_EVENTS_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class LatencyUnderAggregation:
    """Time from one block to the next without load, and while a training round is aggregated.

    Attributes
    ----------
    idle, aggregating : IntervalFigures
    aggregation_s : list of float
        From the block that froze each round to the one with its result.
    """

    idle: IntervalFigures
    aggregating: IntervalFigures
    aggregation_s: list[float]


class Trainer:
    """The participants of one task, and what its training rounds come to.

    Parameters
    ----------
    testbed : Testbed
    dimension, updates : int
        Parameters of the task, and its participants.
    codec : UpdateCodec
    """

    def __init__(self, testbed: Testbed, dimension: int, updates: int, codec: UpdateCodec) -> None:
        self._urls = testbed.urls
        self._dimension = dimension
        self._codec = codec
        self._keys = list_participants(updates)
        self._generator = np.random.default_rng(0)
        self._nonce = 0
        self.outcomes: queue.Queue[tuple[str, float]] = queue.Queue(_EVENTS_MAX)
        self.task_id = self._create_task()

    def receive(self, event: Event) -> None:
        """Note what a training round came to."""
        self.outcomes.put((str(event.data["outcome"]), time.monotonic()))

    def submit_all(self) -> None:
        """Let every participant submit an update to the open round, each to one of the nodes."""
        with Client(self._urls[0]) as client:
            task = client.task(self.task_id)
        self._nonce += 1
        for index, key in enumerate(self._keys):
            payload = self._make_payload()
            body = SubmitUpdate(
                self.task_id,
                task.training_round,
                Hash(task.weights_root),
                self._codec,
                compute_content_hash(payload),
                len(payload),
                1,
            )
            with Client(self._urls[index % len(self._urls)]) as client:
                client.submit(sign(key, self._nonce, body), payload)

    def wait_for(self, outcome: str) -> float:
        """Return when the next training round came to this.

        Raises
        ------
        BenchError
            If it came to something else, or to nothing in time.
        """
        try:
            found, seconds = self.outcomes.get(timeout=ROUND_S_MAX)
        except queue.Empty:
            raise BenchError(f"No training round was {outcome} in {ROUND_S_MAX:g} s.") from None
        if found != outcome:
            raise BenchError(f"A training round was {found} instead of {outcome}.")
        return seconds

    def _create_task(self) -> Hash:
        updates = len(self._keys)
        policy = RoundPolicy(deadline_ms=DEADLINE_MS, updates_min=updates, updates_max=updates)
        draft = draft_task(
            "latency",
            {"w": np.zeros(self._dimension, np.float32)},
            policy,
            rule=AggregationRule(DEFAULT_RULE, updates // 4),
            codec=self._codec,
            density=TOP_K / self._dimension if self._codec is UpdateCodec.TOP_K_INT16 else None,
        )
        with Client(self._urls[0]) as client:
            author = make_key("author", 0)
            task_id = client.create_task(author, draft.spec, draft.weights).hash
            client.wait_for_transaction(task_id)
            for key in self._keys:
                registered = client.submit(sign(key, 0, RegisterParticipant(Hash(task_id))))
            client.wait_for_transaction(registered.hash)
        return Hash(task_id)

    def _make_payload(self) -> bytes:
        if self._codec is UpdateCodec.DENSE_INT16:
            values = self._generator.integers(-2_000, 2_000, self._dimension, np.int16)
            return values.astype("<i2").tobytes()
        # One of each stretch of equal length, so that the indexes rise.
        stretch = self._dimension // TOP_K
        indexes = np.arange(TOP_K) * stretch + self._generator.integers(0, stretch, TOP_K)
        values = self._generator.integers(1, 2_000, TOP_K, np.int16)
        return indexes.astype("<u4").tobytes() + values.astype("<i2").tobytes()


def list_participants(count: int) -> list[PrivateKey]:
    """Return the keys of a task's participants."""
    return [make_key("participant", index) for index in range(count)]


def measure(
    dimension: int, updates: int, codec: UpdateCodec, rounds: int, seconds: float
) -> LatencyUnderAggregation:
    """Start the nodes, create the task, and measure idle and aggregating.

    Parameters
    ----------
    dimension, updates : int
    codec : UpdateCodec
    rounds : int
        Training rounds of which the figures are.
    seconds : float
        How long the idle network is measured.

    Raises
    ------
    QuorateError
        If the network fails, or does not do what it should.
    """
    accounts = [key.address for key in list_participants(updates)]
    report("starting the nodes; empty blocks follow each other without delay")
    # So that small rounds take the same way as large ones.
    parameters = ConsensusParameters(aggregation_cost_block_max=0)
    with open_testbed(NODES, accounts, 0, parameters) as testbed:
        report(f"creating a task of {dimension:,} parameters with {updates} participants")
        trainer = Trainer(testbed, dimension, updates, codec)
        with (
            BlockWatch(testbed.urls[0]) as watch,
            EventThread(testbed.urls[0], ("training_round",), trainer.receive),
        ):
            time.sleep(SETTLE_S)
            report(f"idle for {seconds:g} s")
            begun = time.monotonic()
            time.sleep(seconds)
            idle = compute_interval(watch.get_between(begun, time.monotonic()))
            spans = []
            for number in range(rounds):
                report(f"training round {number + 1} of {rounds}")
                trainer.submit_all()
                spans.append((trainer.wait_for("frozen"), trainer.wait_for("finalized")))
                time.sleep(SETTLE_S)
            return LatencyUnderAggregation(
                idle,
                compute_busy_interval([get_span(watch.arrivals, *span) for span in spans]),
                [end - start for start, end in spans],
            )


def get_span(arrivals: Sequence[Arrival], start: float, end: float) -> Sequence[Arrival]:
    """Return the blocks from the one that froze a round to the one after that with its result.

    Events of one block arrive one after the other, so a span begins with the last block that
    arrived before it, and ends with the second after its end. Of a round that was over before
    the first of these was told, the span is the last three blocks.
    """
    first = max(index for index, each in enumerate(arrivals) if each.seconds <= start + POLL_S)
    after = [index for index, each in enumerate(arrivals) if each.seconds > end]
    last = after[:2][-1] if after else len(arrivals) - 1
    return arrivals[max(0, min(first, last - 2)) : last + 1]


def compute_busy_interval(spans: Sequence[Sequence[Arrival]]) -> IntervalFigures:
    """Return the figures of the blocks within some spans, not of the time between spans."""
    figures = [compute_interval(span) for span in spans]
    by_arrival = np.concatenate([np.diff([each.seconds for each in span]) * 1e3 for span in spans])
    return replace(
        figures[0],
        blocks=sum(each.blocks for each in figures),
        median_ms=float(np.median(by_arrival)),
        p99_ms=float(np.percentile(by_arrival, 99)),
        mean_block_time_ms=float(np.mean([each.mean_block_time_ms for each in figures])),
    )


def make_table(figures: LatencyUnderAggregation) -> str:
    """Return the figures as people read them."""
    idle, busy = figures.idle, figures.aggregating
    spans = ", ".join(f"{seconds:.1f}" for seconds in figures.aggregation_s)
    lines = [f"block interval      {'median':>9} {'p99':>9} {'blocks':>7}"]
    for name, each in (("idle", idle), ("aggregating", busy)):
        lines.append(f"{name:19} {each.median_ms:6.1f} ms {each.p99_ms:6.1f} ms {each.blocks:7}")
    ratios = f"{busy.median_ms / idle.median_ms:9.2f} {busy.p99_ms / idle.p99_ms:9.2f}"
    return "\n".join([*lines, f"ratio               {ratios}; rounds took {spans} s"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure, print, and write JSON if asked to."""
    parser = make_parser(
        "bench.aggregation_latency", "Measure block intervals while four validators aggregate."
    )
    for name, maximum, default, what in (
        ("--dim", PARAMETERS_MAX, 10_000_000, "parameters of the task"),
        ("--updates", UPDATES_MAX, 32, "updates of a training round"),
        ("--rounds", ROUNDS_MAX, 3, "training rounds"),
    ):
        parser.add_argument(
            name, type=whole_number(1, maximum), default=default, metavar="NUMBER", help=what
        )
    parser.add_argument("--codec", choices=CODECS, default="top_k_int16", help="of the updates")
    parser.add_argument(
        "--seconds",
        type=positive_number(SECONDS_MAX),
        default=10.0,
        help="how long the idle network is measured",
    )
    add_json_option(parser)
    options = parser.parse_args(arguments)
    codec = CODECS[options.codec]
    if codec is UpdateCodec.TOP_K_INT16 and options.dim < TOP_K:
        parser.error(f"A sparse update names {TOP_K:,} parameters: take more, or --codec int16.")

    def work() -> None:
        figures = measure(options.dim, options.updates, codec, options.rounds, options.seconds)
        print(make_table(figures))
        settings = {
            "dimension": options.dim,
            "updates": options.updates,
            "rounds": options.rounds,
            "codec": options.codec,
            "seconds": options.seconds,
        }
        document = {
            "machine": asdict(describe_machine()),
            "settings": settings,
            "figures": asdict(figures),
        }
        write_json(options.json, document)

    return run(work)


if __name__ == "__main__":
    sys.exit(main())
