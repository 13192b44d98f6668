"""Aggregate a training round larger than memory in a node's own way, and tell what it took.

Owns the demonstration: a task and n updates of d parameters on a chain in a temporary folder, made
and stored as a node stores them; then the block that seals the round, the aggregation in the
background, and the block that carries its result. It prints seconds and the peak of resident
memory from the sealing on. Never starts a network.

Run as `python -m bench.stored_round --n 100 --dim 30000000 --rule trimmed_mean --folder FOLDER`,
which needs 2 n d bytes on disk; the files are removed at the end.
"""

import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import structlog
import trio
from quorate.chain.genesis import GenesisAccount
from quorate.chain.ids import Hash
from quorate.chain.keys import PrivateKey
from quorate.chain.parameters import ConsensusParameters
from quorate.chain.receipt import RoundOutcome, RoundReceipt
from quorate.chain.task import (
    PARAMETERS_MAX,
    UPDATES_PER_ROUND_MAX,
    AggregationRule,
    OptimizerName,
    RoundPolicy,
    ServerOptimizer,
)
from quorate.chain.transaction import (
    CreateTask,
    FinalizeTrainingRound,
    RegisterParticipant,
)
from quorate.task_draft import draft_task

from aggregation import compute_updates_min
from bench.aggregation_cases import RULES, compute_num_byzantine
from bench.command_line import (
    add_json_option,
    make_parser,
    parse_folder,
    report,
    run,
    whole_number,
    write_json,
)
from bench.errors import BenchError
from bench.machine import describe_machine, read_cpu_seconds, read_memory
from bench.made_chain import MadeChain, list_participants, open_made_chain
from bench.signing import BALANCE, CHAIN_ID
from node.config_examples import LOCALNET
from node.execution.aggregates import BackgroundAggregates
from node.key_files import read_validator_key
from node.localnet import find_free_addresses
from node.testnet import NetworkPlan, write_network

TILE_VALUES: Final = 1 << 20
DEADLINE_MS: Final = 3_600_000
WEIGHT_BYTES: Final = {"sgd": 8, "adam": 24}
"""Of a parameter on the disk: weights before and after the training round, and the state after it:
before the first there is none."""
DISK_MARGIN: Final = 1.1
REPORT_EVERY: Final = 10
OPTIMIZERS: Final = {
    "sgd": ServerOptimizer(OptimizerName.SGD),
    "adam": ServerOptimizer(
        OptimizerName.ADAM, momentum=58_982, second_moment_decay=64_880, adaptivity=66
    ),
}


@dataclass(frozen=True, slots=True)
class StoredRoundFigures:
    """What a training round took, from its sealing on.

    Attributes
    ----------
    seconds, cpu_seconds : float
    peak_mb : float
        The highest resident memory of the process.
    weights_root : bytes, 32
        Of the result.
    receipt : RoundReceipt
    """

    seconds: float
    cpu_seconds: float
    peak_mb: float
    weights_root: Hash
    receipt: RoundReceipt


