"""The part of trio's interface that a node uses, on a virtual clock, with one schedule per seed.

Owns a scheduler of coroutines: tasks, nurseries, cancel scopes, events, channels and sleeping, with
trio's meaning. Which of the ready tasks runs next is drawn from the seed; time moves only when
none is ready. Never waits for anything real, so a run is as fast as its code and the same every
time.

`install` puts this module in trio's place, before the node's modules are imported; so the node's
own code runs unchanged. It is for processes that do nothing else.
"""

# The names and signatures are trio's.
# ruff: noqa: ARG001, ARG002, N818

import contextlib
import heapq
import random
import sys
import types
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")
inf = float("inf")
THREAD_S = 0.003
"""The most virtual seconds that work in a thread takes, unless the run says otherwise."""


class Cancelled(BaseException):
    """Unwinds a task whose scope was cancelled."""


class WouldBlock(Exception):
    """A channel is full or empty."""


class EndOfChannel(Exception):
    """Nobody can send into this channel any more."""


class BrokenResourceError(Exception):
    """Nobody can receive from this channel any more."""


class ClosedResourceError(Exception):
    """This end of the channel was closed."""


class TooSlowError(Exception):
    """A `fail_after` ran out."""


class Deadlock(Exception):
    """No task is ready and none will ever be."""


@dataclass(eq=False, slots=True)
class Pace:
    """How much later than due the tasks of one slow computer go on, at most, in seconds."""

    lag_s: float = 0.0


@dataclass(eq=False, slots=True)
class Task:
    """A coroutine, where it stands among the scopes, and how to wake it when it is cancelled."""

    number: int
    coroutine: Coroutine[Any, Any, Any]
    nursery: "Nursery | None"
    scope: "CancelScope | None"
    is_blocked: bool = False
    on_abort: Callable[[], None] | None = None
    value: Any = None
    error: BaseException | None = None
    pace: "Pace | None" = None


@dataclass(eq=False)
class Scheduler:
    """All tasks of a run, the clock, and the order of things."""

    random: random.Random
    now: float = 0.0
    ready: list[Task] = field(default_factory=list)
    tasks: dict[int, Task] = field(default_factory=dict)
    timers: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    current: Task | None = None
    steps: int = 0
    spawned: int = 0
    timed: int = 0
    thread_s: Callable[[Callable[..., Any]], float] | None = None
    is_over: bool = False
    main_result: Any = None
    main_error: BaseException | None = None

    def spawn(self, coroutine: Coroutine[Any, Any, Any], nursery: "Nursery | None") -> Task:
        self.spawned += 1
        scope = nursery.cancel_scope if nursery is not None else None
        task = Task(self.spawned, coroutine, nursery, scope)
        task.pace = nursery.pace if nursery is not None else None
        self.tasks[task.number] = task
        self.ready.append(task)
        return task

    def at(self, time: float, call: Callable[[], None]) -> None:
        self.timed += 1
        heapq.heappush(self.timers, (max(time, self.now), self.timed, call))

    def wake(self, task: Task, value: Any = None, error: BaseException | None = None) -> None:
        if task.is_blocked:
            task.is_blocked, task.on_abort = False, None
            task.value, task.error = value, error
            if task.pace is not None and task.pace.lag_s and error is None:
                late_s = task.pace.lag_s * self.random.random()
                self.at(self.now + late_s, lambda: self.ready.append(task))
            else:
                self.ready.append(task)

    def deliver_cancellations(self) -> None:
        for task in list(self.tasks.values()):
            if task.is_blocked and is_cancelled(task.scope):
                abort = task.on_abort
                if abort is not None:
                    abort()
                self.wake(task, error=Cancelled())

    def step(self) -> None:
        """Run one ready task until it blocks, or move the clock to the next timer."""
        if not self.ready:
            if not self.timers:
                raise Deadlock("nothing is ready and no timer is set")
            time, _, call = heapq.heappop(self.timers)
            self.now = time
            call()
            return
        index = self.random.randrange(len(self.ready)) if len(self.ready) > 1 else 0
        task = self.ready.pop(index)
        self.steps += 1
        self.current = task
        value, error = task.value, task.error
        task.value = task.error = None
        try:
            if error is not None:
                task.coroutine.throw(error)
            else:
                task.coroutine.send(value)
        except StopIteration as stop:
            self.finish(task, stop.value, None)
        except BaseException as raised:  # noqa: BLE001 - a task's error belongs to its nursery.
            self.finish(task, None, raised)
        finally:
            self.current = None

    def finish(self, task: Task, result: Any, error: BaseException | None) -> None:
        del self.tasks[task.number]
        if task.nursery is not None:
            task.nursery.child_finished(task, error)
        else:
            self.main_result, self.main_error = result, error
            self.is_over = True


