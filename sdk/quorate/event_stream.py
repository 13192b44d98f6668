"""Server-sent events, from bytes to events.

Owns the parsing of a stream as the HTML standard defines it, section 9.2, with a bound on what an
event may hold. Never reads from a connection.
"""

from quorate.chain.known_types import decode_json
from quorate.errors import ProtocolError
from quorate.rpc_types import Event

EVENT_BYTES_MAX = 16 << 20


class EventParser:
    r"""Collects the bytes of a stream into events.

    Examples
    --------
    >>> parser = EventParser()
    >>> parser.receive(b'id: 7\nevent: block\nda')
    []
    >>> parser.receive(b'ta: {"height": "3"}\n\n')
    [Event(id='7', type='block', data={'height': '3'})]
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._id = ""
        self._type = ""
        self._data: list[str] = []
        self._size = 0

    def receive(self, chunk: bytes) -> list[Event]:
        """Return the events that are complete with this chunk.

        Raises
        ------
        ProtocolError
            If an event is too large or its data is no JSON object.
        """
        self._buffer += chunk
        events = []
        start = 0
        while (end := self._buffer.find(b"\n", start)) >= 0:
            event = self._receive_line(bytes(self._buffer[start:end]).removesuffix(b"\r"))
            if event is not None:
                events.append(event)
            start = end + 1
        del self._buffer[:start]
        if len(self._buffer) + self._size > EVENT_BYTES_MAX:
            raise ProtocolError(f"an event exceeds {EVENT_BYTES_MAX} bytes")
        return events

    def _receive_line(self, raw: bytes) -> Event | None:
        if not raw:
            return self._complete()
        name, _, value = raw.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        match name:
            case "id":
                self._id = value
            case "event":
                self._type = value
            case "data":
                self._data.append(value)
                self._size += len(raw)
            case _:  # A comment, which keeps the connection alive, or a field of later days.
                pass
        return None

    def _complete(self) -> Event | None:
        kind, lines = self._type, self._data
        self._type, self._data, self._size = "", [], 0
        if not lines:
            return None
        try:
            data = decode_json("\n".join(lines), dict[str, object])
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"an event's data is no JSON object: {error}") from error
        return Event(self._id, kind or "message", data)
