"""Several nodes in one process, over the in-memory network and memory storage, on the real clock.

Owns the making of such clusters for tests. Everything above storage and network is the real thing.
"""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import trio
from quorate.chain.genesis import Admission, Genesis, GenesisAccount, GenesisValidator
from quorate.chain.keys import PrivateKey
from quorate.chain.transaction import Body, Transaction, sign_transaction

from node.agreement.signer import Signer
from node.composition import Node
from node.config import Config, ConsensusSection, MempoolSection
from node.storage import NodeStorage
from p2p.identity import get_peer_id
from p2p.memory import MemoryNetwork
from p2p.memory_hub import MemoryHub
from p2p.network import NetworkConfig
from store.chain_store import ChainStore
from store.database import MemoryDatabase
from store.memory_payloads import MemoryPayloadStore
from store.write_ahead_log import MemoryWriteAheadLog

if TYPE_CHECKING:
    from trio_typing import TaskStatus

CHAIN_ID = "cluster"
WAIT_S = 30
BALANCE = 1_000_000


def make_key(number: int) -> PrivateKey:
    return PrivateKey(number.to_bytes(32, "big"))


def now_ms() -> int:
    return time.time_ns() // 1_000_000


USERS = [make_key(1000 + i) for i in range(8)]


def make_genesis(validators: int = 4, **changes: object) -> Genesis:
    settings: dict[str, object] = {
        "chain_id": CHAIN_ID,
        "genesis_time_ms": now_ms() - 1000,
        "admission": Admission.OPEN,
        "validators": tuple(
            GenesisValidator(f"v{i}", make_key(1 + i).public_key, 10) for i in range(validators)
        ),
        "accounts": tuple(GenesisAccount(user.address, BALANCE) for user in USERS),
        "bucket_count": 256,
    }
    return Genesis(**(settings | changes))  # type: ignore[arg-type]


def make_config(**consensus: object) -> Config:
    settings: dict[str, object] = {
        "timeout_propose_ms": 1000,
        "timeout_prevote_ms": 300,
        "timeout_precommit_ms": 300,
        "empty_block_interval_ms": 200,
    }
    return Config(
        consensus=ConsensusSection(**(settings | consensus)),  # type: ignore[arg-type]
        mempool=MempoolSection(gossip_interval_ms=5, announce_after_ms=100),
    )


def sign(key: PrivateKey, nonce: int, body: Body, fee: int = 0) -> bytes:
    return sign_transaction(key, Transaction(1, CHAIN_ID, key.public_key, nonce, fee, body))


class GroupMember:
    """What the nodes of a group have in common, wherever their data is."""

    number: int
    node: Node | None

    @property
    def running(self) -> Node:
        if self.node is None:
            raise RuntimeError("the node is not running")
        return self.node

    @property
    def height(self) -> int:
        return self.running.services.executor.position.height


@dataclass
class Member(GroupMember):
    """One node of a cluster and what outlives it."""

    number: int
    key: PrivateKey | None
    folder: Path
    database: MemoryDatabase = field(default_factory=MemoryDatabase)
    journal: MemoryDatabase = field(default_factory=MemoryDatabase)
    payloads: MemoryPayloadStore = field(default_factory=MemoryPayloadStore)
    log: MemoryWriteAheadLog = field(default_factory=MemoryWriteAheadLog)
    node: Node | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    stopped: trio.Event = field(default_factory=trio.Event)


def get_listen_address(number: int) -> str:
    peer_id = get_peer_id(make_key(500 + number).seed)
    return f"/ip4/127.0.0.1/tcp/{20_000 + number}/p2p/{peer_id}"


class PowerFailure(Exception):  # noqa: N818 - it says what happened.
    """Raised by a test's storage: the node is gone at this very instruction."""


M = TypeVar("M", bound=GroupMember)


class Group(Generic[M]):
    """Nodes on one in-memory network, each of which knows the others, or its neighbours."""

    def __init__(
        self,
        nursery: trio.Nursery,
        folder: Path,
        genesis: Genesis,
        config: Config,
        topology: str = "mesh",
    ) -> None:
        self._nursery = nursery
        self._folder = folder
        self.genesis = genesis
        self.config = config
        self.hub = MemoryHub()
        self.topology = topology
        self.members: list[M] = []

    def make_network_config(self, number: int) -> NetworkConfig:
        others = [
            member.number
            for member in self.members
            if member.number != number
            and (self.topology == "mesh" or abs(member.number - number) == 1)
        ]
        return NetworkConfig(
            chain_id=CHAIN_ID,
            genesis_hash=self.genesis.hash,
            protocol_version=1,
            key_seed=make_key(500 + number).seed,
            listen=f"/ip4/127.0.0.1/tcp/{20_000 + number}",
            persistent_peers=tuple(get_listen_address(other) for other in others),
            heartbeat_s=0.05,
            peer_timeout_s=2.0,
            peer_exchange=self.topology == "mesh",
        )

    async def wait_for_height(self, height: int, members: Sequence[M] | None = None) -> None:
        with trio.fail_after(WAIT_S):
            while any(m.height < height for m in members or self.members):  # noqa: ASYNC110
                await trio.sleep(0.005)


class Cluster(Group[Member]):
    """Nodes that run until the test is over, or until they are stopped."""

    def add(self, key: PrivateKey | None) -> Member:
        number = len(self.members)
        folder = self._folder / str(number)
        folder.mkdir()
        member = Member(number, key, folder)
        self.members.append(member)
        return member

    async def start(self, member: Member) -> None:
        signer = None
        if member.key is not None:
            signer = Signer(
                member.key, member.folder / "state.json", CHAIN_ID, is_record_optional=True
            )
        network = MemoryNetwork(self.hub, self.make_network_config(member.number))
        storage = NodeStorage(
            ChainStore(member.database), member.payloads, member.log, member.journal
        )
        member.node = Node(self.config, self.genesis, storage, network, signer, now_ms)
        await self._nursery.start(self._run, member)

    async def _run(self, member: Member, task_status: "TaskStatus[None]") -> None:
        member.scope, member.stopped = trio.CancelScope(), trio.Event()
        try:
            with member.scope:
                await member.running.run(task_status=task_status)
        except* PowerFailure:
            pass
        finally:
            member.stopped.set()

    async def stop(self, member: Member) -> None:
        """Stop a node in the middle of whatever it does; its memory storage stays."""
        member.scope.cancel()
        await member.stopped.wait()


@asynccontextmanager
async def open_cluster(
    folder: Path,
    validators: int = 4,
    *,
    config: Config | None = None,
    genesis: Genesis | None = None,
    topology: str = "mesh",
) -> AsyncIterator[Cluster]:
    async with trio.open_nursery() as nursery:
        cluster = Cluster(
            nursery, folder, genesis or make_genesis(validators), config or make_config(), topology
        )
        for i in range(validators):
            cluster.add(make_key(1 + i))
        for member in cluster.members:
            await cluster.start(member)
        yield cluster
        nursery.cancel_scope.cancel()
