"""Creating tasks, changing their status, and registering for them."""

import pytest
from quorate.chain.content import compute_content_hash
from quorate.chain.errors import ErrorCode
from quorate.chain.ids import Hash
from quorate.chain.merkle import EMPTY_ROOT
from quorate.chain.receipt import RoundOutcome
from quorate.chain.task import (
    PARAMETERS_MAX,
    AggregationRule,
    OptimizerName,
    ServerOptimizer,
    Stage,
    TensorSpec,
    UpdateCodec,
)
from quorate.chain.transaction import (
    ChangeTaskStatus,
    CreateTask,
    RegisterParticipant,
    RevokeParticipant,
    TaskStatus,
)
from quorate.chain.weights import ModelLeaf, compute_model_root

from ledger.indexes import get_task_payloads
from ledger.queries import get_participants
from tests.ledger.chain import (
    AUTHORITY,
    DIMENSION,
    INITIAL_WEIGHTS,
    PARTICIPANTS,
    STRANGER,
    Chain,
    encode_weights,
    get_receipt,
    hash_of,
    make_policy,
    make_spec,
)

UNKNOWN = Hash(b"?" * 32)


def test_a_new_task_is_in_the_model_root() -> None:
    chain = Chain()
    signed = chain.sign(AUTHORITY, chain.make_creation(make_spec()))
    result = chain.run_block(signed)
    task = chain.get_task(hash_of(signed))
    assert task.weights_root == compute_content_hash(INITIAL_WEIGHTS)
    assert task.authority == AUTHORITY.address
    assert task.deadline_time_ms == result.time_ms + 10_000
    leaf = ModelLeaf(hash_of(signed), task.weights_root, compute_content_hash(b""))
    assert result.model_root == compute_model_root((leaf,))
    assert result.artifacts == {}
    assert chain.state.is_payload_needed(task.weights_root)
    assert chain.state.find_task("digits") == hash_of(signed)


@pytest.mark.parametrize("stages", [(Stage.MEAN,), (Stage.CENTERED_CLIPPING,)])
@pytest.mark.parametrize("name", [OptimizerName.MOMENTUM, OptimizerName.ADAM])
def test_a_task_starts_with_an_empty_state(name: OptimizerName, stages: tuple[Stage, ...]) -> None:
    chain = Chain()
    optimizer = ServerOptimizer(name, adaptivity=66 if name is OptimizerName.ADAM else 0)
    spec = make_spec(rule=AggregationRule(stages, 0), optimizer=optimizer)
    signed = chain.sign(AUTHORITY, chain.make_creation(spec))
    result = chain.run_block(signed)
    task = chain.get_task(hash_of(signed))
    assert task.optimizer_root == EMPTY_ROOT == compute_content_hash(b"")
    assert result.artifacts == {}
    assert result.payload_references == {task.weights_root: 1}
    assert get_task_payloads(task) == (task.weights_root,)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tensors": (TensorSpec("w", (3,), 16, 12),) * 2}, "same name"),
        ({"tensors": (TensorSpec("w", (PARAMETERS_MAX, 2), 16, 12),)}, "the limit is"),
        ({"policy": make_policy(updates_min=5, updates_max=4)}, "maximum of 4 updates is below"),
        ({"rule": AggregationRule((Stage.MEDIAN,), 1)}, "needs n >= 2 . num_byzantine . 1 = 3"),
        ({"rule": AggregationRule((Stage.CLIP,), 0)}, "cannot be the last stage"),
        ({"rule": AggregationRule((Stage.MEDIAN,), 0), "example_count_max": 9}, "ignores example"),
        ({"optimizer": ServerOptimizer(OptimizerName.SGD, momentum=1)}, "has no momentum"),
        ({"optimizer": ServerOptimizer(OptimizerName.ADAM)}, "needs a positive adaptivity"),
        ({"rule": AggregationRule((Stage.MEAN,), 0, radius=1)}, "is a parameter of centered"),
        ({"top_k": 1}, "names no parameters: set top_k to 0"),
        ({"codec": UpdateCodec.TOP_K_INT16}, "choose top_k from 1 to 6"),
        ({"codec": UpdateCodec.TOP_K_INT16, "top_k": 7}, "names 7 of the model's 6 parameters"),
        ({"reward_pool": 1}, "set reward_pool to 0"),
        (
            {
                "tensors": (TensorSpec("w", (2**28 + 1,), 16, 12),),
                "optimizer": ServerOptimizer(OptimizerName.ADAM, adaptivity=1),
            },
            "take 4294967312 bytes",
        ),
    ],
)
def test_an_invalid_task_is_refused(changes: dict[str, object], words: str) -> None:
    chain = Chain()
    signed = chain.sign(AUTHORITY, chain.make_creation(make_spec(**changes)))
    chain.assert_refused(signed, ErrorCode.INVALID_TASK, words)


