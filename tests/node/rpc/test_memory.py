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
from quorate.chain.weights import ModelLeaf, compute_model_root

from node.rpc.model_history import ModelHistory
from node.rpc.round_index import RoundIndex, SearchUnfinished


def make_hash(number: int) -> Hash:
    return Hash(number.to_bytes(32, "big"))


TASK, OTHER = make_hash(1), make_hash(2)


@dataclass
class Models:
    """A state, as far as the history looks at it."""

    leaves: list[ModelLeaf] = field(default_factory=list)

    @property
    def model_root(self) -> Hash:
        return compute_model_root(tuple(self.leaves))

    def train(self, number: int) -> None:
        self.leaves = [
            ModelLeaf(task, make_hash(1000 * number + index), make_hash(7))
            for index, task in enumerate((TASK, OTHER, make_hash(3)))
        ]


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Models:
    monkeypatch.setattr("node.rpc.model_history.get_model_leaves", lambda state: state.leaves)
    return Models()


def test_past_heights_keep_their_proofs(models: Models) -> None:
    history = ModelHistory(models)
    roots = {}
    for height in range(1, 10):
        models.train(height // 3)
        roots[height] = models.model_root
        assert history.record(height, roots[height])
    for height, root in roots.items():
        proof = history.get_proof(height, OTHER)
        assert proof is not None
        assert proof.leaf.weights_root == make_hash(1000 * (height // 3) + 1)
        assert is_proof_valid(proof.proof, root, encode(proof.leaf))
    assert history.get_proof(10, OTHER) is None
    assert history.get_proof(5, make_hash(99)) is None
    assert history.get_proof(5, make_hash(0)) is None


def test_a_height_whose_models_are_gone_is_left_out(models: Models) -> None:
    history = ModelHistory(models)
    models.train(1)
    gone = models.model_root
    models.train(2)
    assert not history.record(4, gone)
    assert history.get_proof(4, TASK) is None
    assert history.record(5, models.model_root)
    assert history.record(5, models.model_root)
    assert history.get_proof(5, TASK) is not None


def test_the_history_is_bounded_in_heights_and_leaves(models: Models) -> None:
    history = ModelHistory(models, heights_kept=4)
    models.train(1)
    for height in range(1, 11):
        history.record(height, models.model_root)
    assert [h for h in range(1, 12) if history.get_proof(h, TASK)] == [7, 8, 9, 10]
    small = ModelHistory(models, leaves_kept_max=6)
    for height in range(1, 11):
        small.record(height, models.model_root)
    assert [h for h in range(1, 12) if small.get_proof(h, TASK)] == [9, 10]
    tiny = ModelHistory(models, leaves_kept_max=1)
    tiny.record(1, models.model_root)
    assert tiny.get_proof(1, TASK) is not None


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
