"""What others see of decided blocks: mempool, retention, events, and numbers as JSON has them."""

import json
from collections.abc import Iterator
from pathlib import Path

import trio
from msgspec import Struct
from quorate.chain.ids import INT64_MAX, Address, Hash, Int64, Uint32, Uint64
from quorate.chain.receipt import MedianMetric, RoundOutcome, RoundReceipt, UpdateReceipt
from quorate.chain.transaction import Transfer, compute_transaction_hash

from node.events import EventType
from node.views import JSON_SAFE_INTEGER_MAX, to_object, to_view
from tests.node.cluster import USERS, open_cluster, sign

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


async def test_a_decided_transaction_leaves_the_mempool_and_is_told(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, 1) as cluster:
        services = cluster.members[0].running.services
        raw = sign(USERS[0], 0, Transfer(USERS[1].address, 3))
        hash_ = compute_transaction_hash(raw)
        types = (EventType.BLOCK, EventType.TRANSACTION)
        with services.events.subscribe(types, transactions=[hash_]) as events, trio.fail_after(20):
            await services.mempool.submit_local(raw, None)
            block: dict[str, object] = {}
            async for event in events:
                if event.type is EventType.TRANSACTION:
                    assert event.data["hash"] == hash_.hex()
                    assert event.data["status"] == "decided"
                    assert event.data["height"] == block["height"]
                    break
                block = dict(event.data)
        assert block["transactions"] == 1
        assert services.mempool.count == 0
        stored = services.storage.chain.find_transaction(hash_)
        assert stored is not None
        assert str(stored[0]) == block["height"]
