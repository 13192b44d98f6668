"""What others see of decided blocks: mempool, retention, events, and numbers as JSON has them."""

import json
from collections.abc import Iterator

from msgspec import Struct
from quorate.chain.ids import INT64_MAX, Address, Hash, Int64, Uint32, Uint64
from quorate.chain.receipt import MedianMetric, RoundOutcome, RoundReceipt, UpdateReceipt
from quorate.chain.transaction import Transfer

from node.views import JSON_SAFE_INTEGER_MAX, to_object, to_view
from tests.node.cluster import USERS

HASH = Hash(b"\xab" * 32)


class Numbers(Struct, array_like=True, frozen=True, tag=9):
    """Integers of every width."""

    wide: Uint64
    signed: Int64
    narrow: Uint32
    flag: bool
    unbounded: int
    data: bytes
    inner: tuple[MedianMetric, ...]


def test_integers_whose_type_is_wide_are_text_whatever_their_value() -> None:
    metric = MedianMetric("loss", -5)
    shown = to_object(Numbers(1, -INT64_MAX, 2**32 - 1, True, 3, b"\x01\xff", (metric,)))
    assert shown == {
        "type": "numbers",
        "wide": "1",
        "signed": str(-INT64_MAX),
        "narrow": 2**32 - 1,
        "flag": True,
        "unbounded": "3",
        "data": "01ff",
        "inner": [{"name": "loss", "value": "-5"}],
    }


def test_a_round_receipt_survives_a_reader_with_floating_point_numbers() -> None:
    update = UpdateReceipt(Address(b"\x01" * 20), HASH, -(2**60), is_set_aside=True)
    receipt = RoundReceipt(
        HASH, INT64_MAX, RoundOutcome.VOID, HASH, HASH, HASH, (update,), 2**60, 0, 7, ()
    )
    shown = json.loads(json.dumps(to_object(receipt)))
    assert shown["outcome"] == "void"
    assert shown["training_round"] == str(INT64_MAX)
    assert shown["updates"][0]["score"] == str(-(2**60))
    assert shown["updates"][0]["is_set_aside"] is True
    assert shown["evaluation_count"] == 7
    assert not [n for n in find_integers(shown) if abs(n) > JSON_SAFE_INTEGER_MAX]


def find_integers(value: object) -> Iterator[int]:
    match value:
        case bool() | str() | None:
            return
        case int():
            yield value
        case dict():
            for item in value.values():
                yield from find_integers(item)
        case list():
            for item in value:
                yield from find_integers(item)


def test_bodies_are_told_by_their_name() -> None:
    shown = to_view(Transfer(USERS[0].address, 5))
    assert shown == {"type": "transfer", "to": USERS[0].address.hex(), "amount": "5"}


def test_views_of_memory_and_lists() -> None:
    assert to_view([memoryview(b"\x01"), None, RoundOutcome.FROZEN]) == ["01", None, "frozen"]
