"""Updates: tasks whose training rounds follow each other as fast as the network closes them.

Owns the tasks, their participants and the load that these make. An update names the round and the
weights that it belongs to, so it is signed when its round opens. Never starts a node.
"""

import queue
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from quorate.chain.content import compute_content_hash
from quorate.chain.ids import Hash
from quorate.chain.keys import PrivateKey
from quorate.chain.task import DEFAULT_RULE, AggregationRule, RoundPolicy, UpdateCodec
from quorate.chain.transaction import RegisterParticipant, SubmitUpdate
from quorate.client import Client
from quorate.rpc_types import Event
from quorate.task_draft import draft_task

from bench.errors import BenchError
from bench.figures import UpdateFigures, compute_load
from bench.signing import make_batch, make_key, sign
from bench.submitting import Connection
from bench.testbed import Testbed
from bench.transfers import Meter, Progress
from bench.watching import BlockWatch, EventThread

PARAMETERS: Final = 650
TASKS: Final = 8
PARTICIPANTS: Final = 80
BYZANTINE: Final = 8
"""Participants of each task that its rule tolerates."""
DEADLINE_MS: Final = 5_000
WARM_UP_S: Final = 2.0
SETUP_S: Final = 60.0
UPDATE_AMPLITUDE: Final = 2_000

_POLL_S: Final = 0.05
_QUEUE_MAX: Final = 4 * TASKS


@dataclass(frozen=True, slots=True)
class OpenRound:
    """A training round that takes updates."""

    task_id: Hash
    training_round: int
    weights_root: Hash


@dataclass(slots=True)
class Participants:
    """The participants of a task that submit to one node, and the nonces they have come to."""

    keys: list[PrivateKey]
    nonces: dict[bytes, int] = field(default_factory=dict)


class NodeFeed(threading.Thread):
    """Submits the updates of a node's participants as soon as the node tells that a round is open.

    Works as a context manager.

    Parameters
    ----------
    url : str
        The node's RPC.
    participants : dict of bytes to Participants
        By task.
    seed : int
        Where the updates' values come from.
    """

    def __init__(self, url: str, participants: dict[Hash, Participants], seed: int) -> None:
        super().__init__(name=f"updates {url}", daemon=True)
        self.refused: Counter[str] = Counter()
        self.finalized: list[tuple[float, int]] = []
        self._url = url
        self._participants = participants
        self._generator = np.random.default_rng(seed)
        # Each task has one open round, so there is never more to do than there are tasks.
        self._open: queue.Queue[OpenRound | None] = queue.Queue(_QUEUE_MAX)
        self._events = EventThread(url, ("training_round",), self._receive)
        self._failure: BenchError | None = None

    def open(self, opened: OpenRound) -> None:
        """Let the participants submit to a round."""
        self._open.put(opened)

    def check(self) -> None:
        """Raise what ended the feed too early.

        Raises
        ------
        BenchError
            If the node does not answer as it should.
        """
        self._events.check()
        if self._failure is not None:
            raise self._failure

    def run(self) -> None:
        """Submit to each round that opens until told to stop."""
        try:
            with closing(Connection(self._url)) as connection:
                while (opened := self._open.get()) is not None:
                    self._submit(connection, opened)
        except BenchError as error:
            self._failure = error

    def __enter__(self) -> "NodeFeed":
        self._events.__enter__()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._events.__exit__()
        if self._failure is None:
            self._open.put(None)
            self.join(WARM_UP_S)

    def _submit(self, connection: Connection, opened: OpenRound) -> None:
        participants = self._participants[opened.task_id]
        batch = make_batch([self._make_update(key, opened) for key in participants.keys])
        for result in connection.send(batch):
            if result.code is not None:
                self.refused[result.code] += 1

    def _make_update(self, key: PrivateKey, opened: OpenRound) -> tuple[bytes, bytes]:
        values = self._generator.integers(-UPDATE_AMPLITUDE, UPDATE_AMPLITUDE, PARAMETERS, np.int16)
        payload = values.astype("<i2").tobytes()
        body = SubmitUpdate(
            opened.task_id,
            opened.training_round,
            opened.weights_root,
            UpdateCodec.DENSE_INT16,
            compute_content_hash(payload),
            len(payload),
            1,
        )
        nonces = self._participants[opened.task_id].nonces
        return sign(key, nonces[key.address], body), payload

    def _receive(self, event: Event) -> None:
        """Go on with the next round; whoever was counted in this one has used a nonce."""
        now, data = time.monotonic(), event.data
        task_id = Hash(bytes.fromhex(str(data["task_id"])))
        if data["outcome"] == "frozen" or task_id not in self._participants:
            return
        updates = data["updates"]
        if not isinstance(updates, list):
            raise BenchError(f"{self._url} tells of a training round without its updates.")
        nonces = self._participants[task_id].nonces
        for update in updates:
            address = bytes.fromhex(update["participant"])
            if address in nonces:
                nonces[address] += 1
        self.finalized.append((now, len(updates)))
        self.open(
            OpenRound(
                task_id,
                int(str(data["training_round"])) + 1,
                Hash(bytes.fromhex(str(data["weights_root"]))),
            )
        )


