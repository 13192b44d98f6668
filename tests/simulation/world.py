"""A simulated network: nodes, their disks and clocks, the load, the faults, and the checks.

Owns one run from one seed: a safety phase under faults, then a liveness phase in which the network
heals and must decide. Raises `Violation` at the first broken promise.
"""

import random
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import trio
from quorate.chain.errors import TransactionError
from quorate.chain.genesis import Admission, Genesis, GenesisAccount, GenesisValidator
from quorate.chain.ids import Address, Hash
from quorate.chain.keys import PrivateKey
from quorate.chain.transaction import (
    Transaction,
    Transfer,
    compute_transaction_hash,
    sign_transaction,
)
from quorate.chain.vote import Commit, Proposal, Vote

from node.agreement.consensus_runner import ConsensusParts
from node.agreement.signer import Signer, SignRecord
from node.composition import Node, NodeStorage
from node.config import Config, ConsensusSection, MempoolSection
from node.errors import DoubleSignError
from node.exchange.messages import ProposalMessage, VotesMessage, decode_message
from node.execution.executor import ExecutedBlock
from p2p.identity import get_peer_id
from p2p.network import PeerId, Priority
from store.chain_store import ChainStore
from tests.simulation.byzantine import Behaviour, make_tamper
from tests.simulation.disk import Disk, Power, PowerLoss
from tests.simulation.fabric import Fabric, SimNetwork
from tests.simulation.plan import Plan, make_plan

CHAIN_ID = "simulation"
GENESIS_TIME_MS = 1_700_000_000_000
BALANCE = 1_000_000
USERS = 6
LIVENESS_S = 60.0
"""Virtual seconds in which a healed network must have decided `LIVENESS_HEIGHTS` more."""
LIVENESS_HEIGHTS = 3


class Violation(Exception):  # noqa: N818 - it reads as what happened.
    """A promise that was broken."""


def make_key(number: int) -> PrivateKey:
    return PrivateKey(number.to_bytes(32, "big"))


VALIDATOR_KEYS = [make_key(1 + i) for i in range(10)]
NODE_IDS = [get_peer_id(make_key(500 + i).seed) for i in range(10)]
USER_KEYS = [make_key(1000 + i) for i in range(USERS)]


class SimSigner(Signer):
    """A signer whose record needs power like everything else."""

    power: Power

    def _write(self, record: SignRecord) -> None:
        power = getattr(self, "power", None)
        if power is not None:
            power.use()
        super()._write(record)


class SimNode(Node):
    """A node that tells its world what it decided."""

    world: "World"
    number: int

    def _make_consensus_parts(self, *args: object) -> ConsensusParts:
        parts = super()._make_consensus_parts(*args)  # type: ignore[arg-type]
        follow = parts.on_decided

        def on_decided(executed: ExecutedBlock, commit: Commit) -> None:
            self.world.check_decision(self.number, self, executed, commit)
            follow(executed, commit)

        return replace(parts, on_decided=on_decided)


@dataclass(eq=False)
class Machine:
    """A computer that may fail, and the node on it."""

    number: int
    key: PrivateKey
    peer_id: PeerId
    folder: Path
    skew_ms: int
    disk: Disk = field(default_factory=Disk)
    node: SimNode | None = None
    network: SimNetwork | None = None
    scope: trio.CancelScope | None = None
    height: int = 0
    restarts: int = 0
    is_byzantine: bool = False

    @property
    def is_up(self) -> bool:
        return self.node is not None


