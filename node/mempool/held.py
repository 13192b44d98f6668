"""Transactions of peers that cannot be admitted yet, though their signatures are good.

A peer may be a block ahead, may have sent a later nonce before an earlier one, or the payload is
still on its way. Such transactions are held for a short while and tried again: when the gap
closes, when the payload is there, after each block. Owns their limits; everything lost here comes
again by announcement. Never holds what an own user submitted: he is told at once.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, TypeVar

from quorate.chain.ids import Address, Hash

from node.mempool.door import PendingTransaction

K = TypeVar("K", Address, Hash)

HELD_MAX: Final = 2_048
"""Held transactions; the oldest makes room."""

HELD_BYTES_MAX: Final = 16 << 20
"""Bytes of them, with the payloads that came along; the oldest make room."""

HELD_PER_SENDER_MAX: Final = 64
"""Held transactions of one sender; one more is dropped."""

HELD_S_MAX: Final = 60.0
"""Seconds that a transaction is held at most."""

HELD_ATTEMPTS_MAX: Final = 8
"""Blocks after which a transaction that the state refuses is tried again."""


class HeldFor(Enum):
    """What a held transaction waits for."""

    NONCE = auto()
    PAYLOAD = auto()
    STATE = auto()


@dataclass(slots=True, eq=False)
class HeldTransaction:
    """A transaction that waits to be admitted, and the payload that came with it, if any."""

    entry: PendingTransaction
    payload: bytes | None
    reason: HeldFor
    attempts: int = 0

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return len(self.entry.raw) + len(self.payload or b"")


class HeldTransactions:
    """A bounded waiting room."""

    def __init__(self) -> None:
        self._held: dict[Hash, HeldTransaction] = {}
        self._by_sender: dict[Address, dict[Hash, None]] = {}
        self._by_payload: dict[Hash, dict[Hash, None]] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, transaction_hash: Hash) -> bool:
        return transaction_hash in self._held

    @property
    def senders(self) -> tuple[Address, ...]:
        """Everyone of whom something is held."""
        return tuple(self._by_sender)

    def has_sender(self, sender: Address) -> bool:
        """Tell whether anything of a sender is held."""
        return sender in self._by_sender

    def add(self, held: HeldTransaction) -> bool:
        """Hold a transaction; False when its sender has as many as one may."""
        entry = held.entry
        self.remove(entry.hash)
        if len(self._by_sender.get(entry.sender, ())) >= HELD_PER_SENDER_MAX:
            return False
        self._by_sender.setdefault(entry.sender, {})[entry.hash] = None
        self._held[entry.hash] = held
        self.bytes += held.size
        if held.reason is HeldFor.PAYLOAD and entry.payload_hash is not None:
            self._by_payload.setdefault(entry.payload_hash, {})[entry.hash] = None
        while len(self._held) > HELD_MAX or self.bytes > HELD_BYTES_MAX:
            self.remove(next(iter(self._held)))
        return True

    def names_payload(self, payload_hash: Hash) -> bool:
        """Tell whether anything waits for a payload."""
        return payload_hash in self._by_payload

    def remove(self, transaction_hash: Hash) -> HeldTransaction | None:
        """Let a transaction go."""
        held = self._held.pop(transaction_hash, None)
        if held is None:
            return None
        self.bytes -= held.size
        entry = held.entry
        _discard(self._by_sender, entry.sender, entry.hash)
        if held.reason is HeldFor.PAYLOAD and entry.payload_hash is not None:
            _discard(self._by_payload, entry.payload_hash, entry.hash)
        return held

    def take_of_sender(self, sender: Address, nonce: int) -> HeldTransaction | None:
        """Take out one of a sender that waits for its turn and has this nonce, or a lower one."""
        for transaction_hash in self._by_sender.get(sender, ()):
            held = self._held[transaction_hash]
            if held.reason is HeldFor.NONCE and held.entry.nonce <= nonce:
                return self.remove(transaction_hash)
        return None

    def take_by_payload(self, payload_hash: Hash) -> list[HeldTransaction]:
        """Take out all that wait for a payload, the oldest first."""
        hashes = tuple(self._by_payload.get(payload_hash, ()))
        return [held for each in hashes if (held := self.remove(each)) is not None]

    def get_for_payload(self) -> tuple[PendingTransaction, ...]:
        """Return one of those that wait for each payload, the payload waited for longest first."""
        return tuple(self._held[next(iter(each))].entry for each in self._by_payload.values())

    def take_for_state(self, count_max: int) -> list[HeldTransaction]:
        """Take out the oldest that wait for a change of the state."""
        hashes = [
            transaction_hash
            for transaction_hash, held in self._held.items()
            if held.reason is HeldFor.STATE
        ][:count_max]
        return [held for each in hashes if (held := self.remove(each)) is not None]

    def expire(self, now: float) -> int:
        """Let go of those held for too long; return how many that was."""
        expired = [
            transaction_hash
            for transaction_hash, held in self._held.items()
            if now - held.entry.received > HELD_S_MAX or held.attempts > HELD_ATTEMPTS_MAX
        ]
        for transaction_hash in expired:
            self.remove(transaction_hash)
        return len(expired)


def _discard(index: dict[K, dict[Hash, None]], key: K, transaction_hash: Hash) -> None:
    members = index[key]
    del members[transaction_hash]
    if not members:
        del index[key]
