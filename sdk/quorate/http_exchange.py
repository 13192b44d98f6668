"""What both clients share in speaking HTTP: limits, errors, headers.

Owns the translation between the SDK's requests and httpx. Never sends anything itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from quorate.errors import ConnectionFailedError, ProtocolError, QuorateError
from quorate.rpc_protocol import Request
from quorate.rpc_reading import Response, read_problem
from quorate.script import Feed

PROBLEM_BYTES_MAX = 1 << 16
CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class ConnectionOptions:
    """How to speak to a node: see `Client`."""

    timeout_s: float
    headers: Mapping[str, str]
    trust_env: bool


def make_timeout(timeout_s: float) -> httpx.Timeout:
    """Return the timeouts of a request: `timeout_s` without a byte, and less to connect."""
    return httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S))


def make_feed_timeout(feed: Feed, timeout_s: float) -> httpx.Timeout:
    """Return the timeouts of a stream of events."""
    return httpx.Timeout(
        feed.silence_s, connect=min(timeout_s, CONNECT_TIMEOUT_S), write=timeout_s, pool=timeout_s
    )


def make_failure(url: str, error: httpx.HTTPError) -> ConnectionFailedError:
    """Return the SDK's error for a connection that failed."""
    reason = str(error) or type(error).__name__
    return ConnectionFailedError(
        f"No answer from {url} ({reason}): is the node running, and is this its RPC address?"
    )


def read_refusal(request: Request, response: Response) -> QuorateError:
    """Return the error of a stream that the node did not open."""
    if response.status >= 400:
        return read_problem(response)
    return ProtocolError(f"{request.path} answered with HTTP {response.status}, not a stream")


class BodyCollector:
    """Collects the body of a response up to its limit."""

    def __init__(self, request: Request, response: httpx.Response) -> None:
        self._path = request.path
        self._response = response
        self._content = bytearray()
        self._bytes_max = request.bytes_max
        if response.status_code >= 400:
            self._bytes_max = PROBLEM_BYTES_MAX

    def receive(self, chunk: bytes) -> None:
        """Take the next bytes.

        Raises
        ------
        ProtocolError
            If they are more than any sound answer has.
        """
        self._content += chunk
        if len(self._content) > self._bytes_max:
            raise ProtocolError(f"{self._path} answered with more than {self._bytes_max} bytes")

    def finish(self) -> Response:
        """Return the whole response."""
        headers = {name.lower(): value for name, value in self._response.headers.items()}
        return Response(self._response.status_code, headers, bytes(self._content))
