"""The way into the RPC: serving clients, and serving figures.

Owns the tasks of the two surfaces and their order. Never answers a request.
"""

from typing import TYPE_CHECKING, Final

import trio

from node.composition import NodeServices
from node.config import Config
from node.rpc.application import make_application
from node.rpc.context import follow_chain, make_context
from node.rpc.figures import make_figures_application
from node.rpc.listening import HttpServer, bind

if TYPE_CHECKING:
    # The stubs of trio that come with libp2p keep this type here.
    from trio_typing import TaskStatus


RPC_NAME: Final = "RPC"
RPC_SETTING: Final = "[rpc] listen"
METRICS_NAME: Final = "metrics server"
METRICS_SETTING: Final = "[instrumentation] metrics_listen"


async def bind_rpc(config: Config) -> trio.SocketListener:
    """Take the address of the RPC, before the node that it will serve decides or signs anything.

    Raises
    ------
    SurfaceListenError
        If the address in ``[rpc] listen`` cannot be used.
    """
    return await bind(config.rpc.address, RPC_NAME, RPC_SETTING)


async def bind_metrics(config: Config) -> trio.SocketListener:
    """Take the address of the figures for Prometheus.

    Raises
    ------
    SurfaceListenError
        If the address in ``[instrumentation] metrics_listen`` cannot be used.
    """
    return await bind(config.instrumentation.address, METRICS_NAME, METRICS_SETTING)


async def serve_rpc(
    services: NodeServices,
    listener: trio.SocketListener | None = None,
    *,
    task_status: "TaskStatus[str]" = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve clients until cancelled; started with the URL once listening.

    Parameters
    ----------
    services : NodeServices
        A node that runs.
    listener : trio.SocketListener, optional
        Of `bind_rpc`, if that was called before; closed at the end.

    Raises
    ------
    SurfaceListenError
        If the address in ``[rpc] listen`` cannot be used.
    """
    context = make_context(services)
    server = HttpServer(
        make_application(context), RPC_NAME, RPC_SETTING, on_stop=context.stopping.set
    )
    # Before the nursery: an address that cannot be used is to be told by itself, in no group.
    listener = listener or await bind_rpc(services.config)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow_chain, context)
        task_status.started(await nursery.start(server.run, listener))


async def serve_metrics(
    services: NodeServices,
    listener: trio.SocketListener | None = None,
    *,
    task_status: "TaskStatus[str]" = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve figures for Prometheus at ``/metrics`` until cancelled; started with the URL.

    Parameters
    ----------
    services : NodeServices
    listener : trio.SocketListener, optional
        Of `bind_metrics`, if that was called before; closed at the end.

    Raises
    ------
    SurfaceListenError
        If the address in ``[instrumentation] metrics_listen`` cannot be used.
    """
    server = HttpServer(
        make_figures_application(services), METRICS_NAME, METRICS_SETTING, connections_max=64
    )
    listener = listener or await bind_metrics(services.config)
    await server.run(listener, task_status=task_status)
