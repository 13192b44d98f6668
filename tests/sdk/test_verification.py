"""A lying node: each way to pass off other weights is refused, with the step that failed."""

import msgspec
import numpy as np
import pytest
from quorate import Client, Genesis, ModelSchema, VerificationError, WeightsProof, verify_weights
from quorate.chain.codec import encode
from quorate.chain.content import compute_content_hash
from quorate.chain.genesis import GenesisValidator
from quorate.chain.ids import Hash
from quorate.chain.keys import PrivateKey
from quorate.chain.merkle import MerkleProof, compute_proofs
from quorate.chain.validators import ValidatorSet
from quorate.chain.vote import Commit
from quorate.chain.weights import ModelLeaf
from quorate.errors import VerificationStep

from tests.chain.samples import make_commit, make_hash
from tests.sdk.conftest import create_task, make_draft
from tests.sdk.fake_node import GENESIS, VALIDATOR_KEYS, FakeNode

STRANGERS = tuple(PrivateKey(bytes([200 + i]) * 32) for i in range(4))


@pytest.fixture
def task_id(client: Client) -> bytes:
    create_task(client, name="first")
    task_id = create_task(client)
    create_task(client, name="third")
    return task_id


@pytest.fixture
def weights(client: Client, task_id: bytes) -> bytes:
    return client.weights(task_id).data


@pytest.fixture
def proof(client: Client, task_id: bytes) -> WeightsProof:
    height, leaf, path = client.proof(task_id)
    header, commit = client.commit(height)
    return WeightsProof(leaf, path, header, commit, client.validators(height))


def change(proof: WeightsProof, /, **changes: object) -> WeightsProof:
    fields = {name: getattr(proof, name) for name in proof.__dataclass_fields__}
    return WeightsProof(**(fields | changes))


def refuse(
    weights: bytes,
    proof: WeightsProof,
    step: VerificationStep,
    sentence: str,
    trusted: Genesis | ValidatorSet = GENESIS,
) -> None:
    with pytest.raises(VerificationError, match=sentence) as refused:
        verify_weights(weights, proof, trusted)
    assert refused.value.step is step
    assert str(refused.value).startswith("The weights are not verified: ")
    assert str(refused.value).endswith(f"[step {step}]")


def test_true_weights_pass(weights: bytes, proof: WeightsProof, task_id: bytes) -> None:
    for trusted in (GENESIS, GENESIS.validator_set, proof.signers.advance(3)):
        verified = verify_weights(weights, proof, trusted, task_id=Hash(task_id))
    draft = make_draft()
    assert verified.data == weights == draft.weights
    assert verified.weights_root == draft.spec.initial_weights_root
    assert verified.height == proof.header.height
    assert verified.block_hash == proof.header.hash
    assert verified.time_ms == proof.header.time_ms
    schema = ModelSchema.from_spec(draft.spec)
    arrays = verified.to_arrays(schema, np.float32)
    assert [a.shape for a in arrays] == [(5, 3), (3,)]
    assert arrays[0].dtype == np.float32


def test_altered_weights(weights: bytes, proof: WeightsProof) -> None:
    for altered in (weights[:-1] + b"\x01", weights[:-4], weights + bytes(4), b""):
        refuse(altered, proof, VerificationStep.WEIGHTS, "their root is")


def test_another_task(weights: bytes, proof: WeightsProof, client: Client) -> None:
    other = Hash(bytes(client.tasks()[0].task_id))
    with pytest.raises(VerificationError, match="the proof is for task") as refused:
        verify_weights(weights, proof, GENESIS, task_id=other)
    assert refused.value.step is VerificationStep.TASK


def test_a_leaf_that_is_not_under_the_model_root(weights: bytes, proof: WeightsProof) -> None:
    altered = weights[:-1] + b"\x01"
    leaf = ModelLeaf(proof.leaf.task_id, compute_content_hash(altered), proof.leaf.optimizer_root)
    sentence = "does not lead to the model root"
    refuse(altered, change(proof, leaf=leaf), VerificationStep.PROOF, sentence)
    optimizer = ModelLeaf(proof.leaf.task_id, proof.leaf.weights_root, make_hash("x"))
    refuse(weights, change(proof, leaf=optimizer), VerificationStep.PROOF, sentence)
    renamed = ModelLeaf(make_hash("x"), proof.leaf.weights_root, proof.leaf.optimizer_root)
    refuse(weights, change(proof, leaf=renamed), VerificationStep.PROOF, sentence)


