"""Peer exchange: addresses of other peers, asked for and told on a link.

Owns when to ask, whom to tell about, and what to believe. Never dials: what is learned goes into
the address book, and who answers at an address must prove its peer id.
"""

import random
from collections.abc import Callable, Iterable
from typing import Final

from p2p.address import parse_address
from p2p.frames import ADDRESSES_TOLD_MAX, Kind, build_addresses, build_frame
from p2p.keeping import LINKS_WANTED, AddressBook, fill_in_host
from p2p.link import Link
from p2p.network import NetworkConfig, PeerId
from p2p.scoring import PENALTY_UNSOLICITED

ASK_S: Final = 30.0
"""Seconds between two questions for addresses, while there are few links."""

TELL_S: Final = 10.0
"""A peer that asks again within as many seconds is scored down."""


class Exchange:
    """Asking for addresses and telling them.

    Parameters
    ----------
    config
        Whether to take part, and whom to keep private.
    book
        Where learned addresses go.
    report
        Called with peer, penalty and reason when a peer misbehaves.
    """

    def __init__(
        self,
        config: NetworkConfig,
        book: AddressBook,
        report: Callable[[PeerId, int, str], None],
    ) -> None:
        self._config = config
        self._book = book
        self._report = report
        self._ask_at = 0.0

    def ask(self, link: Link, n_links: int) -> None:
        """Ask a peer for addresses while there are few links."""
        if self._config.peer_exchange and n_links < LINKS_WANTED:
            link.addresses_asked = link.outbox.put_control(build_frame(Kind.ASK_ADDRESSES))

    def ask_all_when_due(self, links: list[Link], now: float) -> None:
        """Ask every peer for addresses, every `ASK_S`."""
        if now >= self._ask_at:
            self._ask_at = now + ASK_S
            for link in links:
                self.ask(link, len(links))

    def tell(self, link: Link, links: Iterable[Link], now: float) -> None:
        """Answer a peer that asks for addresses."""
        told_at = link.addresses_told_at
        if told_at is not None and now - told_at < TELL_S:
            self._report(link.peer, PENALTY_UNSOLICITED, "it asks for addresses too often")
        elif self._config.peer_exchange:
            link.addresses_told_at = now
            link.outbox.put_control(build_addresses(self._get_tellable(link.peer, links)))

    def learn(self, link: Link, addresses: tuple[str, ...], now: float) -> None:
        """Take the addresses that a peer tells."""
        if link.addresses_asked:
            link.addresses_asked = False
            self._book.learn(addresses, link.wire.remote_host, now)
        else:
            self._report(link.peer, PENALTY_UNSOLICITED, "addresses that nobody asked for")

    def _get_tellable(self, asker: PeerId, links: Iterable[Link]) -> tuple[str, ...]:
        addresses = []
        for link in links:
            if link.peer == asker or link.peer in self._config.private_peers:
                continue
            try:
                address = parse_address(link.hello.listen)
            except ValueError:
                continue
            reached = fill_in_host(address, link.wire.remote_host)
            if reached is not None and reached.peer_id == link.peer:
                addresses.append(str(reached))
        random.shuffle(addresses)
        return tuple(addresses[:ADDRESSES_TOLD_MAX])
