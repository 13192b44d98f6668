"""Large updates: made into files, and uploaded to the nodes of their participants.

Owns the files, the threads that upload, one for each node, and what the aggregation of these files
comes to when it is computed beside the network. Never watches a block.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from quorate.chain.content import compute_content_hash
from quorate.chain.errors import QuorateError
from quorate.chain.ids import NO_HASH, Hash
from quorate.chain.keys import PrivateKey
from quorate.chain.merkle import EMPTY_ROOT
from quorate.chain.task import OptimizerName
from quorate.client import Client
from quorate.progress import Progress
from quorate.rpc_types import Task
from quorate.submissions import UpdateDraft

from bench.errors import BenchError
from bench.signing import make_key
from ledger.aggregates import AggregateInputs, AggregateUpdate, compute_aggregate

GROUP: Final = "participant of a large task"
TILE_VALUES: Final = 1 << 20
UPDATE_AMPLITUDE: Final = 2_000
SUBMIT_S: Final = 300.0
JOIN_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Participant:
    """A participant, and the file with its update."""

    key: PrivateKey
    path: Path
    payload_hash: Hash


def make_participants(folder: Path, count: int, dimension: int) -> list[Participant]:
    """Write updates that are the same in every run, each other than the others."""
    participants = []
    for index in range(count):
        path = folder / f"update-{index}.bin"
        generator = np.random.default_rng(index)
        tile = generator.integers(-UPDATE_AMPLITUDE, UPDATE_AMPLITUDE, TILE_VALUES, np.int16)
        update = np.memmap(path, "<i2", "w+", shape=(dimension,))
        for start in range(0, dimension, TILE_VALUES):
            part = np.roll(tile, start % 997) + np.int16(500 - start // TILE_VALUES)
            update[start : start + TILE_VALUES] = part[: dimension - start]
        update.flush()
        payload_hash = compute_content_hash(update.view(np.uint8).data)
        participants.append(Participant(make_key(GROUP, index), path, payload_hash))
    return participants


class Uploader(threading.Thread):
    """Uploads and submits the updates of one node's participants, one after the other.

    Attributes
    ----------
    hashes : list of bytes, 32
        The transactions that the node has taken.
    started, ended : float
        The first byte and the last answer, in seconds of the monotonic clock.
    bytes_done : int
        What has been uploaded so far.
    """

    def __init__(self, url: str, task: Task, participants: Sequence[Participant]) -> None:
        super().__init__(name=f"uploads {url}", daemon=True)
        self.hashes: list[Hash] = []
        self.started = self.ended = 0.0
        self.bytes_done = 0
        self._url = url
        self._task = task
        self._participants = participants
        self._failure: QuorateError | OSError | None = None

    def run(self) -> None:
        """Upload everything."""
        try:
            with Client(self._url) as client:
                client.genesis()
                self.started = time.monotonic()
                for participant in self._participants:
                    before = self.bytes_done
                    draft = UpdateDraft(
                        self._task.training_round, self._task.weights_root, participant.path, 1
                    )
                    submitted = client.submit_update(
                        participant.key, self._task, draft, progress=self._make_counter(before)
                    )
                    self.hashes.append(Hash(submitted.hash))
                self.ended = time.monotonic()
        except (QuorateError, OSError) as error:
            self._failure = error

    def _make_counter(self, before: int) -> Callable[[Progress], None]:
        def count(progress: Progress) -> None:
            self.bytes_done = before + progress.bytes_done

        return count

    def check(self) -> None:
        """Raise what ended the thread too early.

        Raises
        ------
        BenchError
            If the node does not take an update.
        """
        if self._failure is not None:
            raise BenchError(f"{self._url} does not take the updates: {self._failure}")

    def finish(self) -> None:
        """Wait until the thread has ended.

        Raises
        ------
        BenchError
            What ended it too early.
        """
        self.join(SUBMIT_S)
        if self.is_alive():
            raise BenchError(f"The uploads to {self._url} did not end within {SUBMIT_S:g} s.")
        self.check()


class _Files:
    """What an aggregation reads, by content address."""

    def __init__(self, mapped: dict[Hash, NDArray[np.uint8]]) -> None:
        self._mapped = mapped

    def size(self, payload_hash: Hash, /) -> int | None:
        """Return how many bytes there are, or None."""
        data = self.open_memmap(payload_hash)
        return None if data is None else data.size

    def open_memmap(self, payload_hash: Hash, /) -> NDArray[np.uint8] | None:
        """Return the bytes by slices, or None."""
        return self._mapped.get(payload_hash)


def aggregate_files(task: Task, weights: bytes, participants: Sequence[Participant]) -> Hash:
    """Return the root of the weights that the updates in the files lead to.

    It is computed in this process, from what was uploaded; nothing comes from a node.

    Parameters
    ----------
    task : Task
        As it is before the training round; its optimizer has no state and its rule draws nothing.
    weights : bytes
        Those before.
    participants : sequence of Participant
    """
    if task.spec.optimizer.name is not OptimizerName.SGD:
        raise BenchError("Only an optimizer without a state is aggregated for comparison.")
    mapped: dict[Hash, NDArray[np.uint8]] = {
        each.payload_hash: np.memmap(each.path, np.uint8, "r") for each in participants
    }
    mapped[compute_content_hash(weights)] = np.frombuffer(weights, np.uint8)
    ordered = sorted(participants, key=lambda each: each.key.address)
    inputs = AggregateInputs(
        task_id=task.task_id,
        training_round=task.training_round,
        rule=task.spec.rule,
        seed=NO_HASH,
        optimizer=task.spec.optimizer,
        tensors=task.spec.tensors,
        layout=task.spec.update_layout,
        base_weights_root=compute_content_hash(weights),
        optimizer_root=EMPTY_ROOT,
        updates=tuple(AggregateUpdate(each.key.address, each.payload_hash, 1) for each in ordered),
        is_weighted=False,
    )
    return compute_aggregate(inputs, _Files(mapped)).weights_root
