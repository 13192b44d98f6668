"""The composition of a node: which part is given which.

Owns the wiring of one node over given storage and a given network, and the tasks that keep it
going. Never opens a file or a socket itself (`daemon` does), so that tests compose the same node
over memory.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import structlog
import trio
from quorate.chain.genesis import Genesis
from quorate.chain.ids import Address, Hash
from quorate.chain.vote import Proposal, Vote

from consensus.driver import Driver
from consensus.timeouts import TimeoutConfig
from consensus.verifier import SignatureVerifier
from ledger.state import State
from node.agreement.consensus_runner import ConsensusParts, ConsensusRunner
from node.agreement.evidence_pool import EvidencePool
from node.agreement.following import Follower
from node.agreement.foreign_inputs import ForeignInputs
from node.agreement.height_log import HeightLog
from node.agreement.height_start import EmptyBlocks, HeightStart
from node.agreement.judging import Judge
from node.agreement.logged_payloads import find_logged_payloads
from node.agreement.noting_verifier import NotingVerifier
from node.agreement.patience import Patience
from node.agreement.proposing import Proposer
from node.agreement.signer import Signer
from node.config import Config
from node.events import EventBus
from node.exchange.announcements import PayloadAnnouncements
from node.exchange.block_assembly import BlockAssembly
from node.exchange.broadcasting import Broadcaster
from node.exchange.catching_up import CatchUp
from node.exchange.messages import RIDING_PAYLOAD_BYTES_MAX
from node.exchange.payload_exchange import PayloadExchange
from node.exchange.payloads_ahead import PayloadsAhead
from node.exchange.serving import Server
from node.exchange.transaction_gossip import TransactionGossip
from node.execution.admission import LedgerDoor
from node.execution.aggregates import BackgroundAggregates
from node.execution.executor import Executor
from node.execution.frozen_rounds import FrozenRounds
from node.execution.retention import Retention
from node.execution.stored_chain import initialize_storage, load_position
from node.mempool.mempool import Mempool
from node.mempool.verifier import TransactionVerifier
from node.metrics import Metrics
from node.reactor import Reactor, ReactorParts
from node.reporting import Reporter
from node.storage import NodeStorage
from node.uploads import ROOM_PART, Uploads
from p2p.network import Network, PeerId

if TYPE_CHECKING:
    # The stubs of trio that come with libp2p keep this type here.
    from trio_typing import TaskStatus


_log = structlog.get_logger("node")


@dataclass(frozen=True, slots=True)
class NodeServices:
    """What the node's surfaces (RPC, metrics) read and call."""

    config: Config
    genesis: Genesis
    network: Network
    storage: NodeStorage
    executor: Executor
    driver: Driver
    runner: ConsensusRunner
    mempool: Mempool
    catch_up: CatchUp
    exchange: PayloadExchange
    announcements: PayloadAnnouncements
    events: EventBus
    metrics: Metrics
    signer: Signer | None
    uploads: Uploads
    now_ms: Callable[[], int]


