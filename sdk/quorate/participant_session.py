"""A participant's way through the buffers of an asynchronous task.

Owns what differs there from `TrainingSession`: an update is made from the newest weights and goes
into whichever buffer is open when it arrives, and while the result of a full buffer is being
computed the next update is already trained and sent. Never sees data: fitting is the caller's.

What earlier updates left unsaid goes along with one update alone: another one that is sent before
the first has ended must not say the same again.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quorate import procedures, submissions
from quorate import rpc_protocol as rpc
from quorate.chain.errors import ErrorCode
from quorate.chain.ids import Hash
from quorate.errors import RpcError, WaitTimeoutError
from quorate.rpc_types import Task, TrainingRound
from quorate.script import Script, Sleep, perform, read_clock
from quorate.submissions import UpdateDraft
from quorate.training_session import (
    LATE_ROUNDS_MAX,
    POLL_S,
    SETTLE_TIMEOUT_S,
    RoundResult,
    TrainingSession,
)
from quorate.update_encoding import RESIDUAL_ABS_MAX, EncodedUpdate

IN_FLIGHT_MAX = 2
"""One's updates in training rounds that have not ended: in the frozen one and in the open one."""


@dataclass(frozen=True)
class _Sent:
    """An update of one's own in a training round; `encoded` is None if an earlier run made it.

    `taken` is the residual that was added to it, float32 (d,), or None.
    """

    training_round: int
    encoded: EncodedUpdate | None = None
    taken: NDArray[np.float32] | None = None


class ParticipantSession(TrainingSession):
    """One participant of one task, synchronous or asynchronous; see `TrainingSession`."""

    _is_asynchronous: bool | None = None
    _sent: deque[_Sent] | None = None

    def train_round(self) -> Script[RoundResult]:
        """Take part in training rounds until one with an own update has ended; say how.

        In an asynchronous task the next update is on its way by then if it could be: there is
        always one of one's own in the open buffer, as far as fitting is fast enough.

        Raises
        ------
        TaskClosedError
            If the task takes no updates any more.
        WaitTimeoutError
            If a round does not end within `round_timeout_s`, or if update after update comes too
            late.
        """
        if self._is_asynchronous is None:
            task = yield from procedures.get_task(self._endpoint, self._task_key)
            self._is_asynchronous = task.spec.policy.is_asynchronous
        if not self._is_asynchronous:
            return (yield from super().train_round())
        if self._sent is None:
            self._sent = deque()
        sent, late_count = self._sent, 0
        while late_count < LATE_ROUNDS_MAX:
            if sent:
                oldest = yield from perform(
                    self._endpoint,
                    rpc.get_training_round(self._task_key, sent[0].training_round),
                )
                if oldest.is_over:
                    task = yield from procedures.get_task(self._endpoint, self._task_key)
                    ended = yield from self._conclude(task, oldest, sent[0].encoded)
                    self._owe(sent.popleft(), ended)
                    return ended
            if len(sent) < IN_FLIGHT_MAX and not (yield from self._is_buffer_closed_to_us(sent)):
                counted = yield from self._send_update()
                if counted is None:
                    late_count += 1
                else:
                    sent.append(counted)
                continue
            task = yield from procedures.get_task(self._endpoint, self._task_key)
            number, stops = sent[0].training_round, len(sent) < IN_FLIGHT_MAX
            yield from self._wait_until_over(task, number, is_frozen_enough=stops)
        raise WaitTimeoutError(
            f"{LATE_ROUNDS_MAX} updates in a row came too late: their base weights were older than "
            "the task's staleness_max when they arrived."
        )

    def _is_buffer_closed_to_us(self, sent: deque[_Sent]) -> Script[bool]:
        """Tell whether the open buffer has an update of ours; takes note of one it did not know."""
        if not sent and not self._is_ready:
            yield from self._get_ready()
        current = yield from perform(self._endpoint, rpc.get_training_round(self._task_key, None))
        if not any(update.participant == self._address for update in current.updates):
            return False
        if not sent or sent[-1].training_round != current.training_round:
            sent.append(_Sent(current.training_round))
        return True

    def _send_update(self) -> Script[_Sent | None]:
        """Train from the newest weights and submit; None if that came too late."""
        task = yield from self._get_ready()
        current = yield from perform(self._endpoint, rpc.get_training_round(task, None))
        base = self._latest
        if base is None or base.weights_root != current.base_weights_root:
            base = yield from self._download(task)
        encoded, result = yield from self._compute_update(task, current, base)
        draft = UpdateDraft(
            current.training_round,
            base.weights_root,
            encoded.data,
            result.example_count,
            result.metrics,
        )
        try:
            submitted = yield from submissions.submit_update(
                self._endpoint, self._key, task, draft, self._options.on_progress
            )
            yield from procedures.wait_for_transaction(
                self._endpoint, submitted.hash, SETTLE_TIMEOUT_S
            )
        except WaitTimeoutError:
            return None
        except RpcError as error:
            if error.code not in self._PASSING:
                raise
            if error.code == ErrorCode.ROUND_FULL:
                yield from self._wait_for_room(task)
            return None
        number = yield from self._find_own(task, current.training_round)
        if number is None:
            return None
        taken, self._residual = self._residual, None
        return _Sent(number, encoded, taken)

    def _owe(self, sent: _Sent, ended: RoundResult) -> None:
        """Add to what is owed: what a counted update left unsaid; of another, what it took."""
        if sent.encoded is None or not self._options.keeps_residual:
            return
        owed = sent.encoded.residual if ended.is_counted else sent.taken
        if owed is not None and self._residual is not None:
            owed = np.clip(owed + self._residual, -RESIDUAL_ABS_MAX, RESIDUAL_ABS_MAX)
        self._residual = self._residual if owed is None else owed

    _PASSING = frozenset(
        {
            ErrorCode.STALE_WEIGHTS,
            ErrorCode.WRONG_TRAINING_ROUND,
            ErrorCode.TASK_NOT_OPEN,
            ErrorCode.DUPLICATE_UPDATE,
            ErrorCode.ROUND_FULL,
        }
    )

    def _wait_for_room(self, task: Task) -> Script[None]:
        """Return when the buffer that was full is no longer the open one."""
        full = yield from perform(self._endpoint, rpc.get_training_round(task, None))
        timeout_s, started = self._options.round_timeout_s, (yield from read_clock())
        while True:
            now = yield from perform(self._endpoint, rpc.get_training_round(task, None))
            if now.training_round != full.training_round:
                return
            waited_s = (yield from read_clock()) - started
            if timeout_s is not None and waited_s > timeout_s:
                raise WaitTimeoutError(
                    f"The buffer {full.training_round} has been full for {timeout_s:g} s: the "
                    "result that it waits for is still being computed."
                )
            yield Sleep(POLL_S)

    def _find_own(self, task: Task, first: int) -> Script[int | None]:
        """Return the training round, from `first` on, that has the newest of one's updates."""
        current = yield from perform(self._endpoint, rpc.get_training_round(task, None))
        for number in range(current.training_round, first - 1, -1):
            if number != current.training_round:
                current = yield from perform(self._endpoint, rpc.get_training_round(task, number))
            if self._address in _get_counted(current):
                return number
        return None


def _get_counted(state: TrainingRound) -> set[bytes]:
    counted: set[bytes] = {Hash(update.participant) for update in state.updates}
    if state.receipt is not None:
        counted |= {update.participant for update in state.receipt.updates}
    return counted
