"""From an update's floats to the bytes of its task's codec, and what the bytes leave out.

Owns the encoders of every `UpdateCodec`, and error feedback: whatever rounding, cutting off and
leaving out took from an update is its residual, which is added to the next one
(arXiv:1901.09847, Algorithm 2; arXiv:1809.07599, Algorithm 1). Never keeps a residual itself: the
caller knows whether the update was counted.
"""

from dataclasses import dataclass
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from quorate.chain.task import (
    INT8_BLOCK_VALUES,
    INT8_EXPONENT_MAX,
    UpdateCodec,
    UpdateLayout,
)
from quorate.errors import EncodingError
from quorate.fixed_point import UPDATE_INTEGER_MAX, Arrays, ModelSchema

INT8_INTEGER_MAX = 127
RESIDUAL_ABS_MAX = UPDATE_INTEGER_MAX
"""A residual is cut off here, in integers of the update: a scale that is badly chosen must not
have one grow for ever, and then be worked off for ever."""

_INT8_END_MIN = (((INT8_INTEGER_MAX - 1) << INT8_EXPONENT_MAX) + UPDATE_INTEGER_MAX) / 2


@dataclass(frozen=True)
class EncodedUpdate:
    """An update in its codec, and what of it is not in there.

    Attributes
    ----------
    data : bytes
        As long as the layout's `size`.
    saturated : int
        How many numbers were beyond the range and moved to its end.
    residual : float32, (d,)
        What was to be said minus what was said, in units of the update's integers, each within
        +-`RESIDUAL_ABS_MAX`.
    """

    data: bytes
    saturated: int
    residual: NDArray[np.float32]


def encode_update(
    schema: ModelSchema,
    layout: UpdateLayout,
    arrays: Arrays,
    residual: NDArray[np.float32] | None = None,
) -> EncodedUpdate:
    """Encode an update, new minus base weights.

    Parameters
    ----------
    schema : ModelSchema
    layout : UpdateLayout
        The task's: `TaskSpec.update_layout`.
    arrays : sequence of arrays
        In the tensors' order and shapes.
    residual : float32, (d,), optional
        Of the last update; added to this one. Not changed.

    Raises
    ------
    EncodingError
        If an array is missing, too many, of another shape or not finite; if the residual or the
        layout is that of another model.

    Examples
    --------
    >>> import numpy as np
    >>> schema = ModelSchema.from_arrays([np.zeros(4)], update_fraction_bits=0)
    >>> layout = UpdateLayout(UpdateCodec.TOP_K_INT16, 4, 1)
    >>> first = encode_update(schema, layout, [np.array([0.0, 5.0, -3.0, 0.0])])
    >>> first.data.hex(), first.residual.tolist()
    ('010000000500', [0.0, 0.0, -3.0, 0.0])
    >>> encode_update(schema, layout, [np.array([0.0, 5.0, -3.0, 0.0])], first.residual).data.hex()
    '02000000faff'
    """
    wanted = schema.scale_update(arrays)
    if layout.dimension != len(wanted):
        raise EncodingError(f"the layout has {layout.dimension} parameters, not {len(wanted)}")
    if residual is not None:
        if residual.shape != wanted.shape:
            raise EncodingError(f"the residual is of shape {residual.shape}, not {wanted.shape}")
        wanted += residual
    beyond = np.abs(np.rint(wanted)) > UPDATE_INTEGER_MAX
    bounded = np.clip(wanted, -UPDATE_INTEGER_MAX, UPDATE_INTEGER_MAX)
    match layout.codec:
        case UpdateCodec.DENSE_INT16:
            said = np.rint(bounded)
            data = said.astype("<i2").tobytes()
        case UpdateCodec.DENSE_INT8:
            data, said = _encode_int8(bounded)
        case UpdateCodec.TOP_K_INT16:
            chosen = _choose_largest(np.abs(bounded), layout.top_k)
            said = np.zeros_like(bounded)
            said[chosen] = np.rint(bounded[chosen])
            data = chosen.astype("<u4").tobytes() + said[chosen].astype("<i2").tobytes()
            beyond = beyond[chosen]
        case _:
            assert_never(layout.codec)
    left = np.clip(wanted - said, -RESIDUAL_ABS_MAX, RESIDUAL_ABS_MAX)
    return EncodedUpdate(data, int(np.count_nonzero(beyond)), left.astype(np.float32))


def _encode_int8(bounded: NDArray[np.float64]) -> tuple[bytes, NDArray[np.float64]]:
    """Return an update in `DENSE_INT8`, and what it says, each number rounded to the nearest.

    A block's exponent is the least for which its largest number is within +-127.
    """
    dimension = len(bounded)
    blocks = -(-dimension // INT8_BLOCK_VALUES)
    padded = np.zeros(blocks * INT8_BLOCK_VALUES)
    padded[:dimension] = bounded
    rows = padded.reshape(blocks, INT8_BLOCK_VALUES)
    largest = np.abs(rows).max(axis=1)
    exponents = np.zeros(blocks, np.int64)
    for _ in range(INT8_EXPONENT_MAX):
        exponents += np.rint(np.ldexp(largest, -exponents)) > INT8_INTEGER_MAX
    values = np.rint(np.ldexp(rows, -exponents[:, None]))
    np.clip(values, -INT8_INTEGER_MAX, INT8_INTEGER_MAX, out=values)
    # The last step of the coarsest scale is a longer one: it ends at 32767 rather than 32512.
    is_end = (np.abs(values) == INT8_INTEGER_MAX) & (exponents == INT8_EXPONENT_MAX)[:, None]
    is_nearer_below = is_end & (np.abs(rows) < _INT8_END_MIN)
    values[is_nearer_below] -= np.sign(values[is_nearer_below])
    is_end &= ~is_nearer_below
    said = np.ldexp(values, exponents[:, None])
    said[is_end] = np.copysign(UPDATE_INTEGER_MAX, said[is_end])
    flat = values.reshape(-1)[:dimension].astype(np.int8)
    return exponents.astype(np.uint8).tobytes() + flat.tobytes(), said.reshape(-1)[:dimension]


def _choose_largest(magnitudes: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Return the rising indexes of the `count` largest; of equal ones, those that come first."""
    threshold = np.partition(magnitudes, -count)[-count]
    above = np.flatnonzero(magnitudes > threshold)
    equal = np.flatnonzero(magnitudes == threshold)[: count - len(above)]
    return np.sort(np.concatenate([above, equal]))
