"""One value of every wire type, made from fixed seeds, for the tests of their encoding."""

from quorate.chain.announcement import PayloadAnnouncement, sign_announcement
from quorate.chain.block import (
    APP_VERSION,
    BLOCK_VERSION,
    Block,
    BlockPart,
    Header,
    Version,
    compute_block_id,
    compute_last_commit_root,
    compute_transactions_root,
    split_block,
)
from quorate.chain.codec import encode
from quorate.chain.evidence import DuplicateVoteEvidence, make_duplicate_vote_evidence
from quorate.chain.genesis import Admission, Genesis, GenesisValidator
from quorate.chain.ids import Hash, Height, Round
from quorate.chain.keys import Domain, PrivateKey
from quorate.chain.merkle import MerkleProof, compute_proofs, compute_root
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.receipt import (
    Absence,
    AbsenceReason,
    BlockReceipts,
    MedianMetric,
    RoundOutcome,
    RoundReceipt,
    ScoreName,
    SealCause,
    TransactionReceipt,
    UpdateReceipt,
)
from quorate.chain.round_policy import RoundMode, StalenessWeighting
from quorate.chain.task import (
    AggregationRule,
    BelowMinimum,
    OptimizerName,
    RoundPolicy,
    ServerOptimizer,
    Stage,
    TaskSpec,
    TensorSpec,
    UpdateCodec,
)
from quorate.chain.transaction import (
    AdmitMember,
    Approval,
    Body,
    ChangeParameters,
    ChangeTaskStatus,
    CreateTask,
    FinalizeTrainingRound,
    Metric,
    RegisterParticipant,
    RevokeMember,
    RevokeParticipant,
    Role,
    SignedTransaction,
    SubmitEvaluation,
    SubmitUpdate,
    TaskStatus,
    Transaction,
    Transfer,
    compute_approval_bytes,
    decode_transaction,
    sign_transaction,
)
from quorate.chain.validators import Validator, ValidatorSet, ValidatorUpdate
from quorate.chain.vote import (
    BlockId,
    Commit,
    Proposal,
    Vote,
    VoteType,
    compute_proposal_sign_bytes,
    compute_vote_sign_bytes,
)
from quorate.chain.weights import ModelLeaf

CHAIN_ID = "samples-1"
KEYS = tuple(PrivateKey(bytes([i]) * 32) for i in range(1, 6))


def make_hash(label: str) -> Hash:
    """A hash that is recognized by its label."""
    return Hash(compute_root([label.encode()]))


def make_validators(powers: tuple[int, ...] = (10, 20, 30, 40)) -> ValidatorSet:
    """A set in which the i-th key has the i-th power."""
    return ValidatorSet.from_powers(
        (key.public_key, power) for key, power in zip(KEYS, powers, strict=False)
    )


def make_vote(
    key: PrivateKey,
    block_id: BlockId | None,
    *,
    type_: VoteType = VoteType.PRECOMMIT,
    height: int = 7,
    round_: int = 0,
    chain_id: str = CHAIN_ID,
) -> Vote:
    """A signed vote."""
    message = compute_vote_sign_bytes(chain_id, type_, height, round_, block_id)
    return Vote(
        type_,
        Height(height),
        Round(round_),
        block_id,
        key.address,
        key.sign(Domain.VOTE, message),
    )


def make_commit(
    validators: ValidatorSet,
    block_id: BlockId,
    *,
    signers: tuple[PrivateKey, ...] = KEYS,
    height: int = 7,
    round_: int = 0,
    chain_id: str = CHAIN_ID,
) -> Commit:
    """A commit with the signatures of those members whose keys are given."""
    by_address = {key.address: key for key in signers}
    message = compute_vote_sign_bytes(chain_id, VoteType.PRECOMMIT, height, round_, block_id)
    return Commit(
        Height(height),
        Round(round_),
        block_id,
        tuple(
            by_address[v.address].sign(Domain.VOTE, message) if v.address in by_address else b""
            for v in validators.validators
        ),
    )


