"""Measure updates of real size: one training round of a large model on four nodes.

Owns the order of the measurement. Never judges a figure: machines differ. Everything is uploaded
over the RPC of the participants' own nodes, and the result is compared with an aggregation of the
same files beside the network.

Run as `python -m bench.updates [--dimension 10000000] [--participants 16] [--json FILE]`.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np
from quorate.chain.errors import QuorateError
from quorate.chain.ids import Hash
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.task import DEFAULT_RULE, PARAMETERS_MAX, AggregationRule, RoundPolicy
from quorate.client import Client
from quorate.fixed_point import Array
from quorate.rpc_types import Event, Task
from quorate.task_draft import TaskDraft, draft_task
from rich.console import Console

from bench.command_line import (
    add_json_option,
    make_parser,
    report,
    run,
    whole_number,
    write_json,
)
from bench.errors import BenchError
from bench.large_round_figures import (
    CpuSampler,
    LargeRoundFigures,
    make_phase,
    make_table,
    merge_arrivals,
)
from bench.machine import describe_machine, read_memory
from bench.signing import make_key
from bench.testbed import Testbed, open_testbed
from bench.uploading import Participant, Uploader, aggregate_files, make_participants
from bench.watching import Arrival, BlockWatch, EventThread, read_transactions

DIMENSION: Final = 10_000_000
PARTICIPANTS: Final = 16
NODES: Final = 4
EMPTY_BLOCK_INTERVAL_MS: Final = 100
DEADLINE_MS: Final = 3_600_000
SETUP_S: Final = 120.0
ROUND_S: Final = 600.0
COLUMNS: Final = 1_000
PARTICIPANTS_MAX: Final = 1_000
NODES_MAX: Final = 16
DISK_MARGIN: Final = 1.5
_POLL_S: Final = 0.05
_MB: Final = 1e6


class RoundWatch:
    """When the first node told how a training round went."""

    def __init__(self, url: str, task_id: Hash) -> None:
        self._task_id = task_id
        self._events = EventThread(url, ("training_round",), self._receive)
        self.frozen_at: float | None = None
        self.ended_at: float | None = None
        self.outcome = ""

    def __enter__(self) -> "RoundWatch":
        self._events.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._events.__exit__()

    def check(self) -> None:
        """Raise if the node tells nothing any more."""
        self._events.check()

    def _receive(self, event: Event) -> None:
        if event.data["task_id"] != self._task_id.hex():
            return
        if event.data["outcome"] == "frozen":
            self.frozen_at = time.monotonic()
        else:
            self.outcome = str(event.data["outcome"])
            self.ended_at = time.monotonic()


def measure(
    folder: Path, dimension: int, n_participants: int, n_nodes: int, *, is_frozen_always: bool
) -> LargeRoundFigures:
    """Measure one training round.

    Parameters
    ----------
    folder : Path
        For the updates, beside the nodes' own temporary folder.
    dimension, n_participants, n_nodes : int
    is_frozen_always : bool
        Whether a round that a block could aggregate is frozen all the same, so that small sizes
        take the way of large ones.

    Raises
    ------
    QuorateError
        If the network fails, or does not do what it should.
    """
    require_disk(dimension, n_participants, n_nodes)
    report(f"writing {n_participants} updates of {2 * dimension / _MB:g} MB")
    participants = make_participants(folder, n_participants, dimension)
    accounts = [each.key.address for each in participants]
    parameters = (
        ConsensusParameters(aggregation_cost_block_max=0)
        if is_frozen_always
        else ConsensusParameters()
    )
    report("starting the nodes")
    with open_testbed(n_nodes, accounts, EMPTY_BLOCK_INTERVAL_MS, parameters) as testbed:
        draft = _draft(dimension, n_participants)
        task = _open_task(testbed, draft, participants)
        testbed.forget_peaks()
        return _run_round(testbed, task, draft, participants, folder)


def require_disk(dimension: int, n_participants: int, n_nodes: int) -> None:
    """Raise unless the temporary folder has room for everything.

    Raises
    ------
    BenchError
        If it does not.
    """
    updates, weights = 2 * dimension * n_participants, 4 * dimension
    needed = int(DISK_MARGIN * (updates + n_nodes * (updates + 3 * weights)))
    place = tempfile.gettempdir()
    free = shutil.disk_usage(place).free
    if free < needed:
        raise BenchError(
            f"{place} has {free / _MB:,.0f} MB free, and this takes {needed / _MB:,.0f} MB: free "
            "some, set TMPDIR to a folder with more, or ask for fewer parameters."
        )


def _draft(dimension: int, n_participants: int) -> TaskDraft:
    rows = dimension // COLUMNS
    arrays: dict[str, Array] = {"kernel": np.zeros((rows, COLUMNS), np.float32)}
    if dimension % COLUMNS:
        arrays["bias"] = np.zeros(dimension % COLUMNS, np.float32)
    policy = RoundPolicy(
        deadline_ms=DEADLINE_MS, updates_min=n_participants, updates_max=n_participants
    )
    rule = AggregationRule(DEFAULT_RULE, max(0, n_participants // 4 - 1))
    return draft_task("bench-large", arrays, policy, rule=rule)


def _open_task(testbed: Testbed, draft: TaskDraft, participants: Sequence[Participant]) -> Task:
    """Create the task, register everybody, and wait until every node is ready for updates."""
    report(f"creating a task with {draft.spec.dimension:,} parameters")
    with Client(testbed.urls[0]) as client:
        created = client.create_task(
            make_key("author of a large task", 0), draft.spec, draft.weights
        )
        client.wait_for_transaction(created.hash, SETUP_S)
        submitted = [client.register(each.key, created.hash) for each in participants]
        for each in submitted:
            client.wait_for_transaction(each.hash, SETUP_S)
    for url in testbed.urls:
        with Client(url) as client:
            _wait_until_open(client, created.hash, len(participants))
            task = client.task(created.hash)
    return task


def _wait_until_open(client: Client, task_id: bytes, n_participants: int) -> None:
    deadline = time.monotonic() + SETUP_S
    while True:
        try:
            if client.task(task_id).participants == n_participants:
                return
        except QuorateError as error:
            if time.monotonic() > deadline:
                raise BenchError(f"A node does not come to know the task: {error}") from error
        if time.monotonic() > deadline:
            raise BenchError(f"The participants were not registered within {SETUP_S:g} s.")
        time.sleep(_POLL_S)


def _run_round(
    testbed: Testbed,
    task: Task,
    draft: TaskDraft,
    participants: Sequence[Participant],
    folder: Path,
) -> LargeRoundFigures:
    uploaders = [
        Uploader(url, task, participants[number :: len(testbed.urls)])
        for number, url in enumerate(testbed.urls)
    ]
    sampler = CpuSampler(testbed)
    with ExitStack() as stack:
        watches = [stack.enter_context(BlockWatch(url)) for url in testbed.urls]
        rounds = stack.enter_context(RoundWatch(testbed.urls[0], task.task_id))
        _wait_for_events(watches)
        sampler.start()
        stack.callback(sampler.stop)
        report(f"uploading to {len(uploaders)} nodes")
        for uploader in uploaders:
            uploader.start()
        _wait_for_end(testbed, uploaders, rounds, participants)
        time.sleep(2 * _POLL_S)
        of_nodes = [watch.arrivals for watch in watches]
    memory = [read_memory(pid) for pid in testbed.pids]
    started, ended = min(each.started for each in uploaders), rounds.ended_at
    if ended is None or rounds.outcome != "finalized":
        raise BenchError(f"The training round ended as {rounds.outcome or 'nothing'}.")
    committed = _find_last_update(testbed.urls[0], merge_arrivals(of_nodes), uploaders, started)
    size = 2 * task.spec.dimension
    total_mb = size * len(participants) / _MB
    root, download_mb_per_s = _verify(testbed, task, draft, participants, folder)
    return LargeRoundFigures(
        parameters=task.spec.dimension,
        participants=len(participants),
        nodes=len(testbed.urls),
        update_mb=size / _MB,
        updates_mb=total_mb,
        committed_mb_per_s=total_mb / (committed - started),
        uploaded_mb_per_s=total_mb / (max(each.ended for each in uploaders) - started),
        moving=make_phase(of_nodes, sampler, started, committed),
        aggregating=make_phase(of_nodes, sampler, committed, ended),
        finalized_s=ended - started,
        is_frozen=rounds.frozen_at is not None,
        memory=memory,
        weights_root=root.hex(),
        download_mb_per_s=download_mb_per_s,
    )


def _wait_for_events(watches: Sequence[BlockWatch]) -> None:
    """Wait until the subscriptions to blocks are there."""
    deadline = time.monotonic() + SETUP_S
    while not all(watch.arrivals for watch in watches):
        if time.monotonic() > deadline:
            raise BenchError("Not every node tells of blocks.")
        time.sleep(_POLL_S)


def _wait_for_end(
    testbed: Testbed,
    uploaders: Sequence[Uploader],
    rounds: RoundWatch,
    participants: Sequence[Participant],
) -> None:
    total_mb = sum(each.path.stat().st_size for each in participants) / _MB
    deadline = time.monotonic() + ROUND_S
    told = time.monotonic()
    while rounds.ended_at is None:
        testbed.network.check_running()
        rounds.check()
        for uploader in uploaders:
            uploader.check()
        now = time.monotonic()
        if now > deadline:
            raise BenchError(f"The training round did not end within {ROUND_S:g} s.")
        if now > told + 2:
            told = now
            done_mb = sum(each.bytes_done for each in uploaders) / _MB
            is_done = all(not each.is_alive() for each in uploaders)
            state = "aggregating" if rounds.frozen_at else "waiting for blocks"
            report(state if is_done else f"{done_mb:,.0f} of {total_mb:,.0f} MB uploaded")
        time.sleep(_POLL_S)
    for uploader in uploaders:
        uploader.finish()


def _find_last_update(
    url: str, arrivals: Sequence[Arrival], uploaders: Sequence[Uploader], started: float
) -> float:
    """Return when the block of the last update arrived."""
    candidates = [each for each in arrivals if each.seconds >= started and each.transactions]
    found = read_transactions(url, [each.height for each in candidates])
    heights = {found.get(transaction) for each in uploaders for transaction in each.hashes}
    if None in heights:
        raise BenchError("An update that a node has taken is in no block.")
    return max(each.seconds for each in candidates if each.height in heights)


def _verify(
    testbed: Testbed,
    task: Task,
    draft: TaskDraft,
    participants: Sequence[Participant],
    folder: Path,
) -> tuple[Hash, float]:
    """Return the root of the new weights, and how fast they were downloaded.

    Raises
    ------
    BenchError
        If the nodes do not agree on it, or if the aggregation of the files leads to another.
    """
    report("aggregating beside the network")
    expected = aggregate_files(task, draft.weights, participants)
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(url)) for url in testbed.urls]
        deadline = time.monotonic() + SETUP_S
        while True:
            found = [client.task(task.task_id) for client in clients]
            if all(each.training_round > task.training_round for each in found):
                break
            if time.monotonic() > deadline:
                raise BenchError("Not every node has come to the end of the training round.")
            time.sleep(_POLL_S)
        roots = {each.weights_root for each in found}
        if roots != {expected}:
            shown = ", ".join(sorted(root.hex() for root in roots))
            raise BenchError(
                f"The nodes have the weights {shown}, and the files lead to {expected.hex()}."
            )
        start = time.monotonic()
        stored = clients[0].download_weights(
            task.task_id, folder / "weights.bin", commit_from=clients[1], others=clients[1:]
        )
        seconds = time.monotonic() - start
    if stored.weights_root != expected:
        raise BenchError("What was downloaded is not what was aggregated.")
    return expected, stored.path.stat().st_size / _MB / seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure, print, and write JSON if asked to."""
    parser = make_parser("bench.updates", "Measure one training round with updates of real size.")
    for name, maximum, default, what in (
        ("--dimension", PARAMETERS_MAX, DIMENSION, "parameters of the model"),
        ("--participants", PARTICIPANTS_MAX, PARTICIPANTS, "each with an update"),
        ("--nodes", NODES_MAX, NODES, "how many validators"),
    ):
        parser.add_argument(
            name, type=whole_number(1, maximum), default=default, metavar="NUMBER", help=what
        )
    parser.add_argument(
        "--freeze", action="store_true", help="freeze a round that one block could aggregate, too"
    )
    add_json_option(parser)
    options = parser.parse_args(arguments)

    def work() -> None:
        with tempfile.TemporaryDirectory(prefix="quorate-updates-") as folder:
            figures = measure(
                Path(folder),
                options.dimension,
                options.participants,
                options.nodes,
                is_frozen_always=options.freeze,
            )
        Console().print(make_table(figures))
        document = {"machine": asdict(describe_machine()), "figures": asdict(figures)}
        write_json(options.json, document)

    return run(work, left="the nodes have been stopped, the files removed")


if __name__ == "__main__":
    sys.exit(main())
