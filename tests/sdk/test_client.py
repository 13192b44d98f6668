"""The synchronous client against the RPC's contract: typed answers, errors, retries, nonces."""

from collections.abc import Callable

import httpx
import msgspec
import pytest
from quorate import (
    AsyncClient,
    Client,
    PrivateKey,
    ProtocolError,
    RpcError,
    VerificationError,
    WaitTimeoutError,
    procedures,
)
from quorate.chain.errors import ErrorCode, QuorateError
from quorate.chain.ids import Hash
from quorate.chain.task import RoundPolicy
from quorate.chain.transaction import (
    ChangeTaskStatus,
    SubmitEvaluation,
    TaskStatus,
    Transaction,
    Transfer,
    compute_transaction_hash,
    decode_transaction,
    sign_transaction,
)
from quorate.errors import ConnectionFailedError, EncodingError, VerificationStep
from quorate.submissions import Measurement, UpdateDraft
from quorate.task_draft import draft_task

from tests.sdk.conftest import AUTHORITY, PARTICIPANTS, Clock, create_task, make_draft
from tests.sdk.fake_node import GENESIS, VALIDATOR_KEYS, Answer, FakeNode, answer, problem

KEY = PARTICIPANTS[0]


def make_transfer(nonce: int, fee: int = 3, key: PrivateKey = KEY) -> bytes:
    return sign_transaction(
        key, Transaction(1, "fake-1", key.public_key, nonce, fee, Transfer(key.address, 1))
    )


# --- answers -------------------------------------------------------------------------------------


def test_answers_are_typed(client: Client, node: FakeNode) -> None:
    task_id = create_task(client)
    assert client.health()
    status = client.status()
    assert (status.chain_id, status.height, status.moniker) == ("fake-1", 2, "fake")
    assert status.genesis_hash == GENESIS.hash
    assert str(status.genesis_hash) == GENESIS.hash.hex()
    assert status.validator is not None
    assert status.validator.address == VALIDATOR_KEYS[0].address
    assert status.consensus.height == 3
    assert client.genesis() == GENESIS
    assert client.block(2) == node.blocks[1][0]
    assert client.block() == node.blocks[1][0]
    assert client.commit(1)[1] == node.blocks[0][1]
    assert client.validators() == GENESIS.validator_set
    account = client.account(AUTHORITY.address)
    assert (account.nonce, account.pending_nonce, account.balance) == (1, 1, 2**60)
    (summary,) = client.tasks()
    assert (summary.task_id, summary.name) == (task_id, "digits")
    info = client.transaction(task_id)
    assert info.is_decided
    assert (info.height, info.is_success) == (2, True)


@pytest.mark.parametrize("by", ["id", "hex", "name", "task"])
def test_a_task_has_many_names(client: Client, by: str) -> None:
    task_id = create_task(client)
    task = client.task(task_id)
    key = {"id": task_id, "hex": task_id.hex(), "name": "digits", "task": task}[by]
    assert client.task(key) == task
    assert task.spec == make_draft().spec
    assert task.status is TaskStatus.OPEN
    assert task.authority == AUTHORITY.address
    assert client.participants(key) == ()
    assert client.training_round(key).base_weights_root == task.weights_root
    assert client.weights(key).root == task.weights_root
    assert client.proof(key)[1].weights_root == task.weights_root


def test_a_name_with_a_slash_is_found(client: Client) -> None:
    task_id = create_task(client, name="north/digits")
    assert client.task("north/digits").task_id == task_id
    with pytest.raises(RpcError, match="unknown_task"):
        client.task("north/other")


def test_long_lists_come_in_pages(client: Client, node: FakeNode) -> None:
    task_id = create_task(client)
    for number in range(6):
        create_task(client, name=f"task-{number}")
    addresses = [bytes([i]) * 20 for i in range(7)]
    node.tasks[task_id].participants = addresses
    node.page_rows = 3
    assert [p.address for p in client.participants(task_id)] == addresses
    assert [task.task_id for task in client.tasks()] == list(node.tasks)
    assert sum("participants" in request for request in node.requests) == 3
    node.page_rows = 0  # A node that promises rows and sends none.
    assert client.participants(task_id) == ()


