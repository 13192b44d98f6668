"""The mempool's door to the ledger: whether the next block would take a transaction.

Owns the context of that question. Never keeps a transaction.
"""

from collections.abc import Callable

import numpy as np
from quorate.chain.errors import ErrorCode, TransactionError
from quorate.chain.ids import Address, Hash
from quorate.chain.transaction import CreateTask, SignedTransaction, SubmitUpdate

from aggregation import PayloadBytes
from ledger.context import BlockContext
from ledger.execution import validate_transaction
from node.execution.executor import Executor
from node.execution.sliced_payloads import SlicedPayloads
from store.chain_store import ChainStore
from store.errors import PayloadRefused
from store.payload_contract import Payloads


class OfferedPayload:
    """The stored payloads, and one that came with the transaction in question.

    Parameters
    ----------
    payloads : SlicedPayloads
        The stored ones.
    payload_hash : bytes, 32
        The hash of the offered one, which has been verified.
    data : bytes
        The offered one.
    """

    def __init__(self, payloads: SlicedPayloads, payload_hash: Hash, data: bytes) -> None:
        self._payloads = payloads
        self._hash = payload_hash
        self._data = data

    def size(self, payload_hash: Hash, /) -> int | None:
        """Return how many bytes a payload has, or None."""
        return len(self._data) if payload_hash == self._hash else self._payloads.size(payload_hash)

    def open_memmap(self, payload_hash: Hash, /) -> PayloadBytes | None:
        """Return a payload by slices, or None."""
        if payload_hash == self._hash:
            return np.frombuffer(self._data, np.uint8)
        return self._payloads.open_memmap(payload_hash)


class LedgerDoor:
    """The committed state as the mempool looks at it (`node.mempool.door.Door`).

    Parameters
    ----------
    executor : Executor
        Holds the committed state and the chain's position.
    store : ChainStore
        Knows which transactions are decided.
    payloads : Payloads
        Where payloads of admitted transactions go.
    now_ms : callable
        The wall clock, in milliseconds: the time of the next block, as far as it is known.
    """

    def __init__(
        self,
        executor: Executor,
        store: ChainStore,
        payloads: Payloads,
        now_ms: Callable[[], int],
    ) -> None:
        self._executor = executor
        self._store = store
        self._payloads = payloads
        # Whoever aggregates from a payload verifies it, as does whoever sends it to others. Here it
        # is only looked at, in the middle of everything else, and hashing takes long.
        self._stored = SlicedPayloads(payloads, verify=False)
        self._now_ms = now_ms

    @property
    def height(self) -> int:
        """The height of the last block that the state shows."""
        return self._executor.position.height

    def check(
        self, signed: SignedTransaction, *, nonce: int, spendable: int, payload: bytes | None
    ) -> None:
        """Raise unless a block after the last decided one could hold this transaction."""
        position = self._executor.position
        context = BlockContext(
            chain_id=self._executor.chain_id,
            height=position.next_height,
            time_ms=max(self._now_ms(), position.time_ms + 1),
            proposer=position.validators.proposer.address,
            validators=position.validators,
            parameters=position.parameters,
            evidence=(),
        )
        body = signed.transaction.body
        source: SlicedPayloads | OfferedPayload = self._stored
        if payload is not None and isinstance(body, SubmitUpdate | CreateTask):
            source = OfferedPayload(self._stored, body.payload_hash, payload)
        validate_transaction(
            self._executor.state,
            context,
            signed,
            nonce=nonce,
            spendable=spendable,
            payloads=source,
        )

    def get_account(self, address: Address) -> tuple[int, int]:
        """Return nonce and balance of an account; zeros when there is none."""
        account = self._executor.state.get_account(address)
        return account.nonce, account.balance

    def is_decided(self, transaction_hash: Hash) -> bool:
        """Tell whether a decided block holds a transaction."""
        return self._store.find_transaction(transaction_hash) is not None

    def has_payload(self, payload_hash: Hash) -> bool:
        """Tell whether a payload is stored."""
        return self._payloads.has(payload_hash)

    def get_payload(self, payload_hash: Hash) -> bytes | None:
        """Return a stored payload, or None."""
        return self._payloads.get(payload_hash)

    def put_payload(self, payload_hash: Hash, data: bytes) -> None:
        """Store a payload of an admitted transaction; the mempool's journal has small ones too."""
        try:
            self._payloads.put_expected(payload_hash, data, sync=False)
        except PayloadRefused as error:
            raise TransactionError(
                ErrorCode.MEMPOOL_FULL,
                f"The payload cannot be stored ({error}): try again later, or at another node.",
            ) from error
