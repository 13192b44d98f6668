"""Faults planted into the node on purpose, to show that the simulation finds them.

Owns those outside of consensus (`planted_consensus` has the others) and the list of all, one
function per fault, each changing the running program and nothing on disk. The simulation must
break within a bounded number of seeds; a fault that survives is a gap in the simulation.
"""

# A fault takes what the function in its place takes, and ignores it.
# ruff: noqa: ARG001, ARG005

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
from quorate.chain.codec import decode
from quorate.chain.errors import BlockError, PendingError
from quorate.chain.vote import COMMIT_BYTES_MAX, Commit

from consensus.driver import Driver
from consensus.verifier import SignatureVerifier
from ledger import execution
from node.agreement import following, signer
from node.agreement.height_log import HeightLog, LoggedHeight
from node.agreement.inbox import Inbox
from node.exchange.broadcasting import Broadcaster
from node.exchange.catching_up import CatchUp
from node.execution import executor
from node.execution.executor import Executor
from node.mempool.journal import Journal
from node.mempool.pool import TransactionPool
from tests.simulation.disk import SimDatabase
from tests.simulation.planted_consensus import CONSENSUS_PLANTS
from tests.simulation.planted_load import LOAD_PLANTS

Plant = Callable[[], None]


def never_repair_parts() -> None:
    """A part that was lost is never sent again."""
    Broadcaster.send_parts_to = lambda self, *args: 0  # type: ignore[method-assign]


def drop_at_full_queue() -> None:
    """A vote that finds the queue full is gone, and nobody sends it again."""

    def put(self: Any, item: Any) -> None:
        if len(self) < 3:
            self._send.send_nowait(item)

    Inbox.put_from_peer = put  # type: ignore[method-assign]
    Driver.get_repairs = lambda self, status, limit: []  # type: ignore[method-assign]


def forget_signed() -> None:
    """The last-signed record is not written, and conflicts are not noticed."""
    sign = signer.Signer._sign

    def careless(self: Any, *args: Any, **kwargs: Any) -> Any:
        self._record = replace_record(self._record)
        return sign(self, *args, **kwargs)

    def replace_record(record: Any) -> Any:
        return msgspec.structs.replace(
            record, height=0, round=0, step=0, sign_bytes="", signature=""
        )

    signer.Signer._sign = careless  # type: ignore[method-assign]
    signer.Signer.notice = lambda self, message: None  # type: ignore[method-assign]
    HeightLog.read = lambda self, height: LoggedHeight()  # type: ignore[method-assign]


def lose_the_log() -> None:
    """Blocks found valid are not logged before the vote."""
    HeightLog.append_block = lambda self, *args, **kwargs: None  # type: ignore[method-assign]


def skip_the_sync() -> None:
    """The log is never synced before a vote leaves."""
    HeightLog.sync = lambda self: None  # type: ignore[method-assign]


def store_unsynced() -> None:
    """Decided blocks are not durable when the next height begins."""
    honest = SimDatabase.write
    SimDatabase.write = (  # type: ignore[method-assign]
        lambda self, batch, *, sync: honest(self, batch, sync=False)
    )


def no_catching_up() -> None:
    """Blocks that others decided are never used."""
    CatchUp.get = lambda self, height: None  # type: ignore[method-assign]


def deaf_to_heights() -> None:
    """What peers say of their height is ignored."""
    CatchUp.on_status = lambda self, peer, height, earliest: None  # type: ignore[method-assign]


def believe_commits() -> None:
    """The signatures in commits that peers show are not checked."""

    def believe(block: bytes, commit: bytes, chain_id: str, position: Any) -> Commit:
        return decode(Commit, commit, COMMIT_BYTES_MAX)

    SignatureVerifier.is_commit_valid = (  # type: ignore[method-assign]
        lambda self, commit, validators: True
    )
    following.decode_decision = believe  # type: ignore[attr-defined]


def no_journal() -> None:
    """What users submitted is acknowledged without being durable."""

    async def append(self: Any, *args: Any, **kwargs: Any) -> None:
        return None

    Journal.append = append  # type: ignore[method-assign]


def skip_execution_check() -> None:
    """Roots of proposed blocks are not compared, and one proposer is wrong now and then."""
    honest = Executor._make_header
    count = [0]

    def wrong(self: Any, *args: Any, **kwargs: Any) -> Any:
        header = honest(self, *args, **kwargs)
        count[0] += 1
        if count[0] % 7 == 0:
            return msgspec.structs.replace(header, state_root=bytes(32))
        return header

    Executor._make_header = wrong  # type: ignore[method-assign]
    executor.validate_roots = lambda *args, **kwargs: None  # type: ignore[attr-defined]


def missing_is_invalid() -> None:
    """A block of which a payload is missing is invalid, for good."""
    honest = Executor.judge

    async def judge(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return await honest(self, *args, **kwargs)
        except PendingError as error:
            if error.missing_payloads:
                raise BlockError("a payload is missing") from error
            raise

    Executor.judge = judge  # type: ignore[method-assign]


def skip_header_check() -> None:
    """What a header says of height, time, parent and validators is not compared with the chain."""
    executor.validate_header = lambda *args, **kwargs: None  # type: ignore[attr-defined]


def wrong_parent_state() -> None:
    """A decision applies the first candidate's result, so that the next block builds on it."""
    honest = Executor.commit

    def commit(self: Any, commit: Any, *, is_held: bool = False) -> Any:
        decided = self._results.get(commit.block_id.hash)
        if decided is not None:
            first = next(iter(self._results.values()))
            self._results[commit.block_id.hash] = replace(decided, result=first.result)
        return honest(self, commit, is_held=is_held)

    Executor.commit = commit  # type: ignore[method-assign]


def forget_to_propose() -> None:
    """Pending transactions never reach a proposer."""
    honest = TransactionPool.reap
    TransactionPool.reap = (  # type: ignore[method-assign]
        lambda self, *args, **kwargs: honest(self, *args, **kwargs)[:0]
    )


def create_coins() -> None:
    """A transfer credits one coin more than it debits."""
    honest = execution.apply_transfer  # type: ignore[attr-defined]

    def apply(env: Any, sender: Any, body: Any) -> None:
        honest(env, sender, body)
        account = env.view.get_account(body.to)
        account.balance += 1
        account.is_changed = True

    execution.apply_transfer = apply  # type: ignore[attr-defined, assignment]


PLANTED: dict[str, Plant] = {
    plant.__name__: plant
    for plant in (
        *CONSENSUS_PLANTS,
        *LOAD_PLANTS,
        never_repair_parts,
        drop_at_full_queue,
        missing_is_invalid,
        skip_header_check,
        forget_signed,
        lose_the_log,
        skip_the_sync,
        store_unsynced,
        no_catching_up,
        deaf_to_heights,
        believe_commits,
        no_journal,
        skip_execution_check,
        wrong_parent_state,
        forget_to_propose,
        create_coins,
    )
}
