"""Between a model's arrays and the fixed-point integers of the chain.

Owns the conversion of weights to int32 and of updates to int16 and back, and the layout: the
tensors of the task in order, each in C order, little-endian. Never decides scales for a task that
exists: they are in its specification. No float ever reaches the chain.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from quorate.chain.codec import decode, encode
from quorate.chain.errors import DecodeError
from quorate.chain.task import TENSORS_MAX, TaskSpec, TensorSpec
from quorate.errors import EncodingError

WEIGHT_FRACTION_BITS_DEFAULT = 24
"""Weights within +-128, in steps of 6e-8."""
UPDATE_FRACTION_BITS_DEFAULT = 14
"""Updates within +-2, in steps of 6e-5."""
UPDATE_INTEGER_MAX = 32_767
"""The chain refuses -32768, so that negating an update is always possible."""
WEIGHT_INTEGER_MIN, WEIGHT_INTEGER_MAX = -(2**31), 2**31 - 1
UPDATE_BYTES = 2

_TENSOR_SPEC_BYTES_MAX = 256

Array: TypeAlias = NDArray[np.generic]
Arrays: TypeAlias = Sequence[Array]


@dataclass(frozen=True)
class Encoded:
    """Fixed-point bytes, and how many numbers did not fit and were moved to the nearest end."""

    data: bytes
    saturated: int


@dataclass(frozen=True)
class ModelSchema:
    """The tensors of a model: names, shapes, order and scales.

    Parameters
    ----------
    tensors : tuple of TensorSpec
        In the order in which the chain stores them.

    Examples
    --------
    >>> import numpy as np
    >>> model = [np.zeros((64, 32)), np.zeros(32)]
    >>> schema = ModelSchema.from_arrays(model)
    >>> schema.dimension
    2080
    >>> encoded = schema.encode_weights(model)
    >>> len(encoded.data), encoded.saturated
    (8320, 0)
    >>> [array.shape for array in schema.decode_weights(encoded.data)]
    [(64, 32), (32,)]
    """

    tensors: tuple[TensorSpec, ...]

    @classmethod
    def from_arrays(
        cls,
        arrays: Arrays | Mapping[str, Array],
        *,
        weight_fraction_bits: int = WEIGHT_FRACTION_BITS_DEFAULT,
        update_fraction_bits: int = UPDATE_FRACTION_BITS_DEFAULT,
    ) -> "ModelSchema":
        """Describe a model by its arrays.

        Parameters
        ----------
        arrays : sequence of arrays, or mapping of names to arrays
            A sequence is named "0", "1" and so on. A PyTorch model's `state_dict()`, its tensors
            turned into arrays, will do.
        weight_fraction_bits, update_fraction_bits : int
            How many bits of a weight (of 32) and of an update (of 16) stand behind the point:
            the default weights lie within +-128, the default updates within +-2.

        Raises
        ------
        EncodingError
            If there are no arrays or too many, or a name, shape or scale is beyond its bounds.
        """
        named = (
            list(arrays.items())
            if isinstance(arrays, Mapping)
            else [(str(i), array) for i, array in enumerate(arrays)]
        )
        if not 1 <= len(named) <= TENSORS_MAX:
            raise EncodingError(f"a model has 1 to {TENSORS_MAX} tensors, not {len(named)}")
        tensors = []
        for name, array in named:
            shape = tuple(int(length) for length in np.shape(array))
            tensor = TensorSpec(name, shape, weight_fraction_bits, update_fraction_bits)
            try:
                tensors.append(decode(TensorSpec, encode(tensor), _TENSOR_SPEC_BYTES_MAX))
            except (DecodeError, TypeError) as error:
                raise EncodingError(f"tensor {name!r} of shape {shape}: {error}") from error
        return cls(tuple(tensors))

    @classmethod
    def from_spec(cls, spec: TaskSpec) -> "ModelSchema":
        """Return the schema of a task."""
        return cls(spec.tensors)

    @property
    def dimension(self) -> int:
        """The number of parameters d."""
        return sum(tensor.size for tensor in self.tensors)

    def flatten(self, arrays: Arrays) -> NDArray[np.float64]:
        """Return the arrays as one new vector, float64 of shape (d,).

        Raises
        ------
        EncodingError
            If an array is missing, too many, of another shape, not of real numbers or not finite.
        """
        if len(arrays) != len(self.tensors):
            raise EncodingError(f"the task has {len(self.tensors)} tensors, not {len(arrays)}")
        parts = []
        for tensor, array in zip(self.tensors, arrays, strict=True):
            given = np.asarray(array)
            if given.dtype.kind not in "fiub":
                raise EncodingError(f"tensor {tensor.name!r} has the type {given.dtype}")
            if given.shape != tensor.shape:
                raise EncodingError(
                    f"tensor {tensor.name!r} has the shape {given.shape}; the task's has "
                    f"{tensor.shape}"
                )
            part = given.astype(np.float64, copy=False).reshape(-1)
            if not np.isfinite(part).all():
                raise EncodingError(
                    f"tensor {tensor.name!r} contains numbers that are not finite: has the "
                    "training diverged?"
                )
            parts.append(part)
        return np.concatenate(parts)

    def unflatten(self, vector: Array, dtype: DTypeLike = np.float64) -> list[Array]:
        """Return a vector of shape (d,) as arrays in the tensors' shapes, copied.

        Raises
        ------
        EncodingError
            If the vector has another length.
        """
        if vector.shape != (self.dimension,):
            raise EncodingError(f"the task has {self.dimension} parameters, not {vector.shape}")
        arrays: list[Array] = []
        start = 0
        for tensor in self.tensors:
            part = vector[start : start + tensor.size]
            arrays.append(np.array(part, dtype=dtype).reshape(tensor.shape))
            start += tensor.size
        return arrays

    def encode_weights(self, arrays: Arrays) -> Encoded:
        """Return weights as the chain stores them: int32, round(w * 2**weight_fraction_bits).

        Numbers beyond the range are moved to its end and counted.
        """
        return self._encode(
            arrays,
            [tensor.weight_fraction_bits for tensor in self.tensors],
            (WEIGHT_INTEGER_MIN, WEIGHT_INTEGER_MAX),
            "<i4",
        )

    def encode_update(self, arrays: Arrays) -> Encoded:
        """Return an update, new minus base weights, as int16 in +-32767.

        Numbers beyond the range are moved to its end and counted. When many are, the task's
        `update_fraction_bits` are too many for this learning rate.
        """
        return self._encode(
            arrays,
            [tensor.update_fraction_bits for tensor in self.tensors],
            (-UPDATE_INTEGER_MAX, UPDATE_INTEGER_MAX),
            "<i2",
        )

    def scale_update(self, arrays: Arrays) -> NDArray[np.float64]:
        """Return an update in units of its integers, neither rounded nor cut off, float64 (d,).

        Raises
        ------
        EncodingError
            If the arrays do not fit.
        """
        vector = self.flatten(arrays)
        with np.errstate(over="ignore"):  # What overflows to infinity saturates all the same.
            self._scale(vector, [tensor.update_fraction_bits for tensor in self.tensors])
        return vector

    def decode_weights(self, data: bytes, dtype: DTypeLike = np.float64) -> list[Array]:
        """Return the arrays of weights in the chain's form; exact in float64.

        Raises
        ------
        EncodingError
            If the data has another length.
        """
        return self._decode(data, [t.weight_fraction_bits for t in self.tensors], "<i4", dtype)

    def decode_update(self, data: bytes, dtype: DTypeLike = np.float64) -> list[Array]:
        """Return the arrays of an update in the chain's form; exact in float64 and float32.

        Raises
        ------
        EncodingError
            If the data has another length.
        """
        return self._decode(data, [t.update_fraction_bits for t in self.tensors], "<i2", dtype)

    def _scale(self, vector: NDArray[np.float64], fraction_bits: Sequence[int]) -> None:
        """Multiply each tensor's part of a vector by 2**bits, in place."""
        start = 0
        for tensor, bits in zip(self.tensors, fraction_bits, strict=True):
            part = vector[start : start + tensor.size]
            np.ldexp(part, bits, out=part)
            start += tensor.size

    def _encode(
        self, arrays: Arrays, fraction_bits: Sequence[int], bounds: tuple[int, int], form: str
    ) -> Encoded:
        vector = self.flatten(arrays)
        with np.errstate(over="ignore"):  # What overflows to infinity saturates all the same.
            self._scale(vector, fraction_bits)
        np.rint(vector, out=vector)
        low, high = bounds
        saturated = int(np.count_nonzero((vector < low) | (vector > high)))
        return Encoded(np.clip(vector, low, high).astype(form).tobytes(), saturated)

    def _decode(
        self, data: bytes, fraction_bits: Sequence[int], form: str, dtype: DTypeLike
    ) -> list[Array]:
        width = np.dtype(form).itemsize
        if len(data) != width * self.dimension:
            raise EncodingError(
                f"{self.dimension} parameters take {width * self.dimension} bytes, not {len(data)}"
            )
        vector = np.frombuffer(data, form).astype(np.float64)
        self._scale(vector, [-bits for bits in fraction_bits])
        return self.unflatten(vector, dtype)
