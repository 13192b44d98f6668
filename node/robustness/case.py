"""One training among honest and hostile participants, in the integers of the chain.

Owns the rounds of one case: honest updates, hostile ones, their encoding, the aggregation, and the
server optimizer's step. Below the participants there are no floats: an update is rounded as
`ModelSchema.encode_update` rounds it, and what follows is what the ledger calls.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol, TypeAlias, assert_never, cast

import numpy as np
from numpy.typing import NDArray
from quorate.chain.task import AggregationRule, OptimizerName, ServerOptimizer, Stage
from quorate.fixed_point import (
    UPDATE_FRACTION_BITS_DEFAULT,
    UPDATE_INTEGER_MAX,
    ModelSchema,
)

from aggregation import aggregate, apply_optimizer, keeps_aggregate, needs_seed
from node.demo.digits import (
    Examples,
    Floats,
    Model,
    compute_accuracy,
    load_digits,
    make_model,
    split_examples,
)
from node.robustness.attacks import (
    IPM_EPSILON_SMALL,
    IPM_RATIO_LARGE,
    Attack,
    Mimic,
    add_little,
    flip_sign,
    manipulate_inner_product,
    stretch_to_maximum,
)
from node.robustness.learning import Hyperparameters, Learners, flip_labels

PARTICIPANTS: Final = 20
EXAMPLES_MIN: Final = 8
UPDATE_FRACTION_BITS: Final = UPDATE_FRACTION_BITS_DEFAULT
SGD: Final = ServerOptimizer(OptimizerName.SGD)

Integers = NDArray[np.int16]


@dataclass(frozen=True)
class Case:
    """One training.

    Attributes
    ----------
    rule : str
        The stages of the rule, joined by +.
    num_byzantine : int
        f, what the rule is told; of 20 participants, so many are hostile unless `attack` is none.
    alpha : float
        Of the Dirichlet distribution of the labels; the smaller, the more unlike the participants.
    attack : Attack
    seed : int
        Decides the split, the initial weights and the batches.
    """

    rule: str
    num_byzantine: int
    alpha: float
    attack: Attack
    seed: int

    @property
    def aggregation_rule(self) -> AggregationRule:
        """The rule as a task names it; the plain mean is told that nobody is hostile."""
        stages = tuple(map(Stage, self.rule.split("+")))
        return AggregationRule(stages, 0 if stages == (Stage.MEAN,) else self.num_byzantine)


@dataclass(frozen=True)
class Outcome:
    """What became of a training.

    Attributes
    ----------
    accuracy : float
        Of the final weights, on examples that nobody trained on.
    saturated : int
        How many integers of updates were cut off, in all rounds.
    """

    accuracy: float
    saturated: int


class Server(Protocol):
    """Where updates go, and weights come from."""

    @property
    def model(self) -> Model:
        """The current weights."""

    def apply(self, updates: Floats) -> None:
        """Take one step.

        Parameters
        ----------
        updates : float64, (n, d)
            What participants would add to the weights, the honest ones first.
        """


MakeServer: TypeAlias = Callable[[AggregationRule, Model], Server]
"""From the rule and the initial weights."""


class IntegerServer:
    """The chain's arithmetic: updates are encoded, aggregated, and added to int32 weights."""

    def __init__(self, rule: AggregationRule, initial: Model) -> None:
        self._rule = rule
        self._schema = ModelSchema.from_arrays(initial, update_fraction_bits=UPDATE_FRACTION_BITS)
        self._weights = self._schema.encode_weights(initial).data
        self._previous = np.zeros(self._schema.dimension, np.int16)
        self._steps = 0
        self.saturated = 0

    @property
    def model(self) -> Model:
        """The current weights, exact in float64."""
        return cast("Model", self._schema.decode_weights(self._weights))

    def apply(self, updates: Floats) -> None:
        """Take one step; see `Server.apply`."""
        result = aggregate(
            self._rule,
            list(encode_updates(updates)),
            seed=self._steps.to_bytes(8, "big") if needs_seed(self._rule) else None,
            previous=self._previous if keeps_aggregate(self._rule) else None,
        )
        self._previous = result.vector
        tensors = self._schema.tensors
        step = apply_optimizer(SGD, tensors, self._weights, b"", result.vector)
        self._weights = bytes(step.weights)
        self._steps += 1
        self.saturated += result.saturated


def run_case(
    case: Case,
    parameters: Hyperparameters,
    make_server: MakeServer = IntegerServer,
) -> Outcome:
    """Train, and return how accurate the final weights are; the same for the same arguments.

    Parameters
    ----------
    case : Case
    parameters : Hyperparameters
    make_server : callable
        From the rule and the initial weights to what aggregates; for comparisons.
    """
    hostile = 0 if case.attack is Attack.NONE else case.num_byzantine
    shards, held_out = split_examples(
        _get_digits(),
        PARTICIPANTS - hostile,
        case.seed,
        alpha=case.alpha,
        examples_min=EXAMPLES_MIN,
    )
    learners = Learners(shards, parameters, case.seed)
    craft = _make_attacker(case, shards, parameters)
    server = make_server(case.aggregation_rule, make_model(case.seed))
    for step in range(parameters.steps):
        model = server.model
        honest = learners.compute_steps(model, step)
        crafted = craft(honest, model, step)[None] if hostile else honest[:0]
        server.apply(np.concatenate([honest, np.repeat(crafted, hostile, axis=0)]))
    saturated = server.saturated if isinstance(server, IntegerServer) else 0
    return Outcome(compute_accuracy(server.model, held_out), saturated)


def encode_updates(updates: Floats) -> Integers:
    """Return updates (n, d) as the integers that `ModelSchema.encode_update` writes of each."""
    scaled = np.rint(np.ldexp(updates, UPDATE_FRACTION_BITS))
    return np.clip(scaled, -UPDATE_INTEGER_MAX, UPDATE_INTEGER_MAX).astype(np.int16)


def _make_attacker(
    case: Case, shards: list[Examples], parameters: Hyperparameters
) -> Callable[[Floats, Model, int], Floats]:
    """Return what turns the honest updates of a step into the hostile one."""
    match case.attack:
        case Attack.NONE | Attack.SIGN_FLIP:
            return lambda honest, _model, _step: flip_sign(honest)
        case Attack.IPM_SMALL:
            return lambda honest, _model, _step: manipulate_inner_product(honest, IPM_EPSILON_SMALL)
        case Attack.IPM_LARGE:
            epsilon = IPM_RATIO_LARGE * (PARTICIPANTS - case.num_byzantine) / case.num_byzantine
            return lambda honest, _model, _step: manipulate_inner_product(honest, epsilon)
        case Attack.ALIE:
            return lambda honest, _model, _step: add_little(honest, case.num_byzantine)
        case Attack.MIN_MAX:
            return lambda honest, _model, _step: stretch_to_maximum(honest)
        case Attack.MIMIC:
            mimic = Mimic(case.seed)
            return lambda honest, _model, _step: mimic.craft(honest)
        case Attack.LABEL_FLIP:
            flippers = Learners([flip_labels(shard) for shard in shards], parameters, case.seed)
            return lambda _honest, model, step: flippers.compute_steps(model, step).mean(axis=0)
        case _:
            assert_never(case.attack)


@lru_cache(maxsize=1)
def _get_digits() -> Examples:
    return load_digits()
