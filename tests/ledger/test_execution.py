"""A block as a whole: order, refusals, what is missing, and one result on every machine."""

import contextlib
import os
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from quorate.chain.codec import encode
from quorate.chain.errors import BlockError, InvariantError, PendingError, TransactionError
from quorate.chain.ids import Hash
from quorate.chain.merkle import compute_root, is_proof_valid
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.receipt import TransactionReceipt
from quorate.chain.task import DEFAULT_RULE, AggregationRule
from quorate.chain.transaction import (
    Body,
    ChangeTaskStatus,
    FinalizeTrainingRound,
    RegisterParticipant,
    RevokeParticipant,
    SignedTransaction,
    SubmitEvaluation,
    TaskStatus,
    Transfer,
)

from ledger.execution import BlockContext, ExecutionResult, apply_block
from ledger.queries import get_model_proof, get_task
from tests.ledger.chain import (
    AUTHORITY,
    DIMENSION,
    PARTICIPANTS,
    VALIDATORS,
    Chain,
    hash_of,
    make_policy,
    make_spec,
)
from tests.ledger.reference import compute_naive_state_root

ROOT = Path(__file__).resolve().parents[2]


def run(chain: Chain, context: BlockContext, *transactions: SignedTransaction) -> ExecutionResult:
    named = [(hash_of(signed), signed) for signed in transactions]
    return apply_block(chain.state, context, named, chain.payloads, chain.aggregates)


def test_a_block_results_in_roots_and_receipts() -> None:
    chain = Chain()
    first = chain.sign(AUTHORITY, Transfer(PARTICIPANTS[0].address, 5))
    second = chain.sign(AUTHORITY, Transfer(PARTICIPANTS[0].address, 6), ahead=1)
    result = run(chain, chain.make_context(), first, second)
    receipts = tuple(TransactionReceipt(hash_of(tx), is_success=True) for tx in (first, second))
    assert result.receipts.transactions == receipts
    assert result.receipts_root == compute_root([encode(receipt) for receipt in receipts])
    assert list(result.writes) == sorted(result.writes)
    assert (result.validator_updates, result.height) == ((), 1)
    entries = dict(chain.entries)
    entries.update({key: value for key, value in result.writes.items() if value is not None})
    assert result.state_root == compute_naive_state_root(entries, 16)


def test_an_empty_block_moves_the_chain_on() -> None:
    chain = Chain()
    before = chain.state.root
    result = chain.run_block()
    assert (chain.state.height, chain.state.time_ms) == (1, result.time_ms)
    assert chain.state.root != before


def test_a_block_with_a_transaction_that_is_not_allowed_names_it() -> None:
    chain = Chain()
    good = chain.sign(AUTHORITY, Transfer(PARTICIPANTS[0].address, 5))
    with pytest.raises(BlockError) as caught:
        run(chain, chain.make_context(), good, good)
    assert f"transaction 1 ({hash_of(good).hex()}) is not allowed" in str(caught.value)
    assert "wrong_nonce" in str(caught.value)


def test_a_block_lists_all_the_payloads_it_misses() -> None:
    chain = Chain()
    task_id = chain.create_task(participants=4)
    updates = [chain.make_update(task_id, [value] * DIMENSION) for value in (1, 2, 3, 3)]
    creation = chain.make_creation(make_spec("another"))
    for update in (*updates[1:], creation):
        chain.payloads.held.pop(update.payload_hash, None)
    transactions = [
        chain.sign(key, update) for key, update in zip(PARTICIPANTS, updates, strict=False)
    ]
    with pytest.raises(PendingError) as caught:
        run(chain, chain.make_context(), *transactions, chain.sign(AUTHORITY, creation))
    assert caught.value.missing_payloads == (
        updates[1].payload_hash,
        updates[2].payload_hash,
        creation.payload_hash,
    )


