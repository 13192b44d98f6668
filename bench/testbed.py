"""The network under measurement: four real nodes, a process each, on this machine.

Owns the settings of the measured nodes and the temporary folder of their homes. Never leaves a
process behind.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from quorate.chain.genesis import GenesisAccount
from quorate.chain.ids import Address
from quorate.chain.parameters import ConsensusParameters

from bench.machine import Memory, forget_peak, read_cpu_seconds, read_memory
from bench.signing import BALANCE, CHAIN_ID
from node.config import Config
from node.config_examples import LOCALNET
from node.localnet import Localnet, find_free_addresses
from node.testnet import NetworkPlan, write_network

IDLE_INTERVAL_MS: Final = 1_000
"""Between empty blocks while a load is prepared, so that signing has the processors."""


@dataclass(frozen=True, slots=True)
class Testbed:
    """A running network."""

    network: Localnet

    @property
    def urls(self) -> list[str]:
        """Where the nodes' RPCs are."""
        return [node.address.rpc_url for node in self.network.nodes]

    @property
    def pids(self) -> list[int]:
        """The nodes' process ids."""
        return [each.process.pid for each in self.network.processes]

    def read_cpu_seconds(self) -> float:
        """Return the processor time of all nodes together."""
        self.network.check_running()
        return sum(read_cpu_seconds(pid) for pid in self.pids)

    def read_memory(self) -> list[Memory]:
        """Return the resident memory of each node."""
        self.network.check_running()
        return [read_memory(pid) for pid in self.pids]

    def forget_peaks(self) -> None:
        """Note the peaks of the nodes' memory anew: so far they were those of preparing."""
        for pid in self.pids:
            forget_peak(pid)


def make_config(empty_block_interval_ms: int) -> Config:
    """Return what the measured nodes share: a localnet's settings, and quiet logs."""
    consensus = replace(LOCALNET.consensus, empty_block_interval_ms=empty_block_interval_ms)
    return replace(LOCALNET, log_level="warning", consensus=consensus)


@contextmanager
def open_testbed(
    n_nodes: int,
    accounts: Sequence[Address],
    empty_block_interval_ms: int = IDLE_INTERVAL_MS,
    parameters: ConsensusParameters | None = None,
) -> Iterator[Testbed]:
    """Yield a network that runs and has decided a block; it stops at the end.

    Parameters
    ----------
    n_nodes : int
        How many validators.
    accounts : sequence of bytes, 20
        Who has coins from the start.
    empty_block_interval_ms : int
        Time from a block to an empty one.
    parameters : ConsensusParameters, optional
        Those of the chain.

    Raises
    ------
    LocalnetError
        If a node does not start.
    """
    with tempfile.TemporaryDirectory(prefix="quorate-bench-", ignore_cleanup_errors=True) as folder:
        plan = NetworkPlan(
            chain_id=CHAIN_ID,
            addresses=find_free_addresses(n_nodes),
            config=make_config(empty_block_interval_ms),
            parameters=ConsensusParameters() if parameters is None else parameters,
            accounts=[GenesisAccount(address, BALANCE) for address in accounts],
        )
        nodes = write_network(Path(folder) / "network", plan)
        with Localnet(nodes) as network:
            network.start()
            network.wait_until_ready()
            yield Testbed(network)