def test_the_initial_weights_are_those_of_the_task() -> None:
    chain = Chain()
    other = encode_weights([1] * DIMENSION)
    signed = chain.sign(AUTHORITY, CreateTask(make_spec()))
    chain.payloads.put(other)
    chain.assert_pending(signed, compute_content_hash(INITIAL_WEIGHTS))
    short = make_spec(initial_weights_root=chain.payloads.put(other[:-1]))
    signed = chain.sign(AUTHORITY, CreateTask(short))
    chain.assert_refused(signed, ErrorCode.PAYLOAD_MISMATCH, "23 bytes; 6 parameters take 24")


def test_a_task_waits_for_its_initial_weights() -> None:
    chain = Chain()
    creation = chain.make_creation(make_spec())
    payload = chain.payloads.held.pop(creation.payload_hash)
    signed = chain.sign(AUTHORITY, creation)
    chain.assert_pending(signed, creation.payload_hash)
    chain.payloads.put(payload)
    chain.run_block(signed)


def test_a_name_is_given_once() -> None:
    chain = Chain()
    first = chain.sign(AUTHORITY, chain.make_creation(make_spec()))
    second = chain.sign(STRANGER, chain.make_creation(make_spec()))
    chain.assert_refused(second, ErrorCode.ALREADY_EXISTS, "choose another name", first)
    chain.run_block(first)
    chain.assert_refused(second, ErrorCode.ALREADY_EXISTS, "choose another name")


def test_tasks_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.tasks.TASKS_MAX", 2)
    chain = Chain()
    chain.create_task(make_spec("a"))
    second = chain.sign(AUTHORITY, chain.make_creation(make_spec("b")))
    third = chain.sign(STRANGER, chain.make_creation(make_spec("c")))
    chain.assert_refused(third, ErrorCode.QUOTA_EXCEEDED, "has 2 tasks, its limit", second)
    chain.run_block(second)
    chain.assert_refused(third, ErrorCode.QUOTA_EXCEEDED, "has 2 tasks, its limit")


def test_unknown_tasks_are_named() -> None:
    chain = Chain()
    task_id = chain.create_task()
    bodies = (
        RegisterParticipant(UNKNOWN),
        RevokeParticipant(UNKNOWN, AUTHORITY.address),
        ChangeTaskStatus(UNKNOWN, TaskStatus.PAUSED),
        chain.make_update(task_id, [0] * DIMENSION, task_id=UNKNOWN),
    )
    for body in bodies:
        signed = chain.sign(AUTHORITY, body)
        chain.assert_refused(signed, ErrorCode.UNKNOWN_TASK, UNKNOWN.hex())


# --- status ---------------------------------------------------------------------------------------


def test_a_paused_task_takes_no_updates_and_its_clock_stands_still() -> None:
    chain = Chain()
    task_id = chain.create_task(participants=4)
    chain.submit(task_id, 1, 2)
    result = chain.run_block(chain.sign(AUTHORITY, ChangeTaskStatus(task_id, TaskStatus.PAUSED)))
    assert result.next_due_time_ms is None
    update = chain.sign(PARTICIPANTS[2], chain.make_update(task_id, [1] * DIMENSION))
    chain.assert_refused(update, ErrorCode.TASK_NOT_OPEN, "paused and takes no updates")
    assert chain.run_block(after_ms=20_000).receipts.rounds == ()
    result = chain.run_block(chain.sign(AUTHORITY, ChangeTaskStatus(task_id, TaskStatus.OPEN)))
    assert result.next_due_time_ms == result.time_ms + 10_000
    assert chain.get_task(task_id).deadline_time_ms == result.next_due_time_ms
    assert chain.run_block(after_ms=9_999).receipts.rounds == ()
    get_receipt(chain.run_block(after_ms=1), RoundOutcome.FINALIZED)


def test_completing_a_task_voids_its_open_round() -> None:
    chain = Chain()
    task_id = chain.create_task(participants=4)
    chain.submit(task_id, 1, 2)
    body = ChangeTaskStatus(task_id, TaskStatus.COMPLETED)
    result = chain.run_block(chain.sign(AUTHORITY, body))
    receipt = get_receipt(result, RoundOutcome.VOID)
    assert [update.score for update in receipt.updates] == [0, 0]
    assert len(result.released_payloads) == 2
    task = chain.get_task(task_id)
    assert (task.update_count, task.status) == (0, TaskStatus.COMPLETED)
    for sender, late in (
        (AUTHORITY, ChangeTaskStatus(task_id, TaskStatus.OPEN)),
        (PARTICIPANTS[5], RegisterParticipant(task_id)),
        (PARTICIPANTS[0], chain.make_update(task_id, [1] * DIMENSION)),
    ):
        chain.assert_refused(chain.sign(sender, late), ErrorCode.TASK_NOT_OPEN, "completed")


