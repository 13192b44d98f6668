"""A node dies in the middle of an upload, or of a download, and comes back.

Real processes, killed with signal 9, seen through their RPC alone.
"""

import threading
from pathlib import Path

import numpy as np
import pytest
from quorate.chain.content import compute_content_hash
from quorate.chain.genesis import Genesis
from quorate.chain.ids import Hash
from quorate.chain.task import AggregationRule, RoundPolicy, Stage
from quorate.client import Client
from quorate.errors import ConnectionFailedError
from quorate.progress import Progress
from quorate.rpc_types import Task
from quorate.submissions import UpdateDraft
from quorate.task_draft import draft_task

from tests.e2e.network import Network, make_key, open_network, wait_until

pytestmark = pytest.mark.e2e

AUTHOR, PARTICIPANT = make_key(200), make_key(300)
DIMENSION = 12_000_000
CHUNK = 1 << 20


def create_task(client: Client) -> Task:
    draft = draft_task(
        "large",
        {"w": np.zeros(DIMENSION, np.float32)},
        RoundPolicy(600_000, 1, 1, waive_proposer_spread=True),
        rule=AggregationRule((Stage.MEAN,), 0),
    )
    created = client.create_task(AUTHOR, draft.spec, draft.weights)
    client.wait_for_transaction(created.hash)
    registered = client.register(PARTICIPANT, created.hash)
    client.wait_for_transaction(registered.hash)
    return client.task(created.hash)


class Killer:
    """Kills the node once so many bytes are there, and starts it again."""

    def __init__(self, network: Network, at_bytes: int) -> None:
        self._network = network
        self._at_bytes = at_bytes
        self._thread: threading.Thread | None = None
        self.shown: list[int] = []
        self.killed_at = 0

    def watch(self, progress: Progress) -> None:
        self.shown.append(progress.bytes_done)
        if self._thread is None and progress.bytes_done >= self._at_bytes:
            self._network.processes[0].kill()
            self.killed_at = len(self.shown)
            self._thread = threading.Thread(target=self._network.restart, args=(0,))
            self._thread.start()

    def finish(self) -> None:
        assert self._thread is not None, "it was never killed"
        self._thread.join()


def test_an_upload_and_a_download_outlive_the_node(tmp_path: Path) -> None:
    with (
        open_network(tmp_path, 1, accounts=[AUTHOR, PARTICIPANT]) as network,
        Client(network.clients[0].endpoint.url) as client,
    ):
        task = create_task(client)
        update = np.random.default_rng(1).integers(-2000, 2000, DIMENSION, np.int16)
        payload_hash = compute_content_hash(update.view(np.uint8).data)
        killer = Killer(network, 8 * CHUNK)
        draft = UpdateDraft(task.training_round, task.weights_root, update.astype("<i2"))
        submitted = client.submit_update(PARTICIPANT, task, draft, progress=killer.watch)
        killer.finish()
        # What had been acknowledged before the kill was not sent again.
        after = killer.shown[killer.killed_at :]
        assert min(after) >= 8 * CHUNK
        assert after[-1] == 2 * DIMENSION
        client.wait_for_transaction(submitted.hash)
        wait_until(lambda: client.task(task.task_id).training_round == 1, "the round ends")
        assert client.payload(payload_hash).is_complete
        download(network, client.task(task.task_id), tmp_path / "w", client.genesis())


def download(network: Network, task: Task, path: Path, genesis: Genesis) -> None:
    """A download without patience is cut off by the kill; the next one goes on."""
    killer = Killer(network, 20 * CHUNK)
    with Client(network.clients[0].endpoint.url, retries=0) as hasty:
        with pytest.raises(ConnectionFailedError):
            hasty.download_weights(task, path, trusted=genesis, progress=killer.watch)
        killer.finish()
        network.wait_for_height(1)
        stored = hasty.download_weights(task, path, trusted=genesis)
    assert stored.bytes_kept >= 20 * CHUNK
    assert stored.weights_root == Hash(task.weights_root)