def test_an_altered_path(weights: bytes, proof: WeightsProof) -> None:
    path = proof.proof
    assert path.siblings
    for altered in (
        MerkleProof((path.index + 1) % path.total, path.total, path.siblings),
        MerkleProof(path.index, path.total, path.siblings[:-1]),
        MerkleProof(path.index, path.total, (make_hash("x"), *path.siblings[1:])),
    ):
        refuse(weights, change(proof, proof=altered), VerificationStep.PROOF, "does not lead")


def make_lie(weights: bytes, proof: WeightsProof) -> tuple[bytes, WeightsProof]:
    """Other weights under a header that commits to them, still with the true commit."""
    altered = weights[:-1] + b"\x01"
    leaf = ModelLeaf(proof.leaf.task_id, compute_content_hash(altered), proof.leaf.optimizer_root)
    root, (path,) = compute_proofs([encode(leaf)])
    header = msgspec.structs.replace(proof.header, model_root=root)
    return altered, change(proof, leaf=leaf, proof=path, header=header)


def sign(proof: WeightsProof, signers: ValidatorSet, keys: tuple[PrivateKey, ...]) -> Commit:
    block_id = msgspec.structs.replace(proof.commit.block_id, hash=proof.header.hash)
    return make_commit(
        signers,
        block_id,
        signers=keys,
        height=proof.header.height,
        chain_id=proof.header.chain_id,
    )


def test_a_header_nobody_signed(weights: bytes, proof: WeightsProof) -> None:
    altered, lie = make_lie(weights, proof)
    refuse(altered, lie, VerificationStep.COMMIT, "commit is for block")
    block_id = msgspec.structs.replace(proof.commit.block_id, hash=lie.header.hash)
    forged = msgspec.structs.replace(proof.commit, block_id=block_id)
    refuse(altered, change(lie, commit=forged), VerificationStep.COMMIT, "wrong signature")


def test_a_header_that_too_few_signed(weights: bytes, proof: WeightsProof) -> None:
    altered, lie = make_lie(weights, proof)
    few = sign(lie, lie.signers, VALIDATOR_KEYS[:2])
    refuse(altered, change(lie, commit=few), VerificationStep.COMMIT, "more than two thirds")
    enough = sign(lie, lie.signers, VALIDATOR_KEYS[:3])
    verify_weights(altered, change(lie, commit=enough), GENESIS)  # So it was power that lacked.


def test_a_commit_of_another_height(weights: bytes, proof: WeightsProof, client: Client) -> None:
    _, earlier = client.commit(proof.header.height - 1)
    refuse(weights, change(proof, commit=earlier), VerificationStep.COMMIT, "commit is for height")


def test_a_header_signed_by_strangers(weights: bytes, proof: WeightsProof) -> None:
    altered, lie = make_lie(weights, proof)
    strangers = ValidatorSet.from_powers((key.public_key, 10) for key in STRANGERS)
    header = msgspec.structs.replace(lie.header, validators_root=strangers.root)
    lie = change(lie, header=header, signers=strangers)
    lie = change(lie, commit=sign(lie, strangers, STRANGERS))
    refuse(altered, lie, VerificationStep.COMMIT, "trusted validators with power 0 of 40")


def test_validators_that_the_header_does_not_name(weights: bytes, proof: WeightsProof) -> None:
    strangers = ValidatorSet.from_powers((key.public_key, 10) for key in STRANGERS)
    for signers in (strangers, proof.signers.advance(1)):
        refuse(
            weights,
            change(proof, signers=signers),
            VerificationStep.VALIDATORS,
            "not those that the header",
        )


def test_another_chain_of_the_same_validators(weights: bytes, proof: WeightsProof) -> None:
    header = msgspec.structs.replace(proof.header, chain_id="fake-2")
    other = change(proof, header=header)
    other = change(other, commit=sign(other, proof.signers, VALIDATOR_KEYS))
    refuse(weights, other, VerificationStep.HEADER, "of chain 'fake-2', not 'fake-1'")


def test_a_genesis_of_others(weights: bytes, proof: WeightsProof) -> None:
    others = msgspec.structs.replace(
        GENESIS,
        validators=tuple(GenesisValidator("x", key.public_key, 10) for key in STRANGERS),
    )
    refuse(weights, proof, VerificationStep.COMMIT, "trusted validators", others)


def test_the_fake_chain_is_sound(node: FakeNode, client: Client, task_id: bytes) -> None:
    assert task_id in node.tasks
    for height in range(1, node.height + 1):
        header, commit = client.commit(height)
        block = client.block(height)
        assert block.header == header
        if block.last_commit is not None:
            assert commit.height == block.last_commit.height + 1
