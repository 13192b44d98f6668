"""The state between blocks: its root, its caches, its proofs, and what is refused of a store."""

from collections.abc import Iterator, Mapping
from hashlib import sha256
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quorate.chain.codec import encode
from quorate.chain.errors import InvariantError, StorageError
from quorate.chain.genesis import Admission, Genesis, GenesisAccount, GenesisMember
from quorate.chain.ids import Address
from quorate.chain.merkle import EMPTY_ROOT, is_proof_valid
from quorate.chain.transaction import Transfer

from ledger.genesis import build_genesis_state, compute_genesis_roots
from ledger.keys import CHAIN_KEY, PARAMETERS_KEY, get_account_key
from ledger.records import AccountRecord, ChainRecord, decode_record, encode_record
from ledger.state import DictReader, State
from ledger.tree import (
    BUCKET_COUNT_MAX,
    BucketTree,
    compute_bucket,
    hash_entry,
    iterate_buckets,
    make_bucket,
)
from tests.ledger.chain import AUTHORITY, COINS, PARTICIPANTS, Chain, make_key, make_spec
from tests.ledger.reference import compute_naive_state_root

KEYS = st.binary(min_size=1, max_size=3)
VALUES = st.one_of(st.none(), st.binary(max_size=3))
WRITES = st.lists(st.dictionaries(KEYS, VALUES, max_size=12), max_size=6)


def build_tree(entries: Mapping[bytes, bytes], bucket_count: int) -> BucketTree:
    reader = DictReader(entries, bucket_count)
    buckets = iterate_buckets(reader.iterate_state())
    return BucketTree.build(bucket_count, ((n, make_bucket(rows).root) for n, rows in buckets))


@given(WRITES, st.sampled_from([1, 2, 3, 5, 7, 8, 13]))
def test_the_root_equals_one_from_scratch_after_any_writes(
    blocks: list[dict[bytes, bytes | None]], bucket_count: int
) -> None:
    entries: dict[bytes, bytes] = {}
    tree = build_tree(entries, bucket_count)
    buckets = {bucket: make_bucket([]) for bucket in range(bucket_count)}
    for writes in blocks:
        touched = {}
        for key, value in writes.items():
            if value is None:
                entries.pop(key, None)
            else:
                entries[key] = value
            bucket = compute_bucket(key, bucket_count)
            buckets[bucket] = buckets[bucket].apply([(key, value)])
            touched[bucket] = buckets[bucket].root
        before = tree.root
        patch = tree.compute_update(touched)
        assert tree.root == before
        tree.apply(patch)
        assert tree.root == patch.root == compute_naive_state_root(entries, bucket_count)
    assert tree.root == build_tree(entries, bucket_count).root


@given(st.dictionaries(KEYS, st.binary(max_size=3), max_size=20), st.dictionaries(KEYS, VALUES))
def test_a_bucket_is_the_same_however_it_came_about(
    entries: dict[bytes, bytes], writes: dict[bytes, bytes | None]
) -> None:
    after = {key: value for key, value in (entries | writes).items() if value is not None}
    at_once = make_bucket(sorted(entries.items())).apply(writes.items())
    one_by_one = make_bucket(sorted(entries.items()))
    for write in reversed(writes.items()):
        one_by_one = one_by_one.apply([write])
    assert at_once == one_by_one == make_bucket(sorted(after.items()))


def test_the_order_of_writes_is_nothing_to_the_root() -> None:
    chain = Chain()
    rows = [(bytes([n]), b"new") for n in range(4)]
    roots = {chain.state.compute_patch(dict(order)).root for order in permutations(rows)}
    assert len(roots) == 1


def test_a_patch_belongs_to_the_tree_it_was_computed_from() -> None:
    tree = BucketTree(4)
    one, other = (tree.compute_update({n: hash_entry(b"k", b"v")}) for n in (0, 1))
    tree.apply(one)
    with pytest.raises(InvariantError, match="from another state"):
        tree.apply(other)


def test_an_update_of_nothing_changes_nothing() -> None:
    tree = BucketTree(5)
    assert tree.compute_update({}).root == tree.root


def test_the_number_of_buckets_is_bounded() -> None:
    for count in (0, BUCKET_COUNT_MAX + 1):
        with pytest.raises(ValueError, match="number of buckets"):
            BucketTree(count)
    assert BucketTree(1).root == EMPTY_ROOT


def test_a_proof_is_an_entry_path_and_a_bucket_path() -> None:
    chain = Chain(bucket_count=5)
    chain.run_block(chain.sign(AUTHORITY, Transfer(make_key(7).address, 5)))
    for key, value in chain.entries.items():
        entry, bucket = chain.state.get_entry_proofs(key)
        leaf = encode((key, value))
        contents = chain.state.get_bucket(compute_bucket(key, 5))
        assert is_proof_valid(entry, contents.root, leaf)
        # The tree's leaves are the buckets' roots themselves, so that the path is walked by hand.
        assert walk(bucket.index, bucket.total, list(bucket.siblings), contents.root) == (
            chain.state.root
        )


def walk(index: int, total: int, siblings: list[bytes], node: bytes) -> bytes:
    while total > 1:
        if index ^ 1 < total:
            other = siblings.pop(0)
            pair = other + node if index % 2 else node + other
            node = sha256(b"\x01" + pair).digest()
        index //= 2
        total = (total + 1) // 2
    assert siblings == []
    return node


# --- committing -----------------------------------------------------------------------------------