class Node:
    """One node, ready to run.

    Parameters
    ----------
    config : Config
        The operator's settings.
    genesis : Genesis
        What the chain began with.
    storage : NodeStorage
        What is durable. An empty one is initialized from the genesis.
    network : Network
        The links, not yet running.
    signer : Signer or None
        Signs votes and proposals; None on a node that only follows.
    now_ms : callable
        The wall clock in milliseconds since the epoch.

    Raises
    ------
    GenesisError
        If the storage belongs to another genesis.
    StorageError
        If what is stored contradicts itself.
    """

    def __init__(
        self,
        config: Config,
        genesis: Genesis,
        storage: NodeStorage,
        network: Network,
        signer: Signer | None,
        now_ms: Callable[[], int],
    ) -> None:
        initialize_storage(storage.chain, genesis)
        self._config, self._storage, self._network = config, storage, network
        self._signer, self._now_ms = signer, now_ms
        # Each part is given those made before it: the order of these lines is that of the needs.
        self._aggregates = BackgroundAggregates(
            partial(storage.payloads.put, sync=False), self._on_result
        )
        verifier = TransactionVerifier(genesis.chain_id)
        self._executor = _make_executor(genesis, storage, verifier, self._aggregates)
        self._events = EventBus(now_ms(), subscriptions_max=config.rpc.subscriptions_max)
        self._reporter = Reporter(self._events, Metrics(genesis.chain_id))
        self._mempool = self._make_mempool(verifier)
        self._retention = self._make_retention()
        self._reporter.follow(self._mempool, self._retention, config.storage.weights_retain_ms)
        self._exchange = PayloadExchange(
            network, storage.payloads, config.storage.payload_bytes_max, self._on_payload
        )
        self._catch_up = CatchUp(network)
        self._catch_up.advance(self._executor.position.height)
        self._broadcaster = Broadcaster(network)
        self._announcements = self._make_announcements()
        self._gossip = TransactionGossip(
            network, self._mempool, storage.payloads, self._broadcaster, config.mempool
        )
        parts = self._make_consensus_parts()
        self._runner = ConsensusRunner(parts)
        self._reactor = self._make_reactor(parts)
        self.services = NodeServices(
            config=config,
            genesis=genesis,
            network=network,
            storage=storage,
            executor=self._executor,
            driver=parts.driver,
            runner=self._runner,
            mempool=self._mempool,
            catch_up=self._catch_up,
            exchange=self._exchange,
            announcements=self._announcements,
            events=self._events,
            metrics=self._reporter.metrics,
            signer=signer,
            uploads=self._make_uploads(),
            now_ms=now_ms,
        )

    def _make_mempool(self, verifier: TransactionVerifier) -> Mempool:
        storage = self._storage
        return Mempool(
            self._config.mempool,
            self._executor.chain_id,
            LedgerDoor(self._executor, storage.chain, storage.payloads, self._now_ms),
            storage.journal,
            trio.current_time,
            verifier=verifier,
            report=lambda peer, penalty, reason: self._network.report(
                PeerId(peer), penalty, reason
            ),
            on_dropped=self._reporter.on_dropped,
            want_payload=self._want_payload,
        )

    def _make_retention(self) -> Retention:
        return Retention(
            self._storage.journal,
            self._storage.payloads,
            self._executor.state.is_payload_needed,
            lambda: self._aggregates.get_roots().union(
                entry.payload_hash
                for entry in self._mempool.iterate_older_than(0)
                if entry.payload_hash is not None
            ),
            self._config.storage.payload_bytes_max,
        )

    def _make_announcements(self) -> PayloadAnnouncements:
        announcements = PayloadAnnouncements(
            self._executor.chain_id,
            None if self._signer is None else self._signer.key,
            self._network,
            self._broadcaster,
            self._mempool,
            self._storage.payloads,
            lambda: self._executor.position,
            self._exchange.note_holder,
            self._now_ms,
        )
        self._mempool.large.announced = announcements
        return announcements

    def _make_uploads(self) -> Uploads:
        return Uploads(
            self._storage.payloads,
            self._config.mempool.payload_bytes_max,
            self._config.storage.payload_bytes_max // ROOM_PART,
            self._mempool.names_payload,
            self._retention.release,
            self._now_ms,
        )

    def _make_reactor(self, parts: ConsensusParts) -> Reactor:
        storage = self._storage
        return Reactor(
            ReactorParts(
                network=self._network,
                driver=parts.driver,
                runner=self._runner,
                executor=self._executor,
                assembly=parts.assembly,
                broadcaster=self._broadcaster,
                catch_up=self._catch_up,
                evidence=parts.evidence,
                gossip=self._gossip,
                announcements=self._announcements,
                server=Server(storage.chain, storage.payloads, self._gossip),
                store=storage.chain,
                now_ms=self._now_ms,
            )
        )

    def _make_consensus_parts(self) -> ConsensusParts:
        executor, signer, now_ms = self._executor, self._signer, self._now_ms
        evidence, assembly, log = EvidencePool(), BlockAssembly(), HeightLog(self._storage.log)
        judge = Judge(executor, assembly, self._exchange, self._aggregates, self._storage.reports)
        frozen_rounds = FrozenRounds(
            executor, self._aggregates, executor.payload_source, trio.current_time
        )
        signatures = SignatureVerifier(executor.chain_id)
        verifier = NotingVerifier(signatures)
        address = signer.key.address if signer is not None else None
        patience = _make_patience(address, executor, signatures)
        driver = self._make_driver(address, verifier)
        proposer = None
        if signer is not None:
            limit = self._config.consensus.block_transactions_max
            pool = self._mempool
            proposer = Proposer(
                signer.key, executor, pool, evidence, judge, frozen_rounds, limit, now_ms
            )
        ahead = PayloadsAhead(executor.chain_id, self._catch_up, self._exchange.want)
        return ConsensusParts(
            driver=driver,
            executor=executor,
            assembly=assembly,
            signer=signer,
            log=log,
            broadcaster=self._broadcaster,
            judge=judge,
            proposer=proposer,
            catch_up=self._catch_up,
            follower=Follower(executor, self._catch_up, log, signer, ahead),
            evidence=evidence,
            height_start=self._make_height_start(driver, evidence, frozen_rounds),
            foreign=ForeignInputs(driver, verifier, log, self._network.report, patience, signer),
            patience=patience,
            report=self._network.report,
            on_decided=self._reporter.on_decided,
            on_round=self._reporter.on_round,
            now_ms=now_ms,
        )

    def _make_driver(self, address: Address | None, verifier: NotingVerifier) -> Driver:
        position = self._executor.position
        return Driver(
            self._executor.chain_id,
            address,
            make_timeouts(self._config),
            verifier,
            last_height=position.height,
            validators=position.validators,
            lock=self._signer.lock if self._signer is not None else None,
        )

    def _make_height_start(
        self, driver: Driver, evidence: EvidencePool, frozen_rounds: FrozenRounds
    ) -> HeightStart:
        section = self._config.consensus
        return HeightStart(
            self._executor,
            driver,
            self._catch_up,
            evidence,
            frozen_rounds,
            lambda: self._mempool.ready_count > 0,
            EmptyBlocks(section.create_empty_blocks, section.empty_block_interval_ms / 1000),
            self._now_ms,
        )

    async def run(self, *, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; started once the network listens.

        Raises
        ------
        ListenError
            If the p2p port cannot be used.
        StorageError, InvariantError
            If the node must stop; in an exception group.
        """
        restored = await self._mempool.restore()
        position, log = self._executor.position, HeightLog(self._storage.log)
        released = self._retention.release_unknown(
            position.time_ms + position.parameters.payload_retain_ms,
            find_logged_payloads(log, position.height),
        )
        _log.info("starting", height=position.height, released=released, restored=restored)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._run_network)
                nursery.start_soon(self._aggregates.run)
                nursery.start_soon(self._retention.run)
                nursery.start_soon(self._exchange.run)
                nursery.start_soon(self._exchange.sweep_partials)
                nursery.start_soon(self._catch_up.run)
                nursery.start_soon(self._gossip.run)
                nursery.start_soon(self._announcements.run)
                nursery.start_soon(self._watch_mempool)
                nursery.start_soon(self._watch_aggregates)
                nursery.start_soon(self._runner.run)
                task_status.started()
        finally:
            self._events.close()

    def _on_payload(self, payload_hash: Hash) -> None:
        """Take note of a payload that was pulled; what it was pulled for may never be decided."""
        if (self._storage.payloads.size(payload_hash) or 0) > RIDING_PAYLOAD_BYTES_MAX:
            self._retention.release_undecided(payload_hash, self._now_ms())
        self._mempool.receive_payload(payload_hash)

    def _on_result(self, payload_hash: Hash) -> None:
        """Take note of a stored result of a training round; it may never be decided."""
        self._retention.release_undecided(payload_hash, self._now_ms())

    def _want_payload(self, payload_hash: Hash, size: int, peer: str) -> None:
        self._exchange.want(payload_hash, size, PeerId(peer))

    async def _run_network(self, *, task_status: "TaskStatus[None]") -> None:
        await self._network.run(self._reactor, task_status=task_status)

    async def _watch_aggregates(self) -> None:
        while True:
            await self._aggregates.done.wait()
            self._runner.wake()

    async def _watch_mempool(self) -> None:
        while True:
            await self._mempool.wait_for_transactions()
            self._runner.wake()
            await trio.sleep(self._config.mempool.gossip_interval_ms / 1000)


def _make_patience(
    own: Address | None, executor: Executor, verifier: SignatureVerifier
) -> Patience:
    def is_genuine(message: Vote | Proposal) -> bool:
        validators = executor.position.validators
        if isinstance(message, Vote):
            return verifier.is_vote_valid(message, validators)
        return verifier.is_proposal_valid(message, validators)

    return Patience(own, is_genuine, trio.current_time)


def _make_executor(
    genesis: Genesis,
    storage: NodeStorage,
    verifier: TransactionVerifier,
    aggregates: BackgroundAggregates,
) -> Executor:
    state = State(storage.chain, genesis)
    position = load_position(storage.chain, state)
    return Executor(genesis, storage.chain, storage.payloads, state, position, verifier, aggregates)


def make_timeouts(config: Config) -> TimeoutConfig:
    """Return the consensus timeouts that the settings name, all in milliseconds."""
    section = config.consensus
    return TimeoutConfig(
        propose_ms=section.timeout_propose_ms,
        propose_delta_ms=section.timeout_propose_delta_ms,
        prevote_ms=section.timeout_prevote_ms,
        prevote_delta_ms=section.timeout_prevote_delta_ms,
        precommit_ms=section.timeout_precommit_ms,
        precommit_delta_ms=section.timeout_precommit_delta_ms,
    )
