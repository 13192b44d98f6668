"""From an update's bytes to its integers, and the checks at that door.

Owns the layout of every update codec. Never copies the bytes and knows no aggregation rule.
"""

from typing import assert_never

import numpy as np
from numpy.typing import NDArray
from quorate.chain.errors import ErrorCode
from quorate.chain.task import UpdateCodec

from aggregation.arithmetic import INT16_ABS_MAX
from aggregation.columns import COLUMNS_MAX, PayloadBytes, UpdateColumns
from aggregation.errors import UpdateError


def compute_update_size(codec: UpdateCodec, dimension: int) -> int:
    """Return how many bytes an update takes.

    Parameters
    ----------
    codec : UpdateCodec
    dimension : int
        The number of parameters d.

    Returns
    -------
    int
    """
    match codec:
        case UpdateCodec.DENSE_INT16:
            return 2 * dimension
        case _:
            assert_never(codec)


def decode_update(
    payload: bytes | memoryview, codec: UpdateCodec, dimension: int
) -> NDArray[np.int16]:
    """View the bytes of an update as its integers, without copying them.

    Parameters
    ----------
    payload : bytes or contiguous memoryview
    codec : UpdateCodec
    dimension : int
        The number of parameters d of the task's model.

    Returns
    -------
    int16, (d,), read-only
        Values in +-32767.

    Raises
    ------
    UpdateError
        If the length is not what the codec needs, or a value is -32768.
    """
    update = _view_integers(payload, codec, dimension)
    for start in range(0, dimension, COLUMNS_MAX):
        part = update[start : start + COLUMNS_MAX]
        if int(part.min()) < -INT16_ABS_MAX:
            position = start + int(part.argmin())
            raise UpdateError(
                ErrorCode.VALUE_OUT_OF_RANGE,
                f"parameter {position} of the update is -32768; the integers of an update are"
                f" within +-{INT16_ABS_MAX}, so clamp it when encoding",
            )
    return update


def open_update(payload: PayloadBytes, codec: UpdateCodec, dimension: int) -> UpdateColumns:
    """Give an update's integers by columns, decoding them as they are asked for.

    Parameters
    ----------
    payload : PayloadBytes
        Kept by reference, read slice by slice.
    codec : UpdateCodec
    dimension : int
        The number of parameters d of the task's model.

    Returns
    -------
    UpdateColumns
        Of which only the length has been checked: `aggregate` checks the integers as it reads them.

    Raises
    ------
    UpdateError
        If the length is not what the codec needs.
    """
    _validate_size(payload.size, codec, dimension)
    return _DenseInt16(payload, dimension)


class _DenseInt16:
    """Little-endian int16, one after the other."""

    dtype = np.dtype(np.int16)

    def __init__(self, payload: PayloadBytes, dimension: int) -> None:
        self.shape = (dimension,)
        self._payload = payload

    def __getitem__(self, columns: slice, /) -> NDArray[np.int16]:
        start, stop, _ = columns.indices(self.shape[0])
        part = self._payload[2 * start : 2 * stop].view(np.dtype("<i2"))
        return part.astype(np.int16, copy=False)


def validate_update_bytes(payload: bytes | memoryview, codec: UpdateCodec, dimension: int) -> None:
    """Check what `decode_update` checks, for a caller that does not need the integers yet.

    Raises
    ------
    UpdateError
        As `decode_update` does.
    """
    decode_update(payload, codec, dimension)


def _view_integers(
    payload: bytes | memoryview, codec: UpdateCodec, dimension: int
) -> NDArray[np.int16]:
    size = payload.nbytes if isinstance(payload, memoryview) else len(payload)
    _validate_size(size, codec, dimension)
    # On a big-endian machine the conversion copies; the integers are the same.
    update = np.frombuffer(payload, np.dtype("<i2")).astype(np.int16, copy=False)
    update.flags.writeable = False
    return update


def _validate_size(size: int, codec: UpdateCodec, dimension: int) -> None:
    expected = compute_update_size(codec, dimension)
    if size != expected:
        raise UpdateError(
            ErrorCode.WRONG_SHAPE,
            f"the update has {size} bytes; {dimension} parameters in codec {codec.name.lower()}"
            f" take {expected}",
        )
