"""The consensus log: every input of a height, and the bytes of every block found valid in it.

Owns the form of the records in the write-ahead log and reading them back. Never decides when to
sync, and never repairs a log.

Blocks are in the log because votes refer to them: if all validators crashed after a quorum had
precommitted a block and before anyone stored it, its bytes would otherwise be lost to all.
"""

from dataclasses import dataclass, field
from typing import Final

from msgspec import Struct
from quorate.chain.codec import decode, encode
from quorate.chain.errors import DecodeError, StorageError
from quorate.chain.ids import Hash, Height
from quorate.chain.vote import BlockId

from consensus.inputs import Input, StartHeight, decode_input, encode_input
from store.log_segment import RECORD_BYTES_MAX
from store.segmented_log import SegmentedLog

_INPUT: Final = b"I"
_BLOCK: Final = b"B"


class LoggedBlock(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A block that was found valid, before the vote for it."""

    block_id: BlockId
    raw: bytes


@dataclass(frozen=True, slots=True)
class LoggedHeight:
    """What the log holds of the height that was not finished.

    Attributes
    ----------
    inputs : list of Input
        In order, from the height's StartHeight on; empty if it had not begun.
    blocks : list of LoggedBlock
        In order.
    """

    inputs: list[Input] = field(default_factory=list)
    blocks: list[LoggedBlock] = field(default_factory=list)


class HeightLog:
    """Records of consensus in a write-ahead log.

    Parameters
    ----------
    log : SegmentedLog
        Where they are.
    """

    def __init__(self, log: SegmentedLog) -> None:
        self._log = log
        self._blocks: set[Hash] = set()

    def append_input(self, input_: Input) -> None:
        """Record an input, before its effects leave."""
        self._log.append(_INPUT + encode_input(input_))

    def append_block(self, block_id: BlockId, raw: bytes) -> None:
        """Record a valid block, once in a height."""
        if block_id.hash not in self._blocks:
            self._blocks.add(block_id.hash)
            self._log.append(_BLOCK + encode(LoggedBlock(block_id, raw)))

    def sync(self) -> None:
        """Make all records durable."""
        self._log.sync()

    def mark(self, height: Height) -> None:
        """Record that a height is over, and its block stored."""
        self._log.mark(height)
        self._blocks.clear()

    def read(self, height: Height) -> LoggedHeight:
        """Return what the log holds beyond the last decided height.

        Raises
        ------
        StorageError
            If a record can't be read by this version.
        """
        if self._log.last_mark is None or self._log.last_mark < height:
            # At genesis, after the log was moved away, or when a crash came between the block
            # and its marker: whatever the log holds belongs to heights that are decided.
            self._log.mark(height)
        logged = LoggedHeight()
        for record in self._log.records_since_mark(height):
            try:
                _read_record(record, height, logged)
            except DecodeError as error:
                raise StorageError(
                    f"the consensus log holds a record that this version cannot read ({error}): "
                    "start the version that wrote it, or restore the log from a backup"
                ) from error
        if not logged.inputs or not isinstance(logged.inputs[0], StartHeight):
            return LoggedHeight()
        self._blocks.update(block.block_id.hash for block in logged.blocks)
        return logged


def _read_record(record: bytes, height: Height, logged: LoggedHeight) -> None:
    kind, body = record[:1], record[1:]
    if kind == _BLOCK:
        logged.blocks.append(decode(LoggedBlock, body, RECORD_BYTES_MAX))
    elif kind == _INPUT:
        item = decode_input(body)
        if isinstance(item, StartHeight):
            logged.inputs.clear()
            logged.blocks.clear()
            if item.height != height + 1:
                return
        logged.inputs.append(item)
    else:
        raise DecodeError(f"unknown kind {kind!r}")
