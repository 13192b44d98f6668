"""One height, again and again: each time one message less.

Owns the enumeration. A network of four runs until a height is about to begin; from there on every
message of a faultless run is counted, and for each of them the process forks, and one message
is lost. ``python -m tests.simulation.dropping SCENARIO`` prints what that cost.
"""

# ruff: noqa: E402 - trio is replaced before anything imports it.
from tests.simulation import virtual_trio

virtual_trio.install()

import argparse
import itertools
import json
import logging
import os
import random
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import structlog
import trio
from quorate.chain.content import compute_content_hash
from quorate.chain.ids import Hash
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.round_policy import RoundPolicy
from quorate.chain.task import (
    AggregationRule,
    OptimizerName,
    ServerOptimizer,
    Stage,
    TaskSpec,
    TensorSpec,
    UpdateCodec,
)
from quorate.chain.transaction import (
    Body,
    CreateTask,
    RegisterParticipant,
    SubmitUpdate,
    Transfer,
)

from node.exchange.messages import decode_message
from node.mempool import slices
from p2p.network import PeerId
from tests.simulation.fabric import Conditions, Fabric
from tests.simulation.load_plan import LARGE_DIMENSION, SMALL_DIMENSION, make_load_plan
from tests.simulation.machines import Machine
from tests.simulation.plan import make_plan
from tests.simulation.planted import PLANTED
from tests.simulation.slow_aggregates import slow_down
from tests.simulation.users import USER_KEYS, USERS
from tests.simulation.world import World

SEED = 0
SLICE_STEP_S = 0.0007
"""What the clock of long work shows more at each look."""
LIMIT_S = 30.0
"""Virtual seconds after which a decision is given up."""
DELAY_S = 0.002
POLL_S = 0.0005


class CountingFabric(Fabric):
    """A network that counts its messages from some moment on, and loses the planned one."""

    dropped: int | None = None
    kinds: list[str] | None = None

    def carry(self, sender: PeerId, receiver: PeerId, deliver: Callable[[], None]) -> None:
        """Deliver, or lose, and count."""
        if self.kinds is not None:
            kind = get_kind(deliver)
            self.kinds.append(kind)
            if len(self.kinds) - 1 == self.dropped:
                return
        super().carry(sender, receiver, deliver)


def get_kind(deliver: Callable[[], None]) -> str:
    """Return what a message is, from what the network would do to deliver it."""
    name = deliver.__qualname__
    if name.startswith("SimNetwork.send."):
        body = (deliver.__defaults__ or (b"",))[0]
        return type(decode_message(body)).__name__
    return "Answer" if ".answer." in name else "Request" if ".request." in name else "Status"


@dataclass(frozen=True)
class Outcome:
    """What one run came to: every message by its kind, the lost one, and the time it took."""

    kinds: list[str]
    dropped: str
    seconds: float
    is_decided: bool