def test_writes_must_be_stored_before_the_commit() -> None:
    chain = Chain()
    result = chain.begin(chain.make_context()).finish()
    with pytest.raises(InvariantError, match="in the store before"):
        chain.state.commit(result)
    chain.reader.apply(result.writes)
    chain.state.commit(result)
    with pytest.raises(InvariantError, match="does not follow"):
        chain.state.commit(result)


def test_executions_stand_side_by_side_and_leave_the_state_alone() -> None:
    chain = Chain()
    root, entries = chain.state.root, dict(chain.entries)
    results = []
    for amount in (1, 2):
        execution = chain.begin(chain.make_context())
        signed = chain.sign(AUTHORITY, Transfer(PARTICIPANTS[0].address, amount))
        execution.apply_transaction(bytes([amount]) * 32, signed)  # type: ignore[arg-type]
        results.append(execution.finish())
    assert chain.state.root == root
    assert results[0].state_root != results[1].state_root
    assert dict(list_entries(chain.reader)) == entries
    chain.commit(results[1])
    assert chain.state.get_account(AUTHORITY.address).balance == COINS - 2


def list_entries(reader: DictReader) -> Iterator[tuple[bytes, bytes]]:
    return ((key, value) for _, key, value in reader.iterate_state())


def test_caches_are_bounded_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    free = run_traffic()
    for name in ("RECORDS_CACHED_MAX", "LARGE_RECORDS_CACHED_MAX", "BUCKET_ENTRIES_CACHED_MAX"):
        monkeypatch.setattr(f"ledger.state.{name}", 3)
    tight = run_traffic()
    assert tight.state.root == free.state.root
    assert tight.state.model_root == free.state.model_root
    assert len(tight.state._records) <= 3
    assert len(tight.state._large_records) <= 3
    # The last bucket may bring as many entries as it has.
    most = max(len(bucket.keys) + 1 for bucket in tight.state._buckets.values())
    assert sum(len(b.keys) + 1 for b in tight.state._buckets.values()) <= 3 + most
    counted = sum(len(b.keys) + 1 for b in free.state._buckets.values())
    assert free.state._bucket_entries == counted


def run_traffic() -> Chain:
    chain = Chain()
    for name in "abc":
        task_id = chain.create_task(make_spec(name), participants=2)
        chain.submit(task_id, 1, 2)
        chain.run_block(chain.sign(AUTHORITY, Transfer(make_key(ord(name)).address, 5)))
    return chain


# --- genesis and stored data ----------------------------------------------------------------------


def test_genesis_becomes_accounts_or_members() -> None:
    chain = Chain()
    assert chain.state.get_account(AUTHORITY.address) == AccountRecord(0, COINS)
    assert (chain.state.height, chain.state.time_ms) == (0, 1_000)
    assert chain.state.next_due_time_ms is None
    member = GenesisMember(AUTHORITY.public_key, "lab", 4)
    closed = Chain(admission=Admission.PERMISSIONED, members=[member])
    assert closed.state.member_addresses == [AUTHORITY.address]


def test_genesis_roots_are_those_of_the_first_state() -> None:
    chain = Chain()
    roots = compute_genesis_roots(chain.genesis)
    assert roots.state_root == chain.state.root
    assert roots.state_root == compute_naive_state_root(chain.entries, 16)
    assert roots.model_root == chain.state.model_root == EMPTY_ROOT == roots.receipts_root


def test_the_order_of_the_genesis_document_is_nothing_to_the_root() -> None:
    def make(keys: list[int]) -> Genesis:
        accounts = tuple(GenesisAccount(make_key(n).address, n) for n in keys)
        return Genesis("c", 0, Admission.OPEN, Chain().genesis.validators, accounts, bucket_count=8)

    assert compute_genesis_roots(make([1, 2, 3])) == compute_genesis_roots(make([3, 1, 2]))


def test_a_chain_may_begin_at_any_height() -> None:
    genesis = Chain().genesis
    later = Genesis(
        genesis.chain_id, 0, Admission.OPEN, genesis.validators, initial_height=7, bucket_count=4
    )
    state = State(DictReader(build_genesis_state(later), 4), later)
    assert state.height == 6


def test_a_store_without_state_says_what_to_do() -> None:
    genesis = Chain().genesis
    with pytest.raises(StorageError, match=r"holds no state. Initialize it"):
        State(DictReader({}, genesis.bucket_count), genesis)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (CHAIN_KEY, b"\x94\x02\x00\x00\xff", "ChainRecord of the state cannot be read"),
        (PARAMETERS_KEY, b"\xc1", "ParametersRecord of the state cannot be read"),
        (CHAIN_KEY, b"\x93\x01\x00\x00", "ChainRecord of the state cannot be read"),
        (b"\xfe", b"\x91\x01", "unknown kind fe"),
        (b"", b"\x91\x01", "unknown kind"),
    ],
)
def test_records_of_another_version_are_refused_by_name(
    key: bytes, value: bytes, words: str
) -> None:
    with pytest.raises(StorageError, match=words):
        decode_record(key, value)


def test_the_short_way_of_encoding_accounts_is_the_canonical_one() -> None:
    for record in (AccountRecord(0, 0), AccountRecord(300, 2**63 - 1)):
        raw = encode_record(record)
        assert raw == encode(record)
        assert decode_record(get_account_key(Address(bytes(20))), raw) == record
    chain = ChainRecord(1, 2, -1)
    assert decode_record(CHAIN_KEY, encode_record(chain)) == chain


def test_a_record_of_the_wrong_kind_is_an_invariant_broken() -> None:
    chain = Chain()
    with pytest.raises(InvariantError, match="has a ParametersRecord"):
        chain.state.get(PARAMETERS_KEY, ChainRecord)
