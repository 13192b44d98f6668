"""What users were promised: whatever a node has accepted is decided or refused, once and aloud.

Owns the record of acknowledged transactions and of what was told about them since. Never submits
anything.
"""

from dataclasses import dataclass

from quorate.chain.errors import ErrorCode
from quorate.chain.ids import Hash

from node.events import Event, EventType
from tests.simulation.checks import Violation
from tests.simulation.machines import Machine

FINAL = frozenset({ErrorCode.WRONG_NONCE, ErrorCode.WRONG_TRAINING_ROUND, ErrorCode.STALE_WEIGHTS})
"""Reasons that can never pass. For others (paused, full, registered already) a node lets go of what
another one may still hold, and bring into a block once the reason has passed."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What a node owes to a user since it answered that a transaction is pending."""

    machine: int
    user: int
    nonce: int
    kind: str


class Promises:
    """Acknowledged transactions, and what became of each."""

    def __init__(self) -> None:
        self.acknowledged: dict[Hash, Promise] = {}
        self.decided: dict[Hash, int] = {}
        self._refused: dict[tuple[Hash, int], str] = {}
        self._owed: dict[Hash, Promise] = {}

    def acknowledge(self, transaction_hash: Hash, promise: Promise) -> None:
        """Take note that a node has answered: pending."""
        if transaction_hash in self.acknowledged:
            return
        self.acknowledged[transaction_hash] = promise
        # It may have been decided, or refused, between the answer and its arrival.
        is_refused = (transaction_hash, promise.machine) in self._refused
        if transaction_hash not in self.decided and not is_refused:
            self._owed[transaction_hash] = promise

    def on_decided(self, height: int, transaction_hashes: tuple[Hash, ...]) -> None:
        """Take note of a decided block."""
        for transaction_hash in transaction_hashes:
            at = self.decided.setdefault(transaction_hash, height)
            if at != height:
                raise Violation(f"{transaction_hash.hex()} was decided at {at} and {height}")
            self._owed.pop(transaction_hash, None)
            self._require_one_answer(transaction_hash)

    def on_event(self, machine: Machine, event: Event) -> None:
        """Take note of what a node tells its clients."""
        if event.type is not EventType.TRANSACTION or event.data["status"] != "refused":
            return
        transaction_hash = Hash(event.transaction_hash or b"")
        self._refused[transaction_hash, machine.number] = str(event.data["code"])
        promise = self.acknowledged.get(transaction_hash)
        if promise is not None and promise.machine == machine.number:
            self._owed.pop(transaction_hash, None)
            self._require_one_answer(transaction_hash)

    def _require_one_answer(self, transaction_hash: Hash) -> None:
        """Check that the node that accepted a transaction has not told that it is refused."""
        promise = self.acknowledged.get(transaction_hash)
        at = self.decided.get(transaction_hash)
        # Other nodes owe nobody an answer, and may have seen it too late or too early.
        if promise is None or at is None:
            return
        code = self._refused.get((transaction_hash, promise.machine))
        if code in FINAL:
            raise Violation(
                f"{self._name(transaction_hash)} was told to be refused ({code}), and is decided "
                f"at {at}"
            )

    def find_owed(self) -> list[Hash]:
        """Return what was acknowledged and is neither decided nor told to be refused."""
        return list(self._owed)

    def find_debtors(self) -> list[tuple[int, int]]:
        """Return who is owed something by which node, as (user, machine)."""
        return sorted({(promise.user, promise.machine) for promise in self._owed.values()})

    def get_last_nonce(self, user: int, machine: int) -> int:
        """Return the highest nonce of what a node owes to a user; -1 if it owes nothing."""
        return max(
            (p.nonce for p in self._owed.values() if (p.user, p.machine) == (user, machine)),
            default=-1,
        )

    def describe_owed(self) -> str:
        """Return what a reader of a failure wants to know of what is owed."""
        return "; ".join(self._name(owed) for owed in self._owed)

    def _name(self, transaction_hash: Hash) -> str:
        promise = self.acknowledged.get(transaction_hash)
        if promise is None:
            return transaction_hash.hex()[:16]
        return (
            f"{promise.kind} {transaction_hash.hex()[:16]} of user {promise.user}, accepted by "
            f"node {promise.machine},"
        )
