"""The proof that weights are what the chain decided, from the bytes to whom one trusts.

Owns the chain of proof: weights -> their root -> the task's leaf -> the header's model root ->
the header's hash -> a commit of its validators -> enough power of the validators one trusts.
Never fetches anything, so whom the parts come from does not matter.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from quorate.chain.block import Header
from quorate.chain.codec import encode
from quorate.chain.content import compute_content_hash
from quorate.chain.errors import CommitError
from quorate.chain.genesis import Genesis
from quorate.chain.ids import Hash
from quorate.chain.merkle import MerkleProof, is_proof_valid
from quorate.chain.validators import ValidatorSet
from quorate.chain.vote import Commit, verify_commit_trusting
from quorate.chain.weights import ModelLeaf
from quorate.errors import VerificationError, VerificationStep
from quorate.fixed_point import Array, ModelSchema


@dataclass(frozen=True)
class VerifiedWeights:
    """Weights that a quorum of validators has computed and signed.

    Attributes
    ----------
    data : bytes, 4 * d
        Little-endian int32 fixed point.
    task_id, weights_root : bytes, 32
    chain_id : str
    height : int
        The block whose header commits to them.
    time_ms : int
        That block's time; how old the weights may be is the caller's to judge.
    block_hash : bytes, 32
    """

    data: bytes
    task_id: Hash
    weights_root: Hash
    chain_id: str
    height: int
    time_ms: int
    block_hash: Hash

    def to_arrays(self, schema: ModelSchema, dtype: DTypeLike = np.float64) -> list[Array]:
        """Return the weights as arrays in the model's shapes."""
        return schema.decode_weights(self.data, dtype)


@dataclass(frozen=True)
class WeightsProof:
    """What proves weights: everything but the weights themselves and whom one trusts.

    Attributes
    ----------
    leaf : ModelLeaf
        What the chain says of the task: its weights' root.
    proof : MerkleProof
        That the leaf is under the header's model root.
    header : Header
    commit : Commit
        The precommits for this header.
    signers : ValidatorSet
        The validators of its height.
    """

    leaf: ModelLeaf
    proof: MerkleProof
    header: Header
    commit: Commit
    signers: ValidatorSet


def verify_weights(
    weights: bytes,
    proof: WeightsProof,
    trusted: Genesis | ValidatorSet,
    *,
    task_id: Hash | None = None,
) -> VerifiedWeights:
    """Check weights against validators one trusts already.

    Parameters
    ----------
    weights : bytes, 4 * d
        As downloaded from any node.
    proof : WeightsProof
        From any node, not necessarily the same.
    trusted : Genesis or ValidatorSet
        The genesis document, got from somebody one trusts, or a later set one has verified. More
        than two thirds of its power must have signed.
    task_id : bytes, 32, optional
        The task the weights must belong to.

    Raises
    ------
    VerificationError
        Naming the step that failed.

    Examples
    --------
    >>> from quorate import Client, read_genesis
    >>> genesis = read_genesis("genesis.json")  # doctest: +SKIP
    >>> with Client("http://127.0.0.1:26657") as node:  # doctest: +SKIP
    ...     height, leaf, path = node.proof("digits")
    ...     header, commit = node.commit(height)
    ...     proof = WeightsProof(leaf, path, header, commit, node.validators(height))
    ...     verified = verify_weights(node.weights("digits").data, proof, genesis)
    """
    if task_id is not None and proof.leaf.task_id != task_id:
        raise VerificationError(
            VerificationStep.TASK,
            f"the proof is for task {proof.leaf.task_id.hex()}, not {task_id.hex()}",
        )
    root = compute_content_hash(weights)
    if root != proof.leaf.weights_root:
        raise VerificationError(
            VerificationStep.WEIGHTS,
            f"their root is {root.hex()}, the chain's is {proof.leaf.weights_root.hex()}",
        )
    verify_leaf(proof, trusted)
    return VerifiedWeights(
        bytes(weights),
        proof.leaf.task_id,
        root,
        proof.header.chain_id,
        proof.header.height,
        proof.header.time_ms,
        proof.header.hash,
    )


def verify_leaf(proof: WeightsProof, trusted: Genesis | ValidatorSet) -> None:
    """Check that a task's leaf is what the chain decided, before any weights are downloaded.

    Raises
    ------
    VerificationError
        Naming the step that failed.
    """
    header = proof.header
    if not is_proof_valid(proof.proof, header.model_root, encode(proof.leaf)):
        raise VerificationError(
            VerificationStep.PROOF,
            f"the proof does not lead to the model root of height {header.height}",
        )
    if isinstance(trusted, Genesis) and header.chain_id != trusted.chain_id:
        raise VerificationError(
            VerificationStep.HEADER,
            f"the header is of chain {header.chain_id!r}, not {trusted.chain_id!r}",
        )
    if proof.signers.root != header.validators_root:
        raise VerificationError(
            VerificationStep.VALIDATORS,
            f"the validators given are not those that the header of height {header.height} names",
        )
    known = trusted.validator_set if isinstance(trusted, Genesis) else trusted
    try:
        verify_commit_trusting(
            header.chain_id, proof.signers, known, header.height, header.hash, proof.commit
        )
    except CommitError as error:
        raise VerificationError(VerificationStep.COMMIT, str(error)) from error
