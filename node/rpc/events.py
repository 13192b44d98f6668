"""Subscriptions: what happens on the chain, as server-sent events.

Owns the form of the stream. Never waits for a slow client: the bus closes its subscription, and
the connection ends; it resumes with the number of the last event it saw.
"""

from typing import Annotated, Final

import msgspec
import trio
from litestar import Response, get
from litestar.params import QueryParameter
from quorate.chain.errors import ErrorCode
from quorate.chain.ids import HASH_BYTES, INT64_MAX

from node.events import TRANSACTIONS_FOLLOWED_MAX, Event, EventType, Subscription
from node.rpc.answers import EVENT_STREAM, AnyRequest, document
from node.rpc.context import Node, RpcContext
from node.rpc.hexadecimal import read_hex
from node.rpc.problems import Refusal
from node.rpc.streaming import PieceByPiece, SendPiece

HEARTBEAT_S: Final = 10.0
"""A comment goes out when nothing has happened for so long."""

HEARTBEAT: Final = b": nothing new\n\n"

TypesQuery = Annotated[
    str | None,
    QueryParameter(
        description="Of block, training_round, round; with commas. By default the first two, "
        "or none when transactions are followed.",
    ),
]
TransactionQuery = Annotated[
    list[str] | None,
    QueryParameter(description="The hash of a transaction to follow; repeatable."),
]


@get("/v1/events", responses=document("The stream.", str, media_type=EVENT_STREAM))
async def get_events(
    request: AnyRequest,
    node: Node,
    types: TypesQuery = None,
    transaction: TransactionQuery = None,
) -> Response[bytes]:
    """Tell what happens on the chain, as it happens.

    The header Last-Event-ID resumes behind the event of that number, as far as events are kept. A
    transaction that is decided already when its subscription begins is told at once.
    """
    followed = read_hashes(transaction or [])
    wanted = _read_types(types, is_following=bool(followed))
    after = _read_sequence(request.headers.get("last-event-id"))

    async def produce(send_piece: SendPiece) -> None:
        with node.services.events.subscribe(
            wanted, transactions=followed, after=after
        ) as subscription:
            greeting = [b"retry: 1000\n\n"]
            if not subscription.is_complete:
                greeting.append(b": events in between are not kept any more\n\n")
            if after is None or not subscription.is_complete:
                greeting += [_show_decided(node, each) for each in followed]
            await send_piece(b"".join(greeting))
            await _forward(subscription, send_piece)

    return PieceByPiece(
        produce,
        EVENT_STREAM,
        {"cache-control": "no-store", "x-accel-buffering": "no"},
        node.stopping,
    )


async def _forward(subscription: Subscription, send_piece: SendPiece) -> None:
    while True:
        piece = HEARTBEAT
        try:
            with trio.move_on_after(HEARTBEAT_S):
                piece = encode_event(await subscription.receive())
        except trio.EndOfChannel:
            return
        await send_piece(piece)


def encode_event(event: Event) -> bytes:
    """Return an event as the stream carries it."""
    data = msgspec.json.encode(event.data)
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.sequence, event.type.encode(), data)


def _show_decided(node: RpcContext, transaction_hash: bytes) -> bytes:
    """Return the event of a transaction that was decided before, without a number; or nothing."""
    place = node.services.storage.chain.find_transaction(transaction_hash)
    if place is None:
        return b""
    shown = {"height": str(place[0]), "hash": transaction_hash.hex(), "status": "decided"}
    return b"event: transaction\ndata: %s\n\n" % msgspec.json.encode(shown)


def _read_types(text: str | None, *, is_following: bool) -> frozenset[EventType]:
    if not text:
        usual = frozenset({EventType.BLOCK, EventType.TRAINING_ROUND})
        return frozenset() if is_following else usual
    names = text.split(",")
    known = {str(each) for each in EventType}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise Refusal(
            ErrorCode.MALFORMED,
            f"There are no events of type {unknown[0][:80]!r}: name some of "
            f"{', '.join(sorted(known))}.",
        )
    return frozenset(EventType(name) for name in names)


def read_hashes(texts: list[str]) -> tuple[bytes, ...]:
    """Return the hashes of the transactions to follow, each once.

    Raises
    ------
    Refusal
        If one is none, or there are too many.
    """
    if len(texts) > TRANSACTIONS_FOLLOWED_MAX:
        raise Refusal(
            ErrorCode.TOO_LARGE,
            f"A subscription follows at most {TRANSACTIONS_FOLLOWED_MAX} transactions: open "
            "several.",
        )
    hashes = (read_hex(text, HASH_BYTES, "a transaction's hash") for text in texts)
    return tuple(dict.fromkeys(hashes))


def _read_sequence(text: str | None) -> int | None:
    """Return the number of the last event a client saw; what is none was given by another node."""
    if text is None or not (text.isascii() and text.isdecimal()):
        return None
    return min(int(text[:20]), INT64_MAX)


HANDLERS: Final = (get_events,)