_scheduler: Scheduler | None = None


def scheduler() -> Scheduler:
    """Return the scheduler of the run in progress."""
    if _scheduler is None:
        raise RuntimeError("this must be called from inside a run")
    return _scheduler


@types.coroutine
def _block(on_abort: Callable[[], None] | None) -> Generator[None, Any, Any]:
    task = scheduler().current
    if task is None:
        raise RuntimeError("only a task can wait")
    if is_cancelled(task.scope):
        raise Cancelled
    task.is_blocked, task.on_abort = True, on_abort
    return (yield)


@types.coroutine
def _give_way() -> Generator[None, Any, Any]:
    task = scheduler().current
    if task is None:
        raise RuntimeError("only a task can wait")
    if is_cancelled(task.scope):
        raise Cancelled
    task.is_blocked = True
    scheduler().wake(task)
    return (yield)


def is_cancelled(scope: "CancelScope | None") -> bool:
    """Tell whether a cancelled scope reaches here, with no shield between."""
    while scope is not None:
        if scope.cancel_called:
            return True
        if scope.shield:
            return False
        scope = scope.parent
    return False


def strip_cancelled(error: BaseException) -> BaseException | None:
    """Return an error without the `Cancelled` in it, or None if nothing else is left."""
    if isinstance(error, Cancelled):
        return None
    if isinstance(error, BaseExceptionGroup):
        _, rest = error.split(Cancelled)
        return rest
    return error


class CancelScope:
    """As trio's."""

    def __init__(self, *, deadline: float = inf, shield: bool = False) -> None:
        self.deadline = deadline
        self.shield = shield
        self.cancel_called = False
        self.cancelled_caught = False
        self.parent: CancelScope | None = None
        self._is_open = False

    def __enter__(self) -> "CancelScope":
        task = scheduler().current
        if task is None:
            raise RuntimeError("a cancel scope belongs to a task")
        self.parent, task.scope = task.scope, self
        self._is_open = True
        if self.deadline != inf:
            scheduler().at(self.deadline, self._expire)
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        task = scheduler().current
        if task is None:
            # The run is over and Python closes what was left suspended.
            return False
        self._is_open = False
        task.scope = self.parent
        if error is None or not self.cancel_called:
            return False
        if not self.shield and is_cancelled(self.parent):
            return False
        rest = strip_cancelled(error)
        if rest is error:
            return False
        self.cancelled_caught = True
        if rest is None:
            return True
        raise rest

    def cancel(self) -> None:
        """Unwind whatever runs under this scope."""
        if not self.cancel_called:
            self.cancel_called = True
            scheduler().deliver_cancellations()

    def _expire(self) -> None:
        if self._is_open:
            self.cancel()


class _TaskStatus:
    def __init__(self, event: "Event") -> None:
        self._event = event
        self.value: Any = None

    def started(self, value: Any = None) -> None:
        self.value = value
        self._event.set()


class _IgnoredStatus:
    def started(self, value: Any = None) -> None:
        """Nobody waits."""


