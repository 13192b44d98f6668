"""The asynchronous client of a node's RPC, for trio and for asyncio.

Owns the methods a program calls; each is that of `Client`, awaited. Never starts a task of its
own that outlives a call, so cancelling a call cancels all of it.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import httpx

from quorate import downloads, procedures, submissions, transfer_protocol, uploads
from quorate import rpc_protocol as rpc
from quorate.async_connection import AsyncConnection, run_script_async
from quorate.chain.block import Block, Header
from quorate.chain.genesis import Genesis
from quorate.chain.keys import PrivateKey
from quorate.chain.merkle import MerkleProof
from quorate.chain.task import TaskSpec
from quorate.chain.transaction import Body, TaskStatus
from quorate.chain.validators import ValidatorSet
from quorate.chain.vote import Commit
from quorate.chain.weights import ModelLeaf
from quorate.downloads import DownloadOptions, OnLeftOut, ignore_left_out
from quorate.http_exchange import ConnectionOptions
from quorate.payload_source import PayloadData, PayloadSource
from quorate.progress import OnProgress, OnWait, ignore_progress, ignore_wait
from quorate.rpc_protocol import TaskKey
from quorate.rpc_types import (
    Account,
    Event,
    ParticipantInfo,
    PayloadInfo,
    Status,
    Submitted,
    Task,
    TaskSummary,
    TrainingRound,
    TransactionInfo,
    Weights,
)
from quorate.script import Endpoint, Feed, Script, perform, read_next_event
from quorate.submissions import Measurement, UpdateDraft
from quorate.verification import VerifiedWeights
from quorate.weights_file import StoredWeights

T = TypeVar("T")


class AsyncClient:
    """A node's RPC under trio or asyncio; the parameters are those of `Client`.

    Examples
    --------
    >>> async def main():
    ...     async with AsyncClient("http://127.0.0.1:26657") as node:
    ...         print((await node.status()).height)
    >>> trio.run(main)  # doctest: +SKIP
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 10.0,
        retries: int = 5,
        genesis: Genesis | None = None,
        headers: Mapping[str, str] | None = None,
        trust_env: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.endpoint = Endpoint(url.rstrip("/"), retries, genesis)
        options = ConnectionOptions(timeout_s, headers or {}, trust_env)
        self.connection = AsyncConnection(self.endpoint, options, transport)

    async def aclose(self) -> None:
        """Close all connections."""
        await self.connection.aclose()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    # --- what the node knows ---------------------------------------------------------------------

    async def health(self) -> bool:
        """Return True if the node answers."""
        return await self._ask(rpc.get_health())

    async def status(self) -> Status:
        """Return who the node is and what it has decided."""
        return await self._ask(rpc.get_status())

    async def genesis(self) -> Genesis:
        """Return the genesis document, asked for once; as trustworthy as the node."""
        return await self.run(procedures.get_chain(self.endpoint))

    async def block(self, height: int | None = None) -> Block:
        """Return a block, by default the latest."""
        return await self._ask(rpc.get_block(height))

    async def commit(self, height: int | None = None) -> tuple[Header, Commit]:
        """Return a header and the commit that proves it, by default the latest."""
        return await self._ask(rpc.get_commit(height))

    async def validators(self, height: int | None = None) -> ValidatorSet:
        """Return the validators of a height, by default the latest."""
        return await self._ask(rpc.get_validators(height))

    async def transaction(self, transaction_hash: bytes) -> TransactionInfo:
        """Return where a transaction is; `RpcError` with code `not_found` if nowhere."""
        return await self._ask(rpc.get_transaction(transaction_hash))

    async def account(self, address: bytes) -> Account:
        """Return an account's nonces and balance."""
        return await self._ask(rpc.get_account(address))

    async def tasks(self) -> tuple[TaskSummary, ...]:
        """Return all tasks."""
        return await self.run(procedures.get_tasks(self.endpoint))

    async def task(self, task: TaskKey) -> Task:
        """Return a task, by its id or name."""
        return await self.run(procedures.get_task(self.endpoint, task))

    async def participants(self, task: TaskKey) -> tuple[ParticipantInfo, ...]:
        """Return who is registered for a task."""
        return await self.run(procedures.get_participants(self.endpoint, task))

    async def training_round(self, task: TaskKey, number: int | None = None) -> TrainingRound:
        """Return a training round, by default the open one."""
        return await self._ask(rpc.get_training_round(task, number))

    async def proof(
        self, task: TaskKey, height: int | None = None
    ) -> tuple[int, ModelLeaf, MerkleProof]:
        """Return a height, what the chain says of the task there, and the proof of it."""
        return await self._ask(rpc.get_proof(task, height))

    async def weights(self, task: TaskKey) -> Weights:
        """Download the latest finalized weights; whether they are the chain's is not checked."""
        return await self.run(procedures.download_weights(self.endpoint, task))

    async def get_verified_weights(
        self,
        task: TaskKey,
        trusted: Genesis | ValidatorSet,
        *,
        commit_from: "AsyncClient | None" = None,
        timeout_s: float = 30.0,
    ) -> VerifiedWeights:
        """Download the latest finalized weights and check them, as `Client` does."""
        source = self if commit_from is None else commit_from
        script = downloads.get_verified_weights(
            self.endpoint, source.endpoint, task, trusted, timeout_s
        )
        return await self.run(script, others=(source,))

    async def download_weights(
        self,
        task: TaskKey,
        path: Path | str,
        *,
        height: int | None = None,
        trusted: Genesis | ValidatorSet | None = None,
        commit_from: "AsyncClient | None" = None,
        others: "Sequence[AsyncClient]" = (),
        progress: OnProgress = ignore_progress,
        left_out: OnLeftOut = ignore_left_out,
    ) -> StoredWeights:
        """Download weights into a file, verified chunk by chunk, as `Client` does."""
        options = DownloadOptions(height, trusted, commit_from, others, progress, left_out)
        script = downloads.download_weights(self.endpoint, task, Path(path), options)
        return await self.run(script, others=options.nodes)

    async def events(
        self,
        types: Sequence[str] = (),
        *,
        transactions: Sequence[bytes] = (),
        last_event_id: str | None = None,
    ) -> AsyncIterator[Event]:
        """Iterate over the node's events, for ever, through lost connections.

        Surround its use in ``contextlib.aclosing``, or the stream stays open until the client is
        closed.
        """
        feed = Feed(self.endpoint, types, transactions, last_event_id)
        try:
            while True:
                yield await self.run(read_next_event(feed))
        finally:
            await self.connection.close_feed(feed)

    # --- what one asks of the chain --------------------------------------------------------------

    async def payload(self, payload_hash: bytes) -> PayloadInfo:
        """Return where a payload stands at this node; `RpcError` "not_found" if nowhere."""
        return await self._ask(transfer_protocol.get_payload(payload_hash))

    async def upload(
        self,
        data: PayloadData,
        *,
        task_id: bytes | None = None,
        progress: OnProgress = ignore_progress,
    ) -> PayloadInfo:
        """Upload a payload to this node ahead of its transaction, as `Client` does."""
        with PayloadSource(data) as source:
            script = uploads.upload_payload(
                self.endpoint, source, task_id=task_id, on_progress=progress
            )
            return await self.run(script)

    async def submit(self, raw: bytes, payload: bytes | None = None) -> Submitted:
        """Hand over a signed transaction; the same bytes again are no error."""
        return await self.run(procedures.submit(self.endpoint, raw, payload))

    async def submit_many(self, batch: Iterable[tuple[bytes, bytes | None]]) -> list[Submitted]:
        """Hand over many signed transactions; each is accepted or refused by itself."""
        return await self.run(procedures.submit_many(self.endpoint, batch))

    async def send(
        self, key: PrivateKey, body: Body, payload: bytes | None = None, fee: int | None = None
    ) -> Submitted:
        """Sign a transaction with the account's next nonce and submit it."""
        return await self.run(procedures.send_body(self.endpoint, key, body, payload, fee))

    async def wait_for_transaction(
        self, transaction_hash: bytes, timeout_s: float = 30.0, waiting: OnWait = ignore_wait
    ) -> TransactionInfo:
        """Wait until a transaction is decided; `WaitTimeoutError` if it is not in time.

        `waiting` is told now and then for how many seconds that has been.
        """
        return await self.run(
            procedures.wait_for_transaction(self.endpoint, transaction_hash, timeout_s, waiting)
        )

    async def transfer(self, key: PrivateKey, to: bytes, amount: int) -> Submitted:
        """Move coins to another account."""
        return await self.run(submissions.transfer(self.endpoint, key, to, amount))

    async def create_task(
        self,
        key: PrivateKey,
        spec: TaskSpec,
        weights: PayloadData,
        *,
        progress: OnProgress = ignore_progress,
    ) -> Submitted:
        """Create a task; its id is the transaction's hash."""
        return await self.run(submissions.create_task(self.endpoint, key, spec, weights, progress))

    async def change_task_status(
        self, key: PrivateKey, task: TaskKey, status: TaskStatus
    ) -> Submitted:
        """Open, pause or complete a task, as `Client` does."""
        return await self.run(submissions.change_task_status(self.endpoint, key, task, status))

    async def register(self, key: PrivateKey, task: TaskKey) -> Submitted:
        """Register the key's account as a participant of a task."""
        return await self.run(submissions.register(self.endpoint, key, task))

    async def submit_update(
        self,
        key: PrivateKey,
        task: TaskKey,
        draft: UpdateDraft,
        *,
        progress: OnProgress = ignore_progress,
    ) -> Submitted:
        """Submit a model update for an open training round, a large one in chunks."""
        return await self.run(submissions.submit_update(self.endpoint, key, task, draft, progress))

    async def submit_evaluation(
        self, key: PrivateKey, task: TaskKey, measurement: Measurement
    ) -> Submitted:
        """Submit a measurement of finalized weights on one's own data."""
        return await self.run(submissions.submit_evaluation(self.endpoint, key, task, measurement))

    # --- performing scripts ----------------------------------------------------------------------

    async def run(self, script: Script[T], *, others: Sequence["AsyncClient"] = ()) -> T:
        """Perform a script, on this node and on those of `others`."""
        clients = (*others, self)
        return await run_script_async(
            script, {client.endpoint: client.connection for client in clients}
        )

    async def _ask(self, call: rpc.Call[T]) -> T:
        return await self.run(perform(self.endpoint, call))
