"""Answers that are sent piece by piece.

Owns their end: when all is sent, when the client goes away, or when the server stops. Never knows
what the pieces are.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio
from litestar import Response
from litestar.types import Receive, Scope, Send
from quorate.chain.errors import QuorateError

if TYPE_CHECKING:
    from litestar.response.base import ASGIResponse

SendPiece = Callable[[bytes], Awaitable[None]]
Produce = Callable[[SendPiece], Awaitable[None]]


class PieceByPiece(Response[bytes]):
    """An answer whose body is produced while it is sent.

    Parameters
    ----------
    produce : callable
        Called with a function that sends a piece; the answer ends when it returns. What it raises
        before the first piece is answered as of a handler; later, it ends the connection.
    media_type : str
        The content type.
    headers : dict of str to str
        Further headers.
    cancelled_by : trio.Event, optional
        Ends the answer.
    """

    def __init__(
        self,
        produce: Produce,
        media_type: str,
        headers: dict[str, str],
        cancelled_by: trio.Event | None = None,
    ) -> None:
        super().__init__(b"", media_type=media_type, headers=headers)
        self._produce = produce
        self._cancelled_by = cancelled_by

    def to_asgi_response(self, *_: object, **__: object) -> "ASGIResponse":
        """Return the application that sends the answer."""
        return self._send_all  # type: ignore[return-value]

    async def _send_all(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        headers = {"content-type": str(self.media_type), **self.headers}
        is_started = False

        async def start() -> None:
            nonlocal is_started
            is_started = True
            raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
            await send({"type": "http.response.start", "status": 200, "headers": raw})

        async def send_piece(piece: bytes) -> None:
            if not is_started:
                await start()
            await send({"type": "http.response.body", "body": piece, "more_body": True})

        is_gone = False

        async def watch(scope_: trio.CancelScope) -> None:
            nonlocal is_gone
            while (await receive())["type"] != "http.disconnect":
                pass
            is_gone = True
            scope_.cancel()

        async def watch_stop(event: trio.Event, scope_: trio.CancelScope) -> None:
            await event.wait()
            scope_.cancel()

        refused: QuorateError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, nursery.cancel_scope)
            if self._cancelled_by is not None:
                nursery.start_soon(watch_stop, self._cancelled_by, nursery.cancel_scope)
            try:
                await self._produce(send_piece)
            except QuorateError as error:
                if is_started:
                    raise
                refused = error
            nursery.cancel_scope.cancel()
        if refused is not None:
            raise refused
        if is_gone:
            return
        if not is_started:
            await start()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
