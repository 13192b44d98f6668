"""Participants of a task: honest ones, hasty ones, late ones, and some that lie.

Owns what a participant submits and when, drawn step by step. Never judges the answer: `promises`
and the replay of the chain do.
"""

import random
from enum import Enum

import numpy as np
import trio
from quorate.chain.content import compute_content_hash
from quorate.chain.ids import Hash
from quorate.chain.task import INT8_BLOCK_VALUES, TaskSpec, TensorSpec, UpdateCodec
from quorate.chain.transaction import (
    ChangeTaskStatus,
    CreateTask,
    RegisterParticipant,
    RevokeParticipant,
    SubmitEvaluation,
    SubmitUpdate,
    TaskStatus,
)

from ledger.keys import get_registration_key
from ledger.records import RegistrationRecord, TaskRecord
from tests.simulation.load_plan import TaskPlan
from tests.simulation.stranger import Stranger
from tests.simulation.users import User, Users

DECIDED_S = 3.0
"""After so many virtual seconds a task that is not there is created under another name."""
POLL_S = 0.05
RELEASED_S = 1.0
"""The most virtual seconds that a payload is withheld, if it comes at all."""
EXAMPLES_MAX = 60
LOWEST = b"\x00\x80"
"""At the end of an update, the one integer that it may not hold, be it an int16 or an int8."""


class Step(Enum):
    """What a participant does next."""

    UPDATE = "update"
    TWICE = "a second update"
    LATE = "update of the last round"
    STALE = "update of other weights"
    WITHHELD = "update whose payload is kept back"
    MISSING = "update without its payload"
    OTHER_PAYLOAD = "update with another payload"
    OUT_OF_RANGE = "update out of range"
    EVALUATE = "evaluation"
    LEAVE = "leaving"


WEIGHTS = {
    Step.UPDATE: 24,
    Step.TWICE: 3,
    Step.LATE: 2,
    Step.STALE: 2,
    Step.WITHHELD: 3,
    Step.MISSING: 1,
    Step.OTHER_PAYLOAD: 1,
    Step.OUT_OF_RANGE: 1,
    Step.EVALUATE: 3,
    Step.LEAVE: 1,
}