def test_completing_an_idle_task_needs_no_receipt() -> None:
    chain = Chain()
    task_id = chain.create_task()
    body = ChangeTaskStatus(task_id, TaskStatus.COMPLETED)
    assert chain.run_block(chain.sign(AUTHORITY, body)).receipts.rounds == ()


def test_the_status_is_changed_by_the_authority_to_another_one() -> None:
    chain = Chain()
    task_id = chain.create_task()
    foreign = chain.sign(PARTICIPANTS[0], ChangeTaskStatus(task_id, TaskStatus.PAUSED))
    chain.assert_refused(foreign, ErrorCode.NOT_AUTHORIZED, "Only the task's authority")
    same = chain.sign(AUTHORITY, ChangeTaskStatus(task_id, TaskStatus.OPEN))
    chain.assert_refused(same, ErrorCode.ALREADY_EXISTS, "open already")


# --- participants ---------------------------------------------------------------------------------


def addresses(chain: Chain, task_id: Hash) -> list[bytes]:
    return [view.address for view in get_participants(chain.state, task_id)]


def test_registration_is_once() -> None:
    chain = Chain()
    task_id = chain.create_task(participants=2)
    assert addresses(chain, task_id) == [key.address for key in PARTICIPANTS[:2]]
    again = chain.sign(PARTICIPANTS[0], RegisterParticipant(task_id))
    chain.assert_refused(again, ErrorCode.ALREADY_EXISTS, "registered for this task already")


def test_a_registration_ends_by_oneself_or_the_authority() -> None:
    chain = Chain()
    task_id = chain.create_task(participants=4)
    first, second, third, fourth = PARTICIPANTS[:4]
    foreign = chain.sign(third, RevokeParticipant(task_id, first.address))
    chain.assert_refused(foreign, ErrorCode.NOT_AUTHORIZED, "Only the participant itself")
    nobody = chain.sign(AUTHORITY, RevokeParticipant(task_id, STRANGER.address))
    chain.assert_refused(nobody, ErrorCode.NOT_FOUND, "is not registered")
    chain.run_block(
        chain.sign(first, RevokeParticipant(task_id, first.address)),
        chain.sign(AUTHORITY, RevokeParticipant(task_id, third.address)),
    )
    assert sorted(addresses(chain, task_id)) == sorted([second.address, fourth.address])
    chain.register(task_id, first)
    assert sorted(addresses(chain, task_id)) == sorted(
        [first.address, second.address, fourth.address]
    )
    chain.run_block(
        *(
            chain.sign(key, RevokeParticipant(task_id, key.address))
            for key in (first, second, fourth)
        )
    )
    assert addresses(chain, task_id) == []


@pytest.mark.parametrize("revoked", [0, 1, 2])
def test_a_revoked_participant_takes_its_update_along(revoked: int) -> None:
    chain = Chain()
    task_id = chain.create_task(participants=4)
    chain.submit(task_id, 10, 20, 30)
    address = PARTICIPANTS[revoked].address
    result = chain.run_block(chain.sign(AUTHORITY, RevokeParticipant(task_id, address)))
    assert len(result.released_payloads) == 1
    assert chain.get_task(task_id).update_count == 2
    # The fourth update completes the set of those who are left.
    receipt = get_receipt(chain.submit(task_id, 40, first=3), RoundOutcome.FINALIZED)
    counted = {update.participant for update in receipt.updates}
    assert counted == {key.address for key in PARTICIPANTS[:4]} - {address}
    assert chain.state.indexes.open_update_count == 0


def test_who_comes_back_may_submit_again() -> None:
    chain = Chain()
    task_id = chain.create_task(participants=3)
    chain.submit(task_id, 10)
    leaver = PARTICIPANTS[0]
    chain.run_block(
        chain.sign(leaver, RevokeParticipant(task_id, leaver.address)),
        chain.sign(leaver, RegisterParticipant(task_id), ahead=1),
    )
    receipt = get_receipt(chain.submit(task_id, 11, 12, 13), RoundOutcome.FINALIZED)
    assert len(receipt.updates) == 3


def test_participants_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.participants.REGISTRATIONS_MAX", 2)
    chain = Chain()
    task_id = chain.create_task(participants=2)
    more = chain.sign(PARTICIPANTS[2], RegisterParticipant(task_id))
    chain.assert_refused(more, ErrorCode.QUOTA_EXCEEDED, "2 participants, its limit")