TASK_STATUS_IGNORED = _IgnoredStatus()


class Nursery:
    """As trio's."""

    def __init__(self) -> None:
        self.cancel_scope = CancelScope()
        self.errors: list[BaseException] = []
        self.children = 0
        self._done: Event | None = None
        task = scheduler().current
        self.pace = task.pace if task is not None else None

    def start_soon(self, work: Callable[..., Awaitable[Any]], *args: Any, name: Any = None) -> None:
        """Run a child task."""
        self.children += 1
        scheduler().spawn(work(*args), self)  # type: ignore[arg-type]

    async def start(self, work: Callable[..., Awaitable[Any]], *args: Any, name: Any = None) -> Any:
        """Run a child task and return when it says that it has started."""
        event = Event()
        status = _TaskStatus(event)

        async def run() -> None:
            try:
                await work(*args, task_status=status)
            finally:
                event.set()

        self.start_soon(run)
        await event.wait()
        return status.value

    def child_finished(self, task: Task, error: BaseException | None) -> None:
        """Take note of the end of a child."""
        self.children -= 1
        if error is not None:
            self.errors.append(error)
            self.cancel_scope.cancel()
        if self.children == 0 and self._done is not None:
            self._done.set()

    async def finish(self) -> None:
        """Wait for the children, uninterrupted: their own cancellation ends them."""
        while self.children:
            self._done = Event()
            with CancelScope(shield=True):
                await self._done.wait()


@asynccontextmanager
async def open_nursery(strict_exception_groups: bool | None = None) -> AsyncIterator[Nursery]:
    """As trio's."""
    nursery = Nursery()
    with nursery.cancel_scope:
        try:
            yield nursery
        except BaseException as error:  # noqa: BLE001 - collected with those of the children.
            nursery.errors.append(error)
            nursery.cancel_scope.cancel()
        await nursery.finish()
        if nursery.errors:
            raise BaseExceptionGroup("Exceptions from a nursery", nursery.errors)
        await lowlevel.checkpoint_if_cancelled()


def set_pace(pace: Pace) -> None:
    """Let the running task, and all tasks that come from it, go on at this pace."""
    task = scheduler().current
    if task is None:
        raise RuntimeError("only a task has a pace")
    task.pace = pace


def current_time() -> float:
    """Return the virtual time, in seconds."""
    return scheduler().now


async def sleep_until(time: float) -> None:
    """Wait until a virtual time."""
    task = scheduler().current
    if time == inf:
        await _block(None)
        return
    is_due = [True]

    def wake() -> None:
        if is_due[0] and task is not None:
            scheduler().wake(task)

    def forget() -> None:
        is_due[0] = False

    scheduler().at(time, wake)
    await _block(forget)


async def sleep(seconds: float) -> None:
    """Wait for so long on the virtual clock."""
    await sleep_until(scheduler().now + seconds)


async def sleep_forever() -> None:
    """Wait until cancelled."""
    await sleep_until(inf)


class Event:
    """As trio's."""

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: list[Task] = []

    def is_set(self) -> bool:
        """Tell whether it has happened."""
        return self._is_set

    def set(self) -> None:
        """Wake everybody who waits."""
        self._is_set = True
        waiting, self._waiting = self._waiting, []
        for task in waiting:
            scheduler().wake(task)

    async def wait(self) -> None:
        """Return when it has happened."""
        if self._is_set:
            await lowlevel.checkpoint()
            return
        task = scheduler().current
        if task is None:
            raise RuntimeError("only a task can wait")
        self._waiting.append(task)
        await _block(lambda: self._waiting.remove(task))


