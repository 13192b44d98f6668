"""Downloads into files: proven, resumed, from several nodes, whatever these send."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
from quorate import (
    AsyncClient,
    Client,
    ModelSchema,
    Progress,
    RpcError,
    StoredWeights,
    VerificationError,
)
from quorate.chain.content import compute_chunk_hashes, compute_content_hash
from quorate.downloads import CHUNKS_AT_ONCE_PER_NODE
from quorate.downloads import _Source as Node
from quorate.errors import ConnectionFailedError, VerificationStep
from quorate.progress import ProgressBar, WaitingLine, render_progress
from quorate.script import Endpoint
from quorate.submissions import UpdateDraft
from quorate.weights_file import PartialFile

from tests.sdk.conftest import AUTHORITY, PARTICIPANTS, create_task, make_draft
from tests.sdk.fake_node import GENESIS, VALIDATOR_KEYS, Answer, FakeNode, problem

CHUNK = 1 << 20
Route = Callable[[], Answer]
Respond = Callable[[httpx.Request], httpx.Response]


@contextmanager
def other_client(respond: Respond, name: str = "other") -> Iterator[Client]:
    with Client(f"http://{name}", transport=httpx.MockTransport(respond)) as client:
        yield client


def make_large_task(client: Client) -> bytes:
    """Five chunks and a bit."""
    draft = make_draft(updates=1, size=459_000)
    return bytes(client.create_task(AUTHORITY, draft.spec, draft.weights).hash)


def train(client: Client, node: FakeNode, task_id: bytes, value: int = 3) -> None:
    task = node.tasks[task_id]
    if PARTICIPANTS[0].address not in task.participants:
        client.register(PARTICIPANTS[0], task_id)
    data = np.full(task.spec.dimension, value, "<i2").tobytes()
    draft = UpdateDraft(task.training_round, task.leaf.weights_root, data)
    client.submit_update(PARTICIPANTS[0], task_id, draft)


def count_chunks(node: FakeNode) -> int:
    return sum("chunk=" in request for request in node.requests)


def assert_stored(stored: StoredWeights, path: Path, data: bytes) -> None:
    assert stored.path == path
    assert path.read_bytes() == data
    assert not path.with_name(path.name + ".partial").exists()
    assert stored.weights_root == compute_content_hash(data)
    assert not stored.vector.flags.writeable
    assert stored.vector.tobytes() == data


def test_weights_go_straight_into_a_mapped_file(
    client: Client, node: FakeNode, tmp_path: Path
) -> None:
    task_id = make_large_task(client)
    path = tmp_path / "weights.bin"
    shown: list[Progress] = []
    stored = client.download_weights(task_id, path, trusted=GENESIS, progress=shown.append)
    data = node.tasks[task_id].weights
    assert_stored(stored, path, data)
    assert (stored.task_id, stored.chain_id, stored.height) == (task_id, "fake-1", node.height)
    assert stored.block_hash == node.blocks[-1][0].header.hash
    assert stored.bytes_kept == 0
    assert isinstance(stored.vector, np.memmap)
    assert [array.shape for array in stored.arrays] == [(459_000, 3), (3,)]
    schema = ModelSchema.from_spec(stored.spec)
    for mapped, decoded in zip(
        stored.to_arrays(np.float64), schema.decode_weights(data), strict=True
    ):
        np.testing.assert_array_equal(mapped, decoded)
    done = [progress.bytes_done for progress in shown]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, len(data))
    assert count_chunks(node) == 6


def test_small_weights_take_one_chunk(client: Client, node: FakeNode, tmp_path: Path) -> None:
    task_id = create_task(client)
    stored = client.download_weights("digits", str(tmp_path / "w"))
    assert_stored(stored, tmp_path / "w", node.tasks[task_id].weights)


def test_weights_of_an_earlier_height(client: Client, node: FakeNode, tmp_path: Path) -> None:
    task_id = make_large_task(client)
    first, created = node.tasks[task_id].weights, node.height
    train(client, node, task_id)
    train(client, node, task_id)
    assert len(node.tasks[task_id].past) == 2
    latest = client.download_weights(task_id, tmp_path / "latest")
    assert_stored(latest, tmp_path / "latest", node.tasks[task_id].weights)
    for height, data in [
        (created, first),
        *((h - 1, d) for h, d in node.tasks[task_id].past.items()),
    ]:
        stored = client.download_weights(task_id, tmp_path / "then", height=height, trusted=GENESIS)
        assert stored.height == height
        assert_stored(stored, tmp_path / "then", data)


def test_a_download_that_was_cut_off_keeps_what_is_sound(
    client: Client, node: FakeNode, tmp_path: Path
) -> None:
    task_id = make_large_task(client)
    data, path = node.tasks[task_id].weights, tmp_path / "weights.bin"

    def cut_off(request: httpx.Request, _route: Route) -> None:
        if request.url.params.get("chunk") in ("3", "4", "5"):
            raise httpx.ReadError("gone")

    node.intercept = cut_off
    with pytest.raises(ConnectionFailedError):
        client.download_weights(task_id, path)
    assert not path.exists()
    partial = tmp_path / "weights.bin.partial"
    assert partial.stat().st_size == len(data)
    # What the disk or somebody else has spoilt meanwhile is not taken for sound.
    with partial.open("r+b") as file:
        file.seek(CHUNK + 5)
        file.write(b"\xff\xfe\xfd")
    node.intercept = None
    node.requests.clear()
    shown: list[Progress] = []
    stored = client.download_weights(task_id, path, progress=shown.append)
    assert_stored(stored, path, data)
    assert stored.bytes_kept == shown[0].bytes_done == 2 * CHUNK
    assert count_chunks(node) == 4


def test_what_is_whole_already_is_not_downloaded_again(
    client: Client, node: FakeNode, tmp_path: Path
) -> None:
    task_id = make_large_task(client)
    client.download_weights(task_id, tmp_path / "w")
    node.requests.clear()
    stored = client.download_weights(task_id, tmp_path / "w")
    assert count_chunks(node) == 0
    assert stored.bytes_kept == len(node.tasks[task_id].weights)
    # Other weights under the name are replaced, once the new ones are whole.
    (tmp_path / "w").write_bytes(b"others")
    client.download_weights(task_id, tmp_path / "w")
    assert_stored(stored, tmp_path / "w", node.tasks[task_id].weights)


def test_a_corrupted_chunk_is_never_written(client: Client, node: FakeNode, tmp_path: Path) -> None:
    task_id = make_large_task(client)
    path = tmp_path / "weights.bin"

    def corrupt(request: httpx.Request, route: Route) -> Answer | None:
        if request.url.params.get("chunk") != "2":
            return None
        status, headers, body = route()
        return status, headers, body[:-1] + bytes([body[-1] ^ 1])

    node.intercept = corrupt
    with pytest.raises(VerificationError, match="chunk 2 that http://node sent") as refused:
        client.download_weights(task_id, path)
    assert refused.value.step is VerificationStep.WEIGHTS
    assert not path.exists()
    partial = path.with_name("weights.bin.partial").read_bytes()
    hashes = compute_chunk_hashes(node.tasks[task_id].weights)
    assert compute_chunk_hashes(partial)[2] != hashes[2]
    assert partial[2 * CHUNK : 3 * CHUNK] == bytes(CHUNK)


def test_chunks_come_from_several_nodes_and_a_bad_one_costs_its_own(
    client: Client, node: FakeNode, tmp_path: Path
) -> None:
    task_id = make_large_task(client)
    asked: dict[str, int] = {"own": 0, "good": 0, "liar": 0, "gone": 0, "behind": 0}
    told: list[tuple[str, type[Exception]]] = []
    # However threads take turns, each node is asked before one of them has brought everything.
    turn = threading.Condition()

    def count(request: httpx.Request, name: str) -> None:
        if "chunk" in request.url.params:
            with turn:
                asked[name] += 1
                turn.notify_all()
                assert turn.wait_for(lambda: all(asked.values()), timeout=20)

    def own(request: httpx.Request, _route: Route) -> None:
        if request.url.host == "node":
            count(request, "own")

    def good(request: httpx.Request) -> httpx.Response:
        count(request, "good")
        return node.respond(request)

    def liar(request: httpx.Request) -> httpx.Response:
        count(request, "liar")
        return httpx.Response(200, headers=node.respond(request).headers, content=bytes(CHUNK))

    def gone(request: httpx.Request) -> httpx.Response:
        count(request, "gone")
        raise httpx.ConnectError("gone")

    def behind(request: httpx.Request) -> httpx.Response:
        count(request, "behind")
        return httpx.Response(404, json={"code": "not_found", "detail": "Not yet."})

    node.intercept = own
    with (
        other_client(good, "good") as a,
        other_client(liar, "liar") as b,
        other_client(gone, "gone") as c,
        other_client(behind, "behind") as d,
    ):
        stored = client.download_weights(
            task_id,
            tmp_path / "w",
            commit_from=a,
            others=(a, b, c, d),
            trusted=GENESIS,
            left_out=lambda url, reason: told.append((url, type(reason))),
        )
    assert sorted(told, key=str) == [
        ("http://behind", RpcError),
        ("http://gone", ConnectionFailedError),
        ("http://liar", VerificationError),
    ]
    assert_stored(stored, tmp_path / "w", node.tasks[task_id].weights)
    assert all(asked.values())
    # A node is left after its first fault; what was asked of it at a time is all it costs.
    assert asked["liar"] <= CHUNKS_AT_ONCE_PER_NODE
    assert asked["behind"] <= CHUNKS_AT_ONCE_PER_NODE


def test_own_node_without_the_weights_is_no_hindrance(
    client: Client, node: FakeNode, tmp_path: Path
) -> None:
    task_id = make_large_task(client)
    lacking = "The lowest height whose weights it has is 7."
    node.intercept = lambda request, _route: (
        problem(404, "not_found", lacking)
        if "/weights" in request.url.path and request.url.host == "node"
        else None
    )
    with other_client(node.respond) as other:
        stored = client.download_weights(task_id, tmp_path / "w", others=[other])
        assert_stored(stored, tmp_path / "w", node.tasks[task_id].weights)
    with pytest.raises(RpcError, match="lowest height whose weights it has is 7"):
        client.download_weights(task_id, tmp_path / "v")
    assert not (tmp_path / "v.partial").exists()


def test_weights_of_another_root_than_the_commits_are_refused(
    client: Client, node: FakeNode, tmp_path: Path
) -> None:
    task_id = make_large_task(client)
    task = node.tasks[task_id]
    # Self-consistent: chunks, list and root agree, but no block commits to them.
    task.weights = task.weights[:-1] + b"\x01"
    with pytest.raises(VerificationError, match="not those of the root") as refused:
        client.download_weights(task_id, tmp_path / "w")
    assert refused.value.step is VerificationStep.WEIGHTS
    assert list(tmp_path.iterdir()) == []


def test_a_list_of_inner_nodes_is_no_list_of_chunks(
    client: Client, node: FakeNode, tmp_path: Path
) -> None:
    """The root of the two halves is the same root: only the size tells."""
    task_id = make_large_task(client)
    hashes = compute_chunk_hashes(node.tasks[task_id].weights)
    root = compute_content_hash(node.tasks[task_id].weights)

    def shorten(request: httpx.Request, route: Route) -> Answer | None:
        if not request.url.path.endswith("/chunks"):
            return None
        status, headers, body = route()
        listed = httpx.Response(200, content=body).json()
        return (
            status,
            headers,
            httpx.Response(200, json=listed | {"chunk_hashes": [root.hex()]}).content,
        )

    assert len(hashes) == 6
    node.intercept = shorten
    with pytest.raises(VerificationError, match="not those of the root"):
        client.download_weights(task_id, tmp_path / "w")


def test_weights_that_too_few_signed_are_not_even_begun(
    client: Client, node: FakeNode, tmp_path: Path
) -> None:
    node.commit_keys = VALIDATOR_KEYS[:2]
    task_id = make_large_task(client)
    with pytest.raises(VerificationError) as refused:
        client.download_weights(task_id, tmp_path / "w", trusted=GENESIS)
    assert refused.value.step is VerificationStep.COMMIT
    assert count_chunks(node) == 0
    assert list(tmp_path.iterdir()) == []


def test_the_proof_of_another_task_is_refused(
    client: Client, node: FakeNode, tmp_path: Path
) -> None:
    task_id = create_task(client)
    other = create_task(client, name="other")
    node.intercept = lambda request, _route: (
        node.task(other.hex(), ["proof"], {}) if request.url.path.endswith("/proof") else None
    )
    with pytest.raises(VerificationError, match="the proof is for task") as refused:
        client.download_weights(task_id, tmp_path / "w")
    assert refused.value.step is VerificationStep.TASK


def test_a_folder_that_cannot_be_written_is_told_as_it_is(client: Client, tmp_path: Path) -> None:
    task_id = create_task(client)
    with pytest.raises(FileNotFoundError):
        client.download_weights(task_id, tmp_path / "nowhere" / "w")


def test_when_all_nodes_fail_each_is_told_once(
    client: Client, node: FakeNode, tmp_path: Path
) -> None:
    task_id = make_large_task(client)
    told: list[str] = []

    def fail(request: httpx.Request, _route: Route) -> None:
        if "chunk" in request.url.params:
            raise httpx.ReadError("gone")

    node.intercept = fail
    with (
        other_client(node.respond, "other") as other,
        pytest.raises(ConnectionFailedError, match="No answer from http://node"),
    ):
        client.download_weights(
            task_id, tmp_path / "w", others=[other], left_out=lambda url, _: told.append(url)
        )
    assert sorted(told) == ["http://node", "http://other"]


def test_a_node_that_fails_two_threads_at_a_time_is_told_once() -> None:
    together = threading.Barrier(2)
    told: list[str] = []

    class Watched(Node):
        """Both threads look whether it has failed before one of them says so, if they can."""

        def __getattribute__(self, name: str) -> object:
            found = super().__getattribute__(name)
            if name == "failure":
                with suppress(threading.BrokenBarrierError):
                    together.wait(0.3)
            return found

    source = Watched(Endpoint("http://node"), lambda url, _: told.append(url))
    threads = [
        threading.Thread(target=source.fail, args=(ConnectionFailedError("gone"),))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == ["http://node"]


def test_weights_come_into_memory_several_chunks_at_a_time(client: Client, node: FakeNode) -> None:
    task_id = make_large_task(client)
    together = threading.Barrier(CHUNKS_AT_ONCE_PER_NODE, timeout=20)

    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.params.get("chunk") in {"0", "1", "2", "3"}:
            together.wait()  # Broken unless so many are on their way.
        return node.respond(request)

    with other_client(respond) as other:
        verified = other.get_verified_weights(task_id, GENESIS)
    assert verified.data == node.tasks[task_id].weights
    assert verified.weights_root == compute_content_hash(verified.data)
    assert (verified.height, verified.chain_id) == (node.height, "fake-1")
    assert count_chunks(node) == 6


def test_a_corrupted_chunk_never_comes_into_memory(client: Client, node: FakeNode) -> None:
    task_id = make_large_task(client)

    def corrupt(request: httpx.Request, route: Route) -> Answer | None:
        status, headers, body = route()
        return (status, headers, body[::-1]) if request.url.params.get("chunk") == "2" else None

    node.intercept = corrupt
    with pytest.raises(VerificationError, match="chunk 2 that http://node sent"):
        client.get_verified_weights(task_id, GENESIS)


async def test_the_asynchronous_client_downloads(
    client: Client, node: FakeNode, tmp_path: Path
) -> None:
    task_id = make_large_task(client)
    shown: list[Progress] = []
    transport = httpx.MockTransport(node.respond)
    async with (
        AsyncClient("http://node", transport=transport) as first,
        AsyncClient("http://other", transport=transport) as other,
    ):
        stored = await first.download_weights(
            task_id, tmp_path / "w", others=[other], trusted=GENESIS, progress=shown.append
        )
    assert_stored(stored, tmp_path / "w", node.tasks[task_id].weights)
    assert shown[-1].fraction == 1


def test_a_partial_file_takes_sound_chunks_alone(tmp_path: Path) -> None:
    data = bytes(range(256)) * 8192  # Two chunks.
    hashes = compute_chunk_hashes(data)
    # The rest of a longer download is cut off.
    (tmp_path / "w.partial").write_bytes(data[:CHUNK] + bytes(3 * CHUNK))
    with PartialFile(tmp_path / "w", len(data), hashes) as file:
        assert file.find_missing() == [1]
        assert not file.write(1, data[:CHUNK][::-1])
        assert not file.write(1, data[CHUNK:-1])
        assert file.find_missing() == [1]
        assert file.write(1, data[CHUNK:])
        assert file.find_missing() == []
        file.finish()
    assert (tmp_path / "w").read_bytes() == data


# --- progress ------------------------------------------------------------------------------------


class Terminal:
    """A stream that says what it is."""

    def __init__(self, is_terminal: bool) -> None:
        self.is_terminal = is_terminal
        self.text = ""

    def isatty(self) -> bool:
        return self.is_terminal

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def test_the_bar_is_one_line_of_a_terminal() -> None:
    terminal = Terminal(is_terminal=True)
    bar = ProgressBar(terminal)  # type: ignore[arg-type]
    for done in (0, 5, 5, 20):
        bar.show(Progress("upload", done * 10**6, 20 * 10**6))
    assert terminal.text.count("\r") == 3
    assert terminal.text.endswith("100%   20.0 of 20.0 MB\n")
    assert terminal.text.count("\n") == 1
    silent = Terminal(is_terminal=False)
    with ProgressBar(silent) as quiet:  # type: ignore[arg-type]
        quiet.show(Progress("upload", 1, 2))
    assert silent.text == ""
    assert render_progress(Progress("download", 0, 0)).count("#") == 24


def test_the_line_of_an_interrupted_transfer_ends() -> None:
    terminal = Terminal(is_terminal=True)
    with ProgressBar(terminal) as bar:  # type: ignore[arg-type]
        bar.show(Progress("upload", 5, 20))
    assert terminal.text.endswith("MB\n")
    ended = terminal.text
    with bar:
        pass
    assert terminal.text == ended
    with bar:
        bar.show(Progress("upload", 20, 20))
    assert terminal.text.count("\n") == 2


def test_the_line_of_who_waits_tells_seconds() -> None:
    terminal = Terminal(is_terminal=True)
    with WaitingLine("a block", terminal) as line:  # type: ignore[arg-type]
        for waited_s in (0, 0.4, 0.9, 1.0, 1.5, 61.2):
            line.show(waited_s)
    assert terminal.text.split("\r") == [
        "",
        "waiting for a block, 0 s",
        "waiting for a block, 1 s",
        "waiting for a block, 61 s\n",
    ]
    silent = Terminal(is_terminal=False)
    with WaitingLine("a block", silent) as quiet:  # type: ignore[arg-type]
        quiet.show(5)
    assert silent.text == ""