def measure_updates(testbed: Testbed, seconds: float, progress: Progress) -> UpdateFigures:
    """Measure updates of 1,300 bytes, whose training rounds close when all have submitted.

    Parameters
    ----------
    testbed : Testbed
    seconds : float
        How long, after a warm-up.
    progress : callable
        Told what is being done.

    Raises
    ------
    BenchError
        If the training does not go on.
    """
    progress(f"creating {TASKS} tasks and registering {TASKS * PARTICIPANTS} participants")
    opened = _create_tasks(testbed)
    feeds = [
        NodeFeed(url, participants, seed)
        for seed, (url, participants) in enumerate(
            zip(testbed.urls, _register(testbed, opened), strict=True)
        )
    ]
    with ExitStack() as stack:
        watch = stack.enter_context(BlockWatch(testbed.urls[0]))
        for feed in feeds:
            stack.enter_context(feed)
        for feed in feeds:
            for each in opened:
                feed.open(each)
        progress(f"updates for {WARM_UP_S:g} s before the clock starts")
        _wait(WARM_UP_S, feeds)
        progress(f"updates for {seconds:g} s")
        meter = Meter(testbed)
        _wait(seconds, feeds)
        cost = meter.read()
        end = meter.start + cost.seconds
        arrivals = watch.get_between(meter.start, end)
        closed = [count for at, count in feeds[0].finalized if meter.start <= at <= end]
    refused = sum((feed.refused for feed in feeds), Counter[str]())
    return UpdateFigures(
        load=compute_load(arrivals, len(testbed.urls), cost, refused),
        tasks=TASKS,
        participants=PARTICIPANTS,
        parameters=PARAMETERS,
        rounds=len(closed),
        rounds_per_s=len(closed) / cost.seconds,
        updates_aggregated=sum(closed),
    )


def _create_tasks(testbed: Testbed) -> list[OpenRound]:
    """Create the tasks, and return their first rounds."""
    author = make_key("author", 0)
    weights = {"kernel": np.zeros((64, 10)), "bias": np.zeros(10)}
    policy = RoundPolicy(
        deadline_ms=DEADLINE_MS, updates_min=PARTICIPANTS // 2, updates_max=PARTICIPANTS
    )
    rule = AggregationRule(DEFAULT_RULE, BYZANTINE)
    opened = []
    with Client(testbed.urls[0]) as client:
        for number in range(TASKS):
            draft = draft_task(f"bench-{number}", weights, policy, rule=rule)
            created = client.create_task(author, draft.spec, draft.weights)
            client.wait_for_transaction(created.hash)
            task = client.task(created.hash)
            opened.append(OpenRound(task.task_id, task.training_round, task.weights_root))
    return opened


def _register(testbed: Testbed, opened: Sequence[OpenRound]) -> list[dict[Hash, Participants]]:
    """Register the participants of each task; return those of each node."""
    everybody: list[dict[Hash, Participants]] = []
    n_nodes = len(testbed.urls)
    for node, url in enumerate(testbed.urls):
        mine = {}
        with closing(Connection(url)) as connection:
            for number, each in enumerate(opened):
                indices = range(node, PARTICIPANTS, n_nodes)
                keys = [make_key(f"participant of task {number}", i) for i in indices]
                mine[each.task_id] = Participants(keys, {key.address: 1 for key in keys})
                body = RegisterParticipant(each.task_id)
                batch = make_batch([(sign(key, 0, body), None) for key in keys])
                refused = [result for result in connection.send(batch) if result.code]
                if refused:
                    raise BenchError(f"A participant is refused: {refused[0].detail}")
        everybody.append(mine)
    for url in testbed.urls:
        with Client(url) as client:
            for each in opened:
                _wait_for_participants(client, each.task_id)
    return everybody


def _wait_for_participants(client: Client, task_id: Hash) -> None:
    deadline = time.monotonic() + SETUP_S
    while client.task(task_id).participants < PARTICIPANTS:
        if time.monotonic() > deadline:
            raise BenchError(f"The participants were not registered within {SETUP_S:g} s.")
        time.sleep(_POLL_S)


def _wait(seconds: float, feeds: Sequence[NodeFeed]) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for feed in feeds:
            feed.check()
        time.sleep(_POLL_S)