def make_update(index: int, dimension: int) -> bytes:
    """Return an update: noise around a direction that all have in common."""
    generator = np.random.default_rng(index)
    tile = generator.integers(-3000, 3000, TILE_VALUES, np.int16)
    update = np.empty(dimension, np.dtype("<i2"))
    for start in range(0, dimension, TILE_VALUES):
        part = np.roll(tile, start % 997) + np.int16(500 - start // TILE_VALUES)
        update[start : start + TILE_VALUES] = part[: dimension - start]
    return update.tobytes()


async def open_round(
    chain: MadeChain, rule: AggregationRule, optimizer: ServerOptimizer, dimension: int
) -> Hash:
    """Create a task, register its participants, and let all but the last send their update."""
    participants = chain.participants
    policy = RoundPolicy(
        deadline_ms=DEADLINE_MS,
        updates_min=len(participants),
        updates_max=len(participants),
        waive_proposer_spread=True,
    )
    weights = {"w": np.zeros(dimension, np.float32)}
    draft = draft_task("stored", weights, policy, rule=rule, optimizer=optimizer)
    chain.payloads.put(draft.weights)
    created = await chain.decide((chain.payer, CreateTask(draft.spec)))
    task_id = created.transaction_hashes[0]
    await chain.decide(*((key, RegisterParticipant(task_id)) for key in participants))
    for index in range(len(participants) - 1):
        if index % REPORT_EVERY == 0:
            report(f"update {index + 1} of {len(participants)}")
        await _send_update(chain, task_id, index, dimension)
    return task_id


async def _send_update(
    chain: MadeChain, task_id: Hash, index: int, dimension: int
) -> Sequence[RoundReceipt]:
    update = chain.make_update(task_id, make_update(index, dimension))
    executed = await chain.decide((chain.participants[index], update))
    return executed.result.receipts.rounds


async def close_round(chain: MadeChain, task_id: Hash, proposer: PrivateKey) -> RoundReceipt:
    """Seal the round with the last update, and decide the block that carries the result.

    Raises
    ------
    BenchError
        If the round is not frozen, or ends without a result.
    """
    last = len(chain.participants) - 1
    dimension = chain.get_task(task_id).spec.dimension
    frozen = await _send_update(chain, task_id, last, dimension)
    if [receipt.outcome for receipt in frozen] != [RoundOutcome.FROZEN]:
        raise BenchError("The block of the last update did not freeze the training round.")
    carrying = FinalizeTrainingRound(task_id, frozen[0].training_round)
    executed = await chain.decide_when_ready(proposer, carrying)
    (receipt,) = executed.result.receipts.rounds
    if receipt.outcome is not RoundOutcome.FINALIZED:
        raise BenchError(f"The training round ended as {receipt.outcome.name.lower()}.")
    return receipt


def forget_peak() -> None:
    """Have the kernel note the peak of resident memory anew: so far it was that of preparing."""
    Path("/proc/self/clear_refs").write_text("5")


async def measure(
    folder: Path, n_updates: int, dimension: int, rule: AggregationRule, optimizer: ServerOptimizer
) -> StoredRoundFigures:
    """Run one training round on a chain of its own in an empty folder."""
    participants = list_participants(n_updates)
    storage = replace(LOCALNET.storage, payload_bytes_max=1 << 40)
    config = replace(LOCALNET, storage=storage)
    plan = NetworkPlan(
        chain_id=CHAIN_ID,
        addresses=find_free_addresses(1),
        config=config,
        # So that small rounds take the same way as large ones.
        parameters=ConsensusParameters(aggregation_cost_block_max=0),
        accounts=[GenesisAccount(key.address, BALANCE) for key in participants],
    )
    (node,) = write_network(folder, plan)
    key = read_validator_key(node.home.validator_key_file)
    aggregates = BackgroundAggregates()
    with open_made_chain(node.home, config, [key], participants, aggregates) as chain:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(aggregates.run)
            task_id = await open_round(chain, rule, optimizer, dimension)
            pid = os.getpid()
            report("sealing the round with the last update, and aggregating")
            forget_peak()
            wall, cpu = time.perf_counter(), read_cpu_seconds(pid)
            receipt = await close_round(chain, task_id, key)
            figures = StoredRoundFigures(
                time.perf_counter() - wall,
                read_cpu_seconds(pid) - cpu,
                read_memory(pid).peak_mb,
                chain.get_task(task_id).record.weights_root,
                receipt,
            )
            nursery.cancel_scope.cancel()
    return figures


def require_disk(folder: Path, n_updates: int, dimension: int, optimizer: str) -> None:
    """Raise unless a folder has room for the updates and for the weights.

    Raises
    ------
    BenchError
        If it does not.
    """
    needed = int(DISK_MARGIN * (2 * n_updates + WEIGHT_BYTES[optimizer]) * dimension)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BenchError(
            f"{folder} has {free / 1e6:,.0f} MB free, and this takes {needed / 1e6:,.0f} MB: free "
            "some, name another with --folder, or ask for less."
        )


def describe(rule: str, optimizer: str, n_updates: int, dim: int, took: StoredRoundFigures) -> str:
    """Return the figures as people read them."""
    return (
        f"{rule}, {optimizer}: n = {n_updates}, d = {dim:,},"
        f" {2 * n_updates * dim / 1e6:,.0f} MB of updates: {took.seconds:.1f} s"
        f" ({took.cpu_seconds:.1f} s of processor time), {took.peak_mb:,.0f} MB resident"
        f" at most, weights {took.weights_root.hex()[:16]}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, and run in a folder that is removed afterwards."""
    parser = make_parser(
        "bench.stored_round", "Aggregate a training round larger than memory in a node's own way."
    )
    for name, maximum, default, what in (
        ("--n", UPDATES_PER_ROUND_MAX, 100, "updates of the round"),
        ("--dim", PARAMETERS_MAX, 30_000_000, "parameters of the model"),
    ):
        parser.add_argument(
            name, type=whole_number(1, maximum), default=default, metavar="NUMBER", help=what
        )
    parser.add_argument("--rule", choices=RULES, default="trimmed_mean", help="how to aggregate")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="sgd", help="of the task")
    parser.add_argument(
        "--folder",
        type=parse_folder,
        default=Path(tempfile.gettempdir()),
        help="where there is room; files go into a temporary one there",
    )
    add_json_option(parser)
    options = parser.parse_args(arguments)
    rule = AggregationRule(RULES[options.rule], compute_num_byzantine(options.rule, options.n))
    if compute_updates_min(rule) > options.n:
        parser.error(f"{options.n} updates are too few for {options.rule}.")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))

    def work() -> None:
        require_disk(options.folder, options.n, options.dim, options.optimizer)
        optimizer = OPTIMIZERS[options.optimizer]
        with tempfile.TemporaryDirectory(prefix="quorate-stored-", dir=options.folder) as folder:
            network = Path(folder) / "network"
            figures = trio.run(measure, network, options.n, options.dim, rule, optimizer)
        print(describe(options.rule, options.optimizer, options.n, options.dim, figures))
        document = {
            "machine": asdict(describe_machine()),
            "settings": {
                "rule": options.rule,
                "optimizer": options.optimizer,
                "updates": options.n,
                "dimension": options.dim,
            },
            "figures": {
                "seconds": figures.seconds,
                "cpu_seconds": figures.cpu_seconds,
                "peak_mb": figures.peak_mb,
                "weights_root": figures.weights_root.hex(),
            },
        }
        write_json(options.json, document)

    return run(work, left="the files have been removed", is_trio=True)


if __name__ == "__main__":
    sys.exit(main())