BLOCK_ID = BlockId(make_hash("block"), 3, make_hash("parts"))
VALIDATORS = make_validators()
COMMIT = make_commit(VALIDATORS, BLOCK_ID, signers=KEYS[1:4])
RULE = AggregationRule(
    (Stage.CLIP, Stage.BUCKETING, Stage.CENTERED_CLIPPING),
    2,
    clip_norm=9000,
    selected=3,
    bucket_size=4,
    iterations=5,
    radius=70_000,
)
SPEC = TaskSpec(
    name="digits",
    tensors=(TensorSpec("dense/kernel", (64, 32), 20, 14), TensorSpec("dense/bias", (32,), 20, 14)),
    initial_weights_root=make_hash("weights"),
    rule=RULE,
    optimizer=ServerOptimizer(OptimizerName.YOGI, 32768, 58982, 64880, 66),
    codec=UpdateCodec.DENSE_INT16,
    policy=RoundPolicy(
        60_000,
        4,
        8,
        BelowMinimum.VOID,
        1,
        True,
        100,
        RoundMode.ASYNCHRONOUS,
        StalenessWeighting.CONSTANT,
        5,
        7,
    ),
    example_count_max=500,
)
PROPOSAL = Proposal(
    Height(7),
    Round(2),
    Round(-1),
    BLOCK_ID,
    1_700_000_000_000,
    KEYS[0].address,
    KEYS[0].sign(Domain.PROPOSAL, b"replaced below"),
)
PROPOSAL = Proposal(
    PROPOSAL.height,
    PROPOSAL.round,
    PROPOSAL.valid_round,
    PROPOSAL.block_id,
    PROPOSAL.time_ms,
    PROPOSAL.proposer,
    KEYS[0].sign(Domain.PROPOSAL, compute_proposal_sign_bytes(CHAIN_ID, PROPOSAL)),
)


def make_evidence() -> DuplicateVoteEvidence:
    """Two precommits of one validator for one round."""
    return make_duplicate_vote_evidence(make_vote(KEYS[2], BLOCK_ID), make_vote(KEYS[2], None))


def make_bodies() -> dict[str, Body]:
    """One body of every kind."""
    metrics = (Metric("accuracy", 60_000), Metric("f1", -5))
    change = ChangeParameters(ConsensusParameters(block_bytes_max=8192), make_hash("old"), 4, ())
    approval = Approval(
        KEYS[1].address,
        KEYS[1].sign(Domain.PARAMETERS, compute_approval_bytes(CHAIN_ID, change)),
    )
    return {
        "transfer": Transfer(KEYS[1].address, 2**40),
        "admit_member": AdmitMember(
            KEYS[1].public_key, "north-hospital", int(Role.AUDITOR | Role.DATA_PROVIDER)
        ),
        "revoke_member": RevokeMember(KEYS[1].address),
        "register_participant": RegisterParticipant(make_hash("task")),
        "revoke_participant": RevokeParticipant(make_hash("task"), KEYS[1].address),
        "create_task": CreateTask(SPEC),
        "change_task_status": ChangeTaskStatus(make_hash("task"), TaskStatus.PAUSED),
        "submit_update": SubmitUpdate(
            make_hash("task"),
            12,
            make_hash("weights"),
            UpdateCodec.DENSE_INT16,
            make_hash("payload"),
            4160,
            128,
            metrics,
        ),
        "submit_evaluation": SubmitEvaluation(
            make_hash("task"), 12, make_hash("weights"), -70_000, 64, metrics
        ),
        "finalize_training_round": FinalizeTrainingRound(make_hash("task"), 12),
        "change_parameters": ChangeParameters(
            change.parameters, change.replaces, change.sequence, (approval,)
        ),
    }


def make_signed(body: Body, nonce: int = 3) -> bytes:
    """The bytes of a transaction of the first key."""
    return sign_transaction(KEYS[0], Transaction(1, CHAIN_ID, KEYS[0].public_key, nonce, 5, body))


