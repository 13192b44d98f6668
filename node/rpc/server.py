"""The way into the RPC: serving clients, and serving figures.

Owns the tasks of the two surfaces and their order. Never answers a request.
"""

from typing import TYPE_CHECKING

import trio

from node.composition import NodeServices
from node.rpc.application import make_application
from node.rpc.context import follow_chain, make_context
from node.rpc.figures import make_figures_application
from node.rpc.listening import HttpServer

if TYPE_CHECKING:
    # The stubs of trio that come with libp2p keep this type here.
    from trio_typing import TaskStatus


async def serve_rpc(
    services: NodeServices, *, task_status: "TaskStatus[str]" = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve clients until cancelled; started with the URL once listening.

    Parameters
    ----------
    services : NodeServices
        A node that runs.

    Raises
    ------
    SurfaceListenError
        If the address in ``[rpc] listen`` cannot be used.
    """
    context = make_context(services)
    server = HttpServer(
        make_application(context), "RPC", "[rpc] listen", on_stop=context.stopping.set
    )
    # Before the nursery: an address that cannot be used is to be told by itself, in no group.
    listener = await server.listen(services.config.rpc.address)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow_chain, context)
        task_status.started(await nursery.start(server.run, listener))


async def serve_metrics(
    services: NodeServices, *, task_status: "TaskStatus[str]" = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve figures for Prometheus at ``/metrics`` until cancelled; started with the URL.

    Raises
    ------
    SurfaceListenError
        If the address in ``[instrumentation] metrics_listen`` cannot be used.
    """
    server = HttpServer(
        make_figures_application(services),
        "metrics server",
        "[instrumentation] metrics_listen",
        connections_max=64,
    )
    listener = await server.listen(services.config.instrumentation.address)
    await server.run(listener, task_status=task_status)
