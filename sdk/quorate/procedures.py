"""What takes more than one request: nonces, waiting, downloads, proofs.

Owns these conversations as scripts, the same for both clients. Never does I/O itself and never
trusts an answer that can be checked.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar

from quorate import rpc_protocol as rpc
from quorate.chain.content import compute_content_hash, count_chunks
from quorate.chain.errors import ErrorCode
from quorate.chain.genesis import Genesis
from quorate.chain.ids import Hash
from quorate.chain.keys import PrivateKey
from quorate.chain.transaction import (
    TRANSACTION_VERSION,
    Body,
    Metric,
    Metrics,
    Transaction,
    compute_transaction_hash,
    sign_transaction,
)
from quorate.chain.weights import WEIGHT_BYTES
from quorate.errors import (
    ProtocolError,
    RpcError,
    VerificationError,
    VerificationStep,
    WaitTimeoutError,
)
from quorate.progress import OnWait, ignore_wait
from quorate.rpc_protocol import BATCH_MAX, Call, TaskKey
from quorate.rpc_types import (
    Page,
    ParticipantInfo,
    Rows,
    Submitted,
    Task,
    TaskSummary,
    TransactionInfo,
    Weights,
)
from quorate.script import Endpoint, Script, Sleep, perform, read_clock
from quorate.verification import WeightsProof

T = TypeVar("T")

NONCE_ATTEMPTS = 4
DOWNLOAD_ATTEMPTS = 8
CHUNKS_AT_ONCE_MAX = 4
"""Larger weights are downloaded chunk by chunk, so that a lost connection costs one chunk."""
BATCH_BYTES_MAX = 4 << 20
ROWS_MAX = 1_000_000
POLL_FIRST_S, POLL_MAX_S = 0.02, 0.5
METRIC_ONE = 1 << 16


def make_metrics(metrics: Mapping[str, float]) -> Metrics:
    """Return measurements as the chain stores them: 16 fraction bits, sorted by name."""
    return tuple(Metric(name, scale_metric(metrics[name])) for name in sorted(metrics))


def scale_metric(value: float) -> int:
    """Return a measurement as an integer with 16 fraction bits."""
    return round(value * METRIC_ONE)


def get_chain(endpoint: Endpoint) -> Script[Genesis]:
    """Return the genesis document, asked for once."""
    if endpoint.genesis is None:
        endpoint.genesis = yield from perform(endpoint, rpc.get_genesis())
    return endpoint.genesis


def get_task(endpoint: Endpoint, task: TaskKey) -> Script[Task]:
    """Return a task by its id or name."""
    return (yield from perform(endpoint, rpc.get_task(task)))


def get_tasks(endpoint: Endpoint) -> Script[tuple[TaskSummary, ...]]:
    """Return all tasks, page by page."""
    return (yield from _collect(endpoint, rpc.get_tasks))


def get_participants(endpoint: Endpoint, task: TaskKey) -> Script[tuple[ParticipantInfo, ...]]:
    """Return all participants of a task, page by page."""
    return (yield from _collect(endpoint, partial(rpc.get_participants, task)))


def _collect(endpoint: Endpoint, get_rows: Callable[[int], Call[Rows[T]]]) -> Script[tuple[T, ...]]:
    rows: tuple[T, ...] = ()
    while True:
        page = yield from perform(endpoint, get_rows(len(rows)))
        rows += page.rows
        if not page.rows or len(rows) >= page.total:
            return rows
        if len(rows) > ROWS_MAX:
            raise ProtocolError(f"a list of more than {ROWS_MAX} rows is too long to be true")


# --- transactions --------------------------------------------------------------------------------


def submit(endpoint: Endpoint, raw: bytes, payload: bytes | None) -> Script[Submitted]:
    """Hand over signed bytes; the answer must be about them."""
    submitted = yield from perform(endpoint, rpc.submit(raw, payload))
    if Hash(submitted.hash) != compute_transaction_hash(raw):
        raise ProtocolError("the node answered for another transaction than the one submitted")
    return submitted


def submit_many(
    endpoint: Endpoint, batch: Iterable[tuple[bytes, bytes | None]]
) -> Script[list[Submitted]]:
    """Hand over any number of transactions, in requests of a bearable size."""
    results: list[Submitted] = []
    for part in _split_batch(batch):
        answers = yield from perform(endpoint, rpc.submit_batch(part))
        for (raw, _), answer in zip(part, answers, strict=True):
            if Hash(answer.hash) != compute_transaction_hash(raw):
                raise ProtocolError("the node answered for other transactions than submitted")
        results += answers
    return results


def _split_batch(
    batch: Iterable[tuple[bytes, bytes | None]],
) -> Iterator[list[tuple[bytes, bytes | None]]]:
    part: list[tuple[bytes, bytes | None]] = []
    size = 0
    for raw, payload in batch:
        length = len(raw) + len(payload or b"")
        if part and (len(part) >= BATCH_MAX or size + length > BATCH_BYTES_MAX):
            yield part
            part, size = [], 0
        part.append((raw, payload))
        size += length
    if part:
        yield part


def send_body(
    endpoint: Endpoint,
    key: PrivateKey,
    body: Body,
    payload: bytes | None = None,
    fee: int | None = None,
) -> Script[Submitted]:
    """Sign a transaction with the next nonce and submit it; ask for the nonce anew if it is wrong.

    The fee is the chain's minimum unless one is given.
    """
    genesis = yield from get_chain(endpoint)
    attempt = 0
    while True:
        account = yield from perform(endpoint, rpc.get_account(key.address))
        transaction = Transaction(
            TRANSACTION_VERSION,
            genesis.chain_id,
            key.public_key,
            account.pending_nonce,
            genesis.fee_min if fee is None else fee,
            body,
        )
        try:
            return (yield from submit(endpoint, sign_transaction(key, transaction), payload))
        except RpcError as error:
            attempt += 1
            if error.code != ErrorCode.WRONG_NONCE or attempt >= NONCE_ATTEMPTS:
                raise
        yield Sleep(POLL_FIRST_S)


def wait_for_transaction(
    endpoint: Endpoint,
    transaction_hash: bytes,
    timeout_s: float,
    on_wait: OnWait = ignore_wait,
) -> Script[TransactionInfo]:
    """Return where a transaction was decided; tell `on_wait` each time that it is not yet.

    Raises
    ------
    WaitTimeoutError
        If it is not, in the time given.
    """
    started = yield from read_clock()
    delay_s = POLL_FIRST_S
    while True:
        seen = "the node does not know it"
        try:
            info = yield from perform(endpoint, rpc.get_transaction(transaction_hash))
        except RpcError as error:
            if error.code != ErrorCode.NOT_FOUND:
                raise
        else:
            if info.is_decided:
                return info
            seen = _describe_waiting(info)
        waited_s = (yield from read_clock()) - started
        on_wait(waited_s)
        if waited_s + delay_s > timeout_s:
            raise WaitTimeoutError(
                f"Transaction {transaction_hash.hex()} was not decided within {timeout_s:g} s: "
                f"{seen}. Submitting the same bytes again is harmless."
            )
        yield Sleep(delay_s)
        delay_s = min(POLL_MAX_S, delay_s * 1.5)


def _describe_waiting(info: TransactionInfo) -> str:
    payload = info.payload
    if payload is None:
        return "it waits for a block"
    return (
        "it waits for validators to have its payload: those that told so have "
        f"{payload.announced_power} of {payload.total_power} of the voting power"
    )


# --- weights -------------------------------------------------------------------------------------


def download_weights(endpoint: Endpoint, task: TaskKey) -> Script[Weights]:
    """Return the latest finalized weights, whose bytes have the root the node names.

    Raises
    ------
    VerificationError
        If they have another root or length.
    """
    found = yield from get_task(endpoint, task)
    size = WEIGHT_BYTES * found.spec.dimension
    chunks: Sequence[int | None] = range(count_chunks(size))
    if len(chunks) <= CHUNKS_AT_ONCE_MAX:
        chunks = (None,)
    for _ in range(DOWNLOAD_ATTEMPTS):
        pages = []
        for chunk in chunks:
            call = rpc.get_weights(found.task_id, size, chunk)
            pages.append((yield from perform(endpoint, call)))
            if pages[-1].root != pages[0].root:  # A training round ended in between.
                break
        else:
            return _join_pages(b"".join(page.data for page in pages), pages[0].root, pages[0], size)
    raise ProtocolError("the node names another weights root for every chunk it serves")


def _join_pages(data: bytes, root: Hash, first: Page[bytes], size: int) -> Weights:
    if len(data) != size:
        raise VerificationError(
            VerificationStep.WEIGHTS, f"the node sent {len(data)} bytes, the task's have {size}"
        )
    computed = compute_content_hash(data)
    if computed != root:
        raise VerificationError(
            VerificationStep.WEIGHTS,
            f"the bytes that the node sent have the root {computed.hex()}, not {root.hex()} as "
            "it says",
        )
    return Weights(data, root, first.height, first.training_round)


def get_weights_proof(
    endpoint: Endpoint,
    source: Endpoint,
    task: TaskKey,
    height: int | None,
    timeout_s: float,
) -> Script[WeightsProof]:
    """Return the proof of a task's leaf: leaf and path from one node, commit from another.

    Nothing is verified yet but that the header is of the height asked for.
    """
    height, leaf, path = yield from perform(endpoint, rpc.get_proof(task, height))
    deadline = (yield from read_clock()) + timeout_s
    while True:  # The other node may be a block or two behind.
        try:
            header, commit = yield from perform(source, rpc.get_commit(height))
            signers = yield from perform(source, rpc.get_validators(height))
            break
        except RpcError as error:
            if error.status != 404 or (yield from read_clock()) > deadline:
                raise
        yield Sleep(POLL_MAX_S / 5)
    if header.height != height:
        raise VerificationError(
            VerificationStep.HEADER,
            f"asked for the header of height {height}, the node sent that of {header.height}",
        )
    return WeightsProof(leaf, path, header, commit, signers)
