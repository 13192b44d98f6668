"""Measure how fast a fresh node catches up: blocks per second, and megabytes of payloads.

Owns the homes of the serving nodes and of the one that catches up, all real processes over
libp2p on loopback, and the clock. Never judges a figure: machines differ.

Run as `python -m bench.sync [--blocks 5000] [--payload-blocks 60] [--servers 3] [--json FILE]`.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import trio
from quorate.chain.genesis import GenesisAccount
from rich.console import Console
from rich.table import Table

from bench.command_line import (
    add_json_option,
    make_parser,
    report,
    run,
    whole_number,
    write_json,
)
from bench.errors import BenchError
from bench.machine import Memory, describe_machine, read_cpu_seconds, read_memory
from bench.made_chain import MadeChain, list_participants, open_made_chain
from bench.signing import BALANCE, CHAIN_ID
from bench.testbed import make_config
from node.config import Config
from node.key_files import read_validator_key
from node.localnet import Localnet, find_free_addresses
from node.testnet import NetworkPlan, WrittenNode, write_network

BLOCKS: Final = 5_000
PAYLOAD_BLOCKS: Final = 60
PAYLOAD_BYTES: Final = 1 << 20
SERVERS: Final = 1
PAYLOAD_SERVERS: Final = 3
VALIDATORS: Final = 4
BULK_BYTES_PER_S: Final = 1_000_000_000
"""The pace of bulk is the operator's choice, made for votes; here it shall not be what is seen."""
BLOCKS_MAX: Final = 1_000_000
SERVERS_MAX: Final = 16
BULK_BYTES_PER_S_LEAST, BULK_BYTES_PER_S_MOST = 1 << 20, 1 << 40
POLL_S: Final = 0.1
SYNC_SECONDS_MAX: Final = 300.0


@dataclass(frozen=True, slots=True)
class SyncFigures:
    """What catching up took.

    Attributes
    ----------
    blocks, payload_bytes : int
        Of the blocks between the first and the last look.
    servers : int
    seconds : float
    blocks_per_s, payload_mb_per_s : float
    cpu_us_per_block : float
        Of the node that catches up.
    processors, server_processors : float
        How many processors it kept busy, and all of its peers together.
    memory : Memory
        Of the node that catches up, at the end.
    """

    blocks: int
    payload_bytes: int
    servers: int
    seconds: float
    blocks_per_s: float
    payload_mb_per_s: float
    cpu_us_per_block: float
    processors: float
    server_processors: float
    memory: Memory


@dataclass(frozen=True, slots=True)
class Look:
    """A height that the node told, and the processor time until then: its own, and its peers'."""

    seconds: float
    height: int
    cpu_s: float
    served_s: float


class SyncNetwork:
    """Homes of some nodes that serve a chain, and of one that has none yet.

    Parameters
    ----------
    folder : Path
        Empty or absent.
    servers : int
        How many nodes serve.
    config : Config
        What all nodes share.
    """

    def __init__(self, folder: Path, servers: int, config: Config) -> None:
        plan = NetworkPlan(
            chain_id=CHAIN_ID,
            addresses=find_free_addresses(max(VALIDATORS, servers + 1)),
            config=config,
            accounts=[GenesisAccount(key.address, BALANCE) for key in list_participants()],
        )
        nodes = write_network(folder, plan)
        self._config = config
        self._keys = [read_validator_key(node.home.validator_key_file) for node in nodes]
        for node in nodes:
            # All follow and serve: with votes, the chain would go on while it is measured.
            node.home.validator_key_file.unlink()
        self.fresh: WrittenNode = nodes[0]
        self.servers: Sequence[WrittenNode] = nodes[1 : servers + 1]

    def make_chain(self, work: Callable[[MadeChain], int]) -> tuple[int, int]:
        """Fill the servers' homes; return the height and what `work` says of its payloads."""
        first = self.servers[0].home
        with open_made_chain(first, self._config, self._keys) as chain:
            payload_bytes = work(chain)
            height = chain.executor.position.height
        for node in self.servers[1:]:
            shutil.copytree(first.data_folder, node.home.data_folder, dirs_exist_ok=True)
        return height, payload_bytes

    def measure(self, height: int, payload_bytes: int) -> SyncFigures:
        """Start the servers, then the fresh node, and watch it until it has `height`.

        Raises
        ------
        BenchError
            If it does not get there in time.
        LocalnetError
            If a node fails.
        """
        with Localnet(self.servers) as serving:
            serving.start()
            serving.wait_until_ready()
            with Localnet([self.fresh]) as net:
                net.start()
                return _watch(serving, net, height, payload_bytes)


def _watch(serving: Localnet, net: Localnet, height: int, payload_bytes: int) -> SyncFigures:
    deadline = time.monotonic() + SYNC_SECONDS_MAX
    pids = [each.process.pid for each in serving.processes]
    pid = net.processes[0].process.pid
    looks: list[Look] = []
    while not looks or looks[-1].height < height:
        net.check_running()
        serving.check_running()
        status = net.get_statuses()[0]
        if time.monotonic() > deadline:
            reached = looks[-1].height if looks else 0
            raise BenchError(f"Only height {reached} was reached in {SYNC_SECONDS_MAX:g} s.")
        if status is not None:
            served = sum(map(read_cpu_seconds, pids))
            looks.append(Look(time.monotonic(), status.height, read_cpu_seconds(pid), served))
        time.sleep(POLL_S)
    first, last = get_first(looks), looks[-1]
    if first is last:
        raise BenchError("The node was level at the first look: measure more blocks.")
    seconds, blocks = last.seconds - first.seconds, height - first.height
    return SyncFigures(
        blocks=blocks,
        payload_bytes=payload_bytes,
        servers=len(pids),
        seconds=seconds,
        blocks_per_s=blocks / seconds,
        payload_mb_per_s=payload_bytes / seconds / 1e6,
        cpu_us_per_block=(last.cpu_s - first.cpu_s) / blocks * 1e6,
        processors=(last.cpu_s - first.cpu_s) / seconds,
        server_processors=(last.served_s - first.served_s) / seconds,
        memory=read_memory(pid),
    )