class World:
    """One simulated run."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.plan: Plan = make_plan(seed)
        self.random = random.Random(f"{seed}/world")
        self.fabric = Fabric(random.Random(f"{seed}/fabric"))
        self.fabric.conditions = self.plan.conditions
        self.folder = folder
        self.decided: dict[int, Hash] = {}
        self.state_roots: dict[int, bytes] = {}
        self.signed: dict[tuple[object, ...], object] = {}
        self.acknowledged: dict[Hash, tuple[int, int]] = {}
        self.decided_transactions: dict[Hash, int] = {}
        self.nonces = dict.fromkeys(range(USERS), 0)
        self.trace = sha256()
        self.events = 0
        self.genesis = Genesis(
            chain_id=CHAIN_ID,
            genesis_time_ms=GENESIS_TIME_MS,
            admission=Admission.OPEN,
            validators=tuple(
                GenesisValidator(f"v{i}", VALIDATOR_KEYS[i].public_key, power)
                for i, power in enumerate(self.plan.powers)
            ),
            accounts=tuple(GenesisAccount(key.address, BALANCE) for key in USER_KEYS),
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
        self.machines = [self._make_machine(i) for i in range(len(self.plan.powers))]

    def _make_machine(self, number: int) -> Machine:
        folder = self.folder / str(number)
        folder.mkdir()
        return Machine(
            number,
            VALIDATOR_KEYS[number],
            NODE_IDS[number],
            folder,
            self.plan.skews_ms[number],
            is_byzantine=number in self.plan.byzantine,
        )

    # --- running -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run the safety phase, then the liveness phase."""
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            for machine in self.machines:
                if machine.number not in self.plan.late:
                    await self.start(machine)
            nursery.start_soon(self._submit)
            with trio.move_on_after(self.plan.safety_s):
                await self._break_things()
                await trio.sleep_forever()
            await self._heal()
            await self._require_liveness()
            self._check_end()
            nursery.cancel_scope.cancel()

    async def start(self, machine: Machine) -> None:
        """Start the node of a machine that is off."""
        network = SimNetwork(self.fabric, machine.peer_id)
        signer = SimSigner(
            machine.key, machine.folder / "state.json", CHAIN_ID, is_record_optional=True
        )
        signer.power = machine.disk.power
        if machine.is_byzantine:
            network.tamper = make_tamper(
                self.plan.byzantine[machine.number], machine.key, CHAIN_ID, self.random
            )
        storage = NodeStorage(
            ChainStore(machine.disk.blocks),
            machine.disk.payloads,
            machine.disk.log,
            machine.disk.journal,
        )
        SimNode.world, SimNode.number = self, machine.number
        try:
            node = SimNode(
                self.config, self.genesis, storage, network, signer, lambda: self.now_ms(machine)
            )
        except PowerLoss:
            # It failed while the store was being opened; a later start finds what is left.
            return
        node.world, node.number = self, machine.number
        machine.node, machine.network = node, network
        machine.height = node.services.executor.position.height
        machine.scope = trio.CancelScope()
        self._watch_signatures(machine, network)
        self._note("start", machine.number, machine.height)
        await self.nursery.start(self._run_node, machine)

    async def _run_node(self, machine: Machine, task_status: object) -> None:
        node, scope = machine.node, machine.scope
        if node is None or scope is None:
            raise RuntimeError("the machine is off")
        try:
            with scope:
                await node.run(task_status=task_status)  # type: ignore[arg-type]
        except* PowerLoss:
            pass
        except* DoubleSignError:
            # A byzantine validator's own node is honest, and stops when it sees what was done.
            if not machine.is_byzantine:
                raise
        if machine.scope is scope:
            machine.node = machine.network = machine.scope = None

    async def crash(self, machine: Machine, *, has_power_failed: bool) -> None:
        """Stop a machine at once, and bring its disk to what the next start finds."""
        if machine.scope is not None:
            machine.disk.switch_off()
            machine.scope.cancel()
            while machine.node is not None:  # noqa: ASYNC110
                await trio.sleep(0.0001)
        machine.disk.restart(self.random if has_power_failed else None)
        machine.restarts += 1
        self._note("crash", machine.number, has_power_failed)

    def now_ms(self, machine: Machine) -> int:
        """Return what the clock of a machine shows."""
        return GENESIS_TIME_MS + 1_000 + int(trio.current_time() * 1000) + machine.skew_ms

    # --- load and faults -----------------------------------------------------------------------

    async def _submit(self) -> None:
        while True:
            await trio.sleep(self.random.expovariate(1) * self.plan.submission_gap_s)
            user = self.random.randrange(USERS)
            up = [m for m in self.machines if m.is_up and not m.is_byzantine]
            if not up:
                continue
            machine = self.random.choice(up)
            node = machine.node
            if node is None:
                continue
            key, nonce = USER_KEYS[user], self.nonces[user]
            to = USER_KEYS[(user + 1) % USERS].address
            body = Transfer(to, self.random.randrange(1, 100))
            raw = sign_transaction(key, Transaction(1, CHAIN_ID, key.public_key, nonce, 0, body))
            try:
                await node.services.mempool.submit_local(raw, None)
            except TransactionError:
                # Another node may not have seen the last one yet; the user tries again elsewhere.
                known, _ = self._read_account(user)
                self.nonces[user] = max(known, min(nonce, self.nonces[user]))
                continue
            except PowerLoss:
                continue
            self.nonces[user] = nonce + 1
            self.acknowledged[compute_transaction_hash(raw)] = (user, nonce)

    def _read_account(self, user: int) -> tuple[int, int]:
        best = max(
            (m for m in self.machines if m.node is not None),
            key=lambda m: m.height,
            default=None,
        )
        if best is None or best.node is None:
            return 0, 0
        account = best.node.services.executor.state.get_account(USER_KEYS[user].address)
        return account.nonce, account.balance

    async def _break_things(self) -> None:
        for at_s, fault in self.plan.faults:
            await trio.sleep_until(at_s)
            await self._apply(fault)

    async def _apply(self, fault: tuple[object, ...]) -> None:
        self._note("fault", *fault)
        match fault:
            case ("crash", int(number), bool(has_power_failed)):
                await self.crash(self.machines[number], has_power_failed=has_power_failed)
            case ("crash_at_write", int(number), int(writes)):
                self.machines[number].disk.power.writes_left = writes
            case ("start", int(number)):
                machine = self.machines[number]
                if not machine.is_up:
                    if machine.disk.power.is_off:
                        await self.crash(machine, has_power_failed=True)
                    await self.start(machine)
            case ("cut", tuple(pairs)):
                self.fabric.cut = {(NODE_IDS[a], NODE_IDS[b]) for a, b in pairs}
            case ("loss", float(loss)):
                self.fabric.conditions.loss = loss
            case ("skew", int(number), int(skew)):
                self.machines[number].skew_ms = skew
            case _:
                raise RuntimeError(f"unknown fault {fault}")

    async def _heal(self) -> None:
        self._note("heal")
        self.fabric.cut = set()
        self.fabric.conditions.loss = 0.0
        self.fabric.conditions.duplication = 0.0
        for machine in self.machines:
            machine.skew_ms = max(-100, min(100, machine.skew_ms))
            machine.disk.power.writes_left = None
            if machine.disk.power.is_off or not machine.is_up:
                await self.crash(machine, has_power_failed=True)
                await self.start(machine)

    async def _require_liveness(self) -> None:
        honest = [m for m in self.machines if not m.is_byzantine]
        target = max((m.height for m in honest), default=0) + LIVENESS_HEIGHTS
        with trio.move_on_after(LIVENESS_S) as waiting:
            while any(m.height < target for m in honest) or self._missing():  # noqa: ASYNC110
                await trio.sleep(0.05)
        if waiting.cancelled_caught:
            heights = {m.number: m.height for m in honest}
            raise Violation(
                f"no decision within {LIVENESS_S} s of healing: heights {heights}, wanted "
                f"{target}; {len(self._missing())} accepted transactions undecided\n"
                + "\n".join(map(self._describe, self.machines))
            )

    def _describe(self, machine: Machine) -> str:
        """Return what a reader of a failure wants to know of a node."""
        node = machine.node
        if node is None:
            return f"node {machine.number}: off"
        services = node.services
        driver, catch_up = services.driver, services.catch_up
        return (
            f"node {machine.number}: decided {services.executor.position.height}, driver at "
            f"{driver.height}/{driver.round} {driver.step.name}, waiting "
            f"{services.runner.is_waiting}, commit known {driver.commit is not None}, "
            f"highest claim {catch_up.highest_claim}, links {len(services.network.peers())}, "
            f"mempool {services.mempool.count}, behaviour "
            f"{self.plan.byzantine.get(machine.number, 'honest')}"
        )

    def _missing(self) -> list[Hash]:
        """Return acknowledged transactions that are neither decided nor impossible by now."""
        missing = []
        for transaction_hash, (user, nonce) in self.acknowledged.items():
            if transaction_hash in self.decided_transactions:
                continue
            known, _ = self._read_account(user)
            if nonce >= known:
                missing.append(transaction_hash)
        return missing

    # --- checks --------------------------------------------------------------------------------

    def check_decision(
        self, number: int, node: Node, executed: ExecutedBlock, commit: Commit
    ) -> None:
        """Check agreement, order, roots, and that nothing is decided twice."""
        machine = self.machines[number]
        header, block_hash = executed.block.header, commit.block_id.hash
        height = header.height
        if height != machine.height + 1:
            raise Violation(f"node {number} decided {height} after {machine.height}")
        machine.height = height
        known = self.decided.setdefault(height, block_hash)
        if known != block_hash:
            raise Violation(f"height {height}: {known.hex()} and {block_hash.hex()} were decided")
        ledger = node.services.executor
        # Blocks that others decided are applied in groups, and told when the group is durable.
        if ledger.position.height == height and ledger.state.root != header.state_root:
            raise Violation(f"node {number} has another state at {height} than its header says")
        for transaction_hash in executed.transaction_hashes:
            at = self.decided_transactions.setdefault(transaction_hash, height)
            if at != height:
                raise Violation(f"{transaction_hash.hex()} was decided at {at} and {height}")
        self._note("decided", number, height, block_hash.hex())

    def _watch_signatures(self, machine: Machine, network: SimNetwork) -> None:
        """Check that an honest validator never signs two things for one step, over restarts."""
        if machine.is_byzantine:
            return
        send = network.send

        def watched(peer: PeerId, priority: Priority, body: bytes) -> bool:
            if priority is Priority.CONSENSUS:
                self._check_signed(machine.key.address, body)
            return send(peer, priority, body)

        network.send = watched  # type: ignore[method-assign]

    def _check_signed(self, address: Address, body: bytes) -> None:
        message = decode_message(body)
        said: list[Vote | Proposal] = []
        if isinstance(message, VotesMessage):
            said.extend(vote for vote in message.votes if vote.validator == address)
        elif isinstance(message, ProposalMessage) and message.proposal.proposer == address:
            said.append(message.proposal)
        for item in said:
            kind = item.type if isinstance(item, Vote) else "proposal"
            key = (address, kind, item.height, item.round)
            known = self.signed.setdefault(key, item.block_id)
            if known != item.block_id:
                raise Violation(f"{address.hex()} signed twice: {kind} {item.height}/{item.round}")

    def _check_end(self) -> None:
        total = sum(self._read_account(user)[1] for user in range(USERS))
        if total != USERS * BALANCE:
            raise Violation(f"{USERS * BALANCE - total} coins are gone")
        lost = self._missing()
        if lost:
            raise Violation(f"{len(lost)} accepted transactions were lost")
        for machine in self.machines:
            node = machine.node
            if node is not None and node.services.runner.dropped_inputs and not self.plan.byzantine:
                raise Violation(f"the inbox of node {machine.number} overflowed without an attack")

    def _note(self, *what: object) -> None:
        self.events += 1
        self.trace.update(repr((round(trio.current_time(), 9), *what)).encode())


__all__ = ["Behaviour", "Violation", "World"]
