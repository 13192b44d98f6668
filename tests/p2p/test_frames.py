"""Framing: what is sent arrives, in whatever pieces; what is malformed is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p import frames
from p2p.frames import FrameError, FrameReader, Hello, Kind
from p2p.network import FRAME_BYTES_MAX, REFUSAL_BYTES_MAX, Priority

HELLO = Hello(1, "chain", bytes(32), 7, bytes(16), "/ip4/1.2.3.4/tcp/5")


@given(
    st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=300)), max_size=12),
    st.lists(st.integers(1, 200), min_size=1, max_size=30),
)
@settings(max_examples=150)
def test_frames_arrive_in_whatever_pieces(sent: list[tuple[int, bytes]], sizes: list[int]) -> None:
    stream = b"".join(frames.build_frame(kind, body) for kind, body in sent)
    reader = FrameReader()
    received = []
    position = index = 0
    while position < len(stream):
        size = sizes[index % len(sizes)]
        received += reader.feed(stream[position : position + size])
        position += size
        index += 1
    assert received == sent


@given(st.binary(max_size=200))
def test_garbage_is_refused_or_waits(raw: bytes) -> None:
    reader = FrameReader(1000)
    try:
        received = reader.feed(raw)
    except FrameError:
        return
    assert sum(len(body) + 5 for _, body in received) + len(reader._buffer) == len(raw)
    assert len(reader._buffer) <= 1000


@given(st.binary(max_size=200))
def test_a_handshake_of_garbage_is_the_peers_fault(raw: bytes) -> None:
    for read in (frames.read_hello, frames.read_addresses, frames.read_nonce):
        try:
            read(raw)  # type: ignore[operator]
        except FrameError:
            continue
    assert frames.read_text(raw).isprintable()


def test_the_longest_frame_fits_and_one_more_byte_does_not() -> None:
    body = bytes(FRAME_BYTES_MAX - 5)
    frame = frames.build_frame(Kind.MESSAGE, body)
    assert len(frame) == FRAME_BYTES_MAX
    assert FrameReader().feed(frame) == [(Kind.MESSAGE, body)]
    with pytest.raises(ValueError, match="at most"):
        frames.build_frame(Kind.MESSAGE, body + b"x")
    with pytest.raises(FrameError):
        FrameReader().feed((FRAME_BYTES_MAX - 3).to_bytes(4, "big") + b"\x10")


def test_an_empty_frame_is_refused() -> None:
    with pytest.raises(FrameError):
        FrameReader().feed(bytes(5))


def test_a_handshake_reads_back() -> None:
    frame = frames.build_hello(HELLO)
    [(kind, body)] = FrameReader().feed(frame)
    assert kind == Kind.HELLO
    assert frames.read_hello(body) == HELLO
    with pytest.raises(FrameError):
        frames.read_hello(body + b"\0")
    with pytest.raises(FrameError):
        frames.read_hello(body[:-1])


def test_addresses_read_back_and_are_bounded() -> None:
    addresses = tuple(f"/ip4/1.2.3.4/tcp/{i}" for i in range(frames.ADDRESSES_TOLD_MAX + 5))
    [(_, body)] = FrameReader().feed(frames.build_addresses(addresses))
    assert frames.read_addresses(body) == addresses[: frames.ADDRESSES_TOLD_MAX]
    too_many = frames.encode([list(addresses)])
    with pytest.raises(FrameError):
        frames.read_addresses(too_many)


def test_requests_and_answers_read_back() -> None:
    [(kind, body)] = FrameReader().feed(frames.build_request(7, 1000, b"question"))
    assert (kind, frames.read_request(body), body[8:]) == (Kind.REQUEST, (7, 1000), b"question")
    [(kind, body)] = FrameReader().feed(frames.build_answer(7, b"answer"))
    assert (kind, frames.read_answer_id(body), body[4:]) == (Kind.ANSWER, 7, b"answer")
    for read in (frames.read_request, frames.read_answer_id):
        with pytest.raises(FrameError):
            read(b"abc")


def test_a_reason_is_cut_and_made_harmless() -> None:
    [(_, body)] = FrameReader().feed(frames.build_refusal(1, "\x1b[31m" + "x" * 1000))
    text = frames.read_text(body[4:])
    assert len(text) == REFUSAL_BYTES_MAX
    assert text.startswith("?[31mx")


def test_kinds_of_messages_do_not_meet_other_kinds() -> None:
    messages = {Kind.MESSAGE + priority for priority in Priority}
    assert len(messages) == 3
    assert messages & {kind.value for kind in Kind} == {Kind.MESSAGE.value}
