"""The door that an update passes."""

import numpy as np
import pytest
from numpy.typing import NDArray
from quorate.chain.errors import ErrorCode
from quorate.chain.ids import Hash
from quorate.chain.receipt import RoundOutcome
from quorate.chain.task import TaskSpec, TensorSpec
from quorate.chain.transaction import RevokeParticipant

from tests.ledger.chain import (
    AUTHORITY,
    DIMENSION,
    PARTICIPANTS,
    STRANGER,
    Chain,
    encode_update,
    encode_weights,
    get_receipt,
    hash_of,
    make_policy,
    make_spec,
)

ONES = [1] * DIMENSION
STALE = Hash(b"s" * 32)


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"training_round": 1}, ErrorCode.WRONG_TRAINING_ROUND, "round 1, open is 0"),
        ({"base_weights_root": STALE}, ErrorCode.STALE_WEIGHTS, "train again"),
        ({"codec": 2}, ErrorCode.WRONG_CODEC, "has codec 2, the task takes dense_int16"),
        ({"payload_size": 10}, ErrorCode.WRONG_SHAPE, "10 bytes; 6 parameters in dense_int16"),
    ],
)
def test_an_update_that_does_not_fit_is_refused(
    changes: dict[str, object], code: ErrorCode, words: str
) -> None:
    chain = Chain()
    task_id = chain.create_task()
    signed = chain.sign(PARTICIPANTS[0], chain.make_update(task_id, ONES, **changes))
    chain.assert_refused(signed, code, words)


def test_only_the_registered_submit() -> None:
    chain = Chain()
    task_id = chain.create_task()
    for key in (STRANGER, AUTHORITY):
        signed = chain.sign(key, chain.make_update(task_id, ONES))
        chain.assert_refused(signed, ErrorCode.NOT_ADMITTED, "register it first")


def test_one_update_each() -> None:
    chain = Chain()
    task_id = chain.create_task()
    first = chain.sign(PARTICIPANTS[0], chain.make_update(task_id, ONES))
    second = chain.sign(PARTICIPANTS[0], chain.make_update(task_id, [2] * DIMENSION), ahead=1)
    words = "has an update in training round 0 already"
    chain.assert_refused(second, ErrorCode.DUPLICATE_UPDATE, words, first)
    chain.run_block(first)
    later = chain.sign(PARTICIPANTS[0], chain.make_update(task_id, ONES))
    chain.assert_refused(later, ErrorCode.DUPLICATE_UPDATE, words)


def test_a_full_round_takes_no_more() -> None:
    # The spread of proposers keeps the full round open for another block.
    policy = make_policy(updates_max=2, waive_proposer_spread=False)
    chain = Chain()
    task_id = chain.create_task(make_spec(policy=policy))
    chain.submit(task_id, 1, 2)
    late = chain.sign(PARTICIPANTS[2], chain.make_update(task_id, ONES))
    chain.assert_refused(late, ErrorCode.ROUND_FULL, "round 0 takes no more updates", proposer=1)


def test_the_smallest_integer_is_refused() -> None:
    chain = Chain()
    task_id = chain.create_task()
    bad = chain.make_update(task_id, [0, 0, -32768, 0, 0, 0])
    signed = chain.sign(PARTICIPANTS[0], bad)
    chain.assert_refused(signed, ErrorCode.VALUE_OUT_OF_RANGE, "value 2 of the update")
    chain.assert_refused(signed, ErrorCode.VALUE_OUT_OF_RANGE, "-32768")
    chain.run_block(chain.sign(PARTICIPANTS[0], chain.make_update(task_id, [-32767] * DIMENSION)))


def test_a_payload_has_the_size_that_was_signed() -> None:
    chain = Chain()
    task_id = chain.create_task()
    short = chain.payloads.put(encode_update(ONES)[:-2])
    signed = chain.sign(PARTICIPANTS[0], chain.make_update(task_id, ONES, payload_hash=short))
    chain.assert_refused(signed, ErrorCode.PAYLOAD_MISMATCH, "10 bytes, the transaction says 12")


