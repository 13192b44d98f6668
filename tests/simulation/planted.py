"""Faults planted into the node on purpose, to show that the simulation finds them.

Owns one function per fault, each changing the running program and nothing on disk. The simulation
must break within a bounded number of seeds; a fault that survives is a gap in the simulation.
"""

# A fault takes what the function in its place takes, and ignores it.
# ruff: noqa: ARG001, ARG005

from collections.abc import Callable
from typing import Any

import msgspec
from quorate.chain.validators import ValidatorSet

from consensus import algorithm
from consensus.driver import Driver
from ledger import execution
from node.agreement import signer
from node.agreement.consensus_runner import ConsensusRunner
from node.agreement.height_log import HeightLog, LoggedHeight
from node.exchange.broadcasting import Broadcaster
from node.exchange.catching_up import CatchUp
from node.execution import executor
from node.execution.executor import Executor
from node.mempool.journal import Journal
from node.mempool.pool import TransactionPool

Plant = Callable[[], None]


def accept_one_third() -> None:
    """A quorum is more than one third instead of two."""
    ValidatorSet.is_quorum = ValidatorSet.is_one_honest  # type: ignore[method-assign]


def accept_one_half() -> None:
    """A quorum is half of the power instead of more than two thirds."""
    ValidatorSet.is_quorum = (  # type: ignore[method-assign]
        lambda self, power: 2 * power >= self.total_power
    )


def skip_lock_rule() -> None:
    """A fresh proposal is prevoted whatever the lock."""
    honest = algorithm.HeightMachine.upon_fresh_proposal_l22

    def unlocked(self: Any) -> bool:
        lock = self.locked_round, self.locked_block
        self.locked_round, self.locked_block = -1, None
        try:
            return honest(self)
        finally:
            if self.locked_round == -1:
                self.locked_round, self.locked_block = lock

    algorithm.HeightMachine.upon_fresh_proposal_l22 = unlocked  # type: ignore[method-assign]


def never_repair() -> None:
    """Nobody sends a peer the votes that its status lacks."""
    Driver.get_repairs = lambda self, status, limit: []  # type: ignore[method-assign]


def never_repair_parts() -> None:
    """A part that was lost is never sent again."""
    Broadcaster.send_parts_to = lambda self, *args: 0  # type: ignore[method-assign]


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


def no_catching_up() -> None:
    """Blocks that others decided are never fetched."""
    CatchUp.get = lambda self, height: None  # type: ignore[method-assign]


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
    executor.validate_roots = lambda *args, **kwargs: None


def drop_timeouts() -> None:
    """Timeouts are scheduled and never elapse."""

    async def never(self: Any, timeout: Any) -> None:
        return None

    ConsensusRunner._time = never  # type: ignore[method-assign]


def forget_to_propose() -> None:
    """Pending transactions never reach a proposer."""
    honest = TransactionPool.reap
    TransactionPool.reap = (  # type: ignore[method-assign]
        lambda self, bytes_max, count_max: honest(self, bytes_max, count_max)[:0]
    )


def deaf_to_heights() -> None:
    """What peers say of their height is ignored."""
    CatchUp.on_status = lambda self, peer, height, earliest: None  # type: ignore[method-assign]


def create_coins() -> None:
    """A transfer credits one coin more than it debits."""
    honest = execution.apply_transfer

    def apply(env: Any, sender: Any, body: Any) -> None:
        honest(env, sender, body)
        account = env.view.get_account(body.to)
        account.balance += 1
        account.is_changed = True

    execution.apply_transfer = apply


PLANTED: dict[str, Plant] = {
    plant.__name__: plant
    for plant in (
        accept_one_third,
        accept_one_half,
        skip_lock_rule,
        never_repair,
        never_repair_parts,
        forget_signed,
        lose_the_log,
        skip_the_sync,
        no_catching_up,
        no_journal,
        skip_execution_check,
        deaf_to_heights,
        forget_to_propose,
        drop_timeouts,
        create_coins,
    )
}