class Scene:
    """A network of four, and what is done to it before a height and in it.

    Parameters
    ----------
    world : World
        Quiet, with counted messages.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.task_id = Hash(b"")

    @property
    def running(self) -> list[Machine]:
        """The machines that run."""
        return [machine for machine in self.world.machines if machine.is_up]

    async def reach(self, height: int) -> None:
        """Return when all that run have decided a height."""
        with trio.fail_after(LIMIT_S):
            while any(machine.height < height for machine in self.running):  # noqa: ASYNC110
                await trio.sleep(POLL_S)

    async def submit(self, user: int, body: Body, payload: bytes | None = None) -> Hash:
        """Submit a transaction at the first machine."""
        users = self.world.users
        users.all[user].home = self.world.machines[0]
        accepted = await users.submit(users.all[user], body, payload, kind="scenario")
        if accepted is None:
            raise RuntimeError("the scenario's transaction was refused")
        return accepted

    async def create_task(self, dimension: int, participants: int) -> None:
        """Create a task, and register its participants."""
        weights = bytes(4 * dimension)
        spec = TaskSpec(
            name="task",
            tensors=(TensorSpec("w", (dimension,), 16, 12),),
            initial_weights_root=compute_content_hash(weights),
            rule=AggregationRule((Stage.MEAN,), 0),
            optimizer=ServerOptimizer(OptimizerName.SGD),
            codec=UpdateCodec.DENSE_INT16,
            policy=RoundPolicy(60_000, participants, participants, waive_proposer_spread=True),
            example_count_max=0,
        )
        self.task_id = await self.submit(0, CreateTask(spec), weights)
        await self._settle()
        for user in range(participants):
            await self.submit(user, RegisterParticipant(self.task_id))
        await self._settle()

    async def update(self, user: int, dimension: int) -> None:
        """Submit an update."""
        node = self.world.machines[0].node
        task = None if node is None else node.services.executor.state.get_task(self.task_id)
        if task is None:
            raise RuntimeError("the scenario's task is not there")
        payload = bytes([user]) * (2 * dimension)
        address = compute_content_hash(payload)
        body = SubmitUpdate(
            self.task_id,
            task.training_round,
            task.weights_root,
            UpdateCodec.DENSE_INT16,
            address,
            len(payload),
            1,
        )
        await self.submit(user, body, payload)

    async def _settle(self) -> None:
        with trio.fail_after(LIMIT_S):
            while self.world.promises.find_owed():  # noqa: ASYNC110
                await trio.sleep(POLL_S)


# --- scenarios: what comes before the height, and what sets it off --------------------------------


async def prepare_nothing(scene: Scene) -> None:
    """A height is set off by a transfer."""


async def transfer(scene: Scene) -> None:
    """Submit a transfer."""
    await scene.submit(0, Transfer(USER_KEYS[1].address, 1))


async def stop_one(scene: Scene) -> None:
    """Let one of four be off, so that every vote of the others is needed."""
    await scene.world.crash(scene.world.machines[3], has_power_failed=False)


async def prepare_update(scene: Scene) -> None:
    """Open a training round whose updates are pulled."""
    await scene.create_task(LARGE_DIMENSION, 2)


async def update(scene: Scene) -> None:
    """Submit an update whose payload is pulled."""
    await scene.update(0, LARGE_DIMENSION)


async def prepare_last_update(scene: Scene) -> None:
    """Open a training round that the next update seals."""
    await scene.create_task(SMALL_DIMENSION, 2)
    await scene.update(0, SMALL_DIMENSION)
    with trio.fail_after(LIMIT_S):
        while scene.world.promises.find_owed():  # noqa: ASYNC110
            await trio.sleep(POLL_S)


async def last_update(scene: Scene) -> None:
    """Submit the update that seals a training round, which its aggregate in the background ends."""
    await scene.update(1, SMALL_DIMENSION)


Part = Callable[[Scene], Awaitable[None]]
SCENARIOS: dict[str, tuple[Part, Part]] = {
    "transfer": (prepare_nothing, transfer),
    "three_of_four": (stop_one, transfer),
    "large_update": (prepare_update, update),
    "sealing_update": (prepare_last_update, last_update),
}


# --- the enumeration ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Child:
    """One run of the height: which message it loses, and where it tells the outcome."""

    dropped: int | None
    output: int


def fork(dropped: int | None) -> Outcome | Child:
    """Fork the whole run: the child goes on, the parent waits for its outcome."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        return Child(dropped, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    if not told:
        raise RuntimeError(f"the run without message {dropped} died")
    return Outcome(**json.loads(told))