def test_an_update_waits_for_its_payload_even_one_seen_before() -> None:
    chain = Chain()
    task_id = chain.create_task()
    update = chain.make_update(task_id, ONES)
    payload = chain.payloads.held.pop(update.payload_hash)
    signed = chain.sign(PARTICIPANTS[0], update)
    chain.assert_pending(signed, update.payload_hash)
    chain.payloads.put(payload)
    chain.ask_door(signed)
    # It was found valid; but a validator votes only with every payload at hand.
    del chain.payloads.held[update.payload_hash]
    chain.assert_pending(signed, update.payload_hash)


def test_a_payload_that_was_found_valid_is_not_read_again() -> None:
    chain = Chain()
    task_id = chain.create_task()
    update = chain.make_update(task_id, ONES)
    signed = chain.sign(PARTICIPANTS[0], update)
    chain.ask_door(signed)
    held = chain.payloads.held[update.payload_hash]
    # Of a large payload every block that names it would read megabytes.
    chain.payloads.held[update.payload_hash] = Unreadable(len(held))  # type: ignore[assignment]
    chain.ask_door(signed)
    chain.state.valid_updates.clear()
    with pytest.raises(TypeError):
        chain.ask_door(signed)


class Unreadable:
    """Something of which only the number of bytes is known."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size


def test_a_payload_is_not_asked_for_when_the_update_is_refused_anyway() -> None:
    chain = Chain()
    task_id = chain.create_task()
    update = chain.make_update(task_id, ONES, training_round=3)
    chain.payloads.held.clear()
    chain.assert_refused(
        chain.sign(PARTICIPANTS[0], update), ErrorCode.WRONG_TRAINING_ROUND, "open is 0"
    )


def test_payloads_may_be_views_of_files() -> None:
    chain = Chain()
    task_id = chain.create_task(participants=2)
    for index in (0, 1):
        update = chain.make_update(task_id, [index + 1] * DIMENSION)
        mapped = memoryview(np.frombuffer(chain.payloads.held[update.payload_hash], np.uint8))
        chain.payloads.held[update.payload_hash] = mapped  # type: ignore[assignment]
        result = chain.run_block(chain.sign(PARTICIPANTS[index], update))
    get_receipt(result, RoundOutcome.FINALIZED)


def test_a_large_update_is_read_by_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Chain()
    dimension = 1 << 20
    weights = encode_weights([0] * dimension)
    spec = make_spec(
        tensors=(TensorSpec("w", (dimension,), 16, 12),),
        initial_weights_root=chain.payloads.put(weights),
    )
    task_id = chain.create_task(spec, weights=weights)
    body = chain.make_update(task_id, [1] * dimension)
    slices = Slices(chain.payloads.held[body.payload_hash])
    monkeypatch.setattr(chain.payloads, "open_memmap", lambda _: slices)
    chain.ask_door(chain.sign(PARTICIPANTS[0], body))
    assert sum(slices.read) == slices.size == 2 * dimension
    assert max(slices.read) <= slices.size // 4


class Slices:
    """Bytes that note how many of them were read at a time."""

    def __init__(self, data: bytes) -> None:
        self.size = len(data)
        self.read: list[int] = []
        self._data = data

    def __getitem__(self, part: slice) -> NDArray[np.uint8]:
        found = np.frombuffer(self._data[part], np.uint8)
        self.read.append(found.size)
        return found


def test_the_layout_of_a_task_of_many_tensors_is_not_counted_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once a task is here, its record has the dimension, for updates and for aggregates."""
    chain = Chain()
    task_id = chain.create_task(make_spec(policy=make_policy(updates_max=2)), participants=2)
    monkeypatch.setattr(TaskSpec, "dimension", property(refuse_to_count))
    get_receipt(chain.submit(task_id, 1, 2), RoundOutcome.FINALIZED)


def refuse_to_count(spec: TaskSpec) -> int:
    raise AssertionError(f"the parameters of {spec.name} were counted")


def test_examples_are_capped_by_the_task() -> None:
    chain = Chain()
    task_id = chain.create_task(make_spec(example_count_max=100))
    over = chain.make_update(task_id, ONES, example_count=101)
    signed = chain.sign(PARTICIPANTS[0], over)
    chain.assert_refused(signed, ErrorCode.VALUE_OUT_OF_RANGE, "101 examples, the task at most 100")
    chain.run_block(
        chain.sign(PARTICIPANTS[0], chain.make_update(task_id, ONES, example_count=100))
    )
    free = chain.create_task(make_spec("free"))
    update = chain.make_update(free, ONES, example_count=2**32 - 1)
    chain.run_block(chain.sign(PARTICIPANTS[0], update))


