"""Weights whose file is cut while they are downloaded: the download fails, and the node goes on."""

from pathlib import Path

from tests.store.disks import run_python

CHILD = """
import os, socket, sys
from pathlib import Path
import httpx, numpy as np, trio
from msgspec import structs
from quorate.chain.content import compute_content_hash
from quorate.chain.task import TensorSpec
from store.database import MemoryDatabase
from store.payloads import PayloadStore
from tests.node.cluster import USERS
from tests.node.rpc.serving import make_spec, make_task, open_rpc

DIMENSION = 1_900_000
PATIENT = [(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)]


async def main(folder):
    async with open_rpc(folder) as served:
        data = np.arange(DIMENSION, dtype="<i4").tobytes()
        root = compute_content_hash(data)
        tensors = (TensorSpec("w", (DIMENSION,), 16, 12),)
        spec = structs.replace(make_spec(), tensors=tensors, initial_weights_root=root)
        task_id = await served.send(USERS[0], make_task(spec), data)
        files = PayloadStore(MemoryDatabase(), folder / "payloads")
        files.put(data)
        served.services.storage.payloads.open_memmap = files.open_memmap
        file = folder / "payloads" / root.hex()
        transport = httpx.AsyncHTTPTransport(socket_options=PATIENT)
        async with httpx.AsyncClient(transport=transport, timeout=15) as slow:
            async with slow.stream("GET", f"{served.url}/v1/tasks/{task_id}/weights") as response:
                pieces = response.aiter_raw()
                received = len(await anext(pieces))
                os.truncate(file, 100)
                try:
                    async for piece in pieces:
                        received += len(piece)
                except httpx.RemoteProtocolError:
                    print("told: the download broke off", received < len(data))
                await pieces.aclose()
        chunk = await served.client.get(f"/v1/tasks/{task_id}/weights", params={"chunk": 3})
        print("told: a chunk is answered with", chunk.status_code)
        print("told: the node answers", (await served.client.get("/status")).status_code)


trio.run(main, Path(sys.argv[1]))
"""


def test_a_file_that_is_cut_while_it_is_downloaded_ends_no_node(tmp_path: Path) -> None:
    output, errors = run_python(CHILD, tmp_path)
    # The node's log is between the lines.
    told = [line for line in output.splitlines() if line.startswith("told: ")]
    assert told == [
        "told: the download broke off True",
        "told: a chunk is answered with 404",
        "told: the node answers 200",
    ], errors[-2000:]
