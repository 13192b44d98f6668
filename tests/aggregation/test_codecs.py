"""Codecs: what each layout means, against a naive reading, and every kind of malformed bytes.

Owns the reading of updates. Never encodes as the SDK does: tests/sdk/test_update_encoding.py.
"""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from quorate.chain.errors import ErrorCode
from quorate.chain.task import (
    INT8_BLOCK_VALUES,
    INT8_EXPONENT_MAX,
    AggregationRule,
    Stage,
    UpdateCodec,
    UpdateLayout,
)

from aggregation import UpdateError, aggregate, decode_update, open_update
from aggregation.columns import COLUMNS_MAX

BLOCK = INT8_BLOCK_VALUES
MEAN = AggregationRule((Stage.MEAN,), 0)


class SlicedPayload:
    """Bytes that can only be had by slices, each valid until the next; counts those read."""

    def __init__(self, payload: bytes) -> None:
        self.size = len(payload)
        self.bytes_read = 0
        self._payload = payload
        self._room = np.zeros(0, np.uint8)

    def __getitem__(self, part: slice, /) -> NDArray[np.uint8]:
        start, stop, _ = part.indices(self.size)
        self.bytes_read += stop - start
        self._room[:] = 0x55
        self._room = np.frombuffer(bytearray(self._payload[start:stop]), np.uint8)
        return self._room


