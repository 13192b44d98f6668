"""From an update's bytes to its integers, and the checks at that door.

Owns the reading of every update codec; the layouts are defined beside
`quorate.chain.task.UpdateCodec`. Reads the columns that are asked for and no others: a dense
update is viewed, the others are decoded a slice at a time, so that n updates never stand in memory
as n x d integers. Knows no aggregation rule.

The bytes of a payload come from whatever gives them by slices: bytes, a memoryview, a stored file.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Final, assert_never

import numpy as np
from numpy.typing import NDArray
from quorate.chain.errors import ErrorCode
from quorate.chain.task import (
    INT8_BLOCK_VALUES,
    INT8_EXPONENT_MAX,
    UpdateCodec,
    UpdateLayout,
)

from aggregation.arithmetic import INT16_ABS_MAX
from aggregation.columns import COLUMNS_MAX, PayloadBytes, UpdateColumns
from aggregation.errors import UpdateError

INT8_ABS_MAX: Final = 127
_INT8_END: Final = INT8_ABS_MAX << INT8_EXPONENT_MAX
"""32512, where the largest value and exponent would end: they stand for 32767 instead."""
_INDEX_BYTES: Final = 4
_SCAN_VALUES: Final = 1 << 18
"""How many values are checked at a time, so that a check takes little memory."""


class _Decoder(ABC):
    """An update whose integers are decoded when they are asked for: `UpdateColumns`."""

    dtype: Final = np.dtype(np.int16)

    def __init__(self, payload: PayloadBytes, layout: UpdateLayout) -> None:
        """Take hold of the bytes, and check their number.

        Raises
        ------
        UpdateError
            If it is not the layout's.
        """
        if payload.size != layout.size:
            raise UpdateError(
                ErrorCode.WRONG_SHAPE,
                f"the update has {payload.size} bytes; {layout.dimension} parameters in codec"
                f" {layout.codec.name.lower()} take {layout.size}",
            )
        self.shape = (layout.dimension,)
        self._payload = payload

    def __getitem__(self, columns: slice, /) -> NDArray[np.int16]:
        """Return columns start..stop, which nobody may write to, until the next read."""
        start, stop, _ = columns.indices(self.shape[0])
        integers = self._read(start, max(start, stop))
        integers.flags.writeable = False
        return integers

    @abstractmethod
    def _read(self, start: int, stop: int) -> NDArray[np.int16]:
        """Return columns start..stop; 0 <= start <= stop <= d."""

    @abstractmethod
    def validate(self) -> None:
        """Check every integer of the update.

        Raises
        ------
        UpdateError
            Which one is wrong, and why.
        """


class _DenseInt16(_Decoder):
    """`UpdateCodec.DENSE_INT16`."""

    def _read(self, start: int, stop: int) -> NDArray[np.int16]:
        # On a big-endian machine the conversion copies; the integers are the same.
        part = self._payload[2 * start : 2 * stop].view(np.dtype("<i2"))
        return part.astype(np.int16, copy=False)

    def validate(self) -> None:
        for start, stop in _get_parts(self.shape[0]):
            part = self._read(start, stop)
            if int(part.min()) < -INT16_ABS_MAX:
                raise _make_value_error(start + int(part.argmin()), -INT16_ABS_MAX - 1)


class _DenseInt8(_Decoder):
    """`UpdateCodec.DENSE_INT8`."""

    def __init__(self, payload: PayloadBytes, layout: UpdateLayout) -> None:
        super().__init__(payload, layout)
        self._first = layout.exponent_count

    def _read(self, start: int, stop: int) -> NDArray[np.int16]:
        first, last = start // INT8_BLOCK_VALUES, -(-stop // INT8_BLOCK_VALUES)
        exponents = self._payload[first:last].astype(np.int16)
        integers = self._read_values(start, stop).astype(np.int16)
        begin = first * INT8_BLOCK_VALUES
        integers <<= np.repeat(exponents, INT8_BLOCK_VALUES)[start - begin : stop - begin]
        if exponents.size and int(exponents.max()) == INT8_EXPONENT_MAX:
            integers[integers == _INT8_END] = INT16_ABS_MAX
            integers[integers == -_INT8_END] = -INT16_ABS_MAX
        return integers

    def _read_values(self, start: int, stop: int) -> NDArray[np.int8]:
        return self._payload[self._first + start : self._first + stop].view(np.int8)

    def validate(self) -> None:
        for start, stop in _get_parts(self._first):
            exponents = self._payload[start:stop]
            if int(exponents.max()) > INT8_EXPONENT_MAX:
                position = int(exponents.argmax())
                raise UpdateError(
                    ErrorCode.VALUE_OUT_OF_RANGE,
                    f"exponent {start + position} of the update is {exponents[position]}; an"
                    f" exponent is within 0..{INT8_EXPONENT_MAX}",
                )
        for start, stop in _get_parts(self.shape[0]):
            part = self._read_values(start, stop)
            if int(part.min()) < -INT8_ABS_MAX:
                raise _make_value_error(start + int(part.argmin()), -INT8_ABS_MAX - 1)


class _TopKInt16(_Decoder):
    """`UpdateCodec.TOP_K_INT16`.

    The indexes are checked at once, for reading relies on their order; beside the payload only
    how many of them lie below each multiple of `COLUMNS_MAX` is kept.
    """

    def __init__(self, payload: PayloadBytes, layout: UpdateLayout) -> None:
        super().__init__(payload, layout)
        self._count = layout.top_k
        self._marks = self._scan_indexes()

    def _read(self, start: int, stop: int) -> NDArray[np.int16]:
        low = int(self._marks[start // COLUMNS_MAX])
        high = int(self._marks[-(-stop // COLUMNS_MAX)])
        indexes = self._read_indexes(low, high)
        bounds = np.searchsorted(indexes, np.array([start, stop]))
        begin, end = int(bounds[0]), int(bounds[1])
        integers = np.zeros(stop - start, np.int16)
        integers[indexes[begin:end] - start] = self._read_values(low + begin, low + end)
        return integers

    def _read_indexes(self, start: int, stop: int) -> NDArray[np.int64]:
        part = self._payload[_INDEX_BYTES * start : _INDEX_BYTES * stop]
        return part.view(np.dtype("<u4")).astype(np.int64)

    def _read_values(self, start: int, stop: int) -> NDArray[np.int16]:
        begin = _INDEX_BYTES * self._count
        part = self._payload[begin + 2 * start : begin + 2 * stop].view(np.dtype("<i2"))
        return part.astype(np.int16, copy=False)

    def _scan_indexes(self) -> NDArray[np.int64]:
        dimension, last = self.shape[0], -1
        marks = np.zeros(-(-dimension // COLUMNS_MAX) + 1, np.int64)
        for start, stop in _get_parts(self._count):
            indexes = self._read_indexes(start, stop)
            steps = np.diff(indexes, prepend=last)
            if int(steps.min()) < 1:
                raise UpdateError(
                    ErrorCode.VALUE_OUT_OF_RANGE,
                    f"index {start + int(np.argmax(steps < 1))} of the update is not above the one"
                    " before it; the indexes rise, and each parameter is named once",
                )
            last = int(indexes[-1])
            if last >= dimension:
                raise UpdateError(
                    ErrorCode.VALUE_OUT_OF_RANGE,
                    f"the update names the parameter {last}; the task has {dimension}, from 0 on",
                )
            marks[1:] += np.bincount(indexes // COLUMNS_MAX, minlength=len(marks) - 1)
        return np.cumsum(marks)

    def validate(self) -> None:
        for start, stop in _get_parts(self._count):
            part = self._read_values(start, stop)
            if int(part.min()) < -INT16_ABS_MAX:
                raise _make_value_error(start + int(part.argmin()), -INT16_ABS_MAX - 1)


def decode_update(
    payload: bytes | memoryview | PayloadBytes, layout: UpdateLayout
) -> UpdateColumns:
    """Check the bytes of an update, every integer of it, and give them by columns.

    Parameters
    ----------
    payload : bytes, contiguous memoryview or PayloadBytes
        Kept by reference.
    layout : UpdateLayout
        The task's.

    Returns
    -------
    UpdateColumns
        int16, (d,), values in +-32767.

    Raises
    ------
    UpdateError
        If the length is not the layout's; if a value is the lowest of its type (-32768, or -128
        as int8); if an exponent is above 8; if indexes do not rise strictly, or leave the model.
    """
    if isinstance(payload, bytes | memoryview):
        payload = np.frombuffer(payload, np.uint8)
    update = _open(payload, layout)
    update.validate()
    return update


def open_update(payload: PayloadBytes, layout: UpdateLayout) -> UpdateColumns:
    """Give an update's integers by columns, decoding them as they are asked for.

    Parameters
    ----------
    payload : PayloadBytes
        Kept by reference, read slice by slice. `decode_update` has accepted it before.
    layout : UpdateLayout
        The task's.

    Returns
    -------
    UpdateColumns
        Of which the length and, of a sparse update, the indexes have been checked, and no value.

    Raises
    ------
    UpdateError
        If the length or the indexes are wrong.
    """
    return _open(payload, layout)


def _open(payload: PayloadBytes, layout: UpdateLayout) -> _Decoder:
    match layout.codec:
        case UpdateCodec.DENSE_INT16:
            return _DenseInt16(payload, layout)
        case UpdateCodec.DENSE_INT8:
            return _DenseInt8(payload, layout)
        case UpdateCodec.TOP_K_INT16:
            return _TopKInt16(payload, layout)
        case _:
            assert_never(layout.codec)


def _get_parts(count: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, _SCAN_VALUES):
        yield start, min(start + _SCAN_VALUES, count)


def _make_value_error(position: int, value: int) -> UpdateError:
    return UpdateError(
        ErrorCode.VALUE_OUT_OF_RANGE,
        f"value {position} of the update is {value}; the integers of an update are within"
        f" +-{-value - 1}, so clamp it when encoding",
    )
