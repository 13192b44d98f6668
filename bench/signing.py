"""Accounts of a benchmark, and transfers signed before the clock starts.

Owns the keys, which anybody can compute, and the batches as the RPC takes them. Never sends.
"""

import multiprocessing
import os
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import msgspec
from quorate.chain.ids import Hash
from quorate.chain.keys import PrivateKey
from quorate.chain.transaction import (
    TRANSACTION_VERSION,
    Body,
    Transaction,
    Transfer,
    compute_transaction_hash,
    sign_transaction,
)

CHAIN_ID: Final = "bench"
AMOUNT: Final = 1
BALANCE: Final = 10**12


@dataclass(frozen=True, slots=True)
class Batch:
    """Transactions of one request.

    Attributes
    ----------
    body : bytes
        As `POST /v1/transactions/batch` takes it.
    hashes : tuple of bytes, 32
        Of its transactions, in order.
    """

    body: bytes
    hashes: tuple[Hash, ...]

    def __len__(self) -> int:
        return len(self.hashes)


@dataclass(frozen=True, slots=True)
class Senders:
    """Accounts that take turns in sending.

    Attributes
    ----------
    group : str
        What they are for; with the index, it is what a key follows from.
    first, count : int
        Their indices.
    """

    group: str
    first: int
    count: int

    def make_keys(self) -> list[PrivateKey]:
        """Return the accounts' keys."""
        return [make_key(self.group, self.first + i) for i in range(self.count)]


def make_key(group: str, index: int) -> PrivateKey:
    """Return a key that is the same in every run: it guards nothing."""
    return PrivateKey(sha256(f"quorate bench {group} {index}".encode()).digest())


def sign(key: PrivateKey, nonce: int, body: Body) -> bytes:
    """Return a signed transaction of the benchmark's chain."""
    return sign_transaction(
        key, Transaction(TRANSACTION_VERSION, CHAIN_ID, key.public_key, nonce, 0, body)
    )


def make_batch(submissions: Sequence[tuple[bytes, bytes | None]]) -> Batch:
    """Return the request for signed transactions and their payloads."""
    hashes = tuple(compute_transaction_hash(raw) for raw, _ in submissions)
    return Batch(msgspec.msgpack.encode(submissions), hashes)


def sign_transfers(senders: Senders, count: int, batch_size: int) -> list[Batch]:
    """Sign transfers of accounts that take turns, each to the next of them.

    Parameters
    ----------
    senders : Senders
        Accounts that have not sent anything yet.
    count : int
        How many transfers; rounded up to whole batches.
    batch_size : int
        Transfers of one batch.
    """
    keys = senders.make_keys()
    targets = [key.address for key in keys[1:] + keys[:1]]
    batches = []
    for start in range(0, count, batch_size):
        signed: list[tuple[bytes, bytes | None]] = []
        for number in range(start, start + batch_size):
            nonce, index = divmod(number, len(keys))
            signed.append((sign(keys[index], nonce, Transfer(targets[index], AMOUNT)), None))
        batches.append(make_batch(signed))
    return batches


def sign_all(everybody: Sequence[Senders], count: int, batch_size: int) -> list[list[Batch]]:
    """Sign transfers of several groups of accounts, on all processors.

    Parameters
    ----------
    everybody : sequence of Senders
    count : int
        How many transfers of each.
    batch_size : int
        Transfers of one batch.
    """
    # Started afresh: a copy of this process would have its threads' locks in any state.
    context = multiprocessing.get_context("spawn")
    workers = min(len(everybody), len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(workers, context, initializer=_ignore_interrupts) as pool:
        signed = [pool.submit(sign_transfers, each, count, batch_size) for each in everybody]
        return [each.result() for each in signed]


def _ignore_interrupts() -> None:
    """Leave Ctrl-C to the process that waits for this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