async def decide(scene: Scene, set_off: Part, height: int, child: Child) -> None:
    """Decide a height without one of its messages, tell how it went, and end the process."""
    fabric, since = scene.world.fabric, trio.current_time()
    if not isinstance(fabric, CountingFabric):
        raise TypeError("messages are not counted")
    fabric.dropped, fabric.kinds = child.dropped, []
    await set_off(scene)
    with trio.move_on_after(LIMIT_S) as waiting:
        while any(machine.height < height for machine in scene.running):  # noqa: ASYNC110
            await trio.sleep(POLL_S)
    is_lost = child.dropped is not None and child.dropped < len(fabric.kinds)
    outcome = Outcome(
        kinds=fabric.kinds,
        dropped=fabric.kinds[child.dropped] if is_lost and child.dropped is not None else "",
        seconds=trio.current_time() - since,
        is_decided=not waiting.cancelled_caught,
    )
    os.write(child.output, json.dumps(asdict(outcome)).encode())
    # Nothing of the parent's is to be flushed, removed or waited for.
    os._exit(0)


async def enumerate_drops(scene: Scene, prepare: Part, set_off: Part) -> list[Outcome]:
    """Run up to a height; return how it goes without a loss, then for each message lost."""
    world = scene.world
    outcomes: list[Outcome] = []
    async with trio.open_nursery() as nursery:
        world.nursery = nursery
        slow_down(world.load_plan.aggregation_s, is_inline=False)
        for machine in world.machines:
            await world.start(machine)
        await scene.reach(1)
        await prepare(scene)
        height = max(machine.height for machine in world.machines) + 1
        await scene.reach(height)
        dropped: int | None = None
        while dropped is None or dropped < len(outcomes[0].kinds):
            forked = fork(dropped)
            if isinstance(forked, Child):
                await decide(scene, set_off, height + 1, forked)
            else:
                outcomes.append(forked)
            dropped = len(outcomes) - 1
        nursery.cancel_scope.cancel()
    return outcomes


def make_quiet_world(folder: Path) -> World:
    """Return four machines in a network that loses nothing by itself."""
    plan = replace(
        make_plan(SEED),
        powers=(10, 10, 10, 10),
        byzantine={},
        late=frozenset(),
        skews_ms=(0, 0, 0, 0),
        lags_s=(0.0, 0.0, 0.0, 0.0),
        cables=None,
        remote=None,
        schedule="",
        conditions=Conditions(delay_s=DELAY_S, jitter_s=0.0),
        empty_block_interval_ms=300,
        faults=(),
    )
    load_plan = replace(
        make_load_plan(SEED, USERS),
        tasks=(),
        parameters=ConsensusParameters(),
        other_parameters=None,
        fee=0,
        aggregation_s=virtual_trio.THREAD_S,
        has_stranger=False,
        is_narrow=False,
    )
    world = World(SEED, folder, plan, load_plan)
    fabric = CountingFabric(random.Random(SEED))
    fabric.conditions = plan.conditions
    world.fabric = fabric
    return world


def main() -> int:
    """Enumerate the losses of one scenario, and print what each kind of message costs."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation.dropping", description=__doc__
    )
    parser.add_argument("scenario", choices=sorted(SCENARIOS))
    parser.add_argument("--plant", choices=sorted(PLANTED), help="break the node on purpose")
    arguments = parser.parse_args()
    if arguments.plant is not None:
        PLANTED[arguments.plant]()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    looks = itertools.count()
    slices.perf_counter = lambda: next(looks) * SLICE_STEP_S  # type: ignore[attr-defined]
    prepare, set_off = SCENARIOS[arguments.scenario]
    with tempfile.TemporaryDirectory() as name:
        scene = Scene(make_quiet_world(Path(name)))
        first, *others = virtual_trio.run(enumerate_drops, scene, prepare, set_off, seed=SEED)
    print(f"faultless: {len(first.kinds)} messages, {first.seconds:.3f} s")
    for kind in sorted(set(first.kinds)):
        costs = [each.seconds for each in others if each.dropped == kind]
        print(f"without one {kind}: {len(costs)} runs, at most {max(costs, default=0):.3f} s")
    stuck = sum(not each.is_decided for each in (first, *others))
    print(
        f"{len(others)} losses, {stuck} undecided, slowest {max(o.seconds for o in others):.3f} s"
    )
    return 1 if stuck else 0


if __name__ == "__main__":
    sys.exit(main())
