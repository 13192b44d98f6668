"""Judging proposed blocks: wait for the parts, the payloads and the aggregate, then execute.

Owns the waiting between a proposal and its verdict. Never votes: its verdict goes back to the
consensus loop. Something missing is no verdict, however long it takes; the loop's timeouts vote
nil meanwhile.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import structlog
import trio
from quorate.chain.errors import BlockError, InvariantError, PendingError
from quorate.chain.ids import Hash
from quorate.chain.vote import BlockId, Commit

from consensus.algorithm import InvalidBlockDecided
from node.exchange.block_assembly import BlockAssembly, PartSet
from node.exchange.payload_exchange import PayloadExchange
from node.execution.aggregates import BackgroundAggregates
from node.execution.block_checks import DivergentRoots, is_size_allowed
from node.execution.divergence import Divergence, DivergenceReports, write_report
from node.execution.executor import RESULTS_MAX, ExecutedBlock, Executor

RETRY_S = 0.02
"""How long to wait when something is pending that nobody announces."""

_log = structlog.get_logger("judging")


class Judge:
    """Brings a proposed block to a verdict.

    Parameters
    ----------
    executor : Executor
        Executes and compares.
    assembly : BlockAssembly
        Where the block's parts arrive.
    exchange : PayloadExchange
        Pulls missing payloads.
    aggregates : BackgroundAggregates
        Tells when an aggregate at work is done.
    reports : DivergenceReports or None
        Where it is written down that the network has decided what is invalid here.
    """

    def __init__(
        self,
        executor: Executor,
        assembly: BlockAssembly,
        exchange: PayloadExchange,
        aggregates: BackgroundAggregates,
        reports: DivergenceReports | None,
    ) -> None:
        self._reports = reports
        self._refusals: dict[Hash, BlockError] = {}
        self._executor = executor
        self._assembly = assembly
        self._exchange = exchange
        self._aggregates = aggregates
        self._whole: dict[Hash, trio.Event] = {}

    def start_height(self) -> None:
        """Forget who waited for the last height's blocks; their tasks are gone."""
        self._whole.clear()
        self._refusals.clear()

    def notice(self, parts: PartSet) -> None:
        """Go on with a block if its parts are all here."""
        if parts.raw is not None and parts.block_id.parts_root in self._whole:
            self._whole[parts.block_id.parts_root].set()

    async def judge(self, block_id: BlockId) -> ExecutedBlock | None:
        """Return the executed block, or None if it is invalid, with the reason in the log."""
        try:
            return await self._judge(block_id)
        except BlockError as error:
            if len(self._refusals) < RESULTS_MAX:
                self._refusals[block_id.hash] = error
            _log.warning(
                "invalid_proposal", block=block_id.hash.hex(), reason=str(error), vote="nil"
            )
            return None

    async def _judge(self, block_id: BlockId) -> ExecutedBlock:
        bytes_max = self._executor.position.parameters.block_bytes_max
        if not is_size_allowed(block_id, bytes_max):
            raise BlockError(
                f"a block of {block_id.part_count} parts exceeds the limit of {bytes_max} bytes"
            )
        raw = await self._wait_until_whole(block_id)
        while True:
            try:
                return await self._executor.judge(block_id, raw)
            except PendingError as error:
                await self.wait_for(error)

    async def wait_for(self, pending: PendingError) -> None:
        """Return when what was missing may be here."""
        if pending.missing_payloads:
            await self._exchange.wait_for(
                tuple(map(Hash, pending.missing_payloads)), pending.payload_sizes
            )
        with trio.move_on_after(RETRY_S):
            await self._aggregates.done.wait()

    @contextmanager
    def telling_divergence(self) -> Iterator[None]:
        """Let it be written down if a quorum has decided a block that is invalid here.

        Raises
        ------
        InvariantError
            Then, in the place of what was raised inside.
        """
        try:
            yield
        except InvalidBlockDecided as error:
            self.raise_divergence(error.commit)

    def raise_divergence(self, commit: Commit) -> NoReturn:
        """Stop the node: a quorum decided a block that is invalid here.

        Raises
        ------
        InvariantError
            Always.
        """
        parts = self._assembly.get(commit.block_id.parts_root)
        refusal = self._refusals.get(commit.block_id.hash)
        reason = str(refusal) if refusal is not None else "found so before the last restart"
        divergence = Divergence(
            commit=commit,
            position=self._executor.position,
            raw=parts.raw if parts is not None else None,
            reason=reason,
            result=refusal.result if isinstance(refusal, DivergentRoots) else None,
        )
        raise InvariantError(
            f"Block {commit.block_id.hash.hex()} of height {commit.height} was decided by the "
            f"network but is invalid when executed here ({reason}): this node's state or program "
            f"differs from the others'. Nothing of it was stored. "
            f"{write_report(self._reports, divergence)} Compare versions with other operators; "
            "with the right one installed, move the folder of the write-ahead log away and start "
            "the node again, or run `quorate reset-state` if its state is what differs."
        )

    async def _wait_until_whole(self, block_id: BlockId) -> bytes:
        while True:
            # Asked for anew each time: among many blocks, this one may have had to make room.
            raw = self._assembly.expect(block_id).raw
            if raw is not None:
                return raw
            event = self._whole.setdefault(block_id.parts_root, trio.Event())
            await event.wait()
            self._whole.pop(block_id.parts_root, None)