class Lock:
    """As trio's."""

    def __init__(self) -> None:
        self._is_held = False
        self._waiting: deque[Event] = deque()

    async def __aenter__(self) -> None:
        await lowlevel.checkpoint_if_cancelled()
        while self._is_held:
            event = Event()
            self._waiting.append(event)
            await event.wait()
        self._is_held = True

    async def __aexit__(self, *_: object) -> None:
        self._is_held = False
        while self._waiting:
            self._waiting.popleft().set()

    def locked(self) -> bool:
        """Tell whether somebody holds it."""
        return self._is_held


class Semaphore:
    """As trio's."""

    def __init__(self, initial_value: int, *, max_value: int | None = None) -> None:
        self._value = initial_value
        self._waiting: deque[Event] = deque()

    async def acquire(self) -> None:
        """Take one, waiting for it."""
        await lowlevel.checkpoint_if_cancelled()
        while self._value == 0:
            event = Event()
            self._waiting.append(event)
            await event.wait()
        self._value -= 1

    def acquire_nowait(self) -> None:
        """Take one, or raise `WouldBlock`."""
        if self._value == 0:
            raise WouldBlock
        self._value -= 1

    def release(self) -> None:
        """Give one back."""
        self._value += 1
        while self._waiting:
            self._waiting.popleft().set()

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *_: object) -> None:
        self.release()


class CapacityLimiter:
    """As trio's, as far as borrowing in an `async with` block goes."""

    def __init__(self, total_tokens: int) -> None:
        self._semaphore = Semaphore(total_tokens)

    async def __aenter__(self) -> None:
        await self._semaphore.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._semaphore.release()


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """What a channel holds."""

    current_buffer_used: int


class _Channel(Generic[T]):
    def __init__(self, size: float) -> None:
        self.size = size
        self.items: deque[T] = deque()
        self.senders = 1
        self.receivers = 1
        self.changed = Event()

    def change(self) -> None:
        event, self.changed = self.changed, Event()
        event.set()


class MemorySendChannel(Generic[T]):
    """As trio's."""

    def __init__(self, channel: _Channel[T]) -> None:
        self._channel = channel
        self._is_closed = False

    def send_nowait(self, item: T) -> None:
        """Queue an item."""
        if self._is_closed:
            raise ClosedResourceError
        if not self._channel.receivers:
            raise BrokenResourceError
        if len(self._channel.items) >= self._channel.size:
            raise WouldBlock
        self._channel.items.append(item)
        self._channel.change()

    async def send(self, item: T) -> None:
        """Queue an item, waiting for room."""
        await lowlevel.checkpoint()
        while len(self._channel.items) >= self._channel.size and self._channel.receivers:
            await self._channel.changed.wait()
        self.send_nowait(item)

    def clone(self) -> "MemorySendChannel[T]":
        """Return another end of the same channel."""
        self._channel.senders += 1
        return MemorySendChannel(self._channel)

    def close(self) -> None:
        """Say that nothing more comes from this end."""
        if not self._is_closed:
            self._is_closed = True
            self._channel.senders -= 1
            self._channel.change()

    def statistics(self) -> ChannelStatistics:
        """Tell how much waits."""
        return ChannelStatistics(len(self._channel.items))


class MemoryReceiveChannel(Generic[T]):
    """As trio's."""

    def __init__(self, channel: _Channel[T]) -> None:
        self._channel = channel
        self._is_closed = False

    def receive_nowait(self) -> T:
        """Take an item."""
        if self._channel.items:
            item = self._channel.items.popleft()
            self._channel.change()
            return item
        if not self._channel.senders:
            raise EndOfChannel
        raise WouldBlock

    async def receive(self) -> T:
        """Take an item, waiting for one."""
        await lowlevel.checkpoint()
        while not self._channel.items and self._channel.senders:
            await self._channel.changed.wait()
        return self.receive_nowait()

    def clone(self) -> "MemoryReceiveChannel[T]":
        """Return another end of the same channel."""
        self._channel.receivers += 1
        return MemoryReceiveChannel(self._channel)

    def close(self) -> None:
        """Take nothing more."""
        if not self._is_closed:
            self._is_closed = True
            self._channel.receivers -= 1
            self._channel.change()

    def statistics(self) -> ChannelStatistics:
        """Tell how much waits."""
        return ChannelStatistics(len(self._channel.items))

    def __aiter__(self) -> "MemoryReceiveChannel[T]":
        return self

    async def __anext__(self) -> T:
        try:
            return await self.receive()
        except EndOfChannel:
            raise StopAsyncIteration from None


