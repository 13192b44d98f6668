"""The daemon: one node over the files of its home folder and real sockets.

Owns opening and closing what a process needs (lock, databases, log, keys, network), signals, and
the order of both. Never wires the parts of a node: `composition` does.

At SIGTERM or SIGINT the surfaces close first, then the links, then the stores.
"""

import gc
import os
import signal
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import structlog
import trio
from quorate.chain.block import BLOCK_VERSION
from quorate.chain.genesis import Genesis

from node.agreement.signer import Signer
from node.composition import Node
from node.config import Config
from node.home import Home
from node.key_files import read_node_key, read_validator_key
from node.rpc.server import bind_metrics, bind_rpc, serve_metrics, serve_rpc
from node.storage import NodeStorage, open_storage
from p2p.host import LibP2PNetwork

if TYPE_CHECKING:
    # The stubs of trio that come with libp2p keep this type here.
    from trio_typing import TaskStatus

SWITCH_INTERVAL_S: Final = 0.0005
"""How long a thread may hold the interpreter: a signature check beside a busy thread takes 0.24 ms
with it, 1.8 ms with Python's default."""
STOP_SECONDS_MAX: Final = 4.0
"""What takes longer to stop is cut off."""

GC_THRESHOLDS: Final = (10_000, 10, 50)
"""New objects, and rounds, after which the garbage collector looks at objects of each age. With
Python's (700, 10, 10) single pauses under a load of transfers reached 0.2 s on a busy machine."""

_log = structlog.get_logger("daemon")


def get_time_ms() -> int:
    """Return the wall clock, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


async def run_daemon(
    home: Home,
    config: Config,
    *,
    accept_missing_sign_record: bool = False,
    task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a node until it is told to stop by SIGTERM, SIGINT or cancellation.

    Parameters
    ----------
    home : Home
        An existing home folder.
    config : Config
        The operator's settings.
    accept_missing_sign_record : bool
        Start a validator whose last-signed record is missing: for a key that has never signed.

    Raises
    ------
    QuorateError, ListenError
        With one sentence about what is wrong and the way out; in an exception group if it
        happened while running.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with home.lock(), ExitStack() as stack:
        genesis = home.read_genesis()
        node_key = read_node_key(home.node_key_file)
        storage = stack.enter_context(open_storage(home, config))
        signer = _open_signer(home, genesis, storage, accept_missing_sign_record)
        network = LibP2PNetwork(
            config.p2p.make_network_config(
                chain_id=genesis.chain_id,
                genesis_hash=genesis.hash,
                protocol_version=BLOCK_VERSION,
                key_seed=node_key.seed,
            )
        )
        # Taken before the node runs: one that has no port to be asked at must not sign anything.
        rpc_listener = await bind_rpc(config)
        stack.callback(rpc_listener.socket.close)
        metrics_listener = None
        if config.instrumentation.metrics:
            metrics_listener = await bind_metrics(config)
            stack.callback(metrics_listener.socket.close)
        node = Node(config, genesis, storage, network, signer, get_time_ms)
        # What was built until now lives as long as the process: leave it out of collections.
        gc.collect()
        gc.freeze()
        # What a load allocates is seldom part of a cycle, and each look at it is a pause.
        gc.set_threshold(*GC_THRESHOLDS)
        async with trio.open_nursery() as nursery:
            await nursery.start(_watch_signals, nursery.cancel_scope)
            await nursery.start(node.run)
            url = await nursery.start(serve_rpc, node.services, rpc_listener)
            if metrics_listener is not None:
                await nursery.start(serve_metrics, node.services, metrics_listener)
            _log.info(
                "started",
                chain_id=genesis.chain_id,
                rpc=url,
                peer_id=network.peer_id,
                listening=network.listen_addresses,
                validator=signer.key.address.hex() if signer is not None else None,
                height=node.services.executor.position.height,
                pid=os.getpid(),
            )
            task_status.started()
        signal.setitimer(signal.ITIMER_REAL, 0)
        _log.info("stopped", height=node.services.executor.position.height)


def _open_signer(
    home: Home, genesis: Genesis, storage: NodeStorage, accept_missing_record: bool
) -> Signer | None:
    if not home.validator_key_file.exists():
        return None
    return Signer(
        read_validator_key(home.validator_key_file),
        home.validator_state_file,
        genesis.chain_id,
        is_record_optional=storage.chain.height == 0,
        is_vouched=accept_missing_record,
    )


async def _watch_signals(
    scope: trio.CancelScope, *, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            _log.info("stopping", signal=signal.Signals(number).name)
            # The stores survive being cut off; a process that never ends helps nobody.
            signal.setitimer(signal.ITIMER_REAL, STOP_SECONDS_MAX)
            scope.cancel()
            return