def get_first(looks: Sequence[Look]) -> Look:
    """Return the look at which the clock starts: the last that found no block yet.

    So the first blocks count like their payloads do, and the time to dial the peers does not.
    """
    empty = [each for each in looks if each.height == 0]
    return empty[-1] if empty else looks[0]


def measure_sync(
    servers: int, blocks: int, payload_blocks: int, bulk_bytes_per_s: int
) -> SyncFigures:
    """Measure a fresh node against a chain of its own making.

    Parameters
    ----------
    servers : int
        How many peers have the chain.
    blocks : int
        Near-empty ones.
    payload_blocks : int
        Those that carry payloads, after them.
    bulk_bytes_per_s : int
        The pace of each peer.

    Raises
    ------
    QuorateError
        If a node fails, or the measurement is worthless.
    """
    config = make_config(1_000)
    config = replace(config, p2p=replace(config.p2p, bulk_bytes_per_s_max=bulk_bytes_per_s))

    async def fill(chain: MadeChain) -> int:
        await chain.add_near_empty_blocks(blocks)
        if not payload_blocks:
            return 0
        return await chain.add_payload_blocks(payload_blocks, PAYLOAD_BYTES)

    with tempfile.TemporaryDirectory(prefix="quorate-sync-", ignore_cleanup_errors=True) as folder:
        network = SyncNetwork(Path(folder) / "network", servers, config)
        report(f"making {blocks} near-empty blocks and {payload_blocks} with payloads")
        height, payload_bytes = network.make_chain(lambda chain: trio.run(partial(fill, chain)))
        report(f"catching up from {servers} peers to height {height}")
        return network.measure(height, payload_bytes)


def make_table(near_empty: SyncFigures | None, loaded: SyncFigures | None) -> Table:
    """Return the figures as people read them, with the marks that they are held against."""
    table = Table("figure", "measured", "mark", title="Catching up on one machine")
    table.columns[1].justify = table.columns[2].justify = "right"
    for name, figures in (("near-empty blocks", near_empty), ("blocks with payloads", loaded)):
        if figures is None:
            continue
        is_loaded = figures.payload_bytes > 0
        where = f"{name}, {figures.servers} peer{'s' * (figures.servers > 1)}"
        table.add_row(where, f"{figures.blocks_per_s:,.0f}/s", "" if is_loaded else "1,000/s")
        if is_loaded:
            table.add_row("  payloads", f"{figures.payload_mb_per_s:.0f} MB/s", "50 MB/s")
        table.add_row("  CPU for a block", f"{figures.cpu_us_per_block:,.0f} us")
        busy = f"{figures.processors:.2f}, {figures.server_processors:.2f}"
        table.add_row("  processors busy: the node, its peers", busy)
        table.add_row("  memory of the node", f"{figures.memory.peak_mb:.0f} MB")
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure, print, and write JSON if asked to."""
    parser = make_parser("bench.sync", "Measure how fast a fresh node catches up.")
    for name, bounds, default, what in (
        ("--blocks", (0, BLOCKS_MAX), BLOCKS, "near-empty blocks; 0: leave them out"),
        (
            "--payload-blocks",
            (0, BLOCKS_MAX),
            PAYLOAD_BLOCKS,
            "blocks of 4 MiB of payloads; 0: leave them out",
        ),
        ("--servers", (1, SERVERS_MAX), SERVERS, "peers with the near-empty blocks"),
        ("--payload-servers", (1, SERVERS_MAX), PAYLOAD_SERVERS, "peers with the payloads"),
        (
            "--pace",
            (BULK_BYTES_PER_S_LEAST, BULK_BYTES_PER_S_MOST),
            BULK_BYTES_PER_S,
            "bytes/s of each peer",
        ),
    ):
        parser.add_argument(
            name, type=whole_number(*bounds), default=default, metavar="NUMBER", help=what
        )
    add_json_option(parser)
    options = parser.parse_args(arguments)
    if not options.blocks and not options.payload_blocks:
        parser.error("There is nothing to measure without blocks of either kind.")

    def work() -> None:
        near_empty = loaded = None
        if options.blocks:
            near_empty = measure_sync(options.servers, options.blocks, 0, options.pace)
        if options.payload_blocks:
            loaded = measure_sync(options.payload_servers, 0, options.payload_blocks, options.pace)
        Console().print(make_table(near_empty, loaded))
        document = {
            "machine": asdict(describe_machine()),
            "near_empty": None if near_empty is None else asdict(near_empty),
            "with_payloads": None if loaded is None else asdict(loaded),
        }
        write_json(options.json, document)

    return run(work)


if __name__ == "__main__":
    sys.exit(main())