class _OpenMemoryChannel:
    def __getitem__(self, _: object) -> "_OpenMemoryChannel":
        return self

    def __call__(self, size: float) -> tuple[MemorySendChannel[Any], MemoryReceiveChannel[Any]]:
        channel: _Channel[Any] = _Channel(size)
        return MemorySendChannel(channel), MemoryReceiveChannel(channel)


open_memory_channel = _OpenMemoryChannel()


def move_on_at(deadline: float) -> CancelScope:
    """As trio's."""
    return CancelScope(deadline=deadline)


def move_on_after(seconds: float) -> CancelScope:
    """As trio's."""
    return CancelScope(deadline=scheduler().now + seconds)


class fail_after:  # noqa: N801 - trio's name.
    """As trio's."""

    def __init__(self, seconds: float) -> None:
        self._scope = move_on_after(seconds)

    def __enter__(self) -> CancelScope:
        return self._scope.__enter__()

    def __exit__(self, *error: Any) -> bool:
        is_absorbed = self._scope.__exit__(*error)
        if self._scope.cancelled_caught:
            raise TooSlowError
        return is_absorbed


class lowlevel:  # noqa: N801 - trio's name.
    """The part of `trio.lowlevel` in use."""

    @staticmethod
    async def checkpoint() -> None:
        """Let others run."""
        await _give_way()

    @staticmethod
    async def checkpoint_if_cancelled() -> None:
        """Unwind if cancelled."""
        task = scheduler().current
        if task is not None and is_cancelled(task.scope):
            raise Cancelled


class to_thread:  # noqa: N801 - trio's name.
    """The part of `trio.to_thread` in use."""

    @staticmethod
    async def run_sync(
        work: Callable[..., T],
        *args: Any,
        abandon_on_cancel: bool = False,
        cancellable: bool = False,
        limiter: Any = None,
    ) -> T:
        """Do the work after a moment that the seed draws: nobody knows how long a thread takes."""
        engine = scheduler()
        longest_s = THREAD_S if engine.thread_s is None else engine.thread_s(work)
        async with limiter or contextlib.nullcontext():
            with CancelScope(shield=not (abandon_on_cancel or cancellable)):
                await sleep(engine.random.random() * longest_s)
            return work(*args)


def run(main: Callable[..., Coroutine[Any, Any, T]], *args: Any, seed: int = 0) -> T:
    """Run `main` to its end on a virtual clock."""
    global _scheduler  # noqa: PLW0603 - one run at a time, as in trio.
    previous, _scheduler = _scheduler, Scheduler(random.Random(seed))
    try:
        engine = _scheduler
        engine.spawn(main(*args), None)
        while not engine.is_over:
            engine.step()
        if engine.main_error is not None:
            raise engine.main_error
        result: T = engine.main_result
        return result
    finally:
        # What is still suspended unwinds now, while there is a clock to do so on.
        for task in list(_scheduler.tasks.values()):
            with contextlib.suppress(BaseException):
                task.coroutine.close()
        _scheduler = previous


def install() -> None:
    """Put this module in trio's place for everything that is imported from now on."""
    if "trio" in sys.modules and sys.modules["trio"] is not sys.modules[__name__]:
        raise RuntimeError("trio is imported already: the simulation needs a process of its own")
    module = sys.modules[__name__]
    sys.modules["trio"] = module
    sys.modules["trio.lowlevel"] = types.ModuleType("trio.lowlevel")