def make_block() -> Block:
    """A block of height 8 whose roots are those of its contents."""
    bodies = make_bodies()
    transactions = (make_signed(bodies["transfer"]), make_signed(bodies["submit_update"], 4))
    evidence = (encode(make_evidence()),)
    return Block(
        Header(
            chain_id=CHAIN_ID,
            version=Version(BLOCK_VERSION, APP_VERSION),
            height=Height(8),
            time_ms=1_700_000_001_000,
            last_block_id=BLOCK_ID,
            last_commit_root=compute_last_commit_root(COMMIT),
            transactions_root=compute_transactions_root(transactions),
            evidence_root=compute_root(evidence),
            validators_root=VALIDATORS.root,
            next_validators_root=VALIDATORS.advance(1).root,
            consensus_parameters_root=ConsensusParameters().root,
            state_root=make_hash("state"),
            receipts_root=make_hash("receipts"),
            model_root=make_hash("model"),
            proposer=KEYS[3].address,
        ),
        transactions,
        evidence,
        COMMIT,
    )


def make_receipts() -> BlockReceipts:
    """The receipts of a block that finalized a training round."""
    return BlockReceipts(
        (TransactionReceipt(make_hash("transaction"), True),),
        (
            RoundReceipt(
                make_hash("task"),
                12,
                RoundOutcome.FINALIZED,
                make_hash("base"),
                make_hash("weights"),
                make_hash("set"),
                (
                    UpdateReceipt(
                        KEYS[1].address, make_hash("payload"), -12, True, True, 1, 46_341, 30, 1
                    ),
                ),
                3,
                1,
                2,
                (MedianMetric("loss", 40_000),),
                SealCause.EVERYONE,
                AggregationRule((Stage.CLIP, Stage.MEAN), 1),
                ScoreName.LEAVE_ONE_OUT,
                make_hash("seed"),
                3,
                1,
                2,
                2,
                (
                    Absence(KEYS[2].address, AbsenceReason.LEFT),
                    Absence(KEYS[3].address, AbsenceReason.EXCUSED),
                ),
            ),
        ),
    )


def make_genesis() -> Genesis:
    """A genesis document of four validators."""
    return Genesis(
        chain_id=CHAIN_ID,
        genesis_time_ms=1_700_000_000_000,
        admission=Admission.OPEN,
        validators=tuple(
            GenesisValidator(f"validator-{i}", key.public_key, 10 * (i + 1))
            for i, key in enumerate(KEYS[:4])
        ),
    )


def make_wire_values() -> dict[str, object]:
    """One value of every wire and stored type, by a name for its fixture."""
    block = make_block()
    raw = encode(block)
    _, proofs = compute_proofs([b"a", b"b", b"c"])
    values: dict[str, object] = {
        "block": block,
        "block_id": compute_block_id(block, raw),
        "block_part": split_block(raw)[1][0],
        "commit": COMMIT,
        "consensus_parameters": ConsensusParameters(),
        "evidence": make_evidence(),
        "header": block.header,
        "merkle_proof": proofs[1],
        "model_leaf": ModelLeaf(make_hash("task"), make_hash("weights"), make_hash("optimizer")),
        "proposal": PROPOSAL,
        "receipts": make_receipts(),
        "task_spec": SPEC,
        "validator": Validator(KEYS[0].public_key, 10, -7),
        "validator_update": ValidatorUpdate(KEYS[0].public_key, 0),
        "vote": make_vote(KEYS[0], BLOCK_ID),
        "vote_nil": make_vote(KEYS[0], None, type_=VoteType.PREVOTE),
    }
    values["payload_announcement"] = sign_announcement(
        KEYS[0], CHAIN_ID, 1_700_000_000_000, (make_hash("payload"), make_hash("other"))
    )
    for name, body in make_bodies().items():
        values[f"transaction_{name}"] = decode_transaction(make_signed(body))
    return values


WIRE_TYPES: tuple[type, ...] = (
    Block,
    BlockId,
    BlockPart,
    Commit,
    ConsensusParameters,
    DuplicateVoteEvidence,
    Header,
    MerkleProof,
    ModelLeaf,
    PayloadAnnouncement,
    Proposal,
    BlockReceipts,
    SignedTransaction,
    TaskSpec,
    Validator,
    ValidatorUpdate,
    Vote,
)
