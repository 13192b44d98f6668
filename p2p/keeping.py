"""Peer keeping: whom to dial, where, and when again.

Owns the known addresses and the waits between attempts, with time as an argument. Never dials.
"""

import ipaddress
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from p2p.address import Address, parse_peer_address
from p2p.network import PeerId

ADDRESSES_KNOWN_MAX: Final = 1024
"""Addresses of other peers learned by exchange; further ones are ignored."""

PERSISTENT_MAX: Final = 1024
"""Persistent and bootstrap peers together."""

LINKS_WANTED: Final = 8
"""With fewer links than this, bootstrap and exchanged peers are dialed."""

DIALS_AT_ONCE_MAX: Final = 16
"""Dials under way at a time."""

RETRY_FIRST_S: Final = 0.25
"""Seconds after a first failure; every further one doubles them."""

RETRY_MAX_S: Final = 15.0
"""Longest wait between two attempts, in seconds."""

RETRIES_EXCHANGED_MAX: Final = 4
"""Failures after which an exchanged address is forgotten."""

TURN_S: Final = 1.0
"""The lower peer id dials first; the higher one waits as many seconds for it."""


class Source(IntEnum):
    """How an address became known; the lower one is dialed first."""

    PERSISTENT = 0
    BOOTSTRAP = 1
    EXCHANGED = 2


@dataclass(slots=True)
class _Entry:
    address: Address
    source: Source
    failures: int
    next_at: float
    is_dialing: bool


class AddressBook:
    """Addresses of peers and the times of their next dials.

    Parameters
    ----------
    own_id
        Our peer id, never dialed.
    """

    def __init__(self, own_id: PeerId) -> None:
        self._own_id = own_id
        self._entries: dict[PeerId, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, text: str, source: Source, now: float) -> bool:
        """Add an address; true if it is new or better than what was known.

        Raises
        ------
        ValueError
            If `text` is no address of a peer, or there are too many of its source.
        """
        peer, address = parse_peer_address(text)
        known = self._entries.get(peer)
        if peer == self._own_id or (known is not None and known.source < source):
            return False
        if known is not None and source is Source.EXCHANGED:
            # What another peer says never replaces an address that may be in use.
            return False
        if known is None:
            n_same = sum(
                (entry.source is Source.EXCHANGED) == (source is Source.EXCHANGED)
                for entry in self._entries.values()
            )
            limit = ADDRESSES_KNOWN_MAX if source is Source.EXCHANGED else PERSISTENT_MAX
            if n_same >= limit:
                raise ValueError(f"at most {limit} such addresses are kept")
        first_at = now if self._own_id < peer else now + TURN_S
        self._entries[peer] = _Entry(address, source, 0, first_at, is_dialing=False)
        return True

    def take_due(self, linked: set[PeerId], now: float) -> list[tuple[PeerId, Address]]:
        """Give what to dial now; each must be followed by `record_success` or `record_failure`."""
        room = DIALS_AT_ONCE_MAX - sum(entry.is_dialing for entry in self._entries.values())
        wanted = LINKS_WANTED - len(linked)
        due = []
        for peer, entry in sorted(self._entries.items(), key=lambda item: item[1].source):
            if room <= 0 or (entry.source is not Source.PERSISTENT and wanted <= 0):
                break
            if peer in linked or entry.is_dialing or entry.next_at > now:
                continue
            entry.is_dialing = True
            room -= 1
            wanted -= 1
            due.append((peer, entry.address))
        return due

    def record_success(self, peer: PeerId, next_at: float) -> None:
        """Note that a dial led to a link, or would not now; it may be dialed from `next_at` on."""
        entry = self._entries.get(peer)
        if entry is not None:
            entry.failures = 0
            entry.is_dialing = False
            entry.next_at = next_at

    def record_failure(self, peer: PeerId, now: float) -> None:
        """Note that a dial led to nothing; the next one waits longer."""
        entry = self._entries.get(peer)
        if entry is None:
            return
        entry.is_dialing = False
        entry.failures += 1
        wait = min(RETRY_MAX_S, RETRY_FIRST_S * 2 ** min(entry.failures - 1, 10))
        entry.next_at = now + wait
        if entry.source is Source.EXCHANGED and entry.failures >= RETRIES_EXCHANGED_MAX:
            del self._entries[peer]

    def record_link_lost(self, peer: PeerId, now: float) -> None:
        """Note that a link is gone: the lower peer id dials at once, the higher one waits."""
        entry = self._entries.get(peer)
        if entry is not None and not entry.is_dialing:
            wait = RETRY_FIRST_S if self._own_id < peer else TURN_S
            entry.next_at = max(entry.next_at, now + wait)

    def learn(self, texts: tuple[str, ...], teller_host: str, now: float) -> int:
        """Add addresses that a peer told; give how many are new.

        What cannot be read, cannot be dialed from here, or has no room is left out. A peer on
        another machine cannot name addresses of this machine.
        """
        n_new = 0
        for text in texts:
            try:
                _, address = parse_peer_address(text)
                if _is_tellable(address, teller_host):
                    n_new += self.add(text, Source.EXCHANGED, now)
            except ValueError:
                continue
        return n_new


def fill_in_host(address: Address, observed_host: str) -> Address | None:
    """Give the address under which a peer is reached, from what it says and where it is seen.

    A peer that listens on every interface says ``0.0.0.0`` or ``::``; the host is then the one seen
    at the other end of its connection. None when there is none.
    """
    if address.host_kind not in {"ip4", "ip6"}:
        return address
    if not ipaddress.ip_address(address.host).is_unspecified:
        return address
    try:
        observed = ipaddress.ip_address(observed_host)
    except ValueError:
        return None
    return Address(f"ip{observed.version}", str(observed), address.port, address.peer_id)


def _is_tellable(address: Address, teller_host: str) -> bool:
    if address.host_kind not in {"ip4", "ip6"}:
        return True
    host = ipaddress.ip_address(address.host)
    if host.is_unspecified or host.is_multicast:
        return False
    try:
        return not host.is_loopback or ipaddress.ip_address(teller_host).is_loopback
    except ValueError:
        return False
