"""Answers that are sent piece by piece.

Owns their end: when all is sent, when the client goes away, or when the server stops. Never knows
what the pieces are.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, cast

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
    ended_by : trio.Event, optional
        Ends the answer; not for one that has said its length.
    """

    def __init__(
        self,
        produce: Produce,
        media_type: str,
        headers: dict[str, str],
        ended_by: trio.Event | None = None,
    ) -> None:
        super().__init__(b"", media_type=media_type, headers=headers)
        self._produce = produce
        self._ended_by = ended_by

    def to_asgi_response(self, *_: object, **__: object) -> "ASGIResponse":
        """Return the application that sends the answer."""
        # Litestar calls what it gets here as an application, and asks no more of it.
        return cast("ASGIResponse", self._answer)

    async def _answer(self, _scope: Scope, receive: Receive, send: Send) -> None:
        headers = {"content-type": str(self.media_type), **self.headers}
        sending = _Sending(send, headers)
        refused: QuorateError | None = None
        async with trio.open_nursery() as nursery:
            scope = nursery.cancel_scope
            nursery.start_soon(sending.watch_client, receive, scope)
            if self._ended_by is not None:
                nursery.start_soon(_cancel_upon, self._ended_by, scope)
            try:
                await self._produce(sending.send_piece)
            except QuorateError as error:
                if sending.is_started:
                    raise
                refused = error
            scope.cancel()
        if refused is not None:
            raise refused
        await sending.finish()


class _Sending:
    """The state of one answer."""

    def __init__(self, send: Send, headers: dict[str, str]) -> None:
        self._send = send
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._is_client_gone = False
        self.is_started = False

    async def send_piece(self, piece: bytes) -> None:
        await self._start()
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def finish(self) -> None:
        if self._is_client_gone:
            return
        await self._start()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def watch_client(self, receive: Receive, scope: trio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._is_client_gone = True
        scope.cancel()

    async def _start(self) -> None:
        if not self.is_started:
            self.is_started = True
            await self._send(
                {"type": "http.response.start", "status": 200, "headers": self._headers}
            )


async def _cancel_upon(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