class Training:
    """A task and its participants."""

    def __init__(self, plan: TaskPlan, users: Users, stranger: Stranger | None) -> None:
        self._plan = plan
        self._users = users
        self._stranger = stranger
        self._task_id = Hash(b"")

    @property
    def _random(self) -> random.Random:
        return self._users.random

    async def run(self) -> None:
        """Create the task, and take part in it until cancelled."""
        await trio.sleep(self._plan.begins_s)
        authority = self._users.all[self._plan.authority]
        await self._create(authority)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._govern, authority)
            for number in self._plan.participants:
                nursery.start_soon(self._take_part, self._users.all[number])

    async def _create(self, authority: User) -> None:
        initial = np.zeros(self._plan.dimension, "<i4").tobytes()
        attempt = 0
        while True:
            spec = TaskSpec(
                name=f"{self._plan.name}-{attempt}",
                tensors=(TensorSpec("w", (self._plan.dimension,), 16, 12),),
                initial_weights_root=compute_content_hash(initial),
                rule=self._plan.rule,
                optimizer=self._plan.optimizer,
                codec=self._plan.codec,
                policy=self._plan.policy,
                example_count_max=self._plan.example_count_max,
                top_k=self._plan.top_k,
            )
            body = CreateTask(spec)
            created = await self._users.submit(authority, body, initial, kind="task")
            if created is not None:
                self._task_id = created
                attempt += 1
                with trio.move_on_after(DECIDED_S):
                    while self._find_task(authority) is None:  # noqa: ASYNC110
                        await trio.sleep(POLL_S)
                    return
            await trio.sleep(POLL_S)

    def _find_task(self, user: User) -> TaskRecord | None:
        state = self._users.find_state(user)
        return None if state is None else state.get_task(self._task_id)

    async def _govern(self, authority: User) -> None:
        """Pause the task now and then, and let it go on."""
        while True:
            await trio.sleep(self._random.expovariate(1) * 20 * self._plan.gap_s)
            task = self._find_task(authority)
            if task is None or task.status is TaskStatus.COMPLETED:
                continue
            is_open = task.status is TaskStatus.OPEN
            status = TaskStatus.PAUSED if is_open else TaskStatus.OPEN
            body = ChangeTaskStatus(self._task_id, status)
            await self._users.submit(authority, body, kind="status")

    async def _take_part(self, user: User) -> None:
        while True:
            await trio.sleep(self._random.expovariate(1) * self._plan.gap_s)
            task = self._find_task(user)
            if task is None:
                continue
            if not self._is_registered(user):
                await self._register(user)
            else:
                await self._do(user, task)

    async def _register(self, user: User) -> None:
        """Register, sometimes once more before the answer is known."""
        body = RegisterParticipant(self._task_id)
        for _ in range(self._random.choice((1, 1, 1, 2))):
            await self._users.submit(user, body, kind="registration")
        with trio.move_on_after(DECIDED_S):
            while not self._is_registered(user):  # noqa: ASYNC110
                await trio.sleep(POLL_S)

    def _is_registered(self, user: User) -> bool:
        state = self._users.find_state(user)
        key = get_registration_key(self._task_id, user.key.address)
        return state is not None and state.get(key, RegistrationRecord) is not None

    async def _do(self, user: User, task: TaskRecord) -> None:
        step = self._random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        payload = self._make_payload()
        training_round, root = task.training_round, task.weights_root
        match step:
            case Step.LATE:
                training_round = max(0, training_round - 1)
            case Step.STALE:
                root = task.recent_roots[0] if task.recent_roots else compute_content_hash(payload)
            case Step.OUT_OF_RANGE:
                payload = payload[: -len(LOWEST)] + LOWEST
            case Step.EVALUATE:
                loss = self._random.randrange(1 << 20)
                body = SubmitEvaluation(self._task_id, training_round, root, loss, 10)
                await self._users.submit(user, body, kind=step.value)
                return
            case Step.LEAVE:
                leaving = RevokeParticipant(self._task_id, user.key.address)
                await self._users.submit(user, leaving, kind=step.value)
                return
            case _:
                pass
        update = self._make_update(training_round, root, payload)
        await self._send(user, step, update, payload)

    async def _send(self, user: User, step: Step, update: SubmitUpdate, payload: bytes) -> None:
        match step:
            case Step.WITHHELD if self._stranger is not None:
                await self._withhold(user, self._stranger, update, payload)
            case Step.MISSING:
                await self._users.submit(user, update, None, kind=step.value)
            case Step.OTHER_PAYLOAD:
                await self._users.submit(user, update, self._make_payload(), kind=step.value)
            case _:
                await self._users.submit(user, update, payload, kind=step.value)
        if step is Step.TWICE:
            again = self._make_payload()
            second = self._make_update(update.training_round, update.base_weights_root, again)
            await self._users.submit(user, second, again, kind=step.value)

    async def _withhold(
        self, user: User, stranger: Stranger, update: SubmitUpdate, payload: bytes
    ) -> None:
        """Let everybody know of an update, and bring its payload later, or never."""
        raw = self._users.sign(user, update)
        if raw is None:
            return
        stranger.tell(raw)
        if self._random.random() < 0.5:
            await trio.sleep(self._random.random() * RELEASED_S)
            kind = Step.WITHHELD.value
            await self._users.submit_signed(user, raw, payload, kind=kind)

    def _make_update(self, training_round: int, root: Hash, payload: bytes) -> SubmitUpdate:
        return SubmitUpdate(
            self._task_id,
            training_round,
            root,
            self._plan.codec,
            compute_content_hash(payload),
            len(payload),
            self._random.randrange(1, EXAMPLES_MAX),
        )

    def _make_payload(self) -> bytes:
        dimension, top_k = self._plan.dimension, self._plan.top_k
        match self._plan.codec:
            case UpdateCodec.DENSE_INT8:
                exponents = bytes(-(-dimension // INT8_BLOCK_VALUES))
                values = np.frombuffer(self._random.randbytes(dimension), "i1")
                return exponents + (values >> 1).tobytes()
            case UpdateCodec.TOP_K_INT16:
                indexes = sorted(self._random.sample(range(dimension), top_k))
                return np.array(indexes, "<u4").tobytes() + self._make_int16(top_k)
            case _:
                return self._make_int16(dimension)

    def _make_int16(self, count: int) -> bytes:
        return (np.frombuffer(self._random.randbytes(2 * count), "<i2") >> 5).tobytes()