def test_what_need_only_be_there_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Chain()
    task_id = chain.create_task(participants=3)
    updates = [chain.make_update(task_id, [value] * DIMENSION) for value in (1, 2, 3)]
    first = chain.payloads.held.pop(updates[0].payload_hash)
    creation = chain.make_creation(make_spec("another"))
    signed = [chain.sign(key, body) for key, body in zip(PARTICIPANTS, updates, strict=False)]
    asked: list[Hash] = []
    held = chain.payloads.held

    def open_memmap(name: Hash) -> NDArray[np.uint8]:
        asked.append(name)
        return np.frombuffer(held[name], np.uint8)

    monkeypatch.setattr(chain.payloads, "open_memmap", open_memmap)
    with pytest.raises(PendingError) as caught:
        run(chain, chain.make_context(), *signed, chain.sign(AUTHORITY, creation))
    assert (caught.value.missing_payloads, asked) == ((updates[0].payload_hash,), [])
    chain.payloads.put(first)
    run(chain, chain.make_context(), *signed, chain.sign(AUTHORITY, creation))
    # One by one at the door, and once more with the weights before by the round that they complete.
    named = [update.payload_hash for update in updates]
    assert asked[:3] == named
    assert sorted(asked[3:]) == sorted([*named, chain.get_task(task_id).weights_root])


def test_a_block_is_executed_on_its_own_parent() -> None:
    chain = Chain()
    context = chain.make_context()
    for wrong in (
        replace(context, height=2),
        replace(context, parameters=ConsensusParameters(precision_ms=7)),
    ):
        with pytest.raises(InvariantError, match="cannot execute"):
            chain.begin(wrong)


def test_an_execution_is_moot_once_its_height_is_committed() -> None:
    chain = Chain()
    execution = chain.begin(chain.make_context())
    chain.run_block()
    signed = chain.sign(AUTHORITY, Transfer(PARTICIPANTS[0].address, 5))
    with pytest.raises(PendingError, match="was committed while"):
        execution.apply_transaction(hash_of(signed), signed)
    with pytest.raises(PendingError, match="was committed while"):
        execution.finish()


def test_a_released_payload_may_be_needed_again() -> None:
    chain = Chain()
    task_id = chain.create_task(participants=2)
    result = chain.submit(task_id, 1, 2)
    payload = chain.make_update(task_id, [1] * DIMENSION).payload_hash
    assert payload in result.released_payloads
    assert not chain.state.is_payload_needed(payload)
    chain.submit(task_id, 1)
    assert chain.state.is_payload_needed(payload)


def test_every_model_leaf_is_proven() -> None:
    chain = Chain()
    ids = [chain.create_task(make_spec(name), participants=2) for name in "abcde"]
    chain.submit(ids[2], 1, 2)
    for task_id in ids:
        proof, view = get_model_proof(chain.state, task_id), get_task(chain.state, task_id)
        assert proof is not None
        assert view is not None
        assert proof.leaf.weights_root == view.record.weights_root
        assert is_proof_valid(proof.proof, chain.state.model_root, encode(proof.leaf))
    assert get_model_proof(chain.state, Hash(b"?" * 32)) is None


# --- one result -----------------------------------------------------------------------------------

RULE = AggregationRule(DEFAULT_RULE, num_byzantine=2)


def train(order: list[int], blocks: int) -> Chain:
    """Two rounds of eight participants, whose updates arrive in `order` in so many blocks."""
    chain = Chain(funded={})
    spec = make_spec(rule=RULE, policy=make_policy(updates_min=8))
    task_id = chain.create_task(spec, participants=8)
    for training_round in range(2):
        for start in range(0, 8, 8 // blocks):
            chain.run_block(
                *(
                    chain.sign(
                        PARTICIPANTS[index],
                        chain.make_update(task_id, make_values(index, training_round)),
                    )
                    for index in order[start : start + 8 // blocks]
                )
            )
    assert chain.get_task(task_id).rounds_finalized == 2
    return chain


def make_values(index: int, training_round: int) -> list[int]:
    return [(index * 977 + d * 313 + training_round * 71) % 4001 - 2000 for d in range(DIMENSION)]


def test_twenty_shuffles_of_the_arrival_give_one_model_root() -> None:
    draw = random.Random(5)
    roots = set()
    for trial in range(20):
        order = list(range(8))
        draw.shuffle(order)
        roots.add(train(order, blocks=(1, 2, 4, 8)[trial % 4]).state.model_root)
    assert len(roots) == 1


PROGRAM = """
from tests.ledger.test_execution import train
chain = train([3, 1, 7, 0, 2, 6, 5, 4], 4)
print(chain.state.root.hex(), chain.state.model_root.hex())
"""


def test_hash_seeds_and_threads_are_nothing_to_the_result() -> None:
    outputs = set()
    for seed, threads in (("0", "1"), ("4711", "2")):
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'sdk'}",
            "PYTHONHASHSEED": seed,
            "OPENBLAS_NUM_THREADS": threads,
        }
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        outputs.add(done.stdout)
    chain = train([3, 1, 7, 0, 2, 6, 5, 4], 4)
    assert outputs == {f"{chain.state.root.hex()} {chain.state.model_root.hex()}\n"}


