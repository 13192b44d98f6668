"""Reading a round's updates column by column, so that no stage needs them all in memory at once.

Owns the block size, the `ColumnSource` interface that stages are chained by, and the source at its
start, which reads the caller's arrays. Never changes those arrays and knows no rule.

A pre-aggregation does not write n new updates down. It looks at its source once, remembers what it
needs (a factor per update, a neighbourhood per update), and becomes a source itself that transforms
each block when it is read. So peak memory is the caller's updates plus a few blocks, and a memory
map of a stored payload serves as well as an array.
"""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from quorate.chain.errors import ErrorCode
from quorate.chain.task import PARAMETERS_MAX, UPDATES_PER_ROUND_MAX

from aggregation.arithmetic import INT16_ABS_MAX
from aggregation.errors import BoundError, UpdateError

COLUMNS_MAX = 1 << 15
"""Columns of a block at most: 2^15 products of two int16 values sum to at most 2^45."""
WIDE_COLUMNS_MAX = 3 << 14
"""The same for rules that hold int16 alone and add up no products."""
COLUMNS_MIN = 1 << 12
"""In narrower blocks, calling numpy costs more than the arithmetic it does."""
BLOCK_VALUES = 1 << 20
"""A block holds about this many int16 values: wide enough for linear algebra at full speed."""
STAGED_BLOCK_VALUES = 1 << 18
"""The same behind another stage: then several copies of a block must stay in cache."""
BLOCKS_MIN = 16
"""Blocks of a round at least, if they are not too narrow then: a float64 block takes a quarter of
the updates' bytes, also where these are few."""
WIDE_BLOCKS_MIN = 8
"""The same for rules that hold int16 alone."""
BLOCK_VALUES_MAX = 1 << 22
"""A block never holds more, so that its float64 copy stays within 32 MiB for 4,096 updates."""


class UpdateColumns(Protocol):
    """One update whose integers can be read by slices: an array, a memory map, a stored file."""

    @property
    def dtype(self) -> np.dtype[np.int16]:
        """The type of the integers."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(d,)."""

    def __getitem__(self, columns: slice, /) -> NDArray[np.int16]:
        """Return columns start..stop, which nobody will write to, until the next read."""


class PayloadBytes(Protocol):
    """An update's bytes, readable by slices: an array, a memory map, a stored file.

    A codec reads from it what the columns asked for need, and no more.
    """

    @property
    def size(self) -> int:
        """The number of bytes."""

    def __getitem__(self, part: slice, /) -> NDArray[np.uint8]:
        """Return bytes start..stop, which nobody will write to, until the next read."""


class ColumnSource(Protocol):
    """n updates of d parameters that can be read in blocks of columns."""

    @property
    def n_updates(self) -> int:
        """The number of updates n, at least 1."""

    @property
    def rows_read(self) -> int:
        """How many rows a read brings into memory at once, at least n."""

    @property
    def dimension(self) -> int:
        """The number of parameters d, at least 1."""

    def read(self, start: int, stop: int) -> NDArray[np.int16]:
        """Return columns start..stop as a contiguous array that the reader may overwrite.

        It is the reader's until the next read, which may use the same memory again.

        Parameters
        ----------
        start, stop : int
            0 <= start < stop <= dimension.

        Returns
        -------
        int16, (n_updates, stop - start)
            Values in +-32767.
        """


class BlockRoom:
    """Room for the blocks of a source, used again for every one.

    Allocating a block anew for each read makes the system map and clear its pages each time, which
    costs several times what copying into it does.
    """

    def __init__(self) -> None:
        self._room = np.empty(0, np.int16)

    def view(self, rows: int, columns: int) -> NDArray[np.int16]:
        """Return the room as an array (rows, columns), its contents left over from the last use."""
        if rows * columns > self._room.size:
            self._room = np.empty(rows * columns, np.int16)
        return self._room[: rows * columns].reshape(rows, columns)


