"""Payloads of blocks that are about to be followed: asked for before their turn comes.

Owns how far ahead is looked, in blocks and in bytes. Never wants a payload for a block without a
verified proof of its decision, and never judges anything: a block whose proof does not fit the
validators of today is left until its turn, when those of its own height are known.

Nothing is looked at before a block was held up for want of a payload: a node may have them all.
"""

from collections.abc import Callable, Iterator
from typing import Final

from quorate.chain.codec import decode
from quorate.chain.errors import BlockError, CommitError, DecodeError, TransactionError
from quorate.chain.ids import Hash, Height
from quorate.chain.parameters import BLOCK_BYTES_MAX
from quorate.chain.transaction import CreateTask, SubmitUpdate, decode_transaction
from quorate.chain.vote import COMMIT_BYTES_MAX, Commit, verify_commit

from node.exchange.catching_up import CatchUp, FetchedBlock
from node.execution.block_checks import decode_block
from node.execution.chain_position import ChainPosition
from p2p.network import PeerId

BLOCKS_AHEAD_MAX: Final = 16
BYTES_AHEAD_MAX: Final = 64 << 20
"""Payloads of blocks ahead; the block that passes it is the last that is looked at."""


class PayloadsAhead:
    """Wants the payloads of fetched blocks before it is their turn.

    Parameters
    ----------
    chain_id : str
        The chain that commits must be for.
    catch_up : CatchUp
        Has fetched the blocks.
    want : callable
        Begins to pull a payload: its hash, its size, and who should have it.
    """

    def __init__(
        self,
        chain_id: str,
        catch_up: CatchUp,
        want: Callable[[Hash, int, PeerId], object],
    ) -> None:
        self._chain_id = chain_id
        self._catch_up = catch_up
        self._want = want
        self._is_needed = False
        self._looked: dict[Height, int] = {}

    def note_missing(self) -> None:
        """Begin to look ahead: a block lacks a payload."""
        self._is_needed = True

    def look(self, position: ChainPosition) -> None:
        """Want what the next blocks name, as far as the limits allow."""
        if not self._is_needed:
            return
        next_height = position.next_height
        for height in [height for height in self._looked if height < next_height]:
            del self._looked[height]
        total = sum(self._looked.values())
        for number in range(next_height, next_height + BLOCKS_AHEAD_MAX):
            height = Height(number)
            if height in self._looked:
                continue
            fetched = self._catch_up.get(height)
            if fetched is None or total >= BYTES_AHEAD_MAX:
                return
            size = sum(self._want_payloads(fetched, position))
            self._looked[height] = size
            total += size

    def _want_payloads(self, fetched: FetchedBlock, position: ChainPosition) -> Iterator[int]:
        """Want the payloads of a block that is proven; yield their sizes."""
        try:
            commit = decode(Commit, fetched.commit, COMMIT_BYTES_MAX)
            verify_commit(
                self._chain_id,
                position.validators,
                fetched.height,
                commit.block_id.hash,
                commit,
            )
            block = decode_block(commit.block_id, fetched.block, BLOCK_BYTES_MAX)
            bodies = [decode_transaction(raw).transaction.body for raw in block.transactions]
        except (BlockError, CommitError, DecodeError, TransactionError):
            return
        for body in bodies:
            if isinstance(body, SubmitUpdate | CreateTask):
                self._want(Hash(body.payload_hash), body.payload_size, fetched.peer)
                yield body.payload_size
