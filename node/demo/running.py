"""The demonstration from its first step to its last.

Owns the order: write a network, start it, train twice, ask the nodes, stop. Leaves the terminal
to `node.demo.terminal` and the judgment to `node.demo.closing`. Never runs a node itself.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from typing import Final

from quorate.chain.errors import QuorateError
from quorate.chain.genesis import Genesis
from quorate.chain.keys import PrivateKey
from quorate.chain.task import DEFAULT_RULE, AggregationRule, Stage

from node.config import Config, ConsensusSection
from node.demo.closing import Closing, close
from node.demo.digits import Examples, load_digits, make_model, split_examples
from node.demo.errors import DemoError
from node.demo.terminal import Terminal
from node.demo.training import Learner, Training, TrainingPlan
from node.localnet import Localnet, find_free_addresses
from node.testnet import NetworkPlan, WrittenNode, write_network

VALIDATORS: Final = 4
PARTICIPANTS: Final = 8
HOSTILE: Final = 2
ROBUST_RULE: Final = AggregationRule(DEFAULT_RULE, HOSTILE)
MEAN_RULE: Final = AggregationRule((Stage.MEAN,), 0)
EMPTY_BLOCK_INTERVAL_MS: Final = 500


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """What to demonstrate.

    Attributes
    ----------
    rounds : int
        Training rounds of each of the two trainings.
    accuracy_min : float
        What the robust rule must reach.
    seed : int
        What the shards, the initial weights and the order of the examples follow from.
    folder : Path or None
        Where the network is written, and kept; a temporary folder without one.
    """

    rounds: int
    accuracy_min: float
    seed: int
    folder: Path | None = None


def run_demo(plan: DemoPlan) -> tuple[Closing, Path]:
    """Run the demonstration; return what it came to, and the folder of the network.

    The folder is gone if it was a temporary one and every criterion is met.

    Raises
    ------
    DemoError
        If it could not be run to its end; the message names the folder of the logs.
    KeyboardInterrupt
        If the person has seen enough; everything has been stopped.
    """
    shards, held_out = split_examples(load_digits(), PARTICIPANTS, plan.seed)
    hostile = range(PARTICIPANTS - HOSTILE + 1, PARTICIPANTS + 1)
    with _open_folder(plan.folder) as folder, Terminal(hostile) as terminal:
        terminal.show_step(f"Writing a testnet of {VALIDATORS} validators in {folder}.")
        nodes = _write_nodes(folder)
        genesis = nodes[0].home.read_genesis()
        with Localnet(nodes) as network:
            terminal.show_step(f"Starting {VALIDATORS} nodes, a process each.")
            network.start()
            network.wait_until_ready()
            learners = _make_learners(nodes, shards, hostile)
            run = _Run(plan, network, genesis, learners, held_out, terminal)
            robust, accuracy = run.train(
                "robust", ROBUST_RULE, "arc, nnm, geometric median; 2 of 8 hostile (*)"
            )
            _, mean_accuracy = run.train("mean", MEAN_RULE, "the plain mean, for comparison")
            if robust.task_id is None:
                raise DemoError("The training has no task: this is a defect of the demonstration.")
            terminal.show_step("Asking the validators for roots and weights.")
            accuracies = (accuracy, mean_accuracy)
            closing = close(nodes, genesis, robust.task_id, held_out, accuracies, plan.accuracy_min)
            terminal.show_step("Stopping the nodes.")
        if plan.folder is None and closing.is_successful:
            rmtree(folder, ignore_errors=True)
    return closing, folder


@dataclass(frozen=True, slots=True)
class _Run:
    """What both trainings of a run share."""

    plan: DemoPlan
    network: Localnet
    genesis: Genesis
    learners: list[Learner]
    held_out: Examples
    terminal: Terminal

    def train(self, name: str, rule: AggregationRule, title: str) -> tuple[Training, float]:
        """Train a task, and return it with the accuracy after its last round."""
        plan = TrainingPlan(
            name, rule, self.plan.rounds, self.plan.seed, make_model(self.plan.seed)
        )
        author = _make_key("author")
        training = Training(plan, self.learners, author, self.genesis, self.held_out)
        self.terminal.begin_section(f"Training under {title}")
        training.prepare()
        accuracy = 0.0
        for finished in training.run(self._watch):
            self.terminal.show_round(finished)
            accuracy = finished.accuracy
        return training, accuracy

    def _watch(self) -> None:
        self.network.check_running()
        self.terminal.show_statuses(self.network.get_statuses())


@contextmanager
def _open_folder(chosen: Path | None) -> Iterator[Path]:
    """Yield the folder of the network, and name it in the error if something fails."""
    folder = chosen or Path(tempfile.mkdtemp(prefix="quorate-demo-"))
    try:
        yield folder
    except QuorateError as error:
        told = str(error).rstrip(".")
        raise DemoError(f"{told}. The nodes' logs are kept in {folder}.") from error
    except KeyboardInterrupt:
        if chosen is None:
            rmtree(folder, ignore_errors=True)
        raise


def _write_nodes(folder: Path) -> list[WrittenNode]:
    consensus = ConsensusSection(empty_block_interval_ms=EMPTY_BLOCK_INTERVAL_MS)
    return write_network(
        folder,
        NetworkPlan(
            chain_id="quorate-demo",
            addresses=find_free_addresses(VALIDATORS),
            config=Config(consensus=consensus),
        ),
    )


def _make_learners(
    nodes: list[WrittenNode], shards: list[Examples], hostile: range
) -> list[Learner]:
    return [
        Learner(
            number,
            _make_key(f"participant {number}"),
            nodes[number % len(nodes)].address.rpc_url,
            shard,
            number in hostile,
        )
        for number, shard in enumerate(shards, 1)
    ]


def _make_key(name: str) -> PrivateKey:
    """Return a key that is the same in every run: it guards nothing outside the demonstration."""
    return PrivateKey(sha256(f"quorate demo {name}".encode()).digest())
