"""The codec: one value, one byte string, and nothing but DecodeError for anything else."""

import time

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quorate.chain.codec import decode, encode
from quorate.chain.errors import DecodeError, ErrorCode, TransactionError
from quorate.chain.task import TaskSpec
from quorate.chain.transaction import (
    TRANSACTION_BYTES_MAX,
    SignedTransaction,
    Transfer,
    decode_transaction,
    is_transaction_signature_valid,
)
from quorate.chain.validators import Validator
from quorate.chain.vote import Commit, Vote

from tests.chain.samples import KEYS, WIRE_TYPES, make_bodies, make_signed, make_wire_values

LIMIT = 1 << 20
VALUES = make_wire_values()
TRANSFER = Transfer(KEYS[0].address, 5)


def unpack(raw: bytes) -> list[object]:
    plain: list[object] = msgpack.unpackb(raw)
    return plain


@pytest.mark.parametrize("name", sorted(VALUES))
def test_every_wire_type_round_trips(name: str) -> None:
    value = VALUES[name]
    raw = encode(value)
    assert decode(type(value), raw, LIMIT) == value
    # A second encoder, independent of the first, writes the same bytes.
    assert msgspec.msgpack.encode(value) == raw


@pytest.mark.parametrize("name", sorted(VALUES))
def test_every_wire_type_refuses_one_byte_more_or_less(name: str) -> None:
    value = VALUES[name]
    raw = encode(value)
    for wrong in (raw + b"\x00", raw[:-1], b"", raw + raw):
        with pytest.raises(DecodeError):
            decode(type(value), wrong, LIMIT)


@pytest.mark.parametrize("name", sorted(VALUES))
def test_every_wire_type_refuses_an_element_too_many(name: str) -> None:
    value = VALUES[name]
    with pytest.raises(DecodeError):
        decode(type(value), msgpack.packb([*unpack(encode(value)), 0]), LIMIT)
    with pytest.raises(DecodeError):
        decode(type(value), msgpack.packb([*unpack(encode(value)), None]), LIMIT)


def test_bytes_of_a_subclass_are_bytes_and_nothing_else_is() -> None:
    class Printable(bytes):
        pass

    assert encode((Printable(b"ab"), 1)) == encode((b"ab", 1)) == b"\x92\xc4\x02ab\x01"
    with pytest.raises(TypeError, match="object has no encoding"):
        encode((object(),))


def test_a_default_left_out_is_not_canonical() -> None:
    validator = Validator(KEYS[0].public_key, 10)
    plain = unpack(encode(validator))
    assert len(plain) == 3
    with pytest.raises(DecodeError, match="canonical"):
        decode(Validator, msgpack.packb(plain[:2]), LIMIT)


@pytest.mark.parametrize(
    "wide",
    [
        b"\xcc\x05",
        b"\xcd\x00\x05",
        b"\xce\x00\x00\x00\x05",
        b"\xcf" + bytes(7) + b"\x05",
        b"\xd0\x05",
        b"\xd3" + bytes(7) + b"\x05",
    ],
)
def test_non_minimal_integers_are_refused(wide: bytes) -> None:
    raw = encode(TRANSFER)
    assert raw.endswith(b"\x05")
    assert decode(Transfer, raw, LIMIT) == TRANSFER
    with pytest.raises(DecodeError, match="canonical"):
        decode(Transfer, raw[:-1] + wide, LIMIT)


def test_non_minimal_lengths_are_refused() -> None:
    raw = encode(TRANSFER)
    address = KEYS[0].address
    assert raw == b"\x93\x01\xc4\x14" + address + b"\x05"
    for wrong in (
        b"\x93\x01\xc5\x00\x14" + address + b"\x05",  # bin 16 for 20 bytes
        b"\x93\x01\xc6\x00\x00\x00\x14" + address + b"\x05",
        b"\xdc\x00\x03\x01\xc4\x14" + address + b"\x05",  # array 16 for 3 elements
        b"\xdd\x00\x00\x00\x03\x01\xc4\x14" + address + b"\x05",
    ):
        with pytest.raises(DecodeError):
            decode(Transfer, wrong, LIMIT)