class RowSource:
    """The caller's updates, checked when they are first read."""

    def __init__(self, updates: Sequence[UpdateColumns]) -> None:
        """Check the shapes of the updates; their integers are checked by the first reads.

        Parameters
        ----------
        updates : sequence of int16, (d,)
            1..4096 of one length. Kept by reference, never written to.

        Raises
        ------
        UpdateError
            If there is none or too many, or if one has another dtype, shape or length than the
            first.
        """
        if not 1 <= len(updates) <= UPDATES_PER_ROUND_MAX:
            raise UpdateError(
                ErrorCode.WRONG_SHAPE,
                f"a training round aggregates 1 to {UPDATES_PER_ROUND_MAX} updates,"
                f" not {len(updates)}",
            )
        self.n_updates = self.rows_read = len(updates)
        self.dimension = prod(updates[0].shape)
        if not 1 <= self.dimension <= PARAMETERS_MAX:
            raise UpdateError(
                ErrorCode.WRONG_SHAPE,
                f"an update has 1 to {PARAMETERS_MAX} parameters, not {self.dimension}",
            )
        for index, update in enumerate(updates):
            if update.dtype != np.int16 or update.shape != (self.dimension,):
                raise UpdateError(
                    ErrorCode.WRONG_SHAPE,
                    f"update {index} is {update.dtype} of shape {update.shape};"
                    f" expected int16 of shape ({self.dimension},)",
                )
        self._updates = tuple(updates)
        self._room = BlockRoom()
        self._checked = 0
        self._saturated = 0

    @property
    def saturated(self) -> int:
        """How many integers of all updates are +-32767, where encoding cut them off.

        Raises
        ------
        BoundError
            If not all columns have been read.
        """
        if self._checked < self.dimension:
            raise BoundError(f"of {self.dimension} columns only {self._checked} were read")
        return self._saturated

    def read(self, start: int, stop: int) -> NDArray[np.int16]:
        """Return columns start..stop of all updates; see `ColumnSource.read`.

        Raises
        ------
        UpdateError
            If one of them is -32768, which is looked for when columns are read for the first time.
        """
        block = self._room.view(self.n_updates, stop - start)
        for row, update in zip(block, self._updates, strict=True):
            row[:] = update[start:stop]
        if start <= self._checked < stop:
            self._check(block[:, self._checked - start :])
            self._checked = stop
        return block

    def _check(self, block: NDArray[np.int16]) -> None:
        low, high = int(block.min()), int(block.max())
        if low < -INT16_ABS_MAX:
            raise UpdateError(
                ErrorCode.VALUE_OUT_OF_RANGE,
                "an update contains -32768; its integers are within +-32767",
            )
        # Extremes are rare: most blocks need no second look.
        if high == INT16_ABS_MAX:
            self._saturated += int(np.count_nonzero(block == INT16_ABS_MAX))
        if low == -INT16_ABS_MAX:
            self._saturated += int(np.count_nonzero(block == -INT16_ABS_MAX))


def validate_precondition(n_updates: int, num_byzantine: int, updates_min: int) -> None:
    """Refuse to run a stage on fewer updates than it needs for its f.

    A task's rule has been checked by then (`composition.validate_rule`), so that a stage that finds
    itself here has been called by mistake.

    Raises
    ------
    BoundError
        If n_updates < updates_min, or num_byzantine is negative.
    """
    if num_byzantine < 0 or n_updates < updates_min:
        raise BoundError(
            f"a stage was called with {n_updates} updates and num_byzantine = {num_byzantine}; it"
            f" needs n >= {updates_min}"
        )


def get_block_width(source: ColumnSource) -> int:
    """Return how many columns a source's blocks have at most.

    Depends on the shape alone, and on whether another stage is in front: behind one, blocks are
    never wider, so that whatever that stage has made room for suffices.
    """
    values = BLOCK_VALUES if isinstance(source, RowSource) else STAGED_BLOCK_VALUES
    width = min(values // source.rows_read, source.dimension // BLOCKS_MIN)
    width = max(width, min(COLUMNS_MIN, source.dimension))
    return max(1, min(width, BLOCK_VALUES_MAX // source.rows_read, COLUMNS_MAX))


def get_block_bounds(source: ColumnSource) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of consecutive blocks that cover all columns of a source once.

    No result depends on their width: whatever is added up over blocks is an exact integer.
    """
    yield from _cut(source.dimension, get_block_width(source))


def get_wide_block_bounds(source: ColumnSource) -> Iterator[tuple[int, int]]:
    """Yield what `get_block_bounds` yields, in wider blocks, for rules that hold int16 alone.

    What they do to each row of a block is over so fast that calling numpy for it costs as much.
    Where another stage is in front, blocks are as wide as it has made room for.
    """
    if not isinstance(source, RowSource):
        yield from get_block_bounds(source)
        return
    width = min(BLOCK_VALUES_MAX // source.rows_read, source.dimension // WIDE_BLOCKS_MIN)
    width = max(width, get_block_width(source))
    yield from _cut(source.dimension, min(width, WIDE_COLUMNS_MAX))


def _cut(dimension: int, width: int) -> Iterator[tuple[int, int]]:
    for start in range(0, dimension, width):
        yield start, min(start + width, dimension)
