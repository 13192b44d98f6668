"""A participant's way through training rounds, as a script for both kinds of client.

Owns what a participant does and in which order: register, download and verify the base weights,
fit, encode the difference, submit, wait for the end, verify the new weights. Everything is asked
of the chain each time, so a script that crashed goes on where the chain is. Never sees data:
fitting is the caller's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from quorate import procedures, submissions
from quorate import rpc_protocol as rpc
from quorate.chain.errors import ErrorCode
from quorate.chain.genesis import Genesis
from quorate.chain.ids import Hash
from quorate.chain.keys import PrivateKey
from quorate.chain.receipt import RoundOutcome, RoundReceipt
from quorate.chain.transaction import TaskStatus
from quorate.chain.validators import ValidatorSet
from quorate.downloads import get_verified_weights
from quorate.errors import (
    ConnectionFailedError,
    RpcError,
    TaskClosedError,
    VerificationError,
    VerificationStep,
    WaitTimeoutError,
)
from quorate.fixed_point import Array, Arrays, ModelSchema
from quorate.procedures import METRIC_ONE
from quorate.progress import OnProgress, ignore_progress
from quorate.rpc_protocol import TaskKey
from quorate.rpc_types import HexBytes, Task, TrainingRound
from quorate.script import (
    FEED_SILENCE_S,
    CloseFeed,
    Endpoint,
    Feed,
    OpenFeed,
    Script,
    Sleep,
    perform,
    read_clock,
    read_feed,
    run_function,
)
from quorate.submissions import UpdateDraft
from quorate.update_encoding import EncodedUpdate, encode_update
from quorate.verification import VerifiedWeights

POLL_S = 0.5
SETTLE_TIMEOUT_S = 30.0
SILENCE_MIN_S = 0.05
BASE_ATTEMPTS = 20
LATE_ROUNDS_MAX = 10

_TOO_LATE = frozenset(
    {ErrorCode.WRONG_TRAINING_ROUND, ErrorCode.STALE_WEIGHTS, ErrorCode.TASK_NOT_OPEN}
)


@dataclass(frozen=True)
class RoundInfo:
    """What a fit function is told besides the weights.

    Attributes
    ----------
    task : Task
    training_round : int
    base_weights_root : bytes, 32
    deadline_ms : int
        When the round closes, in block time.
    """

    task: Task
    training_round: int
    base_weights_root: Hash
    deadline_ms: int


@dataclass(frozen=True)
class FitResult:
    """What a fit function returns, if it has more to say than the new weights.

    Attributes
    ----------
    arrays : sequence of arrays
        The new weights, in the task's order and shapes.
    example_count : int
        How many examples they were trained on; reported to the chain as it is.
    metrics : mapping of str to float
        Measurements for the record, such as the training loss.
    """

    arrays: Arrays
    example_count: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)


Fit: TypeAlias = Callable[[list[Array], RoundInfo], FitResult | Arrays]


@dataclass(frozen=True)
class RoundResult:
    """How a training round ended.

    Attributes
    ----------
    training_round : int
    outcome : RoundOutcome
        FINALIZED, or VOID if there were too few updates.
    is_counted : bool
        Whether one's own update was among those that were aggregated.
    is_set_aside : bool
        Whether the rule set it aside.
    score : float
        Its contribution score; 0.0 if it was not counted.
    saturated : int
        How many numbers of it did not fit the scale; 0 if this run did not encode it.
    weights : list of arrays
        The latest finalized weights, verified.
    verified : VerifiedWeights
        The same as the chain stores them, with the block that proves them.
    receipt : RoundReceipt
        Everybody's outcome.
    """

    training_round: int
    outcome: RoundOutcome
    is_counted: bool
    is_set_aside: bool
    score: float
    saturated: int
    weights: list[Array]
    verified: VerifiedWeights
    receipt: RoundReceipt


@dataclass(frozen=True)
class SessionOptions:
    """How a participant takes part: see `Participant`."""

    trusted: Genesis | ValidatorSet | None = None
    source: Endpoint | None = None
    dtype: DTypeLike = np.float32
    round_timeout_s: float | None = None
    keeps_residual: bool = True
    on_progress: OnProgress = ignore_progress


class TrainingSession:
    """One participant of one task.

    Parameters
    ----------
    endpoint : Endpoint
        The participant's own node.
    key : PrivateKey
    task : Task, bytes or str
    fit : callable
    options : SessionOptions
    """

    def __init__(
        self, endpoint: Endpoint, key: PrivateKey, task: TaskKey, fit: Fit, options: SessionOptions
    ) -> None:
        self._endpoint = endpoint
        self._key = key
        self._address = HexBytes(key.address)
        self._task_key = task
        self._fit = fit
        self._options = options
        self._feed = Feed(endpoint, ("training_round",))
        if options.round_timeout_s is not None:
            self._feed.silence_s = min(FEED_SILENCE_S, max(SILENCE_MIN_S, options.round_timeout_s))
        self._is_ready = False
        self._latest: VerifiedWeights | None = None
        self._residual: NDArray[np.float32] | None = None
        """What counted updates have left unsaid, in units of the update's integers."""

    def train_round(self) -> Script[RoundResult]:
        """Take part in the open training round, or in the next if it closes too early.

        Raises
        ------
        TaskClosedError
            If the task takes no updates any more.
        WaitTimeoutError
            If a round does not end within `round_timeout_s`, or if round after round ends
            while this participant is still fitting.
        """
        encoded: EncodedUpdate | None = None
        for _ in range(LATE_ROUNDS_MAX):
            task = yield from self._get_ready()
            current = yield from self._get_open_round(task)
            if not any(update.participant == self._address for update in current.updates):
                base = yield from self._get_base(task, current)
                if base is None:
                    continue
                encoded, result = yield from self._compute_update(task, current, base)
                draft = UpdateDraft(
                    current.training_round,
                    current.base_weights_root,
                    encoded.data,
                    result.example_count,
                    result.metrics,
                )
                if not (yield from self._submit(task, draft)):
                    encoded = None
                    continue
            over = yield from self._wait_until_over(task, current.training_round)
            ended = yield from self._conclude(task, over, encoded)
            # What an update left unsaid is owed only if the rest of it was counted.
            if ended.is_counted and encoded is not None and self._options.keeps_residual:
                self._residual = encoded.residual
            return ended
        raise WaitTimeoutError(
            f"{LATE_ROUNDS_MAX} training rounds in a row ended before the update was ready: the "
            "task's deadline is too short for this machine."
        )

    def close(self) -> Script[None]:
        """Close the subscription to events."""
        yield CloseFeed(self._feed)

    # --- the steps -------------------------------------------------------------------------------

    def _get_ready(self) -> Script[Task]:
        task = yield from procedures.get_task(self._endpoint, self._task_key)
        if task.status is not TaskStatus.OPEN:
            raise TaskClosedError(
                f"The task {task.name!r} is {task.status.name.lower()}: it takes no updates."
            )
        if not self._is_ready:
            self._task_key = task.task_id
            yield from self._settle()
            yield from self._register(task)
            self._is_ready = True
        return task

    def _settle(self) -> Script[None]:
        """Wait until nothing of an earlier run of this script is pending any more."""
        deadline = (yield from read_clock()) + SETTLE_TIMEOUT_S
        while (yield from read_clock()) < deadline:
            account = yield from perform(self._endpoint, rpc.get_account(self._key.address))
            if account.pending_nonce <= account.nonce:
                return
            yield Sleep(POLL_S / 5)

    def _register(self, task: Task) -> Script[None]:
        registered = yield from procedures.get_participants(self._endpoint, task)
        if any(participant.address == self._address for participant in registered):
            return
        try:
            submitted = yield from submissions.register(self._endpoint, self._key, task)
        except RpcError as error:
            if error.code != ErrorCode.ALREADY_EXISTS:
                raise
        else:
            yield from procedures.wait_for_transaction(
                self._endpoint, submitted.hash, SETTLE_TIMEOUT_S
            )

    def _get_open_round(self, task: Task) -> Script[TrainingRound]:
        while True:
            current = yield from perform(self._endpoint, rpc.get_training_round(task, None))
            if current.status == "open":
                return current
            yield from self._wait_until_over(task, current.training_round)

    def _get_base(self, task: Task, current: TrainingRound) -> Script[VerifiedWeights | None]:
        """Return the weights the round builds on, verified; None if it has ended meanwhile."""
        for _ in range(BASE_ATTEMPTS):
            base = self._latest
            if base is None or base.weights_root != current.base_weights_root:
                base = yield from self._download(task)
            if base.weights_root == current.base_weights_root:
                return base
            now = yield from perform(self._endpoint, rpc.get_training_round(task, None))
            if now.training_round != current.training_round:
                return None
            yield Sleep(POLL_S / 5)
        raise VerificationError(
            VerificationStep.WEIGHTS,
            f"the node says that round {current.training_round} builds on the weights "
            f"{current.base_weights_root.hex()}, which the chain does not confirm",
        )

    def _download(self, task: Task) -> Script[VerifiedWeights]:
        trusted = self._options.trusted
        if trusted is None:
            trusted = yield from procedures.get_chain(self._endpoint)
        source = self._options.source or self._endpoint
        self._latest = yield from get_verified_weights(
            self._endpoint, source, task, trusted, SETTLE_TIMEOUT_S
        )
        return self._latest

    def _compute_update(
        self, task: Task, current: TrainingRound, base: VerifiedWeights
    ) -> Script[tuple[EncodedUpdate, FitResult]]:
        schema = ModelSchema.from_spec(task.spec)
        given = base.to_arrays(schema, self._options.dtype)
        info = RoundInfo(
            task, current.training_round, current.base_weights_root, current.deadline_ms
        )
        # The function may change the arrays in place, as training loops do.
        fitted = yield from run_function(lambda: self._fit([a.copy() for a in given], info))
        result = fitted if isinstance(fitted, FitResult) else FitResult(fitted)
        difference = schema.flatten(result.arrays) - schema.flatten(given)
        arrays = schema.unflatten(difference)
        return encode_update(schema, task.spec.update_layout, arrays, self._residual), result

    def _submit(self, task: Task, draft: UpdateDraft) -> Script[bool]:
        """Submit an update; False if the round has closed or is full."""
        try:
            yield from submissions.submit_update(
                self._endpoint, self._key, task, draft, self._options.on_progress
            )
        except RpcError as error:
            if error.code == ErrorCode.DUPLICATE_UPDATE:
                return True
            if error.code == ErrorCode.ROUND_FULL:
                yield from self._wait_until_over(task, draft.training_round)
                return False
            if error.code in _TOO_LATE:
                return False
            raise
        return True

    def _wait_until_over(
        self, task: Task, number: int, *, is_frozen_enough: bool = False
    ) -> Script[TrainingRound]:
        """Return a training round once it has ended, or, if that is enough, once it is frozen."""
        timeout_s = self._options.round_timeout_s
        started = yield from read_clock()
        while True:
            try:
                # Open before the question, so that no end falls between the two.
                yield OpenFeed(self._feed)
                is_live = True
            except (ConnectionFailedError, RpcError):
                is_live = False
            state = yield from perform(self._endpoint, rpc.get_training_round(task, number))
            if state.is_over or (is_frozen_enough and state.status == "frozen"):
                return state
            waited_s = (yield from read_clock()) - started
            if timeout_s is not None and waited_s > timeout_s:
                raise WaitTimeoutError(
                    f"Training round {number} has not ended within {timeout_s:g} s; it has "
                    f"{len(state.updates)} updates, and needs {task.spec.policy.updates_min}."
                )
            if is_live:
                yield from self._wait_for_event(task)
            else:
                yield Sleep(POLL_S)

    def _wait_for_event(self, task: Task) -> Script[None]:
        deadline = (yield from read_clock()) + self._feed.silence_s
        while (yield from read_clock()) < deadline:  # Other tasks' rounds may end all the time.
            event = yield from read_feed(self._feed)
            if event is None:
                # A node that closes every stream at once must not make this loop a hot one.
                yield Sleep(POLL_S / 5)
                return
            if event.data.get("task_id") == task.task_id.hex():
                return

    def _conclude(
        self, task: Task, over: TrainingRound, encoded: EncodedUpdate | None
    ) -> Script[RoundResult]:
        receipt = over.receipt
        if receipt is None:
            raise WaitTimeoutError(f"Training round {over.training_round} has not ended.")
        verified = yield from self._download(task)
        # The receipt of a void round lists its updates, too, and none of them was aggregated.
        counted = receipt.updates if receipt.outcome is RoundOutcome.FINALIZED else ()
        own = [u for u in counted if u.participant == self._key.address]
        return RoundResult(
            over.training_round,
            receipt.outcome,
            bool(own),
            bool(own and own[0].is_set_aside),
            own[0].score / METRIC_ONE if own else 0.0,
            0 if encoded is None else encoded.saturated,
            verified.to_arrays(ModelSchema.from_spec(task.spec), self._options.dtype),
            verified,
            receipt,
        )