@pytest.mark.parametrize(
    "wrong",
    [
        b"\xcb\x40\x14" + bytes(6),  # 5.0
        b"\xca\x40\xa0\x00\x00",  # 5.0 in single precision
        b"\xc3",  # true
        b"\xc0",  # nil
        b"\xa15",  # "5"
        b"\xc4\x01\x05",
        b"\x80",  # an empty map
        b"\x81\x05\x05",
        b"\xd4\x01\x05",  # an extension
        b"\xd6\xff\x00\x00\x00\x05",  # a timestamp
        b"\xc1",  # never used
        b"\xff",  # -1: below the bound
        b"\xcf\x80" + bytes(7),  # 2^63: above it
        b"\x90",
    ],
)
def test_nothing_else_passes_for_an_integer(wrong: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(Transfer, encode(TRANSFER)[:-1] + wrong, LIMIT)


def test_text_is_not_bytes_and_bytes_are_not_text() -> None:
    raw = make_signed(TRANSFER)
    plain = unpack(raw)
    body = plain[0]
    assert isinstance(body, list)
    as_bytes = [[*body[:1], body[1].encode(), *body[2:]], plain[1]]
    with pytest.raises(DecodeError):
        decode(SignedTransaction, msgpack.packb(as_bytes), LIMIT)
    raw_transfer = encode(TRANSFER)
    as_text = raw_transfer.replace(b"\xc4\x14" + KEYS[0].address, b"\xb4" + b"a" * 20)
    assert as_text != raw_transfer
    with pytest.raises(DecodeError):
        decode(Transfer, as_text, LIMIT)


def test_text_must_be_utf_8() -> None:
    raw = make_signed(TRANSFER)
    assert raw.count(b"samples-1") == 1
    for wrong in (b"\xff\xfeampl-1", b"sample\xed\xa0\x80", b"samples\xc0\xb1"):
        with pytest.raises(DecodeError):
            decode(SignedTransaction, raw.replace(b"samples-1", wrong.ljust(9, b"x")), LIMIT)


@pytest.mark.parametrize("name", ["", "a b", "a\n", "ä", "a" * 65, "../../" * 12])
def test_names_keep_to_their_alphabet_and_length(name: str) -> None:
    plain = unpack(encode(VALUES["task_spec"]))
    plain[0] = name
    with pytest.raises(DecodeError):
        decode(TaskSpec, msgpack.packb(plain), LIMIT)


def test_unknown_tags_are_refused() -> None:
    raw = make_signed(make_bodies()["finalize_training_round"])
    plain = unpack(raw)
    for tag in (0, 9, 23, 31, 40, -1, 2**40, "transfer", None, 22.0, True):
        wrong = [[*plain[0][:5], [tag, *plain[0][5][1:]]], plain[1]]  # type: ignore[index]
        with pytest.raises(DecodeError):
            decode(SignedTransaction, msgpack.packb(wrong), LIMIT)


def test_a_message_over_its_limit_is_refused_before_it_is_read() -> None:
    raw = encode(TRANSFER)
    assert decode(Transfer, raw, len(raw)) == TRANSFER
    with pytest.raises(DecodeError, match="exceeds its limit"):
        decode(Transfer, raw, len(raw) - 1)


@pytest.mark.parametrize("kind", WIRE_TYPES)
def test_deep_nesting_and_boasting_lengths_cost_nothing(kind: type) -> None:
    boast = b"\xdd" + (LIMIT - 1).to_bytes(4, "big")
    started = time.perf_counter()
    for wrong in (b"\x91" * 200_000, boast * 1_000, boast + bytes(1_000), b"\xdb\xff\xff\xff\xff"):
        with pytest.raises(DecodeError):
            decode(kind, wrong, LIMIT)
    # Preallocating what the lengths claim would take seconds and gigabytes.
    assert time.perf_counter() - started < 1.0


def test_deep_nesting_is_refused_even_for_a_loose_type() -> None:
    with pytest.raises(DecodeError):
        decode(list, b"\x91" * 200_000, LIMIT)


@given(raw=st.binary(max_size=300), kind=st.sampled_from(WIRE_TYPES))
def test_random_bytes_raise_only_decode_errors(raw: bytes, kind: type) -> None:
    try:
        value = decode(kind, raw, LIMIT)
    except DecodeError:
        return
    assert encode(value) == raw


ENCODED = [(type(value), encode(value)) for value in VALUES.values()]


@given(sample=st.sampled_from(ENCODED), data=st.data())
def test_mutated_messages_decode_to_themselves_or_not_at_all(
    sample: tuple[type, bytes], data: st.DataObject
) -> None:
    kind, raw = sample
    mutated = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(mutated)))
        length = data.draw(st.integers(0, 4))
        mutated[start : start + length] = data.draw(st.binary(max_size=4))
    try:
        value = decode(kind, bytes(mutated), LIMIT)
    except DecodeError:
        return
    assert encode(value) == bytes(mutated)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=30,
)


@given(plain=PLAIN, kind=st.sampled_from(WIRE_TYPES))
def test_any_message_pack_raises_only_decode_errors(plain: object, kind: type) -> None:
    raw = msgpack.packb(plain)
    try:
        value = decode(kind, raw, LIMIT)
    except DecodeError:
        return
    assert encode(value) == raw


@pytest.mark.parametrize("kind", [Vote, Commit])
def test_bounds_of_heights_and_rounds(kind: type) -> None:
    value = VALUES[kind.__name__.lower()]
    plain = unpack(encode(value))
    place = 2 if kind is Vote else 1
    for wrong in (-1, 2**31, 2**63):
        changed = [*plain]
        changed[place] = wrong
        with pytest.raises(DecodeError):
            decode(kind, msgpack.packb(changed), LIMIT)


def test_the_door_for_transactions_names_what_is_wrong() -> None:
    with pytest.raises(TransactionError, match="send large data as a payload") as too_large:
        decode_transaction(bytes(TRANSACTION_BYTES_MAX + 1))
    assert too_large.value.code is ErrorCode.TOO_LARGE
    with pytest.raises(TransactionError, match="cannot be decoded") as malformed:
        decode_transaction(b"\x00")
    assert malformed.value.code is ErrorCode.MALFORMED
    assert str(malformed.value).endswith("[malformed]")


@pytest.mark.parametrize("name", sorted(make_bodies()))
def test_the_sender_signs_every_kind_of_body(name: str) -> None:
    raw = make_signed(make_bodies()[name])
    signed = decode_transaction(raw)
    assert signed.sender == KEYS[0].address
    assert is_transaction_signature_valid(signed)
    other_nonce = decode_transaction(make_signed(make_bodies()[name], nonce=4))
    forged = SignedTransaction(other_nonce.transaction, signed.signature)
    assert not is_transaction_signature_valid(forged)
