"""What the RPC remembers by itself is bounded, and right as far as it goes."""

from dataclasses import dataclass, field

import pytest
from quorate.chain.codec import encode
from quorate.chain.errors import StorageError
from quorate.chain.ids import Hash
from quorate.chain.merkle import is_proof_valid
from quorate.chain.receipt import (
    BlockReceipts,
    RoundOutcome,
    RoundReceipt,
    TransactionReceipt,
)
from quorate.chain.weights import compute_model_root

from node.execution.model_places import ModelPlace, make_leaf
from node.rpc.model_history import ModelHistory
from node.rpc.round_index import RoundIndex, SearchUnfinished


def make_hash(number: int) -> Hash:
    return Hash(number.to_bytes(32, "big"))


TASK, OTHER = make_hash(1), make_hash(2)


@dataclass
class Models:
    """A state and a store, as far as the history looks at them."""

    documents: dict[str, list[tuple[int, bytes]]] = field(default_factory=dict)
    height: int = 0
    base: int = 1
    reads: int = 0

    @property
    def task_ids(self) -> list[Hash]:
        return [TASK, OTHER, make_hash(3)]

    def load_document(self, name: str, height: int) -> bytes | None:
        self.reads += 1
        if not self.base <= height <= self.height:
            return None
        versions = [raw for at, raw in self.documents.get(name, []) if at <= height]
        return versions[-1] if versions else None

    def train(self, number: int) -> Hash:
        """Decide a block in which every task has other weights; return its model root."""
        self.height += 1
        leaves = []
        for index, task in enumerate(self.task_ids):
            place = ModelPlace(self.height, number, make_hash(1000 * number + index), make_hash(7))
            self.documents.setdefault(task.hex(), []).append((self.height, encode(place)))
            leaves.append(make_leaf(task, place))
        return compute_model_root(tuple(leaves))

    def open(self, **limits: int) -> ModelHistory:
        return ModelHistory(self, self, **limits)  # type: ignore[arg-type]