def test_a_list_without_end_is_cut_off(
    client: Client, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(procedures, "ROWS_MAX", 10)
    node.intercept = lambda *_: answer(
        {"participants": [{"address": bytes(20)}] * 3, "total": 10**12}
    )
    with pytest.raises(ProtocolError, match="more than 10 rows"):
        client.participants("digits")
    assert len(node.requests) == 4


def test_errors_are_typed(client: Client) -> None:
    with pytest.raises(RpcError) as refused:
        client.task("none")
    error = refused.value
    assert isinstance(error, QuorateError)
    assert (error.status, error.code) == (404, ErrorCode.UNKNOWN_TASK)
    assert str(error) == "There is no task none. [unknown_task, HTTP 404]"
    with pytest.raises(RpcError, match="not_found"):
        client.transaction(bytes(32))
    with pytest.raises(RpcError, match="not_found"):
        client.commit(99)


def test_an_error_of_a_proxy_is_an_error_too(client: Client, node: FakeNode) -> None:
    node.intercept = lambda *_: (418, {}, b"<html>teapot</html>")
    with pytest.raises(RpcError, match=r"The node gives no reason. \[internal, HTTP 418\]"):
        client.status()
    node.intercept = lambda *_: (302, {"location": "http://elsewhere"}, b"")
    with pytest.raises(ProtocolError, match="HTTP 302"):
        client.status()


# --- submitting ----------------------------------------------------------------------------------


def test_a_transfer_is_signed_with_chain_nonce_and_fee(client: Client, node: FakeNode) -> None:
    for nonce in range(3):
        submitted = client.transfer(KEY, AUTHORITY.address, 7)
        assert submitted.is_accepted
        (raw,) = node.blocks[-1][0].transactions
        assert compute_transaction_hash(raw) == submitted.hash
        transaction = decode_transaction(raw).transaction
        assert (transaction.chain_id, transaction.nonce, transaction.fee) == ("fake-1", nonce, 3)
        assert transaction.body == Transfer(AUTHORITY.address, 7)
    assert client.send(KEY, Transfer(KEY.address, 1), fee=9).is_accepted
    assert decode_transaction(node.blocks[-1][0].transactions[0]).transaction.fee == 9


def test_the_same_bytes_again_are_no_error(client: Client, node: FakeNode) -> None:
    raw = make_transfer(0)
    node.is_holding = True
    assert client.submit(raw).status == "pending"
    assert client.submit(raw).status == "pending"
    node.release()
    assert client.submit(raw).status == "decided"
    assert node.height == 2


def test_a_wrong_nonce_is_asked_for_anew(client: Client, node: FakeNode) -> None:
    real = node.get_pending_nonce
    lies = [5, 0, None]

    def lie_once(address: bytes) -> int:
        lie = lies.pop(0) if lies else None
        return real(address) if lie is None else lie

    client.transfer(KEY, KEY.address, 1)
    node.get_pending_nonce = lie_once  # type: ignore[method-assign]
    assert client.transfer(KEY, KEY.address, 1).is_accepted
    assert node.nonces[KEY.address] == 2


def test_a_nonce_that_stays_wrong_is_given_up(client: Client, node: FakeNode) -> None:
    node.get_pending_nonce = lambda _address: 3 + len(node.requests)  # type: ignore[method-assign]
    with pytest.raises(RpcError, match="wrong_nonce"):
        client.transfer(KEY, KEY.address, 1)
    assert sum(request.startswith("POST") for request in node.requests) == 4


def test_pending_transactions_of_an_account_queue_up(client: Client, node: FakeNode) -> None:
    node.is_holding = True
    hashes = [client.transfer(KEY, KEY.address, 1).hash for _ in range(3)]
    assert client.account(KEY.address).pending_nonce == 3
    assert client.account(KEY.address).nonce == 0
    node.release()
    assert all(client.transaction(h).is_decided for h in hashes)


def test_many_are_submitted_in_batches(client: Client, node: FakeNode) -> None:
    batch = [(make_transfer(nonce), None) for nonce in range(1205)]
    batch[1203] = (make_transfer(1203, fee=0), None)
    results = client.submit_many(iter(batch))
    assert len(results) == 1205
    assert [r.hash for r in results] == [compute_transaction_hash(raw) for raw, _ in batch]
    assert sum(result.is_accepted for result in results) == 1203
    assert (results[1203].code, results[1203].detail) == ("fee_too_low", "Pay more.")
    assert (results[1204].code, results[1204].status) == ("wrong_nonce", "refused")
    assert node.requests.count("POST /v1/transactions/batch") == 2
    assert client.submit_many([]) == []


def test_batches_are_cut_by_size_too(client: Client, node: FakeNode) -> None:
    seen = []
    node.intercept = lambda request, _: seen.append(len(request.content))
    client.submit_many([(make_transfer(i), bytes(1 << 20)) for i in range(10)])
    assert len(seen) == 4
    assert max(seen) < 5 << 20


def test_an_answer_about_another_transaction_is_refused(client: Client, node: FakeNode) -> None:
    node.intercept = lambda *_: answer({"hash": bytes(32), "status": "pending"}, 202)
    with pytest.raises(ProtocolError, match="another transaction"):
        client.submit(make_transfer(0))
    node.intercept = lambda *_: answer({"results": [{"hash": bytes(32), "status": "pending"}]})
    with pytest.raises(ProtocolError, match="other transactions"):
        client.submit_many([(make_transfer(0), None)])
    with pytest.raises(ProtocolError, match="1 results for 2"):
        client.submit_many([(make_transfer(0), None)] * 2)


def test_training_through_the_client(client: Client, node: FakeNode) -> None:
    task_id = create_task(client, updates=2)
    task = client.task(task_id)
    for key in PARTICIPANTS[:2]:
        client.register(key, "digits")
    assert {p.address for p in client.participants(task)} == {k.address for k in PARTICIPANTS[:2]}
    data = b"\x02\x00" * task.spec.dimension
    draft = UpdateDraft(0, task.weights_root, data, 64, {"loss": 0.5, "accuracy": 0.25})
    client.submit_update(PARTICIPANTS[0], task, draft)
    sent = decode_transaction(node.blocks[-1][0].transactions[0]).transaction.body
    assert [(m.name, m.value) for m in sent.metrics] == [("accuracy", 16384), ("loss", 32768)]
    with pytest.raises(RpcError, match="duplicate_update"):
        client.submit_update(PARTICIPANTS[0], task, draft)
    (update,) = client.training_round(task).updates
    assert update.participant == PARTICIPANTS[0].address
    client.submit_update(PARTICIPANTS[1], task, draft)
    ended = client.training_round(task, 0)
    assert ended.is_over
    assert ended.receipt is not None
    assert ended.receipt.evaluations[0].value == 65536
    assert [u.score for u in ended.receipt.updates] == [1 << 15] * 2
    assert client.task(task).weights_root == ended.receipt.weights_root != task.weights_root
    with pytest.raises(RpcError, match="wrong_training_round"):
        client.submit_update(PARTICIPANTS[0], task, draft)
    client.submit_evaluation(
        AUTHORITY, task, Measurement(1, ended.receipt.weights_root, -0.5, 10, {"f1": 1.0})
    )
    body = decode_transaction(node.blocks[-1][0].transactions[0]).transaction.body
    assert isinstance(body, SubmitEvaluation)
    assert (body.loss, body.example_count) == (-32768, 10)


async def test_both_clients_change_the_status_of_a_task(client: Client, node: FakeNode) -> None:
    task_id = create_task(client)
    client.change_task_status(AUTHORITY, "digits", TaskStatus.PAUSED)
    transport = httpx.MockTransport(node.respond)
    async with AsyncClient("http://node", transport=transport) as other:
        await other.change_task_status(AUTHORITY, task_id, TaskStatus.OPEN)
    sent = [decode_transaction(block.transactions[0]) for block, _, _ in node.blocks[-2:]]
    assert [each.transaction.body for each in sent] == [
        ChangeTaskStatus(Hash(task_id), TaskStatus.PAUSED),
        ChangeTaskStatus(Hash(task_id), TaskStatus.OPEN),
    ]


def test_bytes_of_a_wrong_length_are_refused_before_they_are_sent(
    client: Client, node: FakeNode
) -> None:
    task_id = create_task(client)
    before = len(node.requests)
    with pytest.raises(EncodingError, match="in dense_int16 takes 36 bytes, not 35"):
        client.submit_update(KEY, task_id, UpdateDraft(0, bytes(32), bytes(35)))
    draft = make_draft()
    with pytest.raises(EncodingError, match="its weights take 72 bytes"):
        client.create_task(KEY, draft.spec, draft.weights[:-1])
    assert not [request for request in node.requests[before:] if request.startswith("POST")]


# --- waiting and retrying ------------------------------------------------------------------------


def test_waiting_for_a_transaction(client: Client, node: FakeNode, clock: Clock) -> None:
    node.is_holding = True
    raw = make_transfer(0)
    transaction_hash = client.submit(raw).hash
    with pytest.raises(WaitTimeoutError, match="not decided within 5 s: it waits for a block"):
        client.wait_for_transaction(transaction_hash, timeout_s=5)
    assert 4 < clock.now <= 5
    with pytest.raises(WaitTimeoutError, match="the node does not know it"):
        client.wait_for_transaction(bytes(32), timeout_s=1)

    def release_later(_request: httpx.Request, _route: Callable[[], Answer]) -> None:
        if clock.now > 20:
            node.intercept = None
            node.release()

    clock.now = 10.0
    node.intercept = release_later
    waited: list[float] = []
    found = client.wait_for_transaction(transaction_hash, waiting=waited.append)
    assert found.height == 2
    assert 20 < clock.now < 21
    assert waited == sorted(set(waited))
    assert (waited[0], 9 < waited[-1] < 10.5) == (0.0, True)


def test_lost_connections_are_tried_again(client: Client, node: FakeNode, clock: Clock) -> None:
    failures = [httpx.ConnectError("refused"), httpx.ReadTimeout("slow"), httpx.ReadError("reset")]

    def fail(_request: httpx.Request, _route: Callable[[], Answer]) -> None:
        if failures:
            raise failures.pop()

    node.intercept = fail
    assert client.status().height == 1
    assert clock.slept == 3
    assert clock.now == pytest.approx(0.1 + 0.2 + 0.4)


def test_a_node_that_is_down_is_told_as_such(client: Client, node: FakeNode, clock: Clock) -> None:
    def fail(_request: httpx.Request, _route: Callable[[], Answer]) -> None:
        raise httpx.ConnectError("connection refused")

    node.intercept = fail
    with pytest.raises(ConnectionFailedError, match=r"http://node .*is the node running"):
        client.status()
    assert clock.slept == 5
    assert len(node.requests) == 6


def test_an_answer_lost_on_the_way_does_no_harm(client: Client, node: FakeNode) -> None:
    lost = []

    def lose(request: httpx.Request, route: Callable[[], Answer]) -> Answer | None:
        if request.method == "POST" and not lost:
            lost.append(route())  # The node takes it, and the answer is lost.
            raise httpx.ReadError("reset")
        return None

    node.intercept = lose
    submitted = client.transfer(KEY, KEY.address, 1)
    assert lost
    assert submitted.status == "decided"
    assert node.nonces[KEY.address] == 1


@pytest.mark.parametrize(
    ("header", "slept"), [("7", 7.0), ("900", 30.0), ("", 0.1), ("Wed, 21 Oct", 0.1)]
)
def test_a_full_mempool_is_tried_again_when_it_asks(
    client: Client, node: FakeNode, clock: Clock, header: str, slept: float
) -> None:
    full = [problem(503, "mempool_full")]

    def refuse(request: httpx.Request, _route: Callable[[], Answer]) -> Answer | None:
        if request.method == "POST" and full:
            status, headers, body = full.pop()
            return status, headers | {"Retry-After": header}, body
        return None

    node.intercept = refuse
    assert client.submit(make_transfer(0)).is_accepted
    assert clock.now == pytest.approx(slept)


def test_a_mempool_that_stays_full_is_told(client: Client, node: FakeNode) -> None:
    def refuse(_request: httpx.Request, _route: Callable[[], Answer]) -> Answer:
        status, headers, body = problem(503, "mempool_full", "Come back.")
        return status, headers | {"retry-after": "2"}, body

    node.intercept = refuse
    with pytest.raises(RpcError, match="Come back") as refused:
        client.submit(make_transfer(0))
    assert (refused.value.code, refused.value.retry_after_s) == (ErrorCode.MEMPOOL_FULL, 2.0)
    assert len(node.requests) == 6


def test_a_used_up_quota_is_tried_again_when_the_node_says_when(
    client: Client, node: FakeNode, clock: Clock
) -> None:
    refusals = [problem(429, "quota_exceeded")]

    def refuse(_request: httpx.Request, _route: Callable[[], Answer]) -> Answer | None:
        if not refusals:
            return None
        status, headers, body = refusals.pop()
        return status, headers | {"retry-after": "4"}, body

    node.intercept = refuse
    assert client.submit(make_transfer(0)).is_accepted
    assert clock.now == 4.0


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422, 429, 500])
def test_refusals_are_not_tried_again(client: Client, node: FakeNode, status: int) -> None:
    node.intercept = lambda *_: problem(status, "malformed")
    with pytest.raises(RpcError):
        client.submit(make_transfer(0))
    assert len(node.requests) == 1


