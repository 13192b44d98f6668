"""A simulated network: its machines, its phases, and who is told of what.

Owns one run from one seed: a safety phase under faults, then a liveness phase in which the network
heals and must decide. The first broken promise raises `Violation`.
"""

import random
from hashlib import sha256
from pathlib import Path

import trio
from quorate.chain.errors import StorageError
from quorate.chain.genesis import Admission, Genesis, GenesisValidator
from quorate.chain.vote import Commit

from node.config import Config, ConsensusSection, MempoolSection
from node.errors import DoubleSignError
from node.execution.executor import ExecutedBlock
from node.storage import NodeStorage
from store.chain_store import ChainStore
from store.errors import DiskFull
from tests.simulation.byzantine import Byzantine
from tests.simulation.checks import Checks, Violation
from tests.simulation.disk import PowerLoss
from tests.simulation.fabric import Fabric, SimNetwork
from tests.simulation.faults import apply_fault, heal
from tests.simulation.load import Load
from tests.simulation.load_plan import LoadPlan, make_load_plan
from tests.simulation.machines import (
    NODE_IDS,
    VALIDATOR_KEYS,
    Machine,
    SimNode,
    SimSigner,
)
from tests.simulation.memory import check_memory
from tests.simulation.narrow import narrow_config, set_limits
from tests.simulation.plan import Plan, make_plan
from tests.simulation.promises import Promises
from tests.simulation.replay import Archive, check_weights, replay
from tests.simulation.schedules import SCHEDULES
from tests.simulation.slow_aggregates import slow_down
from tests.simulation.stranger import Stranger
from tests.simulation.users import BALANCE, USER_KEYS, USERS, Users, make_accounts
from tests.simulation.virtual_trio import set_pace

CHAIN_ID = "simulation"
GENESIS_TIME_MS = 1_700_000_000_000
LIVENESS_S = 60.0
"""Virtual seconds in which a healed network must have decided `LIVENESS_HEIGHTS` more."""
LIVENESS_HEIGHTS = 3
MEMORY_CHECKED_S = 0.5


