"""The execution of a block: a table of contents of the ledger's rules.

Owns the order in which a block is executed and which handler a transaction goes to; each domain
has a file of its own. Never verifies a signature of a transaction (the caller has) and changes
nothing outside its own overlay: what a block does is in its result.

The order: the block's evidence; its transactions, one by one; at its end the training rounds
whose time has come; then receipts and roots.
"""

from collections.abc import Sequence
from typing import assert_never

from quorate.chain.errors import BlockError, InvariantError, PendingError, TransactionError
from quorate.chain.ids import Address, Hash, compute_address
from quorate.chain.receipt import BlockReceipts, TransactionReceipt
from quorate.chain.transaction import (
    AdmitMember,
    Body,
    ChangeParameters,
    ChangeTaskStatus,
    CreateTask,
    FinalizeTrainingRound,
    RegisterParticipant,
    RevokeMember,
    RevokeParticipant,
    SignedTransaction,
    SubmitEvaluation,
    SubmitUpdate,
    Transfer,
)
from quorate.chain.weights import ModelLeaf

from ledger.accounts import apply_envelope, apply_transfer, validate_envelope
from ledger.aggregates import (
    AggregateInputs,
    AggregateOutput,
    AggregateSource,
    InlineAggregates,
)
from ledger.context import BlockContext, PayloadSource
from ledger.environment import Environment
from ledger.evaluations import apply_submit_evaluation, validate_submit_evaluation
from ledger.finalization import apply_finalize_training_round, validate_finalize_training_round
from ledger.indexes import get_model_leaf
from ledger.keys import CHAIN_KEY
from ledger.membership import (
    apply_admit_member,
    apply_revoke_member,
    validate_admit_member,
    validate_member,
    validate_revoke_member,
)
from ledger.offences import process_evidence
from ledger.overlay import Overlay, encode_records
from ledger.parameters import (
    apply_change_parameters,
    get_parameters,
    validate_change_parameters,
)
from ledger.participants import (
    apply_register_participant,
    apply_revoke_participant,
    validate_register_participant,
    validate_revoke_participant,
)
from ledger.quotas import validate_transaction_count
from ledger.records import NO_TIME, ChainRecord
from ledger.result import ExecutionResult
from ledger.rounds import (
    compute_next_due_time,
    get_finalizations_due,
    process_proposer,
    process_training_rounds,
)
from ledger.state import State
from ledger.tasks import (
    apply_change_task_status,
    apply_create_task,
    validate_change_task_status,
    validate_create_task,
)
from ledger.training import apply_submit_update, validate_submit_update

__all__ = [
    "AggregateInputs",
    "AggregateOutput",
    "AggregateSource",
    "BlockContext",
    "BlockExecution",
    "ExecutionResult",
    "InlineAggregates",
    "PayloadSource",
    "apply_block",
    "validate_transaction",
]


