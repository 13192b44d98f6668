"""The page for Prometheus."""

import dataclasses

import httpx
import pytest
import trio
from quorate.chain.transaction import Transfer

from node.config import InstrumentationSection
from node.rpc.listening import SurfaceListenError
from node.rpc.server import serve_metrics
from tests.node.cluster import CHAIN_ID, USERS, sign
from tests.node.rpc.serving import Served, make_payload, make_spec, make_update, open_task


async def test_figures(served: Served, nursery: trio.Nursery) -> None:
    config = dataclasses.replace(
        served.services.config,
        instrumentation=InstrumentationSection(metrics_listen="127.0.0.1:0"),
    )
    services = dataclasses.replace(served.services, config=config)
    url = await nursery.start(serve_metrics, services)
    spec = make_spec(updates_min=2, updates_max=2)
    task_id = await open_task(served, USERS[0], USERS[1], spec=spec)
    await served.send(USERS[1], *make_update(served, task_id, make_payload()))
    await served.submit(sign(USERS[0], 99, Transfer(USERS[1].address, 1)))
    async with httpx.AsyncClient(trust_env=False) as client:
        page = await client.get(f"{url}/metrics")
        assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
        lines = dict(
            line.rsplit(" ", 1) for line in page.text.splitlines() if not line.startswith("#")
        )
        label = f'{{chain_id="{CHAIN_ID}"}}'
        assert float(lines[f"quorate_consensus_height{label}"]) >= 3
        assert float(lines[f"quorate_mempool_size{label}"]) == 0
        refused = f'quorate_mempool_refused_txs_total{{chain_id="{CHAIN_ID}",code="wrong_nonce"}}'
        assert float(lines[refused]) == 1
        deadline = (
            f'quorate_training_seconds_to_deadline{{chain_id="{CHAIN_ID}",task="{task_id.hex()}"}}'
        )
        assert 500 < float(lines[deadline]) <= 600
        assert (await client.get(url)).status_code == 404
        assert (await client.post(f"{url}/metrics", content=b"x" * 10)).status_code == 404
    taken = InstrumentationSection(metrics_listen=url.removeprefix("http://"))
    again = dataclasses.replace(services, config=dataclasses.replace(config, instrumentation=taken))
    with pytest.raises(SurfaceListenError, match="metrics_listen"):
        await serve_metrics(again)
    nursery.cancel_scope.cancel()
