"""A network whose peers answer as a test says, and that remembers what went out.

Owns the seam between the exchange and its peers; nothing of p2p's own behaviour is in it.
"""

from collections.abc import Awaitable, Callable

from p2p.network import PeerId, PeerInfo, Priority, RequestRejected

Answer = Callable[[bytes], Awaitable[bytes]]


async def refuse(_body: bytes) -> bytes:
    raise RequestRejected("not here")


class ScriptedNetwork:
    """As much of `p2p.network.Network` as the exchange uses."""

    def __init__(self, **answers: Answer) -> None:
        self.answers: dict[str, Answer] = dict(answers)
        self.requests: list[tuple[str, bytes]] = []
        self.reports: list[tuple[str, int, str]] = []
        self.sent: list[tuple[str, Priority, bytes]] = []
        self.broadcasts: list[tuple[Priority, bytes]] = []
        self.announced: list[bytes] = []
        self.bytes_max = 0
        self.timeout_s = 0.0

    def peers(self) -> tuple[PeerInfo, ...]:
        return tuple(
            PeerInfo(PeerId(name), "", True, 0.0, 0, 0, 100, None) for name in sorted(self.answers)
        )

    async def request(
        self, peer: PeerId, body: bytes, *, response_bytes_max: int, timeout_s: float
    ) -> bytes:
        assert response_bytes_max > 0
        assert timeout_s > 0
        self.requests.append((peer, body))
        self.bytes_max, self.timeout_s = response_bytes_max, timeout_s
        return await self.answers[peer](body)

    def report(self, peer: PeerId, penalty: int, reason: str) -> None:
        self.reports.append((peer, penalty, reason))

    def send(self, peer: PeerId, priority: Priority, body: bytes) -> bool:
        self.sent.append((peer, priority, body))
        return True

    def broadcast(
        self, priority: Priority, body: bytes, exclude: frozenset[PeerId] = frozenset()
    ) -> int:
        assert not exclude
        self.broadcasts.append((priority, body))
        return len(self.answers)

    def announce(self, body: bytes) -> None:
        self.announced.append(body)