class World:
    """One simulated run.

    Parameters
    ----------
    seed : int
        Draws everything that is not given.
    folder : Path
        For the machines' last-signed records.
    plan : Plan, optional
        What breaks.
    load_plan : LoadPlan, optional
        What users do.
    """

    def __init__(
        self,
        seed: int,
        folder: Path,
        plan: Plan | None = None,
        load_plan: LoadPlan | None = None,
    ) -> None:
        self.plan = make_plan(seed) if plan is None else plan
        self.random = random.Random(f"{seed}/world")
        self.fabric = Fabric(random.Random(f"{seed}/fabric"))
        self.fabric.conditions = self.plan.conditions
        if self.plan.cables is not None:
            pairs = self.plan.cables
            self.fabric.cables = frozenset(frozenset((NODE_IDS[a], NODE_IDS[b])) for a, b in pairs)
        self.folder = folder
        validators = VALIDATOR_KEYS[: len(self.plan.powers)]
        self.checks = Checks([key.address for key in (*USER_KEYS, *validators)], USERS * BALANCE)
        self.promises = Promises()
        self.archive = Archive()
        self.load_plan = make_load_plan(seed, USERS) if load_plan is None else load_plan
        self.trace = sha256()
        self.events = 0
        self.genesis = Genesis(
            chain_id=CHAIN_ID,
            genesis_time_ms=GENESIS_TIME_MS,
            admission=Admission.OPEN,
            validators=tuple(
                GenesisValidator(f"v{i}", VALIDATOR_KEYS[i].public_key, power)
                for i, power in enumerate(self.plan.powers)
                if power
            ),
            accounts=make_accounts(),
            parameters=self.load_plan.parameters,
            bucket_count=16,
        )
        self.config = Config(
            consensus=ConsensusSection(
                timeout_propose_ms=400,
                timeout_propose_delta_ms=200,
                timeout_prevote_ms=200,
                timeout_prevote_delta_ms=100,
                timeout_precommit_ms=200,
                timeout_precommit_delta_ms=100,
                empty_block_interval_ms=self.plan.empty_block_interval_ms,
            ),
            mempool=MempoolSection(gossip_interval_ms=5, announce_after_ms=200),
        )
        if self.load_plan.is_narrow:
            self.config = narrow_config(self.config)
        self.machines = [self._make_machine(i) for i in range(len(self.plan.powers))]
        users = Users(
            CHAIN_ID,
            self.machines,
            self.promises,
            random.Random(f"{seed}/load"),
            self.load_plan.fee,
        )
        self.users = users
        self.stranger = Stranger(self.fabric) if self.load_plan.has_stranger else None
        self.load = Load(
            self.load_plan,
            users,
            self.stranger,
            CHAIN_ID,
            self.plan.submission_gap_s,
            sum(1 for power in self.plan.powers if power),
        )

    def _make_machine(self, number: int) -> Machine:
        folder = self.folder / str(number)
        folder.mkdir()
        machine = Machine(number, folder, self.plan.skews_ms[number], number in self.plan.byzantine)
        machine.pace.lag_s = self.plan.lags_s[number]
        return machine

    @property
    def height(self) -> int:
        """The highest decided height."""
        return max(self.checks.decided, default=0)

    # --- running -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run the safety phase, then the liveness phase."""
        slow_down(self.load_plan.aggregation_s, is_inline=self.load_plan.is_inline)
        set_limits(is_narrow=self.load_plan.is_narrow)
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            for machine in self.machines:
                if machine.number not in self.plan.late:
                    await self.start(machine)
            if self.stranger is not None:
                nursery.start_soon(self.stranger.run)
            nursery.start_soon(self.load.run)
            nursery.start_soon(self._watch_memory)
            with trio.move_on_after(self.plan.safety_s):
                await self._break_things()
            self.note("heal")
            await heal(self)
            await self._require_liveness()
            await self._check_end()
            nursery.cancel_scope.cancel()

    async def start(self, machine: Machine) -> None:
        """Start the node of a machine, if it is off."""
        async with machine.turns:
            is_on = not machine.is_up and self._switch_on(machine)
        if is_on:
            node = machine.node
            await self.nursery.start(self._run_node, machine)
            machine.served = node

    def _switch_on(self, machine: Machine) -> bool:
        network = SimNetwork(self.fabric, machine.peer_id)
        signer = SimSigner(
            machine.key, machine.folder / "state.json", CHAIN_ID, is_record_optional=True
        )
        signer.power = machine.disk.power
        storage = NodeStorage(
            ChainStore(machine.disk.blocks),
            machine.disk.payloads,
            machine.disk.log,
            machine.disk.journal,
        )
        SimNode.machine, SimNode.tell = machine, staticmethod(self._on_decided)
        try:
            node = SimNode(
                self.config, self.genesis, storage, network, signer, lambda: self.now_ms(machine)
            )
        except (PowerLoss, DiskFull):
            # It failed while the store was being opened; a later start finds what is left.
            return False
        node.machine, node.tell = machine, self._on_decided
        node.listen(self.promises.on_event)
        machine.node, machine.network = node, network
        machine.height = node.services.executor.position.height
        machine.scope = trio.CancelScope()
        self.checks.watch_signatures(machine, network)
        if machine.is_byzantine:
            behaviours = self.plan.byzantine[machine.number]
            network.deceiver = Byzantine(behaviours, machine.key, CHAIN_ID, self.random)
            network.deceiver.possess(node)
        self.note("start", machine.number, machine.height)
        return True

    async def _run_node(self, machine: Machine, task_status: object) -> None:
        node, scope = machine.node, machine.scope
        if node is None or scope is None:
            raise RuntimeError("the machine is off")
        set_pace(machine.pace)
        try:
            with scope:
                await node.run(task_status=task_status)  # type: ignore[arg-type]
        except* PowerLoss:
            pass
        except* DoubleSignError:
            # A byzantine validator's own node is honest, and stops when it sees what was done.
            if not machine.is_byzantine:
                raise
        except* StorageError:
            # A full disk stops its node; anything else wrong with it is a fault of the program.
            if not machine.disk.power.has_refused:
                raise
        if machine.scope is scope:
            machine.node = machine.network = machine.scope = None

    async def crash(self, machine: Machine, *, has_power_failed: bool) -> None:
        """Stop a machine at once, and bring its disk to what the next start finds."""
        async with machine.turns:
            if machine.scope is not None:
                machine.disk.switch_off()
                machine.scope.cancel()
                while machine.node is not None:  # noqa: ASYNC110
                    await trio.sleep(0.0001)
            machine.disk.restart(self.random if has_power_failed else None)
        machine.restarts += 1
        self.note("crash", machine.number, has_power_failed)

    def now_ms(self, machine: Machine) -> int:
        """Return what the clock of a machine shows."""
        return GENESIS_TIME_MS + 1_000 + int(trio.current_time() * 1000) + machine.skew_ms

    # --- phases --------------------------------------------------------------------------------

    async def _break_things(self) -> None:
        if self.plan.schedule:
            source = random.Random(f"{self.plan.seed}/schedule")
            schedule = SCHEDULES[self.plan.schedule](self, source, self.plan.schedule_height)
            self.fabric.director = schedule
            if not self.plan.faults:
                await schedule.run()
                return
            self.nursery.start_soon(schedule.run)
        for at_s, fault in self.plan.faults:
            await trio.sleep_until(at_s)
            self.note("fault", *fault)
            await apply_fault(self, fault)
        await trio.sleep_until(self.plan.safety_s)

    async def _require_liveness(self) -> None:
        honest = [m for m in self.machines if not m.is_byzantine]
        target = max((m.height for m in honest), default=0) + LIVENESS_HEIGHTS
        with trio.move_on_after(LIVENESS_S) as waiting:
            while any(m.height < target for m in honest):  # noqa: ASYNC110
                await trio.sleep(0.05)
            self.nursery.start_soon(self.load.settle)
            while self.promises.find_owed() or any(map(_is_due, honest)):  # noqa: ASYNC110
                await trio.sleep(0.05)
        if waiting.cancelled_caught:
            heights = {m.number: m.height for m in honest}
            raise Violation(
                f"not settled within {LIVENESS_S} s of healing: heights {heights}, wanted "
                f"{target}; owed: {self.promises.describe_owed() or 'nothing'}\n"
                + "\n".join(machine.describe() for machine in self.machines)
            )

    def _on_decided(
        self, machine: Machine, node: SimNode, executed: ExecutedBlock, commit: Commit
    ) -> None:
        self.checks.check_decision(machine, node, executed, commit)
        self.promises.on_decided(executed.block.header.height, executed.transaction_hashes)
        self.archive.keep(machine.number, node, executed)
        height, block_hash = executed.block.header.height, commit.block_id.hash
        self.note("decided", machine.number, height, block_hash.hex())

    async def _watch_memory(self) -> None:
        while True:
            await trio.sleep(MEMORY_CHECKED_S)
            for machine in self.machines:
                if machine.node is not None:
                    check_memory(machine.number, machine.node)

    async def _check_end(self) -> None:
        honest = {m.number: m.node for m in self.machines if m.node and not m.is_byzantine}
        stores = [node.services.storage.chain for node in honest.values()]
        highest = max(stores, key=lambda store: store.height)
        replayed = await replay(self.genesis, highest, self.archive)
        for number, node in honest.items():
            check_weights(number, node, replayed.state)
        if not self.plan.byzantine and not self.load_plan.is_narrow:
            self.checks.check_inboxes(self.machines)

    def note(self, *what: object) -> None:
        """Add an event to the trace."""
        self.events += 1
        self.trace.update(repr((round(trio.current_time(), 9), *what)).encode())


def _is_due(machine: Machine) -> bool:
    """Tell whether the ledger of a node waits for a block: a round is over, or frozen."""
    if machine.node is None:
        return False
    executor = machine.node.services.executor
    return executor.next_due_time_ms is not None or bool(executor.finalizations_due)
