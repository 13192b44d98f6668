"""Decoding and signatures of transactions, each checked once.

Owns a bounded cache of what has been verified. The mempool and the judge of blocks share one
verifier, so that a transaction which arrived before its block costs the block one look-up. Never
looks at the state: whether a transaction is allowed is the ledger's matter.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import trio
from quorate.chain.errors import ErrorCode, TransactionError
from quorate.chain.ids import Hash
from quorate.chain.transaction import (
    SignedTransaction,
    compute_transaction_hash,
    decode_transaction,
    is_transaction_signature_valid,
)

from node.mempool.slices import Slices

VERIFIED_MAX: Final = 32_768
"""Verified transactions to remember."""

VERIFIED_BYTES_MAX: Final = 64 << 20
"""Bytes of them; the oldest make room."""


class TransactionVerifier:
    """Checks transactions of one chain.

    Parameters
    ----------
    chain_id : str
        The chain that they must be for.
    verified_max, verified_bytes_max : int
        How many, and how many bytes of them, are remembered.
    """

    def __init__(
        self,
        chain_id: str,
        *,
        verified_max: int = VERIFIED_MAX,
        verified_bytes_max: int = VERIFIED_BYTES_MAX,
    ) -> None:
        self._chain_id = chain_id
        # A plain dict forgets its oldest entry ever slower: it looks past all that went before.
        self._verified: OrderedDict[Hash, tuple[SignedTransaction, int]] = OrderedDict()
        self._verified_max = verified_max
        self._bytes_max = verified_bytes_max
        self._bytes = 0
        self.checked_count = 0

    def __len__(self) -> int:
        return len(self._verified)

    def get(self, transaction_hash: Hash) -> SignedTransaction | None:
        """Return a transaction that was verified lately, or None."""
        known = self._verified.get(transaction_hash)
        return None if known is None else known[0]

    def check(self, raw: bytes) -> tuple[Hash, SignedTransaction]:
        """Return hash and content of a transaction that its sender signed for this chain.

        Raises
        ------
        TransactionError
            `too_large`, `malformed`, `wrong_chain_id` or `bad_signature`.
        """
        transaction_hash = compute_transaction_hash(raw)
        known = self._verified.get(transaction_hash)
        if known is not None:
            return transaction_hash, known[0]
        signed = decode_transaction(raw)
        if signed.transaction.chain_id != self._chain_id:
            raise TransactionError(
                ErrorCode.WRONG_CHAIN_ID,
                f"The transaction is for chain {signed.transaction.chain_id!r}, this is "
                f"{self._chain_id!r}: sign it for this chain, or send it to a node of the other.",
            )
        self.checked_count += 1
        if not is_transaction_signature_valid(signed):
            raise TransactionError(
                ErrorCode.BAD_SIGNATURE,
                "The signature does not belong to the transaction and its sender: sign exactly "
                "these bytes with the sender's key.",
            )
        self._remember(transaction_hash, signed, len(raw))
        return transaction_hash, signed

    async def check_many(
        self, raws: Sequence[bytes]
    ) -> list[tuple[Hash, SignedTransaction] | TransactionError]:
        """Check transactions in slices of some 2 ms; the answers are in their order."""
        slices = Slices()
        answers: list[tuple[Hash, SignedTransaction] | TransactionError] = []
        for raw in raws:
            try:
                answers.append(self.check(raw))
            except TransactionError as error:
                answers.append(error)
            await slices.pause_if_due()
        await trio.lowlevel.checkpoint()
        return answers

    def _remember(self, transaction_hash: Hash, signed: SignedTransaction, size: int) -> None:
        verified = self._verified
        verified[transaction_hash] = (signed, size)
        self._bytes += size
        while len(verified) > self._verified_max or self._bytes > self._bytes_max:
            self._bytes -= verified.popitem(last=False)[1][1]
