"""Server-sent events: however the bytes are cut, the same events."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quorate.errors import ProtocolError
from quorate.event_stream import EVENT_BYTES_MAX, EventParser
from quorate.rpc_types import Event

STREAM = (
    b": hello\n\n"
    b'id: 1\nevent: block\ndata: {"height": "3"}\n\n'
    b'event:training_round\r\nid:2\r\ndata: {"a":\r\ndata: 1}\r\n\r\n'
    b"retry: 10\nunknown: x\nnonsense\n\n"
    b'data: {}\n\n: ping\n\nid: 9\ndata: {"b": null}\n\nid: 10\ndata: {"lost'
)
EVENTS = [
    Event("1", "block", {"height": "3"}),
    Event("2", "training_round", {"a": 1}),
    Event("2", "message", {}),
    Event("9", "message", {"b": None}),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_events_do_not_depend_on_how_the_bytes_arrive(cuts: list[int]) -> None:
    places = sorted({0, *cuts, len(STREAM)})
    parser = EventParser()
    events = []
    for start, end in pairwise(places):
        events += parser.receive(STREAM[start:end])
    assert events == EVENTS


@pytest.mark.parametrize("data", [b"{", b"[]", b"1", b"\xff", b"[" * 100_000])
def test_data_that_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="no JSON object"):
        EventParser().receive(b"data: " + data + b"\n\n")


@pytest.mark.parametrize("piece", [b"x" * (1 << 20), b"data: " + b"x" * (1 << 20) + b"\n"])
def test_an_event_without_end_is_refused(piece: bytes) -> None:
    parser = EventParser()
    for _ in range(EVENT_BYTES_MAX // len(piece)):
        assert parser.receive(piece) == []
    with pytest.raises(ProtocolError, match="exceeds"):
        parser.receive(piece)


@given(st.binary(max_size=200))
def test_any_bytes_raise_only_protocol_errors(raw: bytes) -> None:
    parser = EventParser()
    try:
        parser.receive(raw)
        parser.receive(b"\n\n")
    except ProtocolError:
        pass