def test_examples_weigh_only_when_the_task_says_so() -> None:
    weights = []
    for cap in (0, 100):
        chain = Chain()
        task_id = chain.create_task(make_spec(example_count_max=cap), participants=2)
        heavy = chain.make_update(task_id, [100] * DIMENSION, example_count=99)
        light = chain.make_update(task_id, [0] * DIMENSION, example_count=1)
        result = chain.run_block(
            chain.sign(PARTICIPANTS[0], heavy), chain.sign(PARTICIPANTS[1], light)
        )
        (data,) = result.artifacts.values()
        weights.append(np.frombuffer(data, "<i4")[0])
    # Four more fraction bits than the updates have: 16 times the mean, 50 and 99.
    assert weights == [800, 1584]


def test_updates_may_be_stale_as_far_as_the_task_allows() -> None:
    chain = Chain()
    policy = make_policy(staleness_max=2)
    task_id = chain.create_task(make_spec(policy=policy), participants=2)
    roots = [chain.get_task(task_id).weights_root]
    for value in (1, 2, 3):
        chain.submit(task_id, value, value)
        roots.append(chain.get_task(task_id).weights_root)
    assert chain.get_task(task_id).recent_roots == tuple(roots[1:3])
    too_old = chain.make_update(task_id, ONES, base_weights_root=roots[0])
    chain.assert_refused(
        chain.sign(PARTICIPANTS[0], too_old), ErrorCode.STALE_WEIGHTS, "fetch these"
    )
    for key, root in zip(PARTICIPANTS, roots[1:3], strict=False):
        chain.run_block(chain.sign(key, chain.make_update(task_id, ONES, base_weights_root=root)))
    assert chain.get_task(task_id).rounds_finalized == 4


def test_without_staleness_only_the_current_weights_serve() -> None:
    chain = Chain()
    task_id = chain.create_task(participants=2)
    before = chain.get_task(task_id).weights_root
    chain.submit(task_id, 1, 2)
    assert chain.get_task(task_id).recent_roots == ()
    old = chain.sign(PARTICIPANTS[0], chain.make_update(task_id, ONES, base_weights_root=before))
    chain.assert_refused(old, ErrorCode.STALE_WEIGHTS, "fetch these")


def test_open_updates_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.training.OPEN_UPDATES_MAX", 3)
    chain = Chain()
    one = chain.create_task(make_spec("one"), participants=3)
    other = chain.create_task(make_spec("other"), participants=3)
    chain.submit(one, 1, 2)
    third = chain.sign(PARTICIPANTS[0], chain.make_update(other, ONES))
    fourth = chain.sign(PARTICIPANTS[1], chain.make_update(other, ONES))
    chain.assert_refused(fourth, ErrorCode.QUOTA_EXCEEDED, "hold 3 updates, its limit", third)
    chain.run_block(third)
    chain.assert_refused(fourth, ErrorCode.QUOTA_EXCEEDED, "hold 3 updates, its limit")
    # A participant that leaves makes room in the very block, and so does a round that ends.
    leave = RevokeParticipant(other, PARTICIPANTS[0].address)
    execution = chain.begin(chain.make_context())
    for signed in (chain.sign(PARTICIPANTS[0], leave), fourth):
        execution.apply_transaction(hash_of(signed), signed)
    # The first task's round ends with its deadline, and there is room again.
    chain.run_block(after_ms=20_000)
    chain.run_block(chain.sign(PARTICIPANTS[1], chain.make_update(other, ONES)))


def test_what_is_found_valid_is_remembered_within_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.training.CHECKED_PAYLOADS_MAX", 2)
    chain = Chain()
    task_id = chain.create_task(make_spec(policy=make_policy(updates_max=8)), participants=8)
    for value in range(5):
        signed = chain.sign(PARTICIPANTS[value], chain.make_update(task_id, [value] * DIMENSION))
        chain.run_block(signed)
        assert 1 <= len(chain.state.valid_updates) <= 2
