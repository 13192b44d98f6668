"""Requests about the node itself: is it there, is it fit, whom does it know.

Owns these answers and what makes a node ready. Never changes anything.
"""

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import trio
from litestar import Response, get
from quorate.chain.block import APP_VERSION, BLOCK_VERSION
from quorate.chain.errors import ErrorCode
from quorate.chain.genesis import encode_genesis

from node.rpc import answers
from node.rpc.answers import JSON, View, answer, document
from node.rpc.context import Node, RpcContext
from node.rpc.problems import Refusal
from node.views import to_object

STALL_S_MIN: Final = 10.0
"""A chain that should advance is given at least so long for a block."""

STALL_ROUNDS: Final = 3
"""And the time of so many rounds of consensus that come to nothing."""


@get("/health", responses=document("The node answers.", answers.Health))
async def get_health() -> Response[bytes]:
    """Tell that the node answers."""
    return answer(answers.Health())


@get("/ready", responses=document("The node is fit for use; 503 says why not.", answers.Ready))
async def get_ready(node: Node) -> Response[bytes]:
    """Tell whether the node is linked, level with its peers and advancing."""
    reason = find_hindrance(node)
    if reason is not None:
        raise Refusal(ErrorCode.NOT_AVAILABLE, f"The node is not ready: {reason}.")
    return answer(answers.Ready(ready=True))


def find_hindrance(node: RpcContext) -> str | None:
    """Return why the node is not ready, or None."""
    services = node.services
    position = services.executor.position
    if services.catch_up.is_behind:
        return f"it catches up (height {position.height} of {services.catch_up.highest_claim})"
    is_alone = (
        services.signer is not None
        and len(position.validators) == 1
        and services.signer.key.address in position.validators.by_address
    )
    if not is_alone and not services.network.peers():
        return "it has no link to another node"
    consensus = services.config.consensus
    if not consensus.create_empty_blocks and not services.mempool.ready_count:
        return None  # Without work there is no block to wait for.
    round_ms = (
        consensus.timeout_propose_ms + consensus.timeout_prevote_ms + consensus.timeout_precommit_ms
    )
    patience_ms = consensus.empty_block_interval_ms + STALL_ROUNDS * round_ms
    silence_s = trio.current_time() - node.last_block_at
    if silence_s > max(STALL_S_MIN, patience_ms / 1000):
        return f"no block has come for {silence_s:.0f} seconds"
    return None


@get("/status", responses=document("The node and its chain.", answers.Status))
async def get_status(node: Node) -> Response[bytes]:
    """Tell who the node is and what it has decided."""
    services = node.services
    position, driver = services.executor.position, services.driver
    own = services.signer.key.address if services.signer is not None else None
    validator = position.validators.by_address.get(own) if own is not None else None
    return answer(
        answers.Status(
            chain_id=services.genesis.chain_id,
            genesis_hash=_get_genesis_hash(node),
            version=get_version(),
            moniker=services.config.moniker,
            peer_id=services.network.peer_id,
            listen_addresses=services.network.listen_addresses,
            validator=None
            if validator is None
            else answers.OwnValidator(validator.address.hex(), validator.power),
            height=str(position.height),
            earliest_height=str(services.storage.chain.base),
            block_hash="" if position.block_id is None else position.block_id.hash.hex(),
            block_time_ms=str(position.time_ms),
            state_root=position.state_root.hex(),
            model_root=position.model_root.hex(),
            catching_up=services.catch_up.is_behind,
            peer_count=len(services.network.peers()),
            mempool=answers.MempoolSize(services.mempool.count, services.mempool.bytes_total),
            consensus=answers.ConsensusStep(
                str(driver.height), driver.round, driver.step.name.lower()
            ),
        )
    )


@get("/net_info", responses=document("The node's links.", answers.NetInfo))
async def get_net_info(node: Node) -> Response[bytes]:
    """List the linked peers."""
    network = node.services.network
    now = trio.current_time()
    peers = [
        answers.Peer(
            peer.peer_id,
            peer.address,
            peer.outbound,
            peer.score,
            peer.latency_ms,
            round(now - peer.connected_at, 3),
            str(peer.bytes_sent),
            str(peer.bytes_received),
        )
        for peer in network.peers()
    ]
    return answer(answers.NetInfo(network.peer_id, network.listen_addresses, peers))


@get("/genesis", responses=document("The genesis document.", View))
async def get_genesis(node: Node) -> Response[bytes]:
    """Return the genesis document."""
    return Response(encode_genesis(node.services.genesis), media_type=JSON)


@get("/v1/mempool", responses=document("What waits for a block.", answers.Mempool))
async def get_mempool(node: Node) -> Response[bytes]:
    """Tell how full the mempool is."""
    mempool, limits = node.services.mempool, node.services.config.mempool
    return answer(
        answers.Mempool(
            mempool.count,
            mempool.bytes_total,
            mempool.ready_count,
            mempool.held_count,
            limits.transactions_max,
            limits.bytes_max,
            {str(code): count for code, count in sorted(mempool.refused.items())},
        )
    )


@get("/v1/parameters", responses=document("Consensus parameters.", answers.Parameters))
async def get_parameters(node: Node) -> Response[bytes]:
    """Return the consensus parameters of the next height."""
    record = node.services.executor.state.get_parameters_record()
    return answer(
        answers.Parameters(
            to_object(record.parameters), record.parameters.root.hex(), str(record.change_count)
        )
    )


@cache
def get_version() -> str:
    """Return the version of this program and of the protocol that it speaks."""
    try:
        program = version("quorate-node")
    except PackageNotFoundError:
        program = "unpackaged"
    return f"{program} (block {BLOCK_VERSION}, app {APP_VERSION})"


def _get_genesis_hash(node: RpcContext) -> str:
    # The genesis document may be large, and its hash does not change.
    stored = node.services.storage.chain.load_document("genesis")
    return (stored or node.services.genesis.hash).hex()


HANDLERS: Final = (
    get_health,
    get_ready,
    get_status,
    get_net_info,
    get_genesis,
    get_mempool,
    get_parameters,
)
