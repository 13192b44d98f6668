"""Figures for Prometheus.

Owns the page at /metrics, and asks the parts of the node for what they do not tell by themselves.
Never measures.
"""

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from ledger.queries import get_training_round
from node.composition import NodeServices
from node.metrics import CONTENT_TYPE, TASKS_LABELED_MAX


def make_figures_application(services: NodeServices) -> ASGIApp:
    """Return the application that answers /metrics alone."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await send({"type": "websocket.close", "code": 1003, "reason": ""})
            return
        while (message := await receive())["type"] == "http.request" and message["more_body"]:
            pass  # A body has no meaning here.
        status, kind, body = 404, b"text/plain; charset=utf-8", b"The figures are at /metrics.\n"
        if scope["method"] == "GET" and scope["path"] == "/metrics":
            collect_figures(services)
            status, kind, body = 200, CONTENT_TYPE.encode(), services.metrics.render()
        headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    return serve


def collect_figures(services: NodeServices) -> None:
    """Bring the figures that are read, not told, up to date."""
    metrics, mempool = services.metrics, services.mempool
    metrics.set_mempool(
        transactions=mempool.count, size=mempool.bytes_total, refused=mempool.refused
    )
    exchange = services.exchange
    metrics.set_payloads(
        unannounced=mempool.large.unannounced_count,
        wanted=exchange.wanted_count,
        missing_bytes=exchange.bytes_missing,
        pulled_bytes=exchange.figures.bytes,
        wrong=exchange.figures.wrong,
    )
    metrics.set_network(services.network.peers())
    metrics.set_catching_up(is_catching_up=services.catch_up.is_behind)
    state = services.executor.state
    for task_id in state.pending_task_ids[:TASKS_LABELED_MAX]:
        task = get_training_round(state, task_id)
        if task is not None:
            seconds = (task.deadline_time_ms - services.now_ms()) / 1000
            metrics.set_seconds_to_deadline(task_id, seconds)
