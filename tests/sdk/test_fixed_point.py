"""Between arrays and the chain's integers: scales, rounding, saturation, layout."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quorate.chain.task import TENSORS_MAX, TensorSpec
from quorate.errors import EncodingError
from quorate.fixed_point import UPDATE_INTEGER_MAX, ModelSchema

SCHEMA = ModelSchema(
    (TensorSpec("a", (2, 3), 20, 10), TensorSpec("b", (), 8, 4), TensorSpec("c", (2,), 0, 0))
)
ARRAYS = [np.arange(6.0).reshape(2, 3), np.array(0.5), np.array([-1.0, 7.0])]


def test_layout_is_tensor_order_c_order_little_endian() -> None:
    encoded = SCHEMA.encode_weights(ARRAYS)
    integers = [i << 20 for i in range(6)] + [128] + [-1, 7]
    assert encoded.data == b"".join(i.to_bytes(4, "little", signed=True) for i in integers)
    assert encoded.saturated == 0
    fortran = [np.asfortranarray(ARRAYS[0]), *ARRAYS[1:]]
    assert SCHEMA.encode_weights(fortran) == encoded
    update = SCHEMA.encode_update(ARRAYS)
    integers = [i << 10 for i in range(6)] + [8] + [-1, 7]
    assert update.data == b"".join(i.to_bytes(2, "little", signed=True) for i in integers)


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=9, max_size=9))
def test_weights_come_back_exactly(integers: list[int]) -> None:
    data = b"".join(i.to_bytes(4, "little", signed=True) for i in integers)
    arrays = SCHEMA.decode_weights(data)
    assert [array.shape for array in arrays] == [(2, 3), (), (2,)]
    assert SCHEMA.encode_weights(arrays).data == data
    assert SCHEMA.encode_weights(arrays).saturated == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(integers=st.lists(st.integers(-32767, 32767), min_size=9, max_size=9))
def test_updates_come_back_exactly(dtype: type, integers: list[int]) -> None:
    data = b"".join(i.to_bytes(2, "little", signed=True) for i in integers)
    arrays = SCHEMA.decode_update(data, dtype)
    assert {array.dtype for array in arrays} == {np.dtype(dtype)}
    assert SCHEMA.encode_update(arrays).data == data


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=4, max_size=4),
    st.integers(0, 30),
)
def test_encoding_is_rounding_and_moving_to_the_end(values: list[float], bits: int) -> None:
    schema = ModelSchema((TensorSpec("x", (4,), bits, bits),))
    for encode, low, high, width in (
        (schema.encode_weights, -(2**31), 2**31 - 1, 4),
        (schema.encode_update, -32767, 32767, 2),
    ):
        encoded = encode([np.array(values)])
        expected, saturated = [], 0
        for value in values:
            exact = round(value * 2**bits) if abs(value) < 1e15 else value
            saturated += not low <= exact <= high
            expected.append(int(min(max(exact, low), high)))
        found = [
            int.from_bytes(encoded.data[i * width : (i + 1) * width], "little", signed=True)
            for i in range(4)
        ]
        assert found == expected
        assert encoded.saturated == saturated


def test_minus_32768_is_never_written() -> None:
    schema = ModelSchema((TensorSpec("x", (3,), 0, 0),))
    encoded = schema.encode_update([np.array([-32768.0, -1e300, 32767.0])])
    assert encoded.data == b"\x01\x80\x01\x80\xff\x7f"
    assert encoded.saturated == 2
    assert UPDATE_INTEGER_MAX == 32767


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_by_the_tensors_name(bad: float) -> None:
    arrays = [ARRAYS[0], np.array(bad), ARRAYS[2]]
    with pytest.raises(EncodingError, match="'b' contains numbers that are not finite"):
        SCHEMA.encode_update(arrays)


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(EncodingError, match="3 tensors, not 2"):
        SCHEMA.flatten(ARRAYS[:2])
    with pytest.raises(EncodingError, match=r"'a' has the shape \(3, 2\); the task's has \(2, 3\)"):
        SCHEMA.flatten([ARRAYS[0].T, *ARRAYS[1:]])
    for dtype in (complex, object, "U3"):
        with pytest.raises(EncodingError, match="'b' has the type"):
            SCHEMA.flatten([ARRAYS[0], np.array(1, dtype=dtype), ARRAYS[2]])
    with pytest.raises(EncodingError, match="take 36 bytes, not 35"):
        SCHEMA.decode_weights(bytes(35))
    with pytest.raises(EncodingError, match="take 18 bytes, not 36"):
        SCHEMA.decode_update(bytes(36))
    with pytest.raises(EncodingError, match="9 parameters, not"):
        SCHEMA.unflatten(np.zeros(8))


def test_the_callers_arrays_stay_as_they_are() -> None:
    arrays = [array.copy() for array in ARRAYS]
    SCHEMA.encode_weights(arrays)
    one = ModelSchema((TensorSpec("x", (3,), 4, 4),))
    single = np.array([1.0, 2.0, 3.0])
    one.encode_weights([single])
    assert single.tolist() == [1.0, 2.0, 3.0]
    assert all((a == b).all() for a, b in zip(arrays, ARRAYS, strict=True))
    data = one.encode_weights([single]).data
    one.decode_weights(data)[0][0] = 9.0
    assert one.encode_weights([single]).data == data


def test_integers_and_booleans_are_numbers() -> None:
    schema = ModelSchema((TensorSpec("x", (2,), 1, 1),))
    assert schema.encode_update([np.array([True, False])]).data == b"\x02\x00\x00\x00"
    assert schema.encode_update([np.array([3, -3], np.int8)]).data == b"\x06\x00\xfa\xff"


def test_schema_from_arrays() -> None:
    named = ModelSchema.from_arrays({"dense/kernel": np.zeros((4, 2)), "dense/bias": np.zeros(2)})
    assert [tensor.name for tensor in named.tensors] == ["dense/kernel", "dense/bias"]
    assert named.dimension == 10
    assert [t.name for t in ModelSchema.from_arrays([np.zeros(1), np.zeros(2)]).tensors] == [
        "0",
        "1",
    ]
    coarse = ModelSchema.from_arrays([np.zeros(1)], weight_fraction_bits=3, update_fraction_bits=2)
    assert coarse.tensors == (TensorSpec("0", (1,), 3, 2),)


@pytest.mark.parametrize(
    "arrays",
    [
        [],
        {},
        {"has space": np.zeros(1)},
        {"": np.zeros(1)},
        [np.zeros(0)],
        [np.zeros((1,) * 9)],
        [np.zeros(1)] * (TENSORS_MAX + 1),
    ],
    ids=range(7),
)
def test_models_beyond_the_bounds_are_refused(arrays: object) -> None:
    with pytest.raises(EncodingError):
        ModelSchema.from_arrays(arrays)  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", [-1, 31])
def test_scales_beyond_the_bounds_are_refused(bits: int) -> None:
    with pytest.raises(EncodingError):
        ModelSchema.from_arrays([np.zeros(1)], weight_fraction_bits=bits)
    with pytest.raises(EncodingError):
        ModelSchema.from_arrays([np.zeros(1)], update_fraction_bits=bits)
