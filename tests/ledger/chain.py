"""A chain of one process to test the ledger on: blocks in, committed state out.

After every block the whole state is read again from scratch, and whatever the ledger keeps beside
the entries (tree, indexes, references) must agree with it, and no coin may have come or gone.
"""

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256

import numpy as np
import pytest
from numpy.typing import NDArray
from quorate.chain.codec import encode
from quorate.chain.content import compute_content_hash
from quorate.chain.errors import ErrorCode, PendingError, TransactionError
from quorate.chain.evidence import DuplicateVoteEvidence
from quorate.chain.genesis import (
    Admission,
    Genesis,
    GenesisAccount,
    GenesisMember,
    GenesisValidator,
)
from quorate.chain.ids import Address, Hash, Signature
from quorate.chain.keys import PrivateKey
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.receipt import RoundOutcome, RoundReceipt
from quorate.chain.task import (
    AggregationRule,
    OptimizerName,
    RoundPolicy,
    ServerOptimizer,
    Stage,
    TaskSpec,
    TensorSpec,
    UpdateCodec,
)
from quorate.chain.transaction import (
    TRANSACTION_VERSION,
    Body,
    CreateTask,
    RegisterParticipant,
    SignedTransaction,
    SubmitUpdate,
    TaskStatus,
    Transaction,
    compute_transaction_hash,
)

from ledger.activity import get_awaited_count, is_awaited
from ledger.aggregates import AggregateInputs, AggregateOutput, AggregateSource, InlineAggregates
from ledger.deadlines import compute_wake
from ledger.execution import BlockContext, BlockExecution, ExecutionResult, validate_transaction
from ledger.genesis import build_genesis_state
from ledger.keys import (
    Prefix,
    get_participant_key,
    get_registration_key,
    get_seal_key,
    get_update_key,
)
from ledger.records import (
    AccountRecord,
    ParticipantRecord,
    RegistrationRecord,
    TaskRecord,
    UpdateRecord,
    UsageRecord,
    decode_record,
)
from ledger.state import DictReader, State

CHAIN_ID = "ledger-test"
BUCKET_COUNT = 16
NO_SIGNATURE = Signature(bytes(64))
COINS = 1_000_000
DEFAULT_PARAMETERS = ConsensusParameters()
MEAN = AggregationRule((Stage.MEAN,), 0)
TENSORS = (TensorSpec("w", (2, 2), 16, 12), TensorSpec("b", (2,), 16, 12))
DIMENSION = 6


def make_key(index: int) -> PrivateKey:
    return PrivateKey(index.to_bytes(32, "big"))


VALIDATORS = [make_key(1000 + index) for index in range(4)]
AUTHORITY = make_key(1)
PARTICIPANTS = [make_key(100 + index) for index in range(8)]
STRANGER = make_key(99)


class Payloads:
    """Payloads in memory."""

    def __init__(self) -> None:
        self.held: dict[Hash, bytes] = {}

    def put(self, data: bytes) -> Hash:
        name = compute_content_hash(data)
        self.held[name] = data
        return name

    def get(self, payload_hash: Hash, /) -> bytes | None:
        return self.held.get(payload_hash)

    def size(self, payload_hash: Hash, /) -> int | None:
        data = self.held.get(payload_hash)
        return None if data is None else len(data)

    def open_memmap(self, payload_hash: Hash, /) -> NDArray[np.uint8] | None:
        data = self.held.get(payload_hash)
        return None if data is None else np.frombuffer(data, np.uint8)


class SlowAggregates:
    """Has no result until it is told to be ready."""

    def __init__(self) -> None:
        self.is_ready = False
        self.asked: list[AggregateInputs] = []

    def get(
        self, inputs: AggregateInputs, compute: Callable[[], AggregateOutput], /
    ) -> AggregateOutput | None:
        self.asked.append(inputs)
        return compute() if self.is_ready else None


def make_policy(**changes: object) -> RoundPolicy:
    settings: dict[str, object] = {
        "deadline_ms": 10_000,
        "updates_min": 2,
        "updates_max": 8,
        "waive_proposer_spread": True,
    }
    return RoundPolicy(**(settings | changes))  # type: ignore[arg-type]


def encode_weights(values: Sequence[int]) -> bytes:
    return np.array(values, "<i4").tobytes()


def encode_update(values: Sequence[int]) -> bytes:
    return np.array(values, "<i2").tobytes()


