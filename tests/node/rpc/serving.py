"""A node of one validator with its RPC on a real port of the loopback address."""

import dataclasses
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h11
import httpx
import numpy as np
import trio
from quorate.chain.codec import encode
from quorate.chain.content import compute_content_hash
from quorate.chain.genesis import Genesis
from quorate.chain.keys import PrivateKey
from quorate.chain.task import (
    AggregationRule,
    OptimizerName,
    RoundPolicy,
    ServerOptimizer,
    Stage,
    TaskSpec,
    TensorSpec,
    UpdateCodec,
)
from quorate.chain.transaction import Body, CreateTask, RegisterParticipant, SubmitUpdate
from quorate.event_stream import EventParser
from quorate.rpc_types import Event

from node.composition import NodeServices
from node.config import Config, MempoolSection, RpcSection
from node.rpc.application import HANDLERS
from node.rpc.server import serve_rpc
from tests.node.cluster import Cluster, Member, make_config, open_cluster, sign

MESSAGE_PACK = {"content-type": "application/msgpack"}
JSON = {"content-type": "application/json"}
DIMENSION = 6
INITIAL = np.arange(DIMENSION, dtype="<i4").tobytes()


@dataclass
class Served:
    """A running node and a client on its RPC."""

    url: str
    client: httpx.AsyncClient
    services: NodeServices
    cluster: Cluster
    scope: trio.CancelScope

    @property
    def member(self) -> Member:
        return self.cluster.members[0]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def get(self, path: str, **parameters: Any) -> Any:
        """Return the JSON of a successful answer."""
        response = await self.client.get(path, params=parameters)
        assert response.status_code == 200, response.text
        return response.json()

    async def submit(self, raw: bytes, payload: bytes | None = None) -> httpx.Response:
        return await self.client.post(
            "/v1/transactions", content=encode((raw, payload)), headers=MESSAGE_PACK
        )

    async def send(self, key: PrivateKey, body: Body, payload: bytes | None = None) -> str:
        """Submit a body with the next nonce, and wait until it is decided."""
        raw = sign(key, self.services.mempool.pending_nonce(key.address), body)
        response = await self.submit(raw, payload)
        assert response.status_code == 202, response.text
        transaction_hash = str(response.json()["hash"])
        await self.wait_for(transaction_hash)
        return transaction_hash

    async def wait_for(self, transaction_hash: str) -> None:
        wanted = bytes.fromhex(transaction_hash)
        await poll(lambda: self.services.storage.chain.find_transaction(wanted) is not None)

    async def wait_for_height(self, height: int) -> None:
        await poll(lambda: self.services.executor.position.height >= height)


class EventReader:
    """An open subscription on a connection of its own, read with the SDK's parser.

    httpx leaves generators behind when a stream is not read to its end.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT)
        self._parser = EventParser()
        self._events: list[Event] = []
        self.headers: dict[str, str] = {}
        self.raw = b""

    async def open(self, path: str, headers: dict[str, str]) -> None:
        request = h11.Request(
            method="GET", target=path, headers=[("host", "localhost"), *headers.items()]
        )
        await self._stream.send_all(self._http.send(request) or b"")
        await self._stream.send_all(self._http.send(h11.EndOfMessage()) or b"")
        response = await self._next_http_event()
        assert isinstance(response, h11.Response)
        assert response.status_code == 200
        self.headers = {name.decode(): value.decode() for name, value in response.headers}

    async def next(self) -> Event:
        with trio.fail_after(10):
            while not self._events:
                assert await self.read(), "the stream has ended"
        return self._events.pop(0)

    async def read(self) -> bool:
        """Read what comes next; False at the end."""
        event = await self._next_http_event()
        if not isinstance(event, h11.Data):
            return False
        self.raw += event.data
        self._events += self._parser.receive(bytes(event.data))
        return True

    async def _next_http_event(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._stream.receive_some())
        return event


@asynccontextmanager
async def subscribe(
    served: Served, query: str = "", last_event_id: str | None = None
) -> AsyncIterator[EventReader]:
    async with await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
        reader = EventReader(stream)
        headers = {} if last_event_id is None else {"last-event-id": last_event_id}
        await reader.open(f"/v1/events{query}", headers)
        assert reader.headers["content-type"] == "text/event-stream"
        yield reader


async def poll(is_done: Callable[[], bool], timeout_s: float = 15) -> None:
    """Wait until something outside of trio's sight is so."""
    deadline = trio.current_time() + timeout_s
    while not is_done():
        assert trio.current_time() < deadline, "it did not happen"
        await trio.sleep(0.005)


