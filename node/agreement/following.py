"""Following: runs of blocks that others have decided, applied without a height of consensus each.

Owns the way of a fetched block whose successor is here as well: its commit is verified, the block
executed, and both are stored, several blocks in one synced batch. Never applies the last of a run:
that goes through the driver like any decision, which so learns where the chain stands. Neither
does a block that lacks a payload, or in which anything is wrong: consensus has the patience for
the one, and the sentence for the other.

Durable order: while blocks are followed, nothing of them is in the write-ahead log. What they
name is durable first, then the blocks in one batch, then the end of the last one's height in the
log; only then is anybody told. After a crash in between, the log is behind the database, and what
it holds belongs to heights that are decided.
"""

from collections.abc import Callable
from typing import Final

from quorate.chain.errors import BlockError, CommitError, DecodeError, PendingError
from quorate.chain.ids import Height
from quorate.chain.vote import Commit

from node.agreement.height_log import HeightLog
from node.agreement.signer import Signer
from node.exchange.catching_up import CatchUp, FetchedBlock
from node.exchange.payloads_ahead import PayloadsAhead
from node.execution.block_checks import decode_decision
from node.execution.executor import ExecutedBlock, Executor

GROUP_BLOCKS_MAX: Final = 64
"""Blocks that become durable together; between two groups the loop looks at its other work."""
GROUP_BYTES_MAX: Final = 8 << 20
"""A group ends with the block that brings what is held in memory to so much."""


class Follower:
    """Applies fetched blocks while no height runs.

    Parameters
    ----------
    executor : Executor
        Executes and stores.
    catch_up : CatchUp
        Has fetched the blocks.
    log : HeightLog
        Told of the last height of each group.
    signer : Signer or None
        Looks for own votes in the commits that its record lacks.
    ahead : PayloadsAhead
        Asks for payloads before they are needed.
    """

    def __init__(
        self,
        executor: Executor,
        catch_up: CatchUp,
        log: HeightLog,
        signer: Signer | None,
        ahead: PayloadsAhead,
    ) -> None:
        self._executor = executor
        self._catch_up = catch_up
        self._log = log
        self._signer = signer
        self._ahead = ahead

    async def follow(self, on_decided: Callable[[ExecutedBlock, Commit], None]) -> bool:
        """Apply a group of fetched blocks; tell whether any was applied.

        Parameters
        ----------
        on_decided : callable
            Told of each block once it is durable.

        Raises
        ------
        StorageError
            If the log or the store fails; the node stops.
        SignerError
            If a commit has an own vote that the last-signed record lacks.
        """
        group: list[tuple[ExecutedBlock, Commit]] = []
        weights_bytes = 0
        try:
            while (
                len(group) < GROUP_BLOCKS_MAX
                and weights_bytes + self._executor.held_bytes < GROUP_BYTES_MAX
            ):
                applied = await self._apply_next()
                if applied is None:
                    break
                group.append(applied)
                weights_bytes += sum(map(len, applied[0].result.artifacts.values()))
        finally:
            # Also when a later block stops the node: what is applied is right.
            if group:
                self._end(group)
                for executed, commit in group:
                    on_decided(executed, commit)
        return bool(group)

    def find_next(self) -> tuple[FetchedBlock, Commit] | None:
        """Return the fetched block of the next height with the verified proof of its decision.

        Whether the block is the one that the proof names is not looked at.

        Raises
        ------
        SignerError
            If the commit has an own vote that the last-signed record lacks.
        """
        position = self._executor.position
        fetched = self._catch_up.get(position.next_height)
        if fetched is None:
            return None
        try:
            commit = decode_decision(
                fetched.block, fetched.commit, self._executor.chain_id, position
            )
        except (CommitError, DecodeError) as error:
            self._catch_up.refuse(fetched, str(error))
            return None
        if self._signer is not None:
            self._signer.notice_commit(commit, position.validators)
        return fetched, commit

    async def _apply_next(self) -> tuple[ExecutedBlock, Commit] | None:
        next_height = self._executor.position.next_height
        if self._catch_up.get(Height(next_height + 1)) is None:
            return None
        found = self.find_next()
        if found is None:
            return None
        fetched, commit = found
        self._ahead.look(self._executor.position)
        try:
            await self._executor.judge(commit.block_id, fetched.block, is_decided=True)
        except PendingError:
            self._ahead.note_missing()
            self._ahead.look(self._executor.position)
            return None
        except BlockError:
            return None
        executed = self._executor.commit(commit, is_held=True)
        self._catch_up.advance(commit.height)
        return executed, commit

    def _end(self, group: list[tuple[ExecutedBlock, Commit]]) -> None:
        self._executor.flush()
        self._log.mark(group[-1][1].height)