class BlockExecution:
    """One block under execution on top of the committed state.

    Parameters
    ----------
    state : State
        Read, never changed; several executions of one height may stand side by side.
    context : BlockContext
    payloads : PayloadSource
    aggregates : AggregateSource

    Raises
    ------
    BlockError
        If an offence that the context has evidence of is recorded already.
    InvariantError
        If the context is not that of the block after the committed state.
    """

    def __init__(
        self,
        state: State,
        context: BlockContext,
        payloads: PayloadSource,
        aggregates: AggregateSource,
    ) -> None:
        if context.height != state.height + 1 or context.parameters != state.parameters:
            raise InvariantError(
                f"the state of height {state.height} cannot execute height {context.height}, or"
                " other parameters are in force"
            )
        self._env = Environment(Overlay(state), context, payloads, aggregates)
        self._hashes: list[Hash] = []
        process_evidence(self._env)
        process_proposer(self._env)

    def apply_transaction(self, transaction_hash: Hash, signed: SignedTransaction) -> None:
        """Execute one transaction, whole or not at all.

        Parameters
        ----------
        transaction_hash : bytes, 32
            A task is known by the hash of the transaction that created it.
        signed : SignedTransaction
            Its signature has been verified.

        Raises
        ------
        TransactionError
            If the transaction is not allowed; nothing has changed.
        PendingError
            If its payload or aggregate is not here, or the height was committed meanwhile;
            nothing has changed.
        """
        self._require_base()
        transaction = signed.transaction
        sender = compute_address(transaction.sender)
        account = self._env.view.get_account(sender)
        is_result = isinstance(transaction.body, FinalizeTrainingRound)
        if not is_result:
            validate_transaction_count(self._env, sender)
        validate_envelope(self._env, transaction, account.nonce, account.balance)
        validate_body(self._env, sender, transaction.body)
        apply_body(self._env, sender, transaction_hash, transaction.body)
        apply_envelope(self._env, account, transaction.fee)
        if not is_result:
            counts = self._env.sender_counts
            counts[sender] = counts.get(sender, 0) + 1
        self._hashes.append(transaction_hash)

    def finish(self) -> ExecutionResult:
        """End the block: training rounds, receipts and roots. Called once, last.

        Raises
        ------
        PendingError
            If an aggregate is not here, or the height was committed meanwhile.
        """
        self._require_base()
        env = self._env
        process_training_rounds(env)
        next_due_time_ms = compute_next_due_time(env)
        env.view.put(
            CHAIN_KEY,
            ChainRecord(
                env.context.height,
                env.context.time_ms,
                NO_TIME if next_due_time_ms is None else next_due_time_ms,
            ),
        )
        records = env.view.get_records()
        writes = encode_records(records)
        patch = env.view.state.compute_patch(writes)
        receipts = BlockReceipts(
            tuple(TransactionReceipt(tx_hash, is_success=True) for tx_hash in self._hashes),
            tuple(env.round_receipts),
        )
        return ExecutionResult(
            height=env.context.height,
            time_ms=env.context.time_ms,
            writes=writes,
            tree_patch=patch,
            state_root=patch.root,
            receipts=receipts,
            receipts_root=receipts.root,
            model_root=_compute_model_root(env),
            validator_updates=(),
            parameters=get_parameters(env).parameters,
            next_due_time_ms=next_due_time_ms,
            artifacts=env.artifacts,
            released_payloads=env.get_released_payloads(),
            finalizations_due=get_finalizations_due(env),
            records=records,
            payload_references=env.references,
        )

    def _require_base(self) -> None:
        # A caller may execute in slices; what it began on an older state has become moot.
        if self._env.view.state.height != self._env.context.height - 1:
            raise PendingError("the height was committed while a block of it was being executed")


def apply_block(
    state: State,
    context: BlockContext,
    transactions: Sequence[tuple[Hash, SignedTransaction]],
    payloads: PayloadSource,
    aggregates: AggregateSource,
) -> ExecutionResult:
    """Execute a whole block.

    Raises
    ------
    BlockError
        If a transaction is not allowed; the message names it and says why.
    PendingError
        If a payload or an aggregate is not here. It lists, beside the first payload missed, those
        that the rest of the block will miss.
    """
    execution = BlockExecution(state, context, payloads, aggregates)
    for index, (transaction_hash, signed) in enumerate(transactions):
        try:
            execution.apply_transaction(transaction_hash, signed)
        except TransactionError as error:
            raise BlockError(
                f"transaction {index} ({transaction_hash.hex()}) is not allowed: {error}"
            ) from error
        except PendingError as error:
            rest = [later for _, later in transactions[index + 1 :]]
            missing = _find_missing_payloads(error.missing_payloads, rest, payloads)
            raise PendingError(str(error), missing) from error
    return execution.finish()


