"""Those who use a network while it is attacked: accounts that pay, participants that train.

Owns their threads. Whatever becomes of a node, they hand it the same bytes until it says that it
has taken them, so that each knows exactly what has been acknowledged.
"""

import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np
from quorate.chain.content import compute_content_hash
from quorate.chain.ids import Hash
from quorate.chain.keys import PrivateKey
from quorate.chain.task import AggregationRule, RoundPolicy, Stage
from quorate.chain.transaction import (
    RegisterParticipant,
    SubmitUpdate,
    Transfer,
    compute_transaction_hash,
)
from quorate.client import Client
from quorate.errors import ConnectionFailedError, RpcError, WaitTimeoutError
from quorate.rpc_types import Task
from quorate.task_draft import draft_task

from tests.e2e.network import make_key, sign

DIMENSION = 650
TASK_NAME = "campaign"
BATCH = 5
RETRY_S = 0.1
STOP_S = 60.0
DEADLINE_MS = 3_600_000
"""A training round ends with the update of its last participant, however long one is away."""


def make_author() -> PrivateKey:
    return make_key(900)


def make_worker_key(number: int) -> PrivateKey:
    return make_key(1_000 + number)


def create_task(client: Client, participants: int) -> None:
    """Create a task whose rounds end when all its participants have sent an update."""
    draft = draft_task(
        TASK_NAME,
        {"kernel": np.zeros((64, 10)), "bias": np.zeros(10)},
        RoundPolicy(
            deadline_ms=DEADLINE_MS,
            updates_min=participants,
            updates_max=participants,
            waive_proposer_spread=True,
        ),
        rule=AggregationRule((Stage.MEAN,), 0),
    )
    created = client.create_task(make_author(), draft.spec, draft.weights)
    client.wait_for_transaction(created.hash)


@dataclass
class Worker(ABC):
    """A thread with an account and a node.

    Attributes
    ----------
    acknowledged : list of bytes, 32
        What the node has taken.
    latencies_s : list of float
        From the first attempt to the acknowledgement, whatever happened between.
    """

    url: str
    key: PrivateKey
    pause_s: float = 0.1
    acknowledged: list[Hash] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    failure: BaseException | None = None
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def abandon(self) -> None:
        self._stop.set()

    def stop(self) -> None:
        """Finish what has been begun, and end."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(STOP_S)
            assert not self._thread.is_alive(), f"{self.url} does not answer"
        self.check()

    def check(self) -> None:
        if self.failure is not None:
            raise AssertionError(f"{type(self).__name__} at {self.url}") from self.failure

    def _run(self) -> None:
        try:
            with Client(self.url, timeout_s=5.0, retries=0) as client:
                while not self._stop.is_set():
                    self.work(client)
                    self._stop.wait(self.pause_s)
        except BaseException as error:  # noqa: BLE001
            # Whatever it is: a thread that ends without a word would be a test that cannot fail.
            self.failure = error

    @abstractmethod
    def work(self, client: Client) -> None:
        """Do one thing."""

    def hand_over(self, client: Client, batch: list[tuple[bytes, bytes | None]]) -> None:
        """Submit until the node has taken all of it."""
        began, deadline = time.monotonic(), time.monotonic() + STOP_S
        while True:
            try:
                results = client.submit_many(batch)
                break
            except (ConnectionFailedError, RpcError):
                assert time.monotonic() < deadline, f"{self.url} takes nothing"
                time.sleep(RETRY_S)
        for (raw, _), result in zip(batch, results, strict=True):
            assert result.is_accepted, f"{result.code}: {result.detail}"
            self.acknowledged.append(compute_transaction_hash(raw))
        self.latencies_s.append(time.monotonic() - began)


@dataclass
class Sender(Worker):
    """Keeps sending transfers, in batches."""

    nonce: int = 0

    def work(self, client: Client) -> None:
        raws = [
            sign(self.key, self.nonce + i, Transfer(make_key(999).address, 1)) for i in range(BATCH)
        ]
        self.nonce += BATCH
        self.hand_over(client, [(raw, None) for raw in raws])


@dataclass
class Participant(Worker):
    """Sends one update for each training round, as soon as the round is open."""

    nonce: int = 0
    rounds: int = 0

    def work(self, client: Client) -> None:
        try:
            task = client.task(TASK_NAME)
            if self.nonce == 0:
                # The same bytes, however often: a second registration would never be decided.
                registration = sign(self.key, 0, RegisterParticipant(task.task_id))
                self.hand_over(client, [(registration, None)])
                client.wait_for_transaction(compute_transaction_hash(registration))
                self.nonce = 1
        except (ConnectionFailedError, RpcError, WaitTimeoutError):
            self._stop.wait(RETRY_S)
            return
        if task.training_round < self.rounds:
            return
        self.hand_over(client, [self._make_update(task)])
        self.rounds = task.training_round + 1
        self.nonce += 1

    def _make_update(self, task: Task) -> tuple[bytes, bytes]:
        values = np.random.default_rng(task.training_round).integers(-99, 99, DIMENSION)
        payload = values.astype("<i2").tobytes()
        body = SubmitUpdate(
            task.task_id,
            task.training_round,
            task.weights_root,
            task.spec.codec,
            compute_content_hash(payload),
            len(payload),
            1,
        )
        return sign(self.key, self.nonce, body), payload
