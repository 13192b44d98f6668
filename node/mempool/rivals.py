"""Two large transactions of one sender with one nonce, at different nodes: the lower hash stays.

A large payload has to be announced by validators with more than two thirds of the power before a
block may name it. Whoever signs two transactions with one nonce and hands them to two nodes may
find that neither gets there: some validators hold the one, the others the other. So a pending one
makes room for a rival that a peer passes on, if the rival's hash is lower; the rule is the same at
every node, and all come to hold the lowest.

Owns the question which pending transactions make room, and what their users are told. Never
verifies a signature, and never moves a transaction itself.
"""

from collections.abc import Callable
from typing import Final

from quorate.chain.errors import ErrorCode, TransactionError
from quorate.chain.ids import Hash

from node.mempool.door import PendingTransaction
from node.mempool.pool import TransactionPool, get_updated_task

REPLACEMENTS_MAX: Final = 8
"""So often the transaction with one nonce of a sender is replaced; whoever signs more rivals waits.
The lowest of a thousand in any order comes to its place after seven, on average."""
PROTECTED_S: Final = 20.0
"""For so long after it arrived, a payload that a quorum has announced here is not replaced: some
proposer will name it. If none has, the others have forgotten those announcements."""


class Rivals:
    """Finds what makes room for a transaction of a peer.

    Parameters
    ----------
    pool : TransactionPool
        What is pending.
    is_announced : callable
        Whether a quorum has announced a payload.
    clock : callable
        Seconds, never going back.
    """

    def __init__(
        self,
        pool: TransactionPool,
        is_announced: Callable[[Hash], bool],
        clock: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._is_announced = is_announced
        self._clock = clock

    def find_leaving(self, entry: PendingTransaction) -> tuple[PendingTransaction, ...]:
        """Return what would leave the pool if this transaction were admitted.

        Returns
        -------
        tuple of PendingTransaction
            The one with the same nonce, if it makes room, and what cannot stay beside the new one:
            a later update of the same task. Nothing if the nonce is free, or stays taken.
        """
        record = self._pool.get_sender(entry.sender)
        rival = None if record is None else record.by_nonce.get(entry.nonce)
        if record is None or rival is None or not self._makes_room(rival, entry):
            return ()
        task_id = get_updated_task(entry)
        later = (
            each
            for nonce, each in record.by_nonce.items()
            if task_id is not None and nonce > entry.nonce and get_updated_task(each) == task_id
        )
        return (rival, *later)

    def _makes_room(self, rival: PendingTransaction, entry: PendingTransaction) -> bool:
        if not (rival.has_large_payload and entry.has_large_payload) or rival.payload_hash is None:
            return False
        # An own user is told at once that the nonce is taken. What was accepted before a restart
        # competes like anything else: the journal may still hold what it replaced.
        is_own_and_new = entry.origin is None and not entry.is_durable
        if is_own_and_new or entry.hash >= rival.hash:
            return False
        if rival.replacements >= REPLACEMENTS_MAX:
            return False
        is_protected = self._clock() - rival.received < PROTECTED_S
        return not (is_protected and self._is_announced(rival.payload_hash))


def make_replaced_error(entry: PendingTransaction) -> TransactionError:
    """Return what the users of replaced transactions are told."""
    return TransactionError(
        ErrorCode.REPLACED,
        f"Another transaction of the account, {entry.hash.hex()}, was signed with nonce "
        f"{entry.nonce} and given to another node, and has taken the place of this one, or of one "
        "before it: wait until one of them is decided, then sign again what is still wanted.",
    )
