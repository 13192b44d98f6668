"""Who has which payload: signed announcements of validators, counted by their power.

Owns what validators have announced, this validator's own announcements and their repair. Never
judges a transaction and never pulls a payload.

A block names a large payload only once validators with more than two thirds of the power have
announced it (`is_announced`), so that a block never has to wait for bytes that a correct proposer
could have waited for before. The payloads of one block are counted together (`start_block`): those
who have announced all of them must be a quorum, else each payload would have its quorum, and the
block none. That is the proposer's care and no rule of validity: announcements differ from node to
node. Liars among those who announce are less than a third, so that others have the payload, the
proposer among them.

What is kept is bounded by what pending transactions name, and beside it by a few names for each
validator: an announcement may be faster than the transaction.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio
from quorate.chain.announcement import (
    ANNOUNCED_PER_MESSAGE_MAX,
    PayloadAnnouncement,
    is_announcement_valid,
    sign_announcement,
)
from quorate.chain.ids import Address, Hash
from quorate.chain.keys import PrivateKey
from quorate.chain.validators import Validator

from node.exchange.broadcasting import Broadcaster
from node.exchange.messages import PayloadAnnouncementsMessage, encode_message
from node.execution.chain_position import ChainPosition
from node.mempool.mempool import Mempool
from node.mempool.slices import Slices
from p2p.network import Network, PeerId, Priority
from store.payload_contract import Payloads

QUEUED_MAX: Final = 512
"""Announcements that wait to be verified; more are dropped, and come again."""
QUEUED_PER_PEER_MAX: Final = 64
"""Of these, those of one peer."""
EARLY_PER_VALIDATOR_MAX: Final = 512
"""Payloads that a validator has announced and nobody has named here; the oldest are forgotten."""
PAYLOADS_MAX: Final = 65_536
"""Payloads of pending transactions whose announcers are kept; more are not counted."""
RATE_PER_S: Final = 20.0
BURST_MAX: Final = 100.0
"""Announcements of one validator that are verified at once, and how many more each second."""
AGE_MS_MAX: Final = 600_000
"""How far an announcement's time may be from this node's clock."""
REPAIR_S: Final = 5.0
"""What is still pending is announced again as often."""
FORGED_PENALTY: Final = 50


@dataclass(slots=True)
class _Announcer:
    """What is known of one validator."""

    last_ms: int = 0
    budget: float = BURST_MAX
    budget_at: float = 0.0
    early: dict[Hash, None] = field(default_factory=dict)


class PayloadAnnouncements:
    """Takes, counts, makes and repeats announcements.

    Parameters
    ----------
    chain_id : str
        What announcements are signed for.
    key : PrivateKey or None
        This validator's; None on a node that only follows.
    network : Network
        Carries announcements.
    broadcaster : Broadcaster
        Knows whom an announcement of a peer has not reached.
    mempool : Mempool
        Names the payloads that matter, and is told when one may go into a block.
    payloads : Payloads
        Made durable before any of them is announced.
    get_position : callable
        Where the chain stands, with its validators.
    on_holder : callable
        Told of a payload and a peer that may have it.
    now_ms : callable
        The wall clock, in milliseconds.
    """

    def __init__(
        self,
        chain_id: str,
        key: PrivateKey | None,
        network: Network,
        broadcaster: Broadcaster,
        mempool: Mempool,
        payloads: Payloads,
        get_position: Callable[[], ChainPosition],
        on_holder: Callable[[Hash, PeerId], object],
        now_ms: Callable[[], int],
    ) -> None:
        self._chain_id = chain_id
        self._key = key
        self._network = network
        self._broadcaster = broadcaster
        self._mempool = mempool
        self._get_position = get_position
        self._on_holder = on_holder
        self._payloads = payloads
        self._now_ms = now_ms
        self._announcers: dict[Address, _Announcer] = {}
        self._by_payload: dict[Hash, dict[Address, None]] = {}
        self._quorate: dict[Hash, None] = {}
        self._counted_at: ChainPosition | None = None
        self._queued_of: dict[PeerId, int] = {}
        self._last_own_ms = 0
        self._to_verifier, self._to_verify = trio.open_memory_channel[
            tuple[PeerId, PayloadAnnouncement]
        ](QUEUED_MAX)
        self.dropped = 0

    # What others ask.

    def get_power(self, payload_hash: Hash) -> int:
        """Return the voting power of the validators of today that announced a payload."""
        validators = self._get_position().validators.by_address
        announcers = self._by_payload.get(payload_hash, ())
        return sum(validators[each].power for each in announcers if each in validators)

    def is_announced(self, payload_hash: Hash) -> bool:
        """Tell whether validators with more than two thirds of the power announced a payload."""
        position = self._get_position()
        if self._counted_at is not position:
            # Powers may have changed with the block.
            self._quorate.clear()
            self._counted_at = position
        if payload_hash in self._quorate:
            return True
        is_quorum = position.validators.is_quorum(self.get_power(payload_hash))
        if is_quorum:
            self._quorate[payload_hash] = None
        return is_quorum

    def start_block(self) -> Callable[[Hash], bool]:
        """Return a test for the payloads of one block: whether a quorum has all of them.

        It remembers what has passed it, so it is asked once for each payload, in order. Whoever
        comes first passes with any quorum, so that no validator can keep an update out for good.
        """
        validators = self._get_position().validators
        holders: Iterable[Address] | None = None

        def may_name(payload_hash: Hash) -> bool:
            nonlocal holders
            announcers = self._by_payload.get(payload_hash, {})
            candidates = announcers if holders is None else holders
            joint = [
                each for each in candidates if each in announcers and each in validators.by_address
            ]
            if not validators.is_quorum(sum(validators.by_address[each].power for each in joint)):
                return False
            holders = joint
            return True

        return may_name

    # What peers send: both calls return at once.

    def receive(self, peer: PeerId, announcements: Sequence[PayloadAnnouncement]) -> None:
        """Take announcements of a peer; when too many wait already, drop them."""
        for announcement in announcements:
            queued = self._queued_of.get(peer, 0)
            try:
                if queued >= QUEUED_PER_PEER_MAX:
                    raise trio.WouldBlock
                self._to_verifier.send_nowait((peer, announcement))
                self._queued_of[peer] = queued + 1
            except trio.WouldBlock:
                self.dropped += 1

    def on_peer_connected(self, peer: PeerId) -> None:
        """Tell a new peer what this validator has."""
        for announcement in self._sign(self._mempool.large.hashes):
            message = PayloadAnnouncementsMessage((announcement,))
            self._network.send(peer, Priority.MEMPOOL, encode_message(message))

    async def run(self) -> None:
        """Take and make announcements until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._verify)
            nursery.start_soon(self._announce)
            nursery.start_soon(self._repair)

    # How it is done.

    async def _verify(self) -> None:
        slices = Slices()
        async for peer, announcement in self._to_verify:
            self._queued_of[peer] -= 1
            if not self._queued_of[peer]:
                del self._queued_of[peer]
            self._take(peer, announcement)
            await slices.pause_if_due()

    def _take(self, peer: PeerId, announcement: PayloadAnnouncement) -> None:
        """Verify an announcement, if it tells anything new; count it, and pass it on."""
        validator = self._find_validator(announcement.validator)
        is_timely = abs(announcement.time_ms - self._now_ms()) <= AGE_MS_MAX
        if validator is None or not is_timely:
            return
        address = validator.address
        announcer = self._announcers.setdefault(address, _Announcer())
        is_again = announcement.time_ms > announcer.last_ms
        new = [
            each
            for each in announcement.payload_hashes
            if not self._knows(announcer, address, each)
        ]
        if not (new or is_again):
            return
        if self._refill(announcer) < 1:
            self.dropped += 1
            return
        if not is_announcement_valid(announcement, self._chain_id, validator.public_key):
            self._network.report(peer, FORGED_PENALTY, "an announcement with a bad signature")
            return
        announcer.budget -= 1
        announcer.last_ms = max(announcer.last_ms, announcement.time_ms)
        for payload_hash in new:
            self._note(announcer, address, payload_hash)
            self._on_holder(payload_hash, peer)
        if any(self.is_announced(each) for each in new):
            self._mempool.notice_announced()
        # What was announced again is passed on as well: somebody may have missed the first time.
        body = encode_message(PayloadAnnouncementsMessage((announcement,)))
        for target in self._broadcaster.get_relay_targets(peer):
            self._network.send(target, Priority.MEMPOOL, body)

    def _find_validator(self, address: Address) -> Validator | None:
        position = self._get_position()
        known = position.validators.by_address.get(address)
        return position.next_validators.by_address.get(address) if known is None else known

    def _knows(self, announcer: _Announcer, address: Address, payload_hash: Hash) -> bool:
        return address in self._by_payload.get(payload_hash, ()) or payload_hash in announcer.early

    def _note(self, announcer: _Announcer, address: Address, payload_hash: Hash) -> None:
        if payload_hash in self._by_payload or (
            self._mempool.names_payload(payload_hash) and len(self._by_payload) < PAYLOADS_MAX
        ):
            self._by_payload.setdefault(payload_hash, {})[address] = None
            return
        announcer.early[payload_hash] = None
        if len(announcer.early) > EARLY_PER_VALIDATOR_MAX:
            del announcer.early[next(iter(announcer.early))]

    def _refill(self, announcer: _Announcer) -> float:
        now = trio.current_time()
        gained = (now - announcer.budget_at) * RATE_PER_S
        announcer.budget = min(BURST_MAX, announcer.budget + gained)
        announcer.budget_at = now
        return announcer.budget

    async def _announce(self) -> None:
        """Announce each large payload when its transaction becomes pending."""
        while True:
            new = await self._mempool.large.take_new()
            for payload_hash in new:
                if payload_hash in self._by_payload or len(self._by_payload) < PAYLOADS_MAX:
                    self._collect_early(payload_hash)
            self._announce_own(new)
            self._mempool.notice_announced()

    def _announce_own(self, payload_hashes: Sequence[Hash]) -> None:
        for announcement in self._sign(payload_hashes):
            body = encode_message(PayloadAnnouncementsMessage((announcement,)))
            self._network.broadcast(Priority.MEMPOOL, body)

    def _collect_early(self, payload_hash: Hash) -> None:
        announcers = self._by_payload.setdefault(payload_hash, {})
        for address, announcer in self._announcers.items():
            if payload_hash in announcer.early:
                del announcer.early[payload_hash]
                announcers[address] = None

    def _sign(self, payload_hashes: Sequence[Hash]) -> Iterator[PayloadAnnouncement]:
        """Yield signed announcements of payloads that are stored here, if this is a validator."""
        if self._key is None or self._find_validator(self._key.address) is None:
            return
        self._payloads.sync()
        for start in range(0, len(payload_hashes), ANNOUNCED_PER_MESSAGE_MAX):
            batch = payload_hashes[start : start + ANNOUNCED_PER_MESSAGE_MAX]
            for payload_hash in batch:
                self._by_payload.setdefault(payload_hash, {})[self._key.address] = None
            # Never twice the same time, so that each is newer than the one before.
            self._last_own_ms = max(self._last_own_ms + 1, self._now_ms())
            yield sign_announcement(self._key, self._chain_id, self._last_own_ms, batch)

    async def _repair(self) -> None:
        """Announce again what is pending, want again what is lacking, forget what nobody names."""
        while True:
            await trio.sleep(REPAIR_S)
            self._announce_own(self._mempool.large.hashes)
            self._mempool.want_again()
            names = self._mempool.names_payload
            for payload_hash in [each for each in self._by_payload if not names(each)]:
                del self._by_payload[payload_hash]
                self._quorate.pop(payload_hash, None)
            for address in [each for each in self._announcers if not self._find_validator(each)]:
                del self._announcers[address]