def make_rpc_config(
    rpc: RpcSection | None = None, mempool: MempoolSection | None = None, **consensus: object
) -> Config:
    config = make_config(**({"empty_block_interval_ms": 50} | consensus))
    return dataclasses.replace(
        config,
        rpc=rpc or RpcSection(listen="127.0.0.1:0"),
        mempool=mempool or config.mempool,
    )


@asynccontextmanager
async def open_rpc(
    folder: Path, config: Config | None = None, genesis: Genesis | None = None
) -> AsyncIterator[Served]:
    config = config or make_rpc_config()
    async with (
        open_cluster(folder, 1, config=config, genesis=genesis) as cluster,
        trio.open_nursery() as nursery,
    ):
        services = cluster.members[0].running.services
        scope = trio.CancelScope()

        async def serve(task_status: Any) -> None:
            with scope:
                await serve_rpc(services, task_status=task_status)

        url = await nursery.start(serve)
        async with httpx.AsyncClient(base_url=url, timeout=15, trust_env=False) as client:
            yield Served(url, client, services, cluster, scope)
        nursery.cancel_scope.cancel()


def make_spec(name: str = "toy", **policy: Any) -> TaskSpec:
    settings: dict[str, Any] = {
        "deadline_ms": 600_000,
        "updates_min": 1,
        "updates_max": 1,
        "waive_proposer_spread": True,
    }
    return TaskSpec(
        name=name,
        tensors=(TensorSpec("w", (2, 3), 16, 12),),
        initial_weights_root=compute_content_hash(INITIAL),
        rule=AggregationRule((Stage.MEAN,), 0),
        optimizer=ServerOptimizer(OptimizerName.SGD),
        codec=UpdateCodec.DENSE_INT16,
        policy=RoundPolicy(**(settings | policy)),
        example_count_max=0,
    )


def make_task(spec: TaskSpec) -> CreateTask:
    return CreateTask(spec)


def make_update(
    served: Served, task_id: bytes, payload: bytes, **changes: Any
) -> tuple[SubmitUpdate, bytes]:
    task = served.services.executor.state.get_task(task_id)
    assert task is not None
    settings: dict[str, Any] = {
        "task_id": task_id,
        "training_round": task.training_round,
        "base_weights_root": task.weights_root,
        "codec": UpdateCodec.DENSE_INT16,
        "payload_hash": compute_content_hash(payload),
        "payload_size": len(payload),
        "example_count": 0,
    }
    return SubmitUpdate(**(settings | changes)), payload


def make_payload(value: int = 5, dimension: int = DIMENSION) -> bytes:
    return np.full(dimension, value, dtype="<i2").tobytes()


async def open_task(
    served: Served, authority: PrivateKey, *participants: PrivateKey, spec: TaskSpec | None = None
) -> bytes:
    """Create a task and register participants; return its id."""
    task_id = await served.send(authority, make_task(spec or make_spec()), INITIAL)
    for participant in participants:
        await served.send(participant, RegisterParticipant(bytes.fromhex(task_id)))
    return bytes.fromhex(task_id)


def assert_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check the form of a problem and return it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert set(problem) == {"type", "title", "status", "code", "detail"}
    assert problem["status"] == status
    assert problem["code"] == code
    assert problem["type"] == f"urn:quorate:problem:{code}"
    assert problem["detail"].endswith((".", "!"))
    assert "Traceback" not in problem["detail"]
    assert_documented(response, status, code)
    return dict(problem)


def assert_documented(response: httpx.Response, status: int, code: str) -> None:
    """Check that the OpenAPI document tells of a refusal by an operation that it has."""
    request = response.request
    path = request.url.raw_path.decode().partition("?")[0]
    for handler in HANDLERS:
        patterns = [re.sub(r"\{[^}]*\}", "[^/]+", each) for each in handler.paths]
        if request.method in handler.http_methods and any(re.fullmatch(p, path) for p in patterns):
            told = (handler.responses or {}).get(status)
            assert told is not None, f"{request.method} {path} answered {status} {code}"
            assert code in told.description.removesuffix(".").replace(",", "").split(), path


def read_stored(served: Served) -> tuple[int, int, int]:
    """Return what a refused request must leave alone: mempool, payloads, journal."""
    mempool = served.services.mempool
    return mempool.count, served.services.storage.payloads.bytes_total, count_journaled(served)


def count_journaled(served: Served) -> int:
    return sum(1 for _ in served.member.journal.iterate(b"\0", b"\xff" * 64))