# --- weights -------------------------------------------------------------------------------------


def make_large_task(client: Client) -> bytes:
    """Five chunks and a bit."""
    draft = make_draft(size=459_000)
    assert len(draft.weights) // (1 << 20) == 5
    return bytes(client.create_task(AUTHORITY, draft.spec, draft.weights).hash)


def test_large_weights_come_in_chunks(client: Client, node: FakeNode) -> None:
    task_id = make_large_task(client)
    weights = client.weights(task_id)
    assert weights.data == node.tasks[task_id].weights
    assert sum("chunk=" in request for request in node.requests) == 6


def test_a_lost_chunk_costs_only_that_chunk(client: Client, node: FakeNode) -> None:
    task_id = make_large_task(client)
    failures = [1]

    def fail(request: httpx.Request, _route: Callable[[], Answer]) -> None:
        if request.url.params.get("chunk") == "4" and failures:
            failures.pop()
            raise httpx.ReadError("reset")

    node.intercept = fail
    assert client.weights(task_id).data == node.tasks[task_id].weights
    assert sum("chunk=" in request for request in node.requests) == 7


def test_a_round_that_ends_between_chunks_starts_the_download_again(
    client: Client, node: FakeNode
) -> None:
    task_id = make_large_task(client)
    task = node.tasks[task_id]
    later = [task.weights[:-4] + b"\x01\x00\x00\x00"]

    def finalize(request: httpx.Request, _route: Callable[[], Answer]) -> None:
        if request.url.params.get("chunk") == "2" and later:
            task.weights = later.pop()

    node.intercept = finalize
    weights = client.weights(task_id)
    assert weights.data == task.weights
    assert weights.root == task.leaf.weights_root