# --- random blocks --------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["submit", "register", "revoke", "transfer", "pause", "time", "evaluate"]),
        st.integers(0, 4),
        st.integers(0, 3),
    ),
    max_size=25,
)


@settings(max_examples=100)
@given(STEPS, st.sampled_from([0, 2, 10**9]))
def test_random_blocks_keep_every_invariant(
    steps: list[tuple[str, int, int]], cost_max: int
) -> None:
    """`Chain.commit` holds coins, roots and indexes against the entries after every block."""
    chain = Chain(
        fee_min=1,
        parameters=ConsensusParameters(aggregation_cost_block_max=cost_max),
        funded=dict.fromkeys((AUTHORITY, *PARTICIPANTS), 1_000),
    )
    policy = make_policy(updates_max=3, staleness_max=1, deadline_ms=500)
    ids = [chain.create_task(make_spec(name, policy=policy)) for name in "ab"]
    for step in steps:
        transactions = make_transactions(chain, ids, *step)
        after_ms = 600 if step[0] == "time" else 10
        context = chain.make_context(proposer=step[2], after_ms=after_ms)
        execution = chain.begin(context)
        for signed in transactions:
            with contextlib.suppress(TransactionError):
                execution.apply_transaction(hash_of(signed), signed)
        chain.commit(execution.finish())
    naive = compute_naive_state_root(chain.entries, 16)
    assert chain.state.root == naive


def make_transactions(
    chain: Chain, ids: list[Hash], kind: str, who: int, task: int
) -> list[SignedTransaction]:
    key, task_id = PARTICIPANTS[who], ids[task % 2]
    record = chain.get_task(task_id)
    frozen = FinalizeTrainingRound(task_id, record.training_round)
    results = [chain.sign(VALIDATORS[task], frozen, fee=0)] if record.frozen is not None else []
    match kind:
        case "submit":
            body = chain.make_update(task_id, [who + 1] * DIMENSION)
            return [*results, chain.sign(key, body)]
        case "register":
            return [*results, chain.sign(key, RegisterParticipant(task_id))]
        case "revoke":
            return [chain.sign(AUTHORITY, RevokeParticipant(task_id, key.address))]
        case "transfer":
            return [chain.sign(key, Transfer(AUTHORITY.address, 7), fee=2)]
        case "pause":
            other = TaskStatus.PAUSED if record.status is TaskStatus.OPEN else TaskStatus.OPEN
            return [chain.sign(AUTHORITY, ChangeTaskStatus(task_id, other))]
        case "evaluate":
            root, number = record.weights_root, record.training_round
            return [chain.sign(key, SubmitEvaluation(task_id, number, root, who - 2, 1))]
        case _:
            return results


def test_every_kind_of_transaction_has_its_handlers() -> None:
    """The tags of the wire format, and the cases that execution knows, are the same."""
    source = (ROOT / "ledger" / "execution.py").read_text()
    bodies = get_args(Body)
    assert len(bodies) == 11
    for kind in bodies:
        assert source.count(f"case {kind.__name__}():") == 2


def test_every_code_of_the_ledger_is_provoked_by_a_test() -> None:
    def collect(folder: Path) -> set[str]:
        text = "".join(path.read_text() for path in sorted(folder.glob("*.py")))
        return set(re.findall(r"ErrorCode\.([A-Z_]+)", text))

    assert collect(ROOT / "ledger") <= collect(ROOT / "tests" / "ledger")


def test_the_state_of_a_known_chain_is_known() -> None:
    """Another root means that nodes of this version and the last cannot share a chain."""
    chain = Chain(fee_min=1)
    task_id = chain.create_task(participants=2)
    chain.submit(task_id, 1, 2)
    chain.run_block(chain.sign(AUTHORITY, Transfer(PARTICIPANTS[0].address, 5)))
    assert (
        chain.state.root.hex() == "d1fa6f8fe9bbae6b70813b775bbec2a0651e6f19be6667cb9d67fe86786d02d4"
    )
    assert (
        chain.state.model_root.hex()
        == "9853cb135aef9dd25c3aebdb6694630cae3933bf7747edbb8b4056f930c32a1b"
    )
