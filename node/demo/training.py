"""One training through the chain: a task, its participants, and what becomes of each round.

Owns the making of the task and the participants' threads, honest and hostile. Goes through the
SDK and the nodes' RPC alone, each participant through the node it was given. Never prints.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
from quorate.chain.errors import QuorateError
from quorate.chain.genesis import Genesis
from quorate.chain.ids import Address, Hash
from quorate.chain.keys import PrivateKey
from quorate.chain.task import AggregationRule, RoundPolicy
from quorate.client import Client
from quorate.fixed_point import Array, ModelSchema
from quorate.participant import Participant
from quorate.task_draft import draft_task
from quorate.training_session import FitResult, RoundInfo, RoundResult

from node.demo.digits import LAYERS, Examples, Model, compute_accuracy, train
from node.demo.errors import DemoError

UPDATE_FRACTION_BITS: Final = 13
"""Updates within +-4: no honest one of this model reaches that."""
HOSTILE_FACTOR: Final = -4.0
"""What a hostile participant multiplies its update by: back, and four times as far."""
ROUND_SECONDS_MAX: Final = 60.0
DECISION_SECONDS_MAX: Final = 30.0
DEADLINE_MS: Final = 20_000
POLL_SECONDS: Final = 0.25


@dataclass(frozen=True, slots=True)
class Learner:
    """A participant of the demonstration.

    Attributes
    ----------
    number : int
        From 1.
    key : PrivateKey
        The same in every run.
    node_url : str
        The RPC of the node it goes through.
    shard : Examples
        What it alone has.
    is_hostile : bool
        Whether it sends its update with the sign flipped and scaled.
    """

    number: int
    key: PrivateKey
    node_url: str
    shard: Examples
    is_hostile: bool


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """A task to train.

    Attributes
    ----------
    name : str
    rule : AggregationRule
    rounds : int
        Training rounds.
    seed : int
        What the order of the examples follows from.
    initial : list of float64 arrays
    """

    name: str
    rule: AggregationRule
    rounds: int
    seed: int
    initial: Model


@dataclass(frozen=True, slots=True)
class FinishedRound:
    """What became of a training round.

    Attributes
    ----------
    training_round : int
        From 0.
    height : int
        The latest block whose header the participant's proof leads to.
    accepted : tuple of int
        The numbers of the participants whose updates were aggregated.
    set_aside : tuple of int
        Those of them that the rule gave no weight, or clearly less than their share.
    accuracy : float
        Of the finalized weights, on the held-out examples.
    """

    training_round: int
    height: int
    accepted: tuple[int, ...]
    set_aside: tuple[int, ...]
    accuracy: float


class Training:
    """A task with its participants, each in a thread of its own.

    Parameters
    ----------
    plan : TrainingPlan
    learners : sequence of Learner
    author : PrivateKey
        Who creates the task.
    genesis : Genesis
        What downloaded weights are verified against.
    held_out : Examples
        What accuracy is measured on.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        learners: Sequence[Learner],
        author: PrivateKey,
        genesis: Genesis,
        held_out: Examples,
    ) -> None:
        self._plan = plan
        self._learners = learners
        self._author = author
        self._genesis = genesis
        self._held_out = held_out
        self._numbers = {each.key.address: each.number for each in learners}
        self._outcomes: queue.SimpleQueue[RoundResult | BaseException] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self.task_id: Hash | None = None

    def prepare(self) -> None:
        """Create the task and register everybody, and wait until all of it is decided.

        Registered before the first round, so that no round closes before everybody was counted.
        """
        plan = self._plan
        arrays = dict(zip(LAYERS, plan.initial, strict=True))
        schema = ModelSchema.from_arrays(arrays, update_fraction_bits=UPDATE_FRACTION_BITS)
        hostile = sum(each.is_hostile for each in self._learners)
        policy = RoundPolicy(
            deadline_ms=DEADLINE_MS,
            updates_min=len(self._learners) - hostile,
            updates_max=len(self._learners),
        )
        draft = draft_task(plan.name, arrays, policy, rule=plan.rule, schema=schema)
        with ExitStack() as stack:
            clients = {
                each.node_url: stack.enter_context(Client(each.node_url, genesis=self._genesis))
                for each in self._learners
            }
            first = clients[self._learners[0].node_url]
            created = first.create_task(self._author, draft.spec, draft.weights)
            first.wait_for_transaction(created.hash, DECISION_SECONDS_MAX)
            self.task_id = Hash(created.hash)
            for client in clients.values():
                client.wait_for_transaction(created.hash, DECISION_SECONDS_MAX)
            sent = [
                (client, client.register(each.key, self.task_id))
                for each in self._learners
                for client in (clients[each.node_url],)
            ]
            for client, registered in sent:
                client.wait_for_transaction(registered.hash, DECISION_SECONDS_MAX)

    def run(self, on_pause: Callable[[], None] = lambda: None) -> Iterator[FinishedRound]:
        """Train, and yield each round as soon as the first participant has seen its end.

        Parameters
        ----------
        on_pause : callable
            Called now and then while nothing happens; may raise.

        Raises
        ------
        DemoError
            If a participant failed.
        """
        threads = [
            threading.Thread(target=self._take_part, args=(each,), daemon=True)
            for each in self._learners
        ]
        for thread in threads:
            thread.start()
        seen = 0
        try:
            while seen < self._plan.rounds:
                try:
                    outcome = self._outcomes.get(timeout=POLL_SECONDS)
                except queue.Empty:
                    on_pause()
                    continue
                if isinstance(outcome, BaseException):
                    raise outcome
                if outcome.training_round >= seen:
                    seen = outcome.training_round + 1
                    yield self._describe(outcome)
            for thread in threads:
                thread.join(ROUND_SECONDS_MAX)
        finally:
            self._stopped.set()

    def _take_part(self, learner: Learner) -> None:
        """Take part in every round; a thread's whole life."""
        try:
            with Client(learner.node_url, genesis=self._genesis) as client:
                participant = Participant(
                    client,
                    learner.key,
                    self.task_id or self._plan.name,
                    lambda weights, info: self._fit(learner, weights, info),
                    trusted=self._genesis,
                    dtype=np.float64,
                    round_timeout_s=ROUND_SECONDS_MAX,
                )
                for result in participant.iterate(self._plan.rounds):
                    self._outcomes.put(result)
                    if self._stopped.is_set():
                        return
        except QuorateError as error:
            self._outcomes.put(DemoError(f"Participant {learner.number} failed: {error}"))
        # A thread's defect must end the demonstration with its traceback, not hang it.
        except BaseException as error:  # noqa: BLE001
            self._outcomes.put(error)

    def _fit(self, learner: Learner, weights: list[Array], info: RoundInfo) -> FitResult:
        base = cast("Model", weights)
        seed = self._plan.seed + 1_000 * info.training_round + learner.number
        trained = train(base, learner.shard, seed)
        if learner.is_hostile:
            trained = [b + HOSTILE_FACTOR * (t - b) for b, t in zip(base, trained, strict=True)]
        return FitResult(trained, len(learner.shard))

    def _describe(self, result: RoundResult) -> FinishedRound:
        updates = result.receipt.updates
        return FinishedRound(
            result.training_round,
            result.verified.height,
            tuple(sorted(self._number(each.participant) for each in updates)),
            tuple(sorted(self._number(u.participant) for u in updates if u.is_set_aside)),
            compute_accuracy(cast("Model", result.weights), self._held_out),
        )

    def _number(self, address: Address) -> int:
        return self._numbers[Address(bytes(address))]