def test_chunks_of_ever_other_weights_are_given_up(client: Client, node: FakeNode) -> None:
    task_id = make_large_task(client)

    def lie(request: httpx.Request, route: Callable[[], Answer]) -> Answer | None:
        status, headers, body = route()
        if "chunk" in request.url.params:
            headers |= {"quorate-weights-root": f"{len(node.requests):064x}"}
        return status, headers, body

    node.intercept = lie
    with pytest.raises(ProtocolError, match="another weights root for every chunk"):
        client.weights(task_id)


@pytest.mark.parametrize(
    ("altered", "kind", "sentence"),
    [
        (lambda data: data[:-1] + b"\x01", VerificationError, "have the root"),
        (lambda data: data[:-4], VerificationError, "sent 68 bytes, the task's have 72"),
        (lambda data: data + bytes(4), ProtocolError, "more than 72 bytes"),
        (lambda _data: b"", VerificationError, "sent 0 bytes"),
    ],
)
def test_weights_that_are_not_what_the_node_names_are_refused(
    client: Client,
    node: FakeNode,
    altered: Callable[[bytes], bytes],
    kind: type[Exception],
    sentence: str,
) -> None:
    task_id = create_task(client)

    def alter(request: httpx.Request, route: Callable[[], Answer]) -> Answer | None:
        status, headers, body = route()
        return (status, headers, altered(body)) if "/weights" in request.url.path else None

    node.intercept = alter
    with pytest.raises(kind, match=sentence):
        client.weights(task_id)


