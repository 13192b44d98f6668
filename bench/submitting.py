"""Sending batches to a node at the least cost for the sender.

Owns the connections and two ways to send: closed loop, as fast as blocks take transactions, and
open loop, by the clock whatever the nodes do. Never signs and never decodes a block.
"""

import http.client
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from typing import Final
from urllib.parse import urlsplit

import msgspec
from quorate.chain.ids import Hash

from bench.errors import BenchError
from bench.signing import Batch

ANSWER_SECONDS_MAX: Final = 30.0
_WAIT_SECONDS: Final = 0.5
_HEADERS: Final = {
    "Content-Type": "application/msgpack",
    "Accept": "application/msgpack",
}


class Result(msgspec.Struct):
    """What a node says of one transaction of a batch."""

    hash: bytes
    status: str | None = None
    code: str | None = None
    detail: str | None = None


class Results(msgspec.Struct):
    """What a node says of a batch."""

    results: list[Result]


_decoder = msgspec.msgpack.Decoder(Results)


class Connection:
    """A kept connection to a node's RPC; for one thread."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._url = url
        self._http = http.client.HTTPConnection(
            str(parts.hostname), parts.port, timeout=ANSWER_SECONDS_MAX
        )

    def send(self, batch: Batch) -> list[Result]:
        """Hand over a batch and return what the node says of each transaction.

        Raises
        ------
        BenchError
            If the node does not answer as it should.
        """
        try:
            self._http.request("POST", "/v1/transactions/batch", batch.body, _HEADERS)
            response = self._http.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise BenchError(f"{self._url} does not answer a batch: {error!r}") from error
        if response.status != http.client.OK:
            raise BenchError(f"{self._url} answers {response.status} to a batch: {body[:500]!r}")
        return _decoder.decode(body).results

    def close(self) -> None:
        """Close the connection."""
        self._http.close()


class Room:
    """How many transactions may be under way at a time.

    Parameters
    ----------
    depth : int
        The most that are submitted and not decided yet.
    """

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._under_way = 0
        self._is_stopped = False
        self._changed = threading.Condition()

    @property
    def under_way(self) -> int:
        """Transactions that are submitted and not decided."""
        return self._under_way

    def take(self, count: int) -> bool:
        """Wait for room for a batch and take it; False once nothing shall be sent any more."""
        with self._changed:
            while not self._is_stopped and self._under_way + count > self._depth:
                self._changed.wait(_WAIT_SECONDS)
            if self._is_stopped:
                return False
            self._under_way += count
            return True

    def give_back(self, count: int) -> None:
        """Take note that so many are decided, or refused."""
        with self._changed:
            self._under_way -= count
            self._changed.notify_all()

    def stop(self) -> None:
        """Let nobody have room any more."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()


class Sender(threading.Thread):
    """A thread that sends batches to a node, in their order.

    Attributes
    ----------
    accepted : dict of bytes to float
        The transactions that the node took, and when they were due: at the moment of sending in
        closed loop, by the timetable in open loop.
    refused : Counter of str
        Error codes of those it did not take.
    """

    def __init__(self, url: str, batches: Sequence[Batch]) -> None:
        super().__init__(name=f"sender {url}", daemon=True)
        self.url = url
        self.accepted: dict[Hash, float] = {}
        self.refused: Counter[str] = Counter()
        self.has_run_out = False
        self._batches = batches
        self._failure: BenchError | None = None

    def run(self) -> None:
        """Send until told to stop, or until nothing is left."""
        try:
            with closing(Connection(self.url)) as connection:
                self.send_all(connection, self._batches)
        except BenchError as error:
            self._failure = error

    def send_all(self, connection: Connection, batches: Sequence[Batch]) -> None:
        """Send the batches; a subclass says when."""
        for batch in batches:
            self.send_one(connection, batch, time.monotonic())

    def send_one(self, connection: Connection, batch: Batch, due: float) -> int:
        """Send a batch, take note of the answer, and return how many were refused."""
        n_refused = 0
        for transaction_hash, result in zip(batch.hashes, connection.send(batch), strict=True):
            if result.code is None:
                self.accepted[transaction_hash] = due
            else:
                n_refused += 1
                self.refused[result.code] += 1
        return n_refused

    def finish(self) -> None:
        """Wait until the thread has ended.

        Raises
        ------
        BenchError
            What ended it too early.
        """
        self.join(2 * ANSWER_SECONDS_MAX)
        self.check()

    def check(self) -> None:
        """Raise what ended the thread too early.

        Raises
        ------
        BenchError
            If the node does not answer as it should.
        """
        if self._failure is not None:
            raise self._failure


class ClosedLoopSender(Sender):
    """Sends the next batch as soon as there is room.

    Parameters
    ----------
    url : str
        The node's RPC.
    batches : sequence of Batch
        In the order of the senders' nonces.
    room : Room
        Shared by all that send.
    """

    def __init__(self, url: str, batches: Sequence[Batch], room: Room) -> None:
        super().__init__(url, batches)
        self._room = room

    def send_all(self, connection: Connection, batches: Sequence[Batch]) -> None:
        """Send batches until the room is closed."""
        for batch in batches:
            if not self._room.take(len(batch)):
                return
            self._room.give_back(self.send_one(connection, batch, time.monotonic()))
        self.has_run_out = True


class OpenLoopSender(Sender):
    """Sends by a timetable; one that is late catches up, and its lateness counts.

    Parameters
    ----------
    url : str
        The node's RPC.
    batches : sequence of Batch
        In the order of the senders' nonces.
    start : float
        When the first is due, by the monotonic clock.
    interval_s : float
        From one batch to the next.
    """

    def __init__(self, url: str, batches: Sequence[Batch], start: float, interval_s: float) -> None:
        super().__init__(url, batches)
        self._start = start
        self._interval_s = interval_s

    def send_all(self, connection: Connection, batches: Sequence[Batch]) -> None:
        """Send each batch when it is due."""
        for number, batch in enumerate(batches):
            due = self._start + number * self._interval_s
            time.sleep(max(0.0, due - time.monotonic()))
            self.send_one(connection, batch, due)
