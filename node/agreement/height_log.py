"""The consensus log: every input of a height, and the bytes of every block found valid in it.

Owns the form of the records in the write-ahead log and reading them back. Never decides when to
sync, and never repairs a log.

Messages that come before their height begins have no effect yet. They are held in memory and
written just before the height's beginning, so that a restart feeds the driver the same inputs in
the same order: a validator whose log lacked the prevotes that it locked a block on would come
back without its lock.

Blocks are in the log because votes refer to them: if all validators crashed after a quorum had
precommitted a block and before anyone stored it, its bytes would otherwise be lost to all.
"""

from dataclasses import dataclass, field
from typing import Final, assert_never

from msgspec import Struct
from quorate.chain.codec import decode, encode
from quorate.chain.errors import DecodeError, InvariantError, StorageError
from quorate.chain.ids import Hash, Height
from quorate.chain.vote import BlockId

from consensus.inputs import (
    CommitReceived,
    Input,
    ProposalJudged,
    ProposalReceived,
    ProposeBlock,
    StartHeight,
    TimeoutElapsed,
    VoteReceived,
    decode_input,
    encode_input,
)
from store.log_segment import RECORD_BYTES_MAX
from store.segmented_log import SegmentedLog

EARLY_INPUTS_MAX: Final = 16_384
"""Messages for heights to come; the driver keeps eight of a validator for each of two heights."""

_INPUT: Final = b"I"
_BLOCK: Final = b"B"


EarlyInput = ProposalReceived | VoteReceived
"""What may come before its height begins."""


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
        In order: early messages, StartHeight, what followed; empty if it had not begun.
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
        self._early: list[EarlyInput] = []

    @property
    def has_room(self) -> bool:
        """Whether another early message can be kept."""
        return len(self._early) < EARLY_INPUTS_MAX

    def keep_early(self, input_: EarlyInput) -> None:
        """Keep a message until its height begins; the caller has looked whether there is room."""
        if not self.has_room:
            raise InvariantError(f"more than {EARLY_INPUTS_MAX} early messages")
        self._early.append(input_)

    def append_input(self, input_: Input) -> None:
        """Record an input, before its effects leave."""
        if isinstance(input_, StartHeight):
            for early in self._early:
                if get_height(early) == input_.height:
                    self._log.append(_INPUT + encode_input(early))
            self._forget_early(input_.height)
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
        self._forget_early(height)

    def read(self, height: Height) -> LoggedHeight:
        """Return what the log holds beyond the last decided height.

        Raises
        ------
        StorageError
            If the log is ahead of the database, or a record can't be read by this version.
        """
        last_mark = self._log.last_mark
        if last_mark is not None and last_mark > height:
            raise StorageError(
                f"the consensus log has seen the end of height {last_mark}, but the database is "
                f"at height {height}: restore both from one backup; or move the log's folder "
                "away, keep the validator's last-signed record where it is, and start the node "
                f"again once the network is past height {last_mark + 1}"
            )
        if last_mark is None or last_mark < height:
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
        if not any(isinstance(item, StartHeight) for item in logged.inputs):
            # Early messages whose height's beginning was torn off: they led to nothing, and must
            # not be taken for part of what comes now.
            if logged.inputs:
                self._log.mark(height)
            return LoggedHeight()
        self._blocks.update(block.block_id.hash for block in logged.blocks)
        return logged

    def _forget_early(self, height: int) -> None:
        self._early = [early for early in self._early if get_height(early) > height]


def get_height(input_: Input) -> int:
    """Return the height that an input is for."""
    match input_:
        case ProposalReceived(proposal=proposal):
            return proposal.height
        case VoteReceived(vote=vote):
            return vote.height
        case CommitReceived(commit=commit):
            return commit.height
        case StartHeight() | ProposalJudged() | ProposeBlock() | TimeoutElapsed():
            return input_.height
        case _:
            assert_never(input_)


def _read_record(record: bytes, height: Height, logged: LoggedHeight) -> None:
    kind, body = record[:1], record[1:]
    if kind == _BLOCK:
        logged.blocks.append(decode(LoggedBlock, body, RECORD_BYTES_MAX))
    elif kind == _INPUT:
        item = decode_input(body)
        # A timer of the last height may still have been on its way when that height ended.
        if get_height(item) == height + 1:
            logged.inputs.append(item)
    else:
        raise DecodeError(f"unknown kind {kind!r}")