INITIAL_WEIGHTS = encode_weights([0, 1, -1, 65536, -65536, 7])


def make_spec(name: str = "digits", **changes: object) -> TaskSpec:
    settings: dict[str, object] = {
        "name": name,
        "tensors": TENSORS,
        "initial_weights_root": compute_content_hash(INITIAL_WEIGHTS),
        "rule": MEAN,
        "optimizer": ServerOptimizer(OptimizerName.SGD),
        "codec": UpdateCodec.DENSE_INT16,
        "policy": make_policy(),
        "example_count_max": 0,
    }
    return TaskSpec(**(settings | changes))  # type: ignore[arg-type]


class Chain:
    """A chain under test."""

    def __init__(
        self,
        *,
        admission: Admission = Admission.OPEN,
        powers: Sequence[int] = (1, 1, 1, 1),
        fee_min: int = 0,
        members: Sequence[GenesisMember] = (),
        parameters: ConsensusParameters = DEFAULT_PARAMETERS,
        aggregates: AggregateSource | None = None,
        funded: Mapping[PrivateKey, int] | None = None,
        bucket_count: int = BUCKET_COUNT,
    ) -> None:
        if funded is None:
            is_open = admission is Admission.OPEN
            funded = dict.fromkeys((AUTHORITY, *PARTICIPANTS), COINS) if is_open else {}
        self.genesis = Genesis(
            chain_id=CHAIN_ID,
            genesis_time_ms=1_000,
            admission=admission,
            validators=tuple(
                GenesisValidator(f"v{index}", VALIDATORS[index].public_key, power)
                for index, power in enumerate(powers)
            ),
            accounts=tuple(GenesisAccount(key.address, coins) for key, coins in funded.items()),
            members=tuple(members),
            parameters=parameters,
            fee_min=fee_min,
            bucket_count=bucket_count,
        )
        self.validators = self.genesis.validator_set
        self.payloads = Payloads()
        self.aggregates = InlineAggregates() if aggregates is None else aggregates
        self.reader = DictReader(build_genesis_state(self.genesis), bucket_count)
        self.state = State(self.reader, self.genesis)
        self.entries = dict(build_genesis_state(self.genesis))
        self.turn = 0

    # --- transactions -----------------------------------------------------------------------------

    def sign(
        self,
        key: PrivateKey,
        body: Body,
        *,
        ahead: int = 0,
        fee: int | None = None,
        nonce: int | None = None,
        chain_id: str = CHAIN_ID,
    ) -> SignedTransaction:
        """A transaction with the sender's next nonce, `ahead` of it for later ones of a block."""
        if nonce is None:
            nonce = self.state.get_account(key.address).nonce + ahead
        fee = self.genesis.fee_min if fee is None else fee
        transaction = Transaction(TRANSACTION_VERSION, chain_id, key.public_key, nonce, fee, body)
        return SignedTransaction(transaction, NO_SIGNATURE)

    def make_update(
        self, task_id: Hash, values: Sequence[int], /, **changes: object
    ) -> SubmitUpdate:
        """An update of the open training round; its payload is at hand."""
        task = self.get_task(task_id)
        payload = encode_update(values)
        settings: dict[str, object] = {
            "task_id": task_id,
            "training_round": task.training_round,
            "base_weights_root": task.weights_root,
            "codec": UpdateCodec.DENSE_INT16,
            "payload_hash": self.payloads.put(payload),
            "payload_size": len(payload),
            "example_count": 10,
        }
        return SubmitUpdate(**(settings | changes))  # type: ignore[arg-type]

    def make_creation(self, spec: TaskSpec, weights: bytes = INITIAL_WEIGHTS) -> CreateTask:
        self.payloads.put(weights)
        return CreateTask(spec)

    # --- blocks -----------------------------------------------------------------------------------

    def make_context(
        self,
        *,
        proposer: int | None = None,
        after_ms: int = 100,
        evidence: tuple[DuplicateVoteEvidence, ...] = (),
    ) -> BlockContext:
        turn = self.turn if proposer is None else proposer
        return BlockContext(
            CHAIN_ID,
            self.state.height + 1,
            self.state.time_ms + after_ms,
            VALIDATORS[turn % len(self.validators)].address,
            self.validators,
            self.state.parameters,
            evidence,
            Hash(sha256(b"block %d" % self.state.height).digest()),
        )

    def begin(self, context: BlockContext) -> BlockExecution:
        return BlockExecution(self.state, context, self.payloads, self.aggregates)

    def run_block(
        self,
        *transactions: SignedTransaction,
        proposer: int | None = None,
        after_ms: int = 100,
        evidence: tuple[DuplicateVoteEvidence, ...] = (),
    ) -> ExecutionResult:
        """Execute and commit a block; all its transactions must be allowed."""
        context = self.make_context(proposer=proposer, after_ms=after_ms, evidence=evidence)
        execution = self.begin(context)
        for signed in transactions:
            execution.apply_transaction(hash_of(signed), signed)
        result = execution.finish()
        self.commit(result)
        return result

    def commit(self, result: ExecutionResult) -> None:
        coins = self.count_coins()
        for name, data in result.artifacts.items():
            assert self.payloads.put(data) == name
        self.reader.apply(result.writes)
        for key, value in result.writes.items():
            if value is None:
                self.entries.pop(key, None)
            else:
                self.entries[key] = value
        self.state.commit(result)
        self.turn += 1
        assert self.state.root == result.state_root
        assert self.count_coins() == coins
        self.assert_consistent()

    def assert_consistent(self) -> None:
        """What is kept in memory must be what the entries say."""
        fresh = State(self.reader, self.genesis)
        for name in ("root", "model_root", "height", "time_ms", "next_due_time_ms", "parameters"):
            assert getattr(fresh, name) == getattr(self.state, name), name
        for name in ("_leaves", "_created", "_members", "_references", "open_update_count"):
            assert getattr(fresh.indexes, name) == getattr(self.state.indexes, name), name
        assert fresh.indexes.get_frozen_rounds() == self.state.indexes.get_frozen_rounds()
        for time_ms in (self.state.time_ms, self.state.time_ms + 10**6):
            awake = fresh.indexes.get_awake_task_ids(time_ms)
            assert awake == self.state.indexes.get_awake_task_ids(time_ms)
        due = []
        for task_id in self.state.task_ids:
            task, spec = self.get_task(task_id), self.state.get_task_spec(task_id)
            assert spec is not None
            self.assert_slots_consistent(task_id, task)
            wake = compute_wake(task, spec.policy, self.state.time_ms)
            if wake is not None:
                due.append(wake.block_time_ms)
        assert self.state.next_due_time_ms == min(due, default=None)
        self.assert_usage_consistent()

    def assert_slots_consistent(self, task_id: Hash, task: TaskRecord) -> None:
        """Slots have no gaps, and registrations know their own."""
        found = {
            prefix: [key for key in self.entries if key[:33] == bytes([prefix]) + task_id]
            for prefix in (
                Prefix.PARTICIPANT,
                Prefix.REGISTRATION,
                Prefix.UPDATE,
                Prefix.EVALUATION,
            )
        }
        assert len(found[Prefix.PARTICIPANT]) == task.registered_count
        assert len(found[Prefix.REGISTRATION]) == task.registered_count
        frozen_count = 0 if task.frozen is None else task.frozen.update_count
        assert len(found[Prefix.UPDATE]) == task.update_count + frozen_count
        assert (get_seal_key(task_id) in self.entries) is (task.frozen is not None)
        assert len(found[Prefix.EVALUATION]) == task.evaluation_count
        awaited = 0
        for slot in range(task.registered_count):
            holder = self.state.get(get_participant_key(task_id, slot), ParticipantRecord)
            assert holder is not None
            key = get_registration_key(task_id, holder.participant)
            registration = self.state.get(key, RegistrationRecord)
            assert registration is not None
            assert registration.slot == slot
            awaited += is_awaited(task, registration)
            if registration.counted_round == task.training_round:
                update_key = get_update_key(task_id, task.training_round, registration.update_slot)
                update = self.state.get(update_key, UpdateRecord)
                assert update is not None
                assert update.participant == holder.participant
        assert get_awaited_count(task) == awaited
        assert not task.activity or sum(task.activity) == awaited

    def assert_usage_consistent(self) -> None:
        """What accounts are counted to take is what there is."""
        taken: dict[Address, list[int]] = {}
        for key, value in self.entries.items():
            record = decode_record(key, value)
            if isinstance(record, UpdateRecord):
                taken.setdefault(record.participant, [0, 0, 0])[2] += record.payload_size
            elif isinstance(record, TaskRecord) and record.status is not TaskStatus.COMPLETED:
                taken.setdefault(record.authority, [0, 0, 0])[1] += 1
            elif isinstance(record, RegistrationRecord):
                taken.setdefault(Address(key[33:]), [0, 0, 0])[0] += 1
        for key, value in self.entries.items():
            if key[0] == Prefix.USAGE:
                record = decode_record(key, value)
                assert isinstance(record, UsageRecord)
                counted = [record.registration_count, record.task_count, record.update_bytes]
                assert taken.pop(Address(key[1:])) == counted
        assert taken == {}

    def count_coins(self) -> int:
        records = (
            decode_record(key, value)
            for key, value in self.entries.items()
            if key[0] == Prefix.ACCOUNT
        )
        return sum(record.balance for record in records if isinstance(record, AccountRecord))

    # --- refusals ---------------------------------------------------------------------------------

    def assert_refused(
        self,
        signed: SignedTransaction,
        code: ErrorCode,
        words: str,
        *before: SignedTransaction,
        proposer: int | None = None,
    ) -> None:
        """The transaction is refused with a sentence, and it is as if it had never come.

        The same holds at the mempool's door, where nothing is `before` it.
        """
        context = self.make_context(proposer=proposer)
        execution, without = self.begin(context), self.begin(context)
        for earlier in before:
            execution.apply_transaction(hash_of(earlier), earlier)
            without.apply_transaction(hash_of(earlier), earlier)
        with pytest.raises(TransactionError, match=words) as caught:
            execution.apply_transaction(hash_of(signed), signed)
        assert caught.value.code is code
        assert_sentence(caught.value.message)
        assert execution.finish() == without.finish()
        if not before:
            with pytest.raises(TransactionError) as caught:
                self.ask_door(signed, context)
            assert caught.value.code is code

    def assert_pending(self, signed: SignedTransaction, *missing: Hash) -> None:
        """There is no verdict on the transaction yet, and nothing has changed."""
        context = self.make_context()
        execution = self.begin(context)
        with pytest.raises(PendingError) as caught:
            execution.apply_transaction(hash_of(signed), signed)
        assert caught.value.missing_payloads == missing
        assert execution.finish() == self.begin(context).finish()

    def ask_door(self, signed: SignedTransaction, context: BlockContext | None = None) -> None:
        account = self.state.get_account(signed.sender)
        validate_transaction(
            self.state,
            self.make_context() if context is None else context,
            signed,
            nonce=account.nonce,
            spendable=account.balance,
            payloads=self.payloads,
        )

    # --- tasks ------------------------------------------------------------------------------------

    def create_task(
        self,
        spec: TaskSpec | None = None,
        *,
        participants: int = 3,
        authority: PrivateKey = AUTHORITY,
        weights: bytes = INITIAL_WEIGHTS,
    ) -> Hash:
        """Create a task and register participants for it."""
        creation = self.make_creation(make_spec() if spec is None else spec, weights)
        signed = self.sign(authority, creation)
        self.run_block(signed)
        task_id = hash_of(signed)
        self.register(task_id, *PARTICIPANTS[:participants])
        return task_id

    def register(self, task_id: Hash, *keys: PrivateKey) -> ExecutionResult:
        return self.run_block(*(self.sign(key, RegisterParticipant(task_id)) for key in keys))

    def submit(self, task_id: Hash, *values: int, first: int = 0, **block: int) -> ExecutionResult:
        """A block in which participants submit constant updates, the `first` and those after."""
        updates = (
            self.sign(PARTICIPANTS[first + index], self.make_update(task_id, [value] * DIMENSION))
            for index, value in enumerate(values)
        )
        return self.run_block(*updates, **block)

    def get_task(self, task_id: Hash) -> TaskRecord:
        task = self.state.get_task(task_id)
        assert task is not None
        return task


def hash_of(signed: SignedTransaction) -> Hash:
    return compute_transaction_hash(encode(signed))


def get_receipt(result: ExecutionResult, outcome: RoundOutcome) -> RoundReceipt:
    """The block's one training round receipt, which has this outcome."""
    (receipt,) = result.receipts.rounds
    assert receipt.outcome is outcome
    return receipt


def assert_sentence(message: str) -> None:
    """An error is a sentence, or several, for people."""
    assert message[0].isupper()
    assert message.endswith(".")
    assert len(message.split()) >= 4
