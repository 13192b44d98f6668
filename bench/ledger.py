"""Figures of the ledger alone: transfers per block, and the state tree of a large chain.

Owns the measurement of `ledger/` in one process: no network, no disk, no signatures. Never
asserts a time.

Run as `python -m bench.ledger [--accounts 1000000] [--json FILE]`.
"""

import gc
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from quorate.chain.genesis import Admission, Genesis, GenesisAccount, GenesisValidator
from quorate.chain.ids import Address, Hash, PublicKey, Signature, compute_address
from quorate.chain.transaction import (
    TRANSACTION_VERSION,
    SignedTransaction,
    Transaction,
    Transfer,
)

from bench.command_line import (
    add_json_option,
    make_parser,
    report,
    run,
    whole_number,
    write_json,
)
from bench.machine import describe_machine
from ledger.execution import BlockContext, BlockExecution, InlineAggregates
from ledger.genesis import build_genesis_state
from ledger.keys import get_account_key
from ledger.records import AccountRecord, encode_record
from ledger.state import DictReader, State
from ledger.tree import BucketTree, compute_bucket, make_bucket

CHAIN_ID = "bench"
BUCKET_COUNT = 1 << 16
REPEATS = 5
TRANSFERS: Final = 1_000
"""Of a block."""
BLOCKS: Final = 10
TOUCHED: Final = 1_000
"""Accounts whose root is computed anew."""
ACCOUNTS_MAX: Final = 100_000_000
NO_SIGNATURE = Signature(bytes(64))


class NoPayloads:
    """A source of payloads that has none: transfers need none."""

    def get(self, _payload_hash: Hash, /) -> None:
        """Return None."""

    def size(self, _payload_hash: Hash, /) -> None:
        """Return None."""

    def open_memmap(self, _payload_hash: Hash, /) -> None:
        """Return None."""


def make_public_key(index: int) -> PublicKey:
    """Return a public key that nobody has the private key of."""
    return PublicKey(index.to_bytes(32, "big"))


def make_state(n_accounts: int) -> tuple[State, DictReader, Genesis]:
    """Return a fresh chain whose accounts have coins."""
    keys = [make_public_key(index) for index in range(n_accounts)]
    genesis = Genesis(
        chain_id=CHAIN_ID,
        genesis_time_ms=0,
        admission=Admission.OPEN,
        validators=(GenesisValidator("v", make_public_key(1 << 40), 1),),
        accounts=tuple(GenesisAccount(compute_address(key), 10**9) for key in keys),
        fee_min=1,
        bucket_count=BUCKET_COUNT,
    )
    reader = DictReader(build_genesis_state(genesis), BUCKET_COUNT)
    return State(reader, genesis), reader, genesis


def measure_transfers(n_transfers: int, n_blocks: int) -> dict[str, float]:
    """Execute blocks of transfers, each from a sender of its own to an account of its own."""
    state, reader, genesis = make_state(n_transfers)
    keys = [make_public_key(index) for index in range(n_transfers)]
    targets = [
        compute_address(make_public_key(n_transfers + index)) for index in range(n_transfers)
    ]
    proposer = compute_address(genesis.validators[0].public_key)
    validators = genesis.validator_set
    apply_s, finish_s, commit_s = [], [], []
    for height in range(1, n_blocks + 1):
        context = BlockContext(CHAIN_ID, height, height, proposer, validators, genesis.parameters)
        transactions = [
            SignedTransaction(
                Transaction(TRANSACTION_VERSION, CHAIN_ID, key, height - 1, 1, Transfer(target, 5)),
                NO_SIGNATURE,
            )
            for key, target in zip(keys, targets, strict=True)
        ]
        hashes = [Hash(index.to_bytes(32, "big")) for index in range(n_transfers)]
        start = time.perf_counter()
        execution = BlockExecution(state, context, NoPayloads(), InlineAggregates())
        for transaction_hash, signed in zip(hashes, transactions, strict=True):
            execution.apply_transaction(transaction_hash, signed)
        applied = time.perf_counter()
        result = execution.finish()
        finished = time.perf_counter()
        reader.apply(result.writes)
        stored = time.perf_counter()
        state.commit(result)
        apply_s.append(applied - start)
        finish_s.append(finished - applied)
        commit_s.append(time.perf_counter() - stored)
    return {
        "transfers_per_block": n_transfers,
        "apply_us_per_transfer": min(apply_s) / n_transfers * 1e6,
        "finish_with_roots_ms": min(finish_s) * 1e3,
        "commit_ms": min(commit_s) * 1e3,
        "block_ms": min(a + f for a, f in zip(apply_s, finish_s, strict=True)) * 1e3,
    }


def measure_tree(n_accounts: int, n_touched: int) -> dict[str, float]:
    """Update the root of a state of many accounts, some of them touched."""
    contents: dict[int, list[tuple[bytes, bytes]]] = {}
    value = encode_record(AccountRecord(1, 10**9))
    keys = []
    start = time.perf_counter()
    for index in range(n_accounts):
        key = get_account_key(Address(index.to_bytes(20, "big")))
        contents.setdefault(compute_bucket(key, BUCKET_COUNT), []).append((key, value))
        if index < n_touched:
            keys.append(key)
    buckets = {bucket: make_bucket(sorted(entries)) for bucket, entries in contents.items()}
    tree = BucketTree.build(BUCKET_COUNT, ((b, bucket.root) for b, bucket in buckets.items()))
    built = time.perf_counter() - start
    changed = encode_record(AccountRecord(2, 10**9 - 1))
    # The million entries stay out of the collector's way, as most of them would on disk.
    gc.freeze()
    rehash_s, update_s = [], []
    for _ in range(REPEATS):
        start = time.perf_counter()
        by_bucket: dict[int, list[tuple[bytes, bytes | None]]] = {}
        for key in keys:
            by_bucket.setdefault(compute_bucket(key, BUCKET_COUNT), []).append((key, changed))
        after = {bucket: buckets[bucket].apply(writes) for bucket, writes in by_bucket.items()}
        rehashed = time.perf_counter()
        tree.compute_update({bucket: contents.root for bucket, contents in after.items()}, after)
        rehash_s.append(rehashed - start)
        update_s.append(time.perf_counter() - start)
    gc.unfreeze()
    return {
        "accounts": n_accounts,
        "touched": n_touched,
        "build_s": built,
        "buckets_ms": min(rehash_s) * 1e3,
        "update_ms": min(update_s) * 1e3,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure, print, and write JSON if asked to."""
    parser = make_parser("bench.ledger", "Measure the ledger alone, in one process.")
    parser.add_argument(
        "--accounts",
        type=whole_number(TOUCHED, ACCOUNTS_MAX),
        default=1_000_000,
        metavar="NUMBER",
        help="of the state whose root is updated",
    )
    add_json_option(parser)
    options = parser.parse_args(arguments)

    def work() -> None:
        report(f"{BLOCKS} blocks of {TRANSFERS:,} transfers")
        transfers = measure_transfers(TRANSFERS, BLOCKS)
        report(f"a state of {options.accounts:,} accounts")
        figures = {"transfers": transfers, "tree": measure_tree(options.accounts, TOUCHED)}
        for name, rows in figures.items():
            for row, figure in rows.items():
                print(f"{name:<12}{row:<24}{figure:>14,.2f}")
        document = {"machine": asdict(describe_machine()), "figures": figures}
        write_json(options.json, document)

    return run(work, left="nothing is left of it")


if __name__ == "__main__":
    sys.exit(main())