def validate_transaction(
    state: State,
    context: BlockContext,
    signed: SignedTransaction,
    *,
    nonce: int,
    spendable: int,
    payloads: PayloadSource,
) -> None:
    """Check a transaction at the mempool's door, by the rules of execution.

    Parameters
    ----------
    state : State
        The committed state.
    context : BlockContext
        Of the next block, as far as it is known.
    signed : SignedTransaction
        Its signature has been verified.
    nonce : int
        The nonce the sender's next transaction must carry, those pending counted.
    spendable : int
        The sender's balance less what its pending transactions spend.
    payloads : PayloadSource

    Raises
    ------
    TransactionError
        If the transaction is not allowed.
    PendingError
        If everything else is right, but its payload is not here and may be pulled.
    """
    env = Environment(Overlay(state), context, payloads, InlineAggregates())
    transaction = signed.transaction
    validate_envelope(env, transaction, nonce, spendable)
    validate_body(env, compute_address(transaction.sender), transaction.body)


def validate_body(env: Environment, sender: Address, body: Body) -> None:
    """Check what a transaction asks for against the state, changing nothing.

    Raises
    ------
    TransactionError
        If it is not allowed.
    PendingError
        If it is, but for a payload that is not here.
    """
    match body:
        case Transfer():
            validate_member(env, sender)
        case SubmitUpdate():
            validate_submit_update(env, sender, body)
        case SubmitEvaluation():
            validate_submit_evaluation(env, sender, body)
        case RegisterParticipant():
            validate_register_participant(env, sender, body)
        case RevokeParticipant():
            validate_revoke_participant(env, sender, body)
        case CreateTask():
            validate_create_task(env, sender, body)
        case ChangeTaskStatus():
            validate_change_task_status(env, sender, body)
        case FinalizeTrainingRound():
            validate_finalize_training_round(env, sender, body)
        case AdmitMember():
            validate_admit_member(env, sender, body)
        case RevokeMember():
            validate_revoke_member(env, sender, body)
        case ChangeParameters():
            validate_change_parameters(env, sender, body)
        case _:
            assert_never(body)


def apply_body(env: Environment, sender: Address, transaction_hash: Hash, body: Body) -> None:
    """Do what a valid transaction asks for.

    Raises
    ------
    PendingError
        If the aggregate of a frozen training round is not here; nothing has changed.
    """
    match body:
        case Transfer():
            apply_transfer(env, sender, body)
        case SubmitUpdate():
            apply_submit_update(env, sender, body)
        case SubmitEvaluation():
            apply_submit_evaluation(env, sender, body)
        case RegisterParticipant():
            apply_register_participant(env, sender, body)
        case RevokeParticipant():
            apply_revoke_participant(env, sender, body)
        case CreateTask():
            apply_create_task(env, sender, transaction_hash, body)
        case ChangeTaskStatus():
            apply_change_task_status(env, body)
        case FinalizeTrainingRound():
            apply_finalize_training_round(env, body)
        case AdmitMember():
            apply_admit_member(env, body)
        case RevokeMember():
            apply_revoke_member(env, body)
        case ChangeParameters():
            apply_change_parameters(env, body)
        case _:
            assert_never(body)


def _compute_model_root(env: Environment) -> Hash:
    changed: dict[Hash, ModelLeaf] = {}
    for task_id, task in env.view.get_changed_tasks().items():
        leaf = get_model_leaf(task_id, task)
        before = env.view.state.get_task(task_id)
        if before is None or leaf != get_model_leaf(task_id, before):
            changed[task_id] = leaf
    state = env.view.state
    return state.indexes.compute_model_root(changed) if changed else state.model_root


def _find_missing_payloads(
    first: tuple[bytes, ...],
    transactions: Sequence[SignedTransaction],
    payloads: PayloadSource,
) -> tuple[bytes, ...]:
    missing = dict.fromkeys(first)
    for signed in transactions:
        body = signed.transaction.body
        if not isinstance(body, SubmitUpdate | CreateTask) or body.payload_hash in missing:
            continue
        if payloads.size(body.payload_hash) is None:
            missing[body.payload_hash] = None
    return tuple(missing)
