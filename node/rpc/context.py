"""What the handlers work with: the node's parts, and what the RPC itself remembers.

Owns the task that follows the chain for the RPC's own memory: the ends of training rounds, when the
last block came. Never answers a request.
"""

from dataclasses import dataclass, field
from typing import Final

import trio
from litestar.di import NamedDependency
from litestar.params import SkipValidation
from quorate.chain.ids import Hash

from node.composition import NodeServices
from node.errors import SubscriptionRefused
from node.events import Event, EventType
from node.rpc.model_history import ModelHistory
from node.rpc.round_index import RoundIndex

RETRY_S: Final = 1.0
"""How long to wait when the bus has no room for another subscription."""


@dataclass(slots=True)
class RpcContext:
    """Everything a handler may use.

    Attributes
    ----------
    services : NodeServices
        The node.
    models : ModelHistory
        Leaves at past heights.
    rounds : RoundIndex
        Where training rounds ended.
    last_block_at : float
        When the last block came, or the server started, in seconds of trio's clock.
    stopping : trio.Event
        Set when the server stops: long answers end.
    """

    services: NodeServices
    models: ModelHistory
    rounds: RoundIndex
    last_block_at: float
    stopping: trio.Event = field(default_factory=trio.Event)


Node = NamedDependency[SkipValidation[RpcContext]]
"""The type of the parameter `node` of a handler."""


def make_context(services: NodeServices) -> RpcContext:
    """Return the context of a node that runs."""
    chain = services.storage.chain
    models = ModelHistory(services.executor.state, chain)
    return RpcContext(services, models, RoundIndex(chain), trio.current_time())


async def follow_chain(context: RpcContext) -> None:
    """Keep the memory of the RPC up to date, until cancelled."""
    events = context.services.events
    while True:
        try:
            with events.subscribe((EventType.BLOCK, EventType.TRAINING_ROUND)) as subscription:
                # What happened before the subscription has to be read from the store.
                context.rounds.restart()
                async for event in subscription:
                    _follow(context, event)
        except SubscriptionRefused:
            await trio.sleep(RETRY_S)


def _follow(context: RpcContext, event: Event) -> None:
    data = event.data
    height = int(str(data["height"]))
    if event.type is EventType.BLOCK:
        context.last_block_at = trio.current_time()
        context.rounds.tell_height(height)
    elif data["outcome"] != "frozen":
        task_id = Hash(bytes.fromhex(str(data["task_id"])))
        context.rounds.add(task_id, int(str(data["training_round"])), height)