def read_naively(payload: bytes, layout: UpdateLayout) -> list[int]:
    """Read an update as its layout is told in prose, one integer at a time."""
    d, k = layout.dimension, layout.top_k
    if layout.codec is UpdateCodec.DENSE_INT16:
        return list(struct.unpack(f"<{d}h", payload))
    if layout.codec is UpdateCodec.TOP_K_INT16:
        numbers = struct.unpack(f"<{k}I{k}h", payload)
        named = dict(zip(numbers[:k], numbers[k:], strict=True))
        return [named.get(i, 0) for i in range(d)]
    blocks = -(-d // 1024)
    exponents, values = payload[:blocks], struct.unpack(f"<{d}b", payload[blocks:])
    read = []
    for i, value in enumerate(values):
        exponent = exponents[i // 1024]
        is_end = exponent == 8 and abs(value) == 127
        read.append((32767 if value > 0 else -32767) if is_end else value * 2**exponent)
    return read


@st.composite
def int8_updates(draw: st.DrawFn) -> tuple[bytes, UpdateLayout]:
    dimension = draw(st.sampled_from([1, 3, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7]))
    layout = UpdateLayout(UpdateCodec.DENSE_INT8, dimension)
    exponents = draw(
        st.lists(st.integers(0, 8), min_size=layout.exponent_count, max_size=layout.exponent_count)
    )
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = generator.choice(np.array([-127, -126, -1, 0, 5, 127], np.int8), dimension)
    return bytes(exponents) + values.tobytes(), layout


@st.composite
def top_k_updates(draw: st.DrawFn) -> tuple[bytes, UpdateLayout]:
    dimension = draw(st.sampled_from([1, 9, COLUMNS_MAX, COLUMNS_MAX + 1, 3 * COLUMNS_MAX + 5]))
    edges = st.sampled_from([0, COLUMNS_MAX - 1, COLUMNS_MAX, 3 * COLUMNS_MAX, dimension - 1])
    named = draw(st.sets(edges | st.integers(0, dimension - 1), min_size=1, max_size=9))
    indexes = sorted(index for index in named if index < dimension) or [0]
    values = draw(
        st.lists(st.integers(-32767, 32767), min_size=len(indexes), max_size=len(indexes))
    )
    payload = struct.pack(f"<{len(indexes)}I{len(values)}h", *indexes, *values)
    return payload, UpdateLayout(UpdateCodec.TOP_K_INT16, dimension, len(indexes))


@st.composite
def int16_updates(draw: st.DrawFn) -> tuple[bytes, UpdateLayout]:
    values = draw(st.lists(st.integers(-32767, 32767), min_size=1, max_size=40))
    layout = UpdateLayout(UpdateCodec.DENSE_INT16, len(values))
    return struct.pack(f"<{len(values)}h", *values), layout


@given(int16_updates() | int8_updates() | top_k_updates(), st.data())
def test_every_slice_is_what_the_layout_says(
    update: tuple[bytes, UpdateLayout], data: st.DataObject
) -> None:
    payload, layout = update
    assert layout.size == len(payload)
    expected = read_naively(payload, layout)
    start = data.draw(st.integers(0, layout.dimension))
    stop = data.draw(st.integers(start, layout.dimension))
    for decoded in (
        decode_update(payload, layout),
        decode_update(memoryview(bytearray(payload)), layout),
        open_update(SlicedPayload(payload), layout),
    ):
        assert decoded.dtype == np.int16
        assert decoded.shape == (layout.dimension,)
        part = decoded[start:stop]
        assert part.dtype == np.int16
        assert part.tolist() == expected[start:stop]
        assert not part.flags.writeable
        assert decoded[:].tolist() == expected


@pytest.mark.parametrize(
    ("layout", "size"),
    [
        (UpdateLayout(UpdateCodec.DENSE_INT16, 650), 1300),
        (UpdateLayout(UpdateCodec.DENSE_INT8, 1), 2),
        (UpdateLayout(UpdateCodec.DENSE_INT8, BLOCK), BLOCK + 1),
        (UpdateLayout(UpdateCodec.DENSE_INT8, BLOCK + 1), BLOCK + 3),
        (UpdateLayout(UpdateCodec.TOP_K_INT16, 10**6, 10_000), 60_000),
        (UpdateLayout(UpdateCodec.TOP_K_INT16, 1, 1), 6),
    ],
)
def test_sizes(layout: UpdateLayout, size: int) -> None:
    assert layout.size == size
    for wrong in (0, size - 1, size + 1, 2 * size):
        for read in (decode_update, open_update):
            with pytest.raises(UpdateError, match=f"has {wrong} bytes; .* take {size}") as caught:
                read(np.zeros(wrong, np.uint8), layout)
            assert caught.value.code is ErrorCode.WRONG_SHAPE


def make_int8(dimension: int) -> tuple[NDArray[np.uint8], UpdateLayout]:
    layout = UpdateLayout(UpdateCodec.DENSE_INT8, dimension)
    return np.zeros(layout.size, np.uint8), layout


@pytest.mark.parametrize("position", [0, BLOCK, 300_000 - 1])
def test_the_lowest_int8_is_refused_wherever_it_stands(position: int) -> None:
    payload, layout = make_int8(300_000)
    payload[layout.exponent_count + position] = 0x80
    with pytest.raises(UpdateError, match=f"value {position} of the update is -128") as caught:
        decode_update(payload, layout)
    assert caught.value.code is ErrorCode.VALUE_OUT_OF_RANGE


@pytest.mark.parametrize("position", [0, 1, 292])
@pytest.mark.parametrize("exponent", [INT8_EXPONENT_MAX + 1, 16, 255])
def test_a_large_exponent_is_refused_wherever_it_stands(position: int, exponent: int) -> None:
    payload, layout = make_int8(300_000)
    payload[position] = exponent
    with pytest.raises(UpdateError, match=f"exponent {position} .* is {exponent};") as caught:
        decode_update(payload, layout)
    assert caught.value.code is ErrorCode.VALUE_OUT_OF_RANGE


def test_the_ends_of_int8_are_the_ends_of_the_range_and_count_as_saturated() -> None:
    payload, layout = make_int8(4)
    payload[:] = [8, 127, 0x81, 126, 0]
    update = decode_update(payload, layout)
    assert update[:].tolist() == [32767, -32767, 126 << 8, 0]
    assert aggregate(MEAN, [update]).saturated == 2


@pytest.mark.parametrize(
    ("indexes", "message"),
    [
        ((0, 1, 10), "names the parameter 10; the task has 10"),
        ((0, 1, 2**32 - 1), f"names the parameter {2**32 - 1}"),
        ((3, 3, 4), "index 1 of the update is not above"),
        ((3, 4, 4), "index 2 of the update is not above"),
        ((5, 4, 6), "index 1 of the update is not above"),
        ((2**32 - 1, 0, 1), "index 1 of the update is not above"),
    ],
)
def test_indexes_that_do_not_rise_or_leave_the_model_are_refused(
    indexes: tuple[int, ...], message: str
) -> None:
    layout = UpdateLayout(UpdateCodec.TOP_K_INT16, 10, 3)
    payload = np.frombuffer(struct.pack("<3I3h", *indexes, 1, 2, 3), np.uint8)
    for read in (decode_update, open_update):
        with pytest.raises(UpdateError, match=message) as caught:
            read(payload, layout)
        assert caught.value.code is ErrorCode.VALUE_OUT_OF_RANGE


@pytest.mark.parametrize("place", [0, 2**18 - 1, 2**18, 2**18 + 1])
def test_order_is_checked_across_the_parts_that_are_scanned(place: int) -> None:
    count = 2**18 + 3
    layout = UpdateLayout(UpdateCodec.TOP_K_INT16, 2 * count, count)
    indexes = np.arange(0, 2 * count, 2, dtype="<u4")
    payload = indexes.tobytes() + bytes(2 * count)
    decode_update(payload, layout)
    indexes[place + 1] = indexes[place]
    with pytest.raises(UpdateError, match=f"index {place + 1} of the update is not above"):
        decode_update(indexes.tobytes() + bytes(2 * count), layout)


@pytest.mark.parametrize("position", [0, 299_999])
def test_the_lowest_int16_of_a_sparse_update_is_refused(position: int) -> None:
    layout = UpdateLayout(UpdateCodec.TOP_K_INT16, 300_000, 300_000)
    values = np.zeros(300_000, "<i2")
    values[position] = -32768
    payload = np.arange(300_000, dtype="<u4").tobytes() + values.tobytes()
    with pytest.raises(UpdateError, match=f"value {position} of the update is -32768") as caught:
        decode_update(payload, layout)
    assert caught.value.code is ErrorCode.VALUE_OUT_OF_RANGE
    # What was only opened is refused when it is aggregated.
    opened = open_update(np.frombuffer(payload, np.uint8), layout)
    with pytest.raises(UpdateError, match="contains -32768"):
        aggregate(MEAN, [opened])


def test_a_read_takes_the_bytes_of_its_columns() -> None:
    dimension = 100 * COLUMNS_MAX
    int8, layout = make_int8(dimension)
    payload = SlicedPayload(int8.tobytes())
    dense = open_update(payload, layout)
    assert payload.bytes_read == 0
    dense[5_000:6_000]
    assert payload.bytes_read == 1_000 + 2  # Columns 4096..6143 have two exponents.
    layout = UpdateLayout(UpdateCodec.TOP_K_INT16, dimension, dimension // 50)
    indexes = np.arange(0, dimension, 50, dtype="<u4")
    payload = SlicedPayload(indexes.tobytes() + bytes(2 * layout.top_k))
    sparse = open_update(payload, layout)
    assert payload.bytes_read == 4 * layout.top_k
    payload.bytes_read = 0
    sparse[7 * COLUMNS_MAX : 8 * COLUMNS_MAX]
    assert payload.bytes_read <= 6 * (COLUMNS_MAX // 50 + 1)


@pytest.mark.parametrize("stages", [(Stage.CLIP, Stage.NNM, Stage.TRIMMED_MEAN), (Stage.MEAN,)])
def test_updates_of_any_codec_aggregate_like_their_integers(stages: tuple[Stage, ...]) -> None:
    generator = np.random.default_rng(1)
    dimension = COLUMNS_MAX + 100
    rule = AggregationRule(stages, 0)
    sparse, dense = [], []
    for _ in range(5):
        int8, int8_layout = make_int8(dimension)
        int8[: int8_layout.exponent_count] = generator.integers(0, 9, int8_layout.exponent_count)
        int8[int8_layout.exponent_count :].view(np.int8)[:] = generator.integers(
            -127, 128, dimension
        )
        dense.append(decode_update(int8.tobytes(), int8_layout))
        layout = UpdateLayout(UpdateCodec.TOP_K_INT16, dimension, 900)
        indexes = np.sort(generator.choice(dimension, 900, replace=False)).astype("<u4")
        values = generator.integers(-32767, 32768, 900).astype("<i2")
        sparse.append(decode_update(indexes.tobytes() + values.tobytes(), layout))
    for updates in (dense, sparse):
        result = aggregate(rule, updates)
        expected = aggregate(rule, [np.array(update[:]) for update in updates])
        assert result.vector.tolist() == expected.vector.tolist()
        assert (result.scores, result.saturated) == (expected.scores, expected.saturated)
