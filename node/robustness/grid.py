"""The cases of the benchmark, what became of them, and what that comes to.

Owns which rules, attacks and settings are compared, and the summary of a rule in a setting: the
mean over the seeds without an attack, and under the attack that is worst for it. Runs nothing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from statistics import mean
from typing import Final

from quorate.chain.task import DEFAULT_RULE

from aggregation import RuleError, validate_rule
from node.robustness.attacks import Attack
from node.robustness.case import PARTICIPANTS, Case, Outcome
from node.robustness.learning import Hyperparameters

DEFAULT: Final = "+".join(DEFAULT_RULE)
RULES: Final = (
    "mean",
    "clip+mean",
    "median",
    "trimmed_mean",
    "geometric_median",
    "centered_clipping",
    "krum",
    "multi_krum",
    "bulyan",
    "bucketing+trimmed_mean",
    "nnm+trimmed_mean",
    "clip+nnm+trimmed_mean",
    "arc+nnm+mean",
    "arc+nnm+trimmed_mean",
    "arc+nnm+geometric_median",
)
ATTACKS: Final = tuple(attack for attack in Attack if attack is not Attack.NONE)
SETTINGS: Final = ((4, 1.0), (6, 1.0), (4, 0.1), (6, 0.1))
"""(f, alpha): from the easiest to the hardest."""
SEEDS_DEFAULT: Final = 3


@dataclass(frozen=True)
class Summary:
    """A rule in a setting, under the attacks that have been run.

    Attributes
    ----------
    rule : str
    num_byzantine : int
    alpha : float
    clean : float or None
        Mean accuracy over the seeds while everybody follows the protocol.
    attacked : mapping of Attack to float
        The same under each attack.
    """

    rule: str
    num_byzantine: int
    alpha: float
    clean: float | None
    attacked: Mapping[Attack, float]

    @property
    def worst(self) -> tuple[Attack, float] | None:
        """The attack that is worst for the rule, and the accuracy under it."""
        return min(self.attacked.items(), key=lambda item: item[1], default=None)


@dataclass(frozen=True)
class Grid:
    """What is compared, and how long is trained for it.

    Attributes
    ----------
    rules : tuple of str
    attacks : tuple of Attack
    seeds : int
        How many: 0, 1 and so on.
    settings : tuple of (f, alpha)
    parameters : Hyperparameters
    """

    rules: tuple[str, ...] = RULES
    attacks: tuple[Attack, ...] = ATTACKS
    seeds: int = SEEDS_DEFAULT
    settings: tuple[tuple[int, float], ...] = SETTINGS
    parameters: Hyperparameters = Hyperparameters()  # noqa: RUF009 - frozen, as this is.


QUICK: Final = Grid(
    ("mean", "median", "nnm+trimmed_mean", DEFAULT),
    seeds=1,
    settings=((4, 1.0), (4, 0.1)),
    parameters=Hyperparameters(steps=150),
)
"""A first impression in less than a minute."""


def make_cases(grid: Grid) -> tuple[Case, ...]:
    """Return the cases of a grid, seed by seed, so that a part of them is a whole grid already.

    A rule that needs more than 20 participants for f is left out where it does.
    """
    return tuple(
        Case(rule, num_byzantine, alpha, attack, seed)
        for seed, (num_byzantine, alpha), rule, attack in product(
            range(grid.seeds), grid.settings, grid.rules, (Attack.NONE, *grid.attacks)
        )
        if is_applicable(rule, num_byzantine)
    )


def is_applicable(rule: str, num_byzantine: int) -> bool:
    """Return whether a rule tolerates so many hostile ones of 20."""
    case = Case(rule, num_byzantine, 1.0, Attack.NONE, 0)
    try:
        validate_rule(case.aggregation_rule, PARTICIPANTS)
    except RuleError:
        return False
    return True


def summarize(outcomes: Mapping[Case, Outcome]) -> tuple[Summary, ...]:
    """Return a summary for each rule and setting of which there are outcomes."""
    return tuple(_summarize(outcomes))


def _summarize(outcomes: Mapping[Case, Outcome]) -> Iterator[Summary]:
    accuracies: dict[tuple[str, int, float], dict[Attack, list[float]]] = {}
    for case, outcome in outcomes.items():
        cell = accuracies.setdefault((case.rule, case.num_byzantine, case.alpha), {})
        cell.setdefault(case.attack, []).append(outcome.accuracy)
    for (rule, num_byzantine, alpha), cell in accuracies.items():
        means = {attack: mean(cell[attack]) for attack in Attack if attack in cell}
        clean = means.pop(Attack.NONE, None)
        yield Summary(rule, num_byzantine, alpha, clean, means)
