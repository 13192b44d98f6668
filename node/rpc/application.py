"""The routes of the RPC, put together.

Owns the application behind the door and its OpenAPI document. Never holds a handler.
"""

from typing import Final

from litestar import Litestar
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin

from node.rpc import blocks, events, payloads, status, tasks, transactions, weights
from node.rpc.context import RpcContext
from node.rpc.door import Door
from node.rpc.problems import answer_error
from node.rpc.status import get_version

HANDLERS: Final = (
    *status.HANDLERS,
    *blocks.HANDLERS,
    *transactions.HANDLERS,
    *payloads.HANDLERS,
    *tasks.HANDLERS,
    *weights.HANDLERS,
    *events.HANDLERS,
)


def make_application(context: RpcContext) -> Door:
    """Return the RPC of a node as an ASGI application."""

    def provide_node() -> RpcContext:
        return context

    app = Litestar(
        HANDLERS,
        dependencies={"node": Provide(provide_node, sync_to_thread=False)},
        exception_handlers={Exception: answer_error},
        # The door has limited the body already.
        request_max_body_size=None,
        logging_config=None,
        openapi_config=OpenAPIConfig(
            title="Quorate",
            version=get_version(),
            description="The interface of a Quorate node for its clients.",
            use_handler_docstrings=True,
            path="/openapi.json",
            render_plugins=[JsonRenderPlugin(path="/")],
        ),
    )
    return Door(app, context.services.config.rpc)