def test_verified_weights_of_two_nodes(client: Client, node: FakeNode) -> None:
    task_id = create_task(client)
    asked: list[str] = []

    def respond(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        if len(asked) < 4:  # The other node is a block behind.
            return httpx.Response(404, json={"code": "not_found", "detail": "Not yet."})
        return node.respond(request)

    with Client("http://other", transport=httpx.MockTransport(respond)) as other:
        verified = client.get_verified_weights("digits", GENESIS, commit_from=other)
    assert verified.data == node.tasks[task_id].weights
    assert asked == ["/commit"] * 4 + ["/validators"]
    assert client.get_verified_weights(task_id, GENESIS.validator_set) == verified


def test_a_commit_that_never_comes_is_given_up(client: Client, node: FakeNode) -> None:
    create_task(client)
    node.intercept = lambda request, _: (
        problem(404, "not_found", "No such height.") if request.url.path == "/commit" else None
    )
    with pytest.raises(RpcError, match="No such height"):
        client.get_verified_weights("digits", GENESIS, timeout_s=3)


def test_a_node_that_serves_other_weights_than_the_chain_is_refused(
    client: Client, node: FakeNode
) -> None:
    task_id = create_task(client)
    task = node.tasks[task_id]
    # Self-consistent: bytes and root agree, but no block commits to them.
    task.weights = task.weights[:-1] + b"\x01"
    with pytest.raises(VerificationError) as refused:
        client.get_verified_weights(task_id, GENESIS)
    assert refused.value.step is VerificationStep.WEIGHTS
    assert sum("/weights" in request for request in node.requests) == 1


def test_a_node_that_sends_the_commit_of_another_height_is_refused(
    client: Client, node: FakeNode
) -> None:
    create_task(client)

    def send_first(request: httpx.Request, _route: Callable[[], Answer]) -> Answer | None:
        if request.url.path == "/commit":
            return node.at_height("commit", {"height": "1"}, "application/msgpack")
        return None

    node.intercept = send_first
    with pytest.raises(VerificationError, match="asked for the header of height 2") as refused:
        client.get_verified_weights("digits", GENESIS)
    assert refused.value.step is VerificationStep.HEADER


def test_a_chain_that_too_few_validators_sign_is_refused(client: Client, node: FakeNode) -> None:
    node.commit_keys = VALIDATOR_KEYS[:2]
    create_task(client)
    with pytest.raises(VerificationError, match="more than two thirds") as refused:
        client.get_verified_weights("digits", GENESIS)
    assert refused.value.step is VerificationStep.COMMIT


def test_a_name_resolved_to_another_task_between_requests_is_refused(
    client: Client, node: FakeNode
) -> None:
    task_id = create_task(client)
    other = create_task(client, name="other")

    def swap(request: httpx.Request, _route: Callable[[], Answer]) -> Answer | None:
        if request.url.path.endswith("/proof"):
            return node.task(other.hex(), ["proof"], {})
        return None

    node.intercept = swap
    with pytest.raises(VerificationError, match="the proof is for task") as refused:
        client.get_verified_weights(task_id, GENESIS)
    assert refused.value.step is VerificationStep.TASK


# --- nonsense ------------------------------------------------------------------------------------

NONSENSE = [
    b"",
    b"{}",
    b"[]",
    b"null",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"height": "x"}',
    b"\x93\x01\x02\x03",
    msgspec.json.encode({"task_id": "zz", "hash": 5, "results": {}, "tasks": [1]}),
]


