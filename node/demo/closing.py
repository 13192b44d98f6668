"""The end of the demonstration: what was reached, and whether that is enough.

Owns the criteria and the questions put to the nodes about them. Never trains, and never prints.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, cast

from quorate.chain.errors import QuorateError
from quorate.chain.genesis import Genesis
from quorate.chain.ids import Hash
from quorate.client import Client
from quorate.fixed_point import ModelSchema
from quorate.procedures import get_weights_proof
from quorate.verification import VerifiedWeights, verify_leaf

from node.demo.digits import Examples, Model, compute_accuracy
from node.testnet import WrittenNode

BEHIND_SECONDS_MAX: Final = 30.0


@dataclass(frozen=True, slots=True)
class Criterion:
    """Something the demonstration must show.

    Attributes
    ----------
    sentence : str
        What was found: one line.
    is_met : bool
    """

    sentence: str
    is_met: bool


@dataclass(frozen=True, slots=True)
class Closing:
    """What the demonstration came to.

    Attributes
    ----------
    accuracy, mean_accuracy : float
        Of the finalized weights on the held-out examples: under the robust rule, and under the
        plain mean.
    height : int
        The height the roots are of.
    model_roots : dict of str to str
        What each node reports, in hexadecimal; or why it reports none.
    weights_root : str
        Of the verified weights, in hexadecimal; empty if they are not verified.
    criteria : tuple of Criterion
        The accuracy, the roots, the verification.
    """

    accuracy: float
    mean_accuracy: float
    height: int
    model_roots: dict[str, str]
    weights_root: str
    criteria: tuple[Criterion, ...]

    @property
    def is_successful(self) -> bool:
        """Whether every criterion is met."""
        return all(each.is_met for each in self.criteria)


def close(
    nodes: Sequence[WrittenNode],
    genesis: Genesis,
    task_id: Hash,
    held_out: Examples,
    accuracies: tuple[float, float],
    accuracy_min: float,
) -> Closing:
    """Ask the nodes for roots and weights, and judge the demonstration.

    Parameters
    ----------
    nodes : sequence of WrittenNode
        All running.
    genesis : Genesis
        What the nodes' answers are verified against.
    task_id : bytes, 32
        The task under the robust rule.
    held_out : Examples
    accuracies : tuple of float
        After the last round: under the robust rule, and under the plain mean.
    accuracy_min : float
        What the first must reach.
    """
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(node.address.rpc_url)) for node in nodes]
        height = min(client.status().height for client in clients)
        roots = {
            node.moniker: _get_model_root(client, genesis, task_id, height)
            for node, client in zip(nodes, clients, strict=True)
        }
        names = (nodes[0].moniker, nodes[-1].moniker)
        verified, sentence = _download(clients[0], clients[-1], genesis, task_id, names)
        schema = ModelSchema.from_spec(clients[0].task(task_id).spec)
    accuracy = accuracies[0]
    if verified is not None:
        accuracy = compute_accuracy(cast("Model", verified.to_arrays(schema)), held_out)
    return Closing(
        accuracy,
        accuracies[1],
        height,
        roots,
        verified.weights_root.hex() if verified is not None else "",
        (
            judge_accuracy(accuracy, accuracy_min),
            judge_roots(roots, height),
            Criterion(sentence, verified is not None),
        ),
    )


def judge_accuracy(accuracy: float, accuracy_min: float) -> Criterion:
    """Judge the accuracy of the finalized weights."""
    if accuracy >= accuracy_min:
        return Criterion(
            f"The held-out accuracy is {accuracy:.3f}, at least {accuracy_min:g}.", True
        )
    return Criterion(
        f"The held-out accuracy is {accuracy:.3f}, below the {accuracy_min:g} asked for.", False
    )


def judge_roots(roots: dict[str, str], height: int) -> Criterion:
    """Judge whether all nodes report one model root."""
    if len(set(roots.values())) == 1 and not any(" " in root for root in roots.values()):
        return Criterion(f"All {len(roots)} validators report one model root.", True)
    told = "; ".join(f"{name}: {root}" for name, root in roots.items())
    return Criterion(
        f"The validators differ about the model root of height {height}: {told}.", False
    )


def _get_model_root(client: Client, genesis: Genesis, task_id: Hash, height: int) -> str:
    """Return the model root that a node's own proof and header lead to, or why there is none."""
    try:
        proof = client.run(
            get_weights_proof(client.endpoint, client.endpoint, task_id, height, BEHIND_SECONDS_MAX)
        )
        verify_leaf(proof, genesis)
    except QuorateError as error:
        return str(error)
    return proof.header.model_root.hex()


def _download(
    client: Client, other: Client, genesis: Genesis, task_id: Hash, names: tuple[str, str]
) -> tuple[VerifiedWeights | None, str]:
    """Return the weights of one node, verified by the commit of another, and the sentence."""
    try:
        verified = client.get_verified_weights(
            task_id, genesis, commit_from=other, timeout_s=BEHIND_SECONDS_MAX
        )
    except QuorateError as error:
        return None, f"The weights of {names[0]} are not verified by {names[1]}: {error}"
    return verified, (
        f"The weights of {names[0]} are those that the commit of {names[1]} at height "
        f"{verified.height} proves."
    )
