"""A small ledger behind the mempool's door, and transactions to push through it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from quorate.chain.content import compute_content_hash
from quorate.chain.errors import ErrorCode, PendingError, TransactionError
from quorate.chain.ids import Address, Hash
from quorate.chain.keys import PrivateKey
from quorate.chain.task import UpdateCodec
from quorate.chain.transaction import (
    SignedTransaction,
    SubmitUpdate,
    Transaction,
    Transfer,
    compute_transaction_hash,
    decode_transaction,
    sign_transaction,
)

from node.config import MempoolSection
from node.mempool import Mempool, PendingTransaction
from store.database import Database

CHAIN_ID = "mempool-test"
TASK = Hash(b"\x11" * 32)
BASE = Hash(b"\x22" * 32)
KEYS = [PrivateKey(bytes([number]) * 32) for number in range(1, 9)]


def make_transfer(
    key: PrivateKey, nonce: int, amount: int = 1, *, fee: int = 0, chain_id: str = CHAIN_ID
) -> bytes:
    to = Address(b"\x33" * 20)
    return sign_transaction(
        key, Transaction(1, chain_id, key.public_key, nonce, fee, Transfer(to, amount))
    )


def make_update(
    key: PrivateKey,
    nonce: int,
    payload: bytes,
    *,
    training_round: int = 0,
    task_id: Hash = TASK,
    fee: int = 0,
) -> bytes:
    body = SubmitUpdate(
        task_id,
        training_round,
        BASE,
        next(iter(UpdateCodec)),
        compute_content_hash(payload),
        len(payload),
        10,
    )
    return sign_transaction(key, Transaction(1, CHAIN_ID, key.public_key, nonce, fee, body))


def hash_of(raw: bytes) -> Hash:
    return compute_transaction_hash(raw)


@dataclass
class Ledger:
    """Accounts and one training round; a `Door` that remembers what it was asked."""

    balance: int = 1_000_000
    nonces: dict[Address, int] = field(default_factory=dict)
    balances: dict[Address, int] = field(default_factory=dict)
    decided: set[Hash] = field(default_factory=set)
    payloads: dict[Hash, bytes] = field(default_factory=dict)
    training_round: int = 0
    height: int = 0
    checks: int = 0
    payload_room: int = 1 << 40

    def check(
        self, signed: SignedTransaction, *, nonce: int, spendable: int, payload: bytes | None
    ) -> None:
        self.checks += 1
        transaction = signed.transaction
        assert transaction.nonce == nonce, "the mempool asks with the nonce that is due"
        body = transaction.body
        spending = transaction.fee + (body.amount if isinstance(body, Transfer) else 0)
        if spending > spendable:
            raise TransactionError(ErrorCode.INSUFFICIENT_BALANCE, "not enough")
        if isinstance(body, SubmitUpdate):
            if body.training_round != self.training_round:
                raise TransactionError(ErrorCode.WRONG_TRAINING_ROUND, "another training round")
            if payload is None:
                payload = self.payloads.get(body.payload_hash)
            if payload is None:
                raise PendingError("payload is missing", (body.payload_hash,))
            if payload.startswith(b"bad"):
                raise TransactionError(ErrorCode.VALUE_OUT_OF_RANGE, "a value is out of range")

    def get_account(self, address: Address) -> tuple[int, int]:
        return self.nonces.get(address, 0), self.balances.get(address, self.balance)

    def is_decided(self, transaction_hash: Hash) -> bool:
        return transaction_hash in self.decided

    def has_payload(self, payload_hash: Hash) -> bool:
        return payload_hash in self.payloads

    def get_payload(self, payload_hash: Hash) -> bytes | None:
        return self.payloads.get(payload_hash)

    def put_payload(self, payload_hash: Hash, data: bytes) -> None:
        if len(data) > self.payload_room:
            raise TransactionError(ErrorCode.MEMPOOL_FULL, "no room for the payload")
        self.payloads[payload_hash] = data

    def decide(self, raws: Sequence[bytes]) -> list[Hash]:
        """Move the state on by a block."""
        self.height += 1
        for raw in raws:
            signed = decode_transaction(raw)
            nonce, balance = self.get_account(signed.sender)
            body = signed.transaction.body
            spending = signed.transaction.fee
            spending += body.amount if isinstance(body, Transfer) else 0
            self.nonces[signed.sender] = nonce + 1
            self.balances[signed.sender] = balance - spending
            self.decided.add(hash_of(raw))
        return [hash_of(raw) for raw in raws]


@dataclass
class World:
    """A mempool, its ledger, its clock, and everything it said."""

    ledger: Ledger
    mempool: Mempool
    reports: list[tuple[str, int, str]] = field(default_factory=list)
    dropped: list[tuple[PendingTransaction, TransactionError]] = field(default_factory=list)
    wanted: list[tuple[Hash, int, str]] = field(default_factory=list)
    now: float = 0.0

    def decide(self, raws: Sequence[bytes], **options: Any) -> None:
        hashes = self.ledger.decide(raws)
        self.mempool.update(self.ledger.height, hashes, **options)

    def reap(self, bytes_max: int = 1 << 20, count_max: int = 1 << 20) -> list[bytes]:
        return [entry.raw for entry in self.mempool.reap(bytes_max, count_max)]

    def take_out(self, raw: bytes, error: TransactionError) -> bool:
        """Take out a transaction as a look at the new state does; tell whether it was pending."""
        entry = self.mempool._pool.remove(hash_of(raw))
        if entry is not None:
            self.mempool._dismiss(entry, error)
        return entry is not None


def make_world(
    journal: Database | None = None, ledger: Ledger | None = None, **limits: int
) -> World:
    ledger = Ledger() if ledger is None else ledger
    reports: list[tuple[str, int, str]] = []
    dropped: list[tuple[PendingTransaction, TransactionError]] = []
    wanted: list[tuple[Hash, int, str]] = []
    world: World
    mempool = Mempool(
        replace(MempoolSection(), **limits),
        CHAIN_ID,
        ledger,
        journal,
        lambda: world.now,
        report=lambda *report: reports.append(report),
        on_dropped=lambda entry, error: dropped.append((entry, error)),
        want_payload=lambda *wish: wanted.append(wish),
    )
    world = World(ledger, mempool, reports, dropped, wanted)
    return world


async def refuse(world: World, raw: bytes, payload: bytes | None = None) -> TransactionError:
    """Submit what must be refused; nothing may have changed."""
    before = (world.mempool.count, world.mempool.bytes_total, dict(world.ledger.payloads))
    with pytest.raises(TransactionError) as caught:
        await world.mempool.submit_local(raw, payload)
    assert before == (world.mempool.count, world.mempool.bytes_total, world.ledger.payloads)
    return caught.value