@pytest.mark.parametrize("body", NONSENSE, ids=range(len(NONSENSE)))
@pytest.mark.parametrize(
    "ask",
    [
        lambda c: c.status(),
        lambda c: c.block(),
        lambda c: c.commit(),
        lambda c: c.validators(),
        lambda c: c.genesis(),
        lambda c: c.transaction(bytes(32)),
        lambda c: c.submit(b""),
        lambda c: c.submit_many([(b"", None)]),
        lambda c: c.account(bytes(20)),
        lambda c: c.tasks(),
        lambda c: c.task("x"),
        lambda c: c.participants("x"),
        lambda c: c.training_round("x"),
        lambda c: c.proof("x"),
    ],
    ids=range(14),
)
def test_nonsense_is_a_protocol_error(
    client: Client, node: FakeNode, body: bytes, ask: Callable[[Client], object]
) -> None:
    node.intercept = lambda *_: (200, {}, body)
    with pytest.raises(ProtocolError, match="answered nonsense"):
        ask(client)


def test_an_answer_without_end_is_cut_off(client: Client, node: FakeNode) -> None:
    node.intercept = lambda *_: (200, {}, bytes(33 << 20))
    with pytest.raises(ProtocolError, match="more than 33554432 bytes"):
        client.status()
    node.intercept = lambda *_: (404, {}, bytes(1 << 17))
    with pytest.raises(ProtocolError, match="more than 65536 bytes"):
        client.status()


def test_drafts_and_client_agree_on_the_policy(client: Client) -> None:
    draft = draft_task("tiny", [[0.5]], RoundPolicy(1000, 1, 1))  # type: ignore[list-item]
    client.create_task(AUTHORITY, draft.spec, draft.weights)
    assert client.task("tiny").spec.policy == RoundPolicy(1000, 1, 1)
