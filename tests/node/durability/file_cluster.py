"""Nodes over the in-memory network, each with a home folder of real files.

Owns starting and stopping such nodes, and what a failed one failed with. Everything but the network
is what the daemon runs.
"""

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
from quorate.chain.genesis import Genesis
from quorate.chain.ids import Signature
from quorate.chain.keys import PrivateKey

from node.agreement.sign_record import SignStep
from node.agreement.signer import Signer
from node.composition import Node
from node.config import Config, write_config
from node.failures import find_failure
from node.home import Home
from node.key_files import make_node_key, write_node_key, write_validator_key
from node.storage import NodeStorage, open_storage
from p2p.memory import MemoryNetwork
from tests.node.cluster import (
    CHAIN_ID,
    WAIT_S,
    Group,
    GroupMember,
    make_config,
    make_genesis,
    make_key,
    now_ms,
)

if TYPE_CHECKING:
    from trio_typing import TaskStatus


@dataclass
class FileMember(GroupMember):
    """One node and its home."""

    number: int
    key: PrivateKey | None
    home: Home
    node: Node | None = None
    failure: BaseException | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    stopped: trio.Event = field(default_factory=trio.Event)


def write_member_home(home: Home, genesis: Genesis, key: PrivateKey | None, config: Config) -> None:
    home.create()
    home.write_genesis(genesis)
    write_config(home, config)
    write_node_key(home.node_key_file, make_node_key())
    if key is not None:
        write_validator_key(home.validator_key_file, key)


Signed = dict[tuple[bytes, int, int, int], set[bytes]]
"""What validators have signed: by address, height, round and step."""


class NotingSigner(Signer):
    """Remembers all that it signs in the life of a test."""

    def __init__(self, signed: Signed, *arguments: Any, **options: Any) -> None:
        self._signed = signed
        super().__init__(*arguments, **options)

    def _sign(
        self, domain: Any, height: int, round_: int, step: SignStep, sign_bytes: bytes
    ) -> Signature:
        signature = super()._sign(domain, height, round_, step, sign_bytes)
        position = (self.key.address, height, round_, int(step))
        self._signed.setdefault(position, set()).add(sign_bytes)
        return signature


def assert_nothing_signed_twice(signed: Signed) -> None:
    assert signed
    for position, found in signed.items():
        assert len(found) == 1, f"signed twice: {position}"


class FileCluster(Group[FileMember]):
    """Nodes that run until the test is over, until they are stopped, or until they fail."""

    def __init__(
        self, nursery: trio.Nursery, folder: Path, genesis: Genesis, config: Config
    ) -> None:
        super().__init__(nursery, folder, genesis, config)
        self.signed: Signed = {}

    def add(self, key: PrivateKey | None) -> FileMember:
        number = len(self.members)
        home = Home(self._folder / str(number))
        member = FileMember(number, key, home)
        if not home.folder.exists():
            write_member_home(home, self.genesis, key, self.config)
        self.members.append(member)
        return member

    async def start(
        self,
        member: FileMember,
        *,
        accept_missing_record: bool = False,
        adapt: Callable[[NodeStorage], None] | None = None,
    ) -> None:
        """Start a node; what keeps it from starting is raised."""
        member.failure, member.stopped = None, trio.Event()
        member.scope = trio.CancelScope()
        stack = ExitStack()
        with ExitStack() as opening:
            opening.enter_context(member.home.lock())
            storage = opening.enter_context(open_storage(member.home, self.config))
            if adapt is not None:
                adapt(storage)
            signer = None
            if member.key is not None:
                signer = NotingSigner(
                    self.signed,
                    member.key,
                    member.home.validator_state_file,
                    CHAIN_ID,
                    is_record_optional=storage.chain.height == 0,
                    is_vouched=accept_missing_record,
                )
            network = MemoryNetwork(self.hub, self.make_network_config(member.number))
            member.node = Node(self.config, self.genesis, storage, network, signer, now_ms)
            stack = opening.pop_all()
        await self._nursery.start(self._run, member, stack)
        if member.failure is not None:
            raise member.failure

    async def _run(
        self, member: FileMember, stack: ExitStack, task_status: "TaskStatus[None]"
    ) -> None:
        is_started = False
        try:
            with stack, member.scope:
                async with trio.open_nursery() as nursery:
                    await nursery.start(member.running.run)
                    is_started = True
                    task_status.started()
        except trio.Cancelled:
            raise
        except BaseException as error:  # noqa: BLE001
            # A defect is a failure, too: the test that looks at it tells them apart.
            member.failure = find_failure(error) or _get_leaf(error)
            if not is_started:
                task_status.started()
        finally:
            member.stopped.set()

    async def stop(self, member: FileMember) -> None:
        member.scope.cancel()
        with trio.fail_after(WAIT_S):
            await member.stopped.wait()

    async def fail(self, member: FileMember) -> BaseException:
        """Wait until a node fails, and return what it failed with."""
        with trio.fail_after(WAIT_S):
            await member.stopped.wait()
        if member.failure is None:
            raise AssertionError("the node ended without a failure")
        return member.failure

    async def pause(self) -> None:
        await trio.sleep(0.005)


@asynccontextmanager
async def open_file_cluster(
    folder: Path,
    validators: int = 1,
    *,
    config: Config | None = None,
    genesis: Genesis | None = None,
) -> AsyncIterator[FileCluster]:
    async with trio.open_nursery() as nursery:
        cluster = FileCluster(
            nursery, folder, genesis or make_genesis(validators), config or make_fast_config()
        )
        for number in range(validators):
            cluster.add(make_key(1 + number))
        yield cluster
        nursery.cancel_scope.cancel()


def make_fast_config() -> Config:
    return make_config(
        empty_block_interval_ms=20,
        timeout_propose_ms=300,
        timeout_prevote_ms=100,
        timeout_precommit_ms=100,
    )


def copy_home(source: Home, target: Path) -> Home:
    shutil.copytree(source.folder, target)
    return Home(target)


def _get_leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
