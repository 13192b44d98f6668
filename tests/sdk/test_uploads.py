"""Uploads: in chunks, from where an earlier attempt ended, out of memory, arrays and files."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
import trio
from quorate import AsyncClient, Client, EncodingError, Progress, RpcError
from quorate.chain.content import compute_chunk_hashes, compute_content_hash
from quorate.errors import ConnectionFailedError, ProtocolError
from quorate.payload_source import PayloadData, PayloadSource
from quorate.submissions import UpdateDraft
from quorate.uploads import ATTEMPTS_MAX, CHUNKS_AT_ONCE, RIDES_ALONG_BYTES_MAX, SENDS_MAX

from tests.sdk.conftest import AUTHORITY, PARTICIPANTS, Clock, make_draft
from tests.sdk.fake_node import Answer, FakeNode, problem

CHUNK = 1 << 20
DATA = np.random.default_rng(3).bytes(5 * CHUNK + 77)
HASH = compute_content_hash(DATA)

Route = Callable[[], Answer]


def count_puts(node: FakeNode) -> int:
    return sum(request.startswith("PUT") for request in node.requests)


def fail_puts(node: FakeNode, fail: Callable[[int], Answer | None]) -> None:
    """Ask a function what becomes of each chunk that comes, by how many came before."""
    seen = [0]

    def intercept(request: httpx.Request, _route: Route) -> Answer | None:
        if request.method != "PUT":
            return None
        seen[0] += 1
        return fail(seen[0] - 1)

    node.intercept = intercept


def test_a_payload_goes_in_chunks_and_is_told(client: Client, node: FakeNode) -> None:
    shown: list[Progress] = []
    info = client.upload(DATA, progress=shown.append)
    assert node.payloads.stored[HASH] == DATA
    assert (info.payload_hash, info.size, info.is_complete) == (HASH, len(DATA), True)
    assert (info.announced_power, info.total_power) == (10, 40)
    assert count_puts(node) == 6
    done = [progress.bytes_done for progress in shown]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, len(DATA))
    assert {(progress.what, progress.bytes_total) for progress in shown} == {("upload", len(DATA))}
    assert client.payload(HASH) == info


def test_what_is_there_is_not_sent_again(client: Client, node: FakeNode) -> None:
    client.upload(DATA)
    node.requests.clear()
    shown: list[Progress] = []
    assert client.upload(DATA, progress=shown.append).is_complete
    assert count_puts(node) == 0
    assert [progress.bytes_done for progress in shown] == [len(DATA)]


def test_an_upload_that_was_cut_off_goes_on(client: Client, node: FakeNode) -> None:
    def cut_off(number: int) -> None:
        if number >= 3:
            raise httpx.ConnectError("gone")

    fail_puts(node, cut_off)
    with pytest.raises(ConnectionFailedError):
        client.upload(DATA)
    node.intercept = None
    missing = client.payload(HASH).missing
    assert len(missing) == 3
    node.requests.clear()
    shown: list[Progress] = []
    client.upload(DATA, progress=shown.append)
    assert count_puts(node) == 3
    assert node.payloads.stored[HASH] == DATA
    assert shown[0].bytes_done >= 2 * CHUNK


def test_a_node_that_comes_back_is_asked_what_it_lacks(
    client: Client, node: FakeNode, clock: Clock
) -> None:
    def be_away(number: int) -> None:
        if 2 <= number < 30:
            raise httpx.ConnectError("restarting")

    fail_puts(node, be_away)
    client.upload(DATA)
    assert node.payloads.stored[HASH] == DATA
    assert node.payloads.chunks_put == 6
    assert clock.slept > 0


def test_an_upload_that_the_node_has_dropped_is_begun_anew(client: Client, node: FakeNode) -> None:
    def drop(number: int) -> None:
        if number == 4:
            node.payloads.uploads.clear()

    shown: list[Progress] = []
    fail_puts(node, drop)
    client.upload(DATA, progress=shown.append)
    assert node.payloads.stored[HASH] == DATA
    assert shown[-1].bytes_done == len(DATA)
    assert sum(request == "POST /v1/payloads" for request in node.requests) == 3


def test_a_node_that_drops_every_upload_is_given_up(client: Client, node: FakeNode) -> None:
    fail_puts(node, lambda _number: problem(404, "not_found", "Unknown."))
    with pytest.raises(RpcError, match="not_found"):
        client.upload(DATA)
    begun = sum(request == "POST /v1/payloads" for request in node.requests)
    assert begun == ATTEMPTS_MAX


def test_a_node_that_takes_chunks_and_forgets_them_is_given_up(
    client: Client, node: FakeNode
) -> None:
    def forget(_number: int) -> None:
        for upload in node.payloads.uploads.values():
            upload.chunks.clear()
        if count_puts(node) > 100 * ATTEMPTS_MAX:
            raise AssertionError("it is never given up")

    fail_puts(node, forget)
    with pytest.raises(ProtocolError, match="lacks chunks that it has taken"):
        client.upload(DATA)
    begun = sum(request == "POST /v1/payloads" for request in node.requests)
    assert begun == ATTEMPTS_MAX + 1


@pytest.mark.parametrize("code", ["payload_mismatch", "too_large"])
def test_a_refused_chunk_ends_the_upload(client: Client, node: FakeNode, code: str) -> None:
    fail_puts(node, lambda _number: problem(422, code))
    with pytest.raises(RpcError, match=code):
        client.upload(DATA)
    assert count_puts(node) <= CHUNKS_AT_ONCE


def test_a_node_that_is_never_there_is_not_waited_for(client: Client, node: FakeNode) -> None:
    def refuse(_request: httpx.Request, _route: Route) -> None:
        raise httpx.ConnectError("refused")

    node.intercept = refuse
    with pytest.raises(ConnectionFailedError):
        client.upload(DATA)
    assert len(node.requests) == 6  # As often as any request is sent.


def test_a_node_that_answers_for_another_payload_is_refused(client: Client, node: FakeNode) -> None:
    client.upload(DATA)
    other = node.payloads.show(HASH)
    node.payloads.begin = lambda _content: other  # type: ignore[method-assign, assignment]
    with pytest.raises(ProtocolError, match="another payload"):
        client.upload(DATA[:-1])


@pytest.mark.parametrize(
    "answer",
    [
        {"payload_hash": "ab", "size": "1", "missing": [], "is_complete": True},
        {"payload_hash": "ab" * 32, "size": "1", "missing": [1], "is_complete": False},
        {"payload_hash": "ab" * 32, "size": "1", "missing": [], "is_complete": False},
        {"payload_hash": "ab" * 32, "size": "1", "missing": [0], "is_complete": True},
        {},
    ],
)
def test_nonsense_about_a_payload_is_a_protocol_error(
    client: Client, node: FakeNode, answer: object
) -> None:
    response = httpx.Response(200, json=answer)
    node.intercept = lambda *_: (200, {}, response.content)
    with pytest.raises(ProtocolError, match="nonsense"):
        client.payload(HASH)


@pytest.mark.parametrize("kind", ["bytes", "memoryview", "array", "memmap", "file"])
def test_payloads_come_from_anywhere(
    client: Client, node: FakeNode, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "payload.bin"
    path.write_bytes(DATA[:-1])
    made: dict[str, PayloadData] = {
        "bytes": DATA[:-1],
        "memoryview": memoryview(DATA)[:-1],
        "array": np.frombuffer(DATA[:-1], "<i2").reshape(2, -1),
        "memmap": np.memmap(path, "<i2", "r"),
        "file": path,
    }
    client.upload(made[kind])
    assert node.payloads.stored[compute_content_hash(DATA[:-1])] == DATA[:-1]


def test_a_source_reads_one_chunk_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "payload.bin"
    path.write_bytes(DATA)
    with PayloadSource(path) as source:
        assert source.size == len(DATA)
        assert source.chunk_hashes == compute_chunk_hashes(DATA)
        assert [len(source.read(index)) for index in range(6)] == [CHUNK] * 5 + [77]
        with pytest.raises(IndexError):
            source.read(6)
        path.write_bytes(DATA[:CHUNK])
        with pytest.raises(EncodingError, match="changed"):
            source.read(3)


def test_sources_that_cannot_be_sent(tmp_path: Path) -> None:
    with pytest.raises(EncodingError, match="contiguous"):
        PayloadSource(np.zeros((4, 4), "<i2")[:, 1])
    with pytest.raises(EncodingError, match="little-endian"):
        PayloadSource(np.zeros(4, ">i2"))
    with pytest.raises(EncodingError, match="cannot be read: No such file"):
        PayloadSource(tmp_path / "nothing")


def make_large_task(client: Client) -> bytes:
    """A task whose updates take two chunks and a bit."""
    draft = make_draft(updates=1, size=400_000)
    task_id = bytes(client.create_task(AUTHORITY, draft.spec, draft.weights).hash)
    client.register(PARTICIPANTS[0], task_id)
    return task_id


def make_update_draft(node: FakeNode, task_id: bytes) -> UpdateDraft:
    task = node.tasks[task_id]
    data = np.arange(task.spec.dimension).astype("<i2")
    data[data == -(2**15)] = 0
    return UpdateDraft(task.training_round, task.leaf.weights_root, data)


def test_large_updates_and_weights_are_uploaded_and_then_named(
    client: Client, node: FakeNode
) -> None:
    task_id = make_large_task(client)
    assert count_puts(node) == 5  # The initial weights.
    shown: list[Progress] = []
    draft = make_update_draft(node, task_id)
    client.submit_update(PARTICIPANTS[0], task_id, draft, progress=shown.append)
    assert node.tasks[task_id].training_round == 1
    assert shown[-1].fraction == 1
    assert node.payloads.tasks == [None, None, task_id, task_id]


def test_a_small_payload_rides_along(client: Client, node: FakeNode) -> None:
    draft = make_draft(size=(RIDES_ALONG_BYTES_MAX // 4 - 3) // 3)
    assert RIDES_ALONG_BYTES_MAX - 12 < len(draft.weights) <= RIDES_ALONG_BYTES_MAX
    client.create_task(AUTHORITY, draft.spec, draft.weights)
    assert not any("payloads" in request for request in node.requests)
    larger = make_draft(size=(RIDES_ALONG_BYTES_MAX // 4) // 3 + 1, name="larger")
    client.create_task(AUTHORITY, larger.spec, larger.weights)
    assert count_puts(node) == 1


def test_a_payload_that_is_dropped_before_its_transaction_is_uploaded_again(
    client: Client, node: FakeNode
) -> None:
    task_id = make_large_task(client)
    drops = [0]

    def drop(request: httpx.Request, _route: Route) -> None:
        if request.url.path == "/v1/transactions" and drops[0] > 0:
            drops[0] -= 1
            node.payloads.stored.clear()

    node.intercept = drop
    drops[0] = SENDS_MAX - 1
    client.submit_update(PARTICIPANTS[0], task_id, make_update_draft(node, task_id))
    assert node.tasks[task_id].training_round == 1
    drops[0] = SENDS_MAX
    with pytest.raises(RpcError, match="payload_missing"):
        client.submit_update(PARTICIPANTS[0], task_id, make_update_draft(node, task_id))


def test_a_refused_update_is_not_uploaded_again(client: Client, node: FakeNode) -> None:
    task_id = make_large_task(client)
    draft = make_update_draft(node, task_id)
    client.submit_update(PARTICIPANTS[0], task_id, draft)
    node.requests.clear()
    with pytest.raises(RpcError, match="wrong_training_round"):
        client.submit_update(PARTICIPANTS[0], task_id, draft)
    assert node.requests.count("POST /v1/payloads") == 1
    assert node.requests.count("POST /v1/transactions") == 1


def test_a_second_large_update_of_a_round_is_not_even_begun(client: Client, node: FakeNode) -> None:
    draft = make_draft(updates=2, size=400_000)
    task_id = bytes(client.create_task(AUTHORITY, draft.spec, draft.weights).hash)
    for key in PARTICIPANTS[:2]:
        client.register(key, task_id)
    first = make_update_draft(node, task_id)
    client.submit_update(PARTICIPANTS[0], task_id, first)
    node.requests.clear()
    other = dataclasses.replace(first, data=np.ones(node.tasks[task_id].spec.dimension, "<i2"))
    with pytest.raises(RpcError, match="nothing was uploaded") as refused:
        client.submit_update(PARTICIPANTS[0], task_id, other)
    assert (refused.value.code, refused.value.status) == ("duplicate_update", 409)
    assert not [request for request in node.requests if "payloads" in request]
    # It is the account's own update that counts.
    client.submit_update(PARTICIPANTS[1], task_id, other)
    assert node.tasks[task_id].training_round == 1


def test_an_update_of_another_size_is_not_even_begun(client: Client, node: FakeNode) -> None:
    task_id = make_large_task(client)
    node.requests.clear()
    draft = UpdateDraft(0, node.tasks[task_id].leaf.weights_root, bytes(100_000))
    with pytest.raises(EncodingError, match="not 100000"):
        client.submit_update(PARTICIPANTS[0], task_id, draft)
    assert count_puts(node) == 0


async def test_the_asynchronous_client_uploads_and_is_cancelled_whole(node: FakeNode) -> None:
    async with AsyncClient("http://node", transport=httpx.MockTransport(node.respond)) as client:
        shown: list[Progress] = []
        assert (await client.upload(DATA, progress=shown.append)).is_complete
        assert node.payloads.stored[HASH] == DATA
        assert shown[-1].fraction == 1
        # An error of one chunk ends the others, and comes out as it is.
        fail_puts(node, lambda _number: problem(422, "payload_mismatch"))
        with pytest.raises(RpcError, match="payload_mismatch"):
            await client.upload(DATA[:-1])
        node.intercept = None

        async def hang(_request: httpx.Request) -> httpx.Response:
            await trio.sleep_forever()
            raise AssertionError

        async with AsyncClient("http://node", transport=httpx.MockTransport(hang)) as stuck:
            with trio.move_on_after(0.05) as scope:
                await stuck.upload(DATA)
            assert scope.cancelled_caught