async def test_past_heights_have_their_proofs() -> None:
    models = Models()
    history = models.open()
    roots = {}
    for number in range(1, 4):
        root = models.train(number)
        models.height += 2
        roots |= dict.fromkeys(range(models.height - 2, models.height + 1), root)
    for height, root in roots.items():
        proof = await history.get_proof(height, root, OTHER)
        assert proof is not None
        assert proof.leaf.weights_root == make_hash(1000 * ((height + 2) // 3) + 1)
        assert is_proof_valid(proof.proof, root, encode(proof.leaf))
    # The leaves of a root are read once, whatever the height.
    assert models.reads == 3 * 3
    assert await history.get_proof(5, roots[5], make_hash(99)) is None
    assert await history.get_proof(5, roots[5], make_hash(0)) is None


async def test_leaves_that_do_not_lead_to_the_header_prove_nothing() -> None:
    models = Models()
    first, second = models.train(1), models.train(2)
    history = models.open()
    assert await history.get_proof(1, second, TASK) is None
    assert await history.get_proof(1, first, TASK) is not None


async def test_the_memory_of_leaves_is_bounded_in_roots_and_leaves() -> None:
    models = Models()
    roots = [models.train(number) for number in range(10)]
    for limits, kept in (({"roots_kept": 4}, 4), ({"leaves_kept_max": 6}, 2), ({}, 10)):
        history = models.open(**limits)
        for height, root in enumerate(roots, 1):
            assert await history.get_proof(height, root, TASK) is not None
        assert list(history._by_root) == roots[-kept:]
        assert history._leaf_count == 3 * kept
    tiny = models.open(leaves_kept_max=1)
    assert await tiny.get_proof(1, roots[0], TASK) is not None


async def test_the_earliest_weights_are_those_before_a_gap() -> None:
    models = Models()
    for number in range(6):
        models.train(number)
    gone = make_hash(1000 * 2)

    def has(root: Hash) -> bool:
        return root != gone

    assert await models.open().find_earliest(TASK, has) == 4
    assert await models.open(places_max=2).find_earliest(TASK, has) == 5
    assert await models.open().find_earliest(TASK, lambda _root: False) is None
    assert await models.open().find_earliest(OTHER, has) == 1


async def test_below_the_stored_blocks_only_what_still_holds_is_known() -> None:
    models = Models()
    models.train(1)
    models.height, models.base = 9, 5
    history = models.open()
    for height in (1, 4, 9):
        place = history.get_place(height, TASK)
        assert place is not None
        assert place.height == 1
    assert history.get_place(10, TASK) is None
    models.train(2)
    models.base = 10
    assert history.get_place(9, TASK) is None


async def test_a_damaged_place_is_the_storages_fault() -> None:
    models = Models()
    root = models.train(1)
    models.documents[TASK.hex()] = [(1, b"\xc1")]
    with pytest.raises(StorageError, match="height 1 cannot be read"):
        await models.open().get_proof(1, root, TASK)


def make_receipt(task: Hash, number: int, outcome: RoundOutcome) -> RoundReceipt:
    return RoundReceipt(
        task, number, outcome, make_hash(4), make_hash(5), make_hash(6), (), 0, 0, 0, ()
    )


@dataclass
class Receipts:
    """A store, as far as the index looks at it."""

    by_height: dict[int, bytes] = field(default_factory=dict)
    base: int = 1
    reads: int = 0

    @property
    def height(self) -> int:
        return max(self.by_height, default=0)

    def load_receipts(self, height: int) -> bytes | None:
        self.reads += 1
        return self.by_height.get(height)

    def add(self, *rounds: RoundReceipt) -> None:
        transactions = (TransactionReceipt(make_hash(9), is_success=True),)
        self.by_height[self.height + 1] = encode(BlockReceipts(transactions, rounds))


def make_receipts(rounds: int) -> Receipts:
    """Each training round ends three heights after the last: frozen, empty, finalized."""
    store = Receipts()
    for number in range(rounds):
        store.add(make_receipt(TASK, number, RoundOutcome.FROZEN))
        store.add()
        outcome = RoundOutcome.VOID if number == 1 else RoundOutcome.FINALIZED
        store.add(make_receipt(TASK, number, outcome), make_receipt(OTHER, number, outcome))
    return store


async def test_earlier_rounds_are_found_backwards_and_once() -> None:
    store = make_receipts(10)
    index = RoundIndex(store)
    found = await index.find(TASK, 3)
    assert found is not None
    assert (found[0], found[1].outcome) == (12, RoundOutcome.FINALIZED)
    reads = store.reads
    for number in range(3, 10):
        found = await index.find(TASK, number)
        assert found is not None
        assert (found[0], found[1].outcome) == (3 * number + 3, RoundOutcome.FINALIZED)
    assert store.reads == reads + 7  # The blocks with the receipts alone.
    found = await index.find(TASK, 1)
    assert found is not None
    assert found[1].outcome is RoundOutcome.VOID


async def test_a_search_has_a_limit_and_goes_on() -> None:
    store = make_receipts(20)
    index = RoundIndex(store, heights_max=25)
    for _ in range(2):
        with pytest.raises(SearchUnfinished):
            await index.find(TASK, 0)
    assert store.reads == 50
    found = await index.find(TASK, 0)
    assert found is not None
    assert found[0] == 3


async def test_what_is_pruned_is_not_found() -> None:
    store = make_receipts(5)
    store.base = 7
    index = RoundIndex(store)
    assert await index.find(TASK, 0) is None
    assert await index.find(TASK, 2) is not None


async def test_what_is_told_needs_no_search() -> None:
    store = make_receipts(5)
    index = RoundIndex(store)
    store.add(make_receipt(TASK, 5, RoundOutcome.FINALIZED))
    index.add(TASK, 5, 16)
    found = await index.find(TASK, 5)
    assert found is not None
    assert (found[0], store.reads) == (16, 1)
    store.add(make_receipt(TASK, 6, RoundOutcome.FINALIZED))
    index.restart()
    found = await index.find(TASK, 6)
    assert found is not None
    assert found[0] == 17


async def test_an_end_is_found_before_it_is_told() -> None:
    store = make_receipts(5)
    index = RoundIndex(store)
    store.add(make_receipt(TASK, 5, RoundOutcome.FINALIZED))
    found = await index.find(TASK, 5)
    assert found is not None
    assert (found[0], store.reads) == (16, 2)
    for _ in range(100):
        store.add()
    store.add(make_receipt(TASK, 6, RoundOutcome.FINALIZED))
    index.tell_height(store.height)
    reads = store.reads
    assert await index.find(TASK, 6) is not None
    assert store.reads == reads + 2  # What has been told is not read again.


async def test_the_index_is_bounded() -> None:
    index = RoundIndex(make_receipts(1), entries_max=3)
    for number in range(10):
        index.add(TASK, number, number)
    assert len(index._heights) == 3


async def test_damaged_receipts_are_the_storages_fault() -> None:
    store = make_receipts(1)
    store.by_height[3] = b"\xc1"
    with pytest.raises(StorageError, match="height 3"):
        await RoundIndex(store).find(TASK, 0)
