"""The synchronous client of a node's RPC, for scripts and notebooks.

Owns the methods a person calls. Never holds a key beyond the call that signs with it; what a
node answers is trusted only where a method says that it was verified.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import httpx

from quorate import downloads, procedures, submissions, transfer_protocol, uploads
from quorate import rpc_protocol as rpc
from quorate.chain.block import Block, Header
from quorate.chain.genesis import Genesis
from quorate.chain.keys import PrivateKey
from quorate.chain.merkle import MerkleProof
from quorate.chain.task import TaskSpec
from quorate.chain.transaction import Body, TaskStatus
from quorate.chain.validators import ValidatorSet
from quorate.chain.vote import Commit
from quorate.chain.weights import ModelLeaf
from quorate.connection import Connection, run_script
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


class Client:
    """A node's RPC.

    Parameters
    ----------
    url : str
        The address of the node's RPC.
    timeout_s : float
        How long a request may go without an answer.
    retries : int
        How often a request is sent again when the connection fails or the node's mempool is
        full. All requests, submissions too, may be repeated without harm.
    genesis : Genesis, optional
        The chain's genesis document; asked of the node when it is needed and not given.
    headers : mapping, optional
        Sent with every request.
    trust_env : bool
        Whether to heed the environment's proxies; off, as a node is usually near.
    transport : httpx.BaseTransport, optional
        Something else than the network to send requests through.

    Examples
    --------
    >>> from quorate import Client
    >>> with Client("http://127.0.0.1:26657") as node:  # doctest: +SKIP
    ...     print(node.status().height)
    ...     task = node.task("digits")
    ...     print(task.training_round, task.spec.dimension)
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
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.endpoint = Endpoint(url.rstrip("/"), retries, genesis)
        options = ConnectionOptions(timeout_s, headers or {}, trust_env)
        self.connection = Connection(self.endpoint, options, transport)

    def close(self) -> None:
        """Close all connections."""
        self.connection.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- what the node knows ---------------------------------------------------------------------

    def health(self) -> bool:
        """Return True if the node answers."""
        return self._ask(rpc.get_health())

    def status(self) -> Status:
        """Return who the node is and what it has decided."""
        return self._ask(rpc.get_status())

    def genesis(self) -> Genesis:
        """Return the genesis document, asked for once; as trustworthy as the node."""
        return self.run(procedures.get_chain(self.endpoint))

    def block(self, height: int | None = None) -> Block:
        """Return a block, by default the latest."""
        return self._ask(rpc.get_block(height))

    def commit(self, height: int | None = None) -> tuple[Header, Commit]:
        """Return a header and the commit that proves it, by default the latest."""
        return self._ask(rpc.get_commit(height))

    def validators(self, height: int | None = None) -> ValidatorSet:
        """Return the validators of a height, by default the latest."""
        return self._ask(rpc.get_validators(height))

    def transaction(self, transaction_hash: bytes) -> TransactionInfo:
        """Return where a transaction is; `RpcError` with code `not_found` if nowhere."""
        return self._ask(rpc.get_transaction(transaction_hash))

    def account(self, address: bytes) -> Account:
        """Return an account's nonces and balance."""
        return self._ask(rpc.get_account(address))

    def tasks(self) -> tuple[TaskSummary, ...]:
        """Return all tasks."""
        return self.run(procedures.get_tasks(self.endpoint))

    def task(self, task: TaskKey) -> Task:
        """Return a task, by its id or name."""
        return self.run(procedures.get_task(self.endpoint, task))

    def participants(self, task: TaskKey) -> tuple[ParticipantInfo, ...]:
        """Return who is registered for a task."""
        return self.run(procedures.get_participants(self.endpoint, task))

    def training_round(self, task: TaskKey, number: int | None = None) -> TrainingRound:
        """Return a training round, by default the open one."""
        return self._ask(rpc.get_training_round(task, number))

    def proof(self, task: TaskKey, height: int | None = None) -> tuple[int, ModelLeaf, MerkleProof]:
        """Return a height, what the chain says of the task there, and the proof of it."""
        return self._ask(rpc.get_proof(task, height))

    def weights(self, task: TaskKey) -> Weights:
        """Download the latest finalized weights; whether they are the chain's is not checked."""
        return self.run(procedures.download_weights(self.endpoint, task))

    def get_verified_weights(
        self,
        task: TaskKey,
        trusted: Genesis | ValidatorSet,
        *,
        commit_from: "Client | None" = None,
        timeout_s: float = 30.0,
    ) -> VerifiedWeights:
        """Download the latest finalized weights and check them against those one trusts.

        Parameters
        ----------
        task : Task, bytes or str
            The task, its id or its name. A name is resolved by the node; an id is not.
        trusted : Genesis or ValidatorSet
            More than two thirds of this power must have signed. Get the genesis document from
            somebody you trust, not from the node.
        commit_from : Client, optional
            Another node to ask for the commit, so that two would have to agree on a lie.
        timeout_s : float
            How long that other node may be behind.

        Raises
        ------
        VerificationError
            Naming the step that failed.

        Examples
        --------
        >>> genesis = read_genesis("genesis.json")  # doctest: +SKIP
        >>> verified = mine.get_verified_weights(
        ...     "digits", genesis, commit_from=theirs
        ... )  # doctest: +SKIP
        >>> arrays = verified.to_arrays(schema)  # doctest: +SKIP
        """
        source = self if commit_from is None else commit_from
        script = downloads.get_verified_weights(
            self.endpoint, source.endpoint, task, trusted, timeout_s
        )
        return self.run(script, others=(source,))

    def download_weights(
        self,
        task: TaskKey,
        path: Path | str,
        *,
        height: int | None = None,
        trusted: Genesis | ValidatorSet | None = None,
        commit_from: "Client | None" = None,
        others: "Sequence[Client]" = (),
        progress: OnProgress = ignore_progress,
        left_out: OnLeftOut = ignore_left_out,
    ) -> StoredWeights:
        """Download weights into a file and verify them, chunk by chunk, against the chain.

        An interrupted download goes on where it ended: what is sound in ``<path>.partial`` stays.

        Parameters
        ----------
        task : Task, bytes or str
        path : Path or str
            Where to; replaced once the download is whole.
        height : int, optional
            The weights as of this block; the latest by default. Nodes keep those of earlier
            training rounds for a while.
        trusted : Genesis or ValidatorSet, optional
            As in `get_verified_weights`. Without it the node's own genesis document is believed.
        commit_from : Client, optional
            Another node to ask for the commit.
        others : sequence of Client
            Nodes to take chunks from beside this one.
        progress : callable
            Called after each chunk, from another thread.
        left_out : callable
            Called once with the address of each node that failed, and why; from another thread.

        Returns
        -------
        StoredWeights
            With arrays mapped from the file, read-only.

        Raises
        ------
        VerificationError
            Naming the step that failed.
        RpcError
            If no node has these weights any more; the message names the lowest height that has.

        Examples
        --------
        >>> bar = ProgressBar()  # doctest: +SKIP
        >>> stored = node.download_weights(
        ...     "digits", "weights.bin", progress=bar.show
        ... )  # doctest: +SKIP
        >>> stored.arrays[0].shape  # doctest: +SKIP
        """
        options = DownloadOptions(height, trusted, commit_from, others, progress, left_out)
        script = downloads.download_weights(self.endpoint, task, Path(path), options)
        return self.run(script, others=options.nodes)

    def events(
        self,
        types: Sequence[str] = (),
        *,
        transactions: Sequence[bytes] = (),
        last_event_id: str | None = None,
    ) -> Iterator[Event]:
        """Iterate over the node's events, for ever, through lost connections.

        Parameters
        ----------
        types : sequence of str
            "block", "training_round", "round"; all without any.
        transactions : sequence of bytes
            Transactions whose decision is told as well.
        last_event_id : str, optional
            Go on after this event, as far back as the node remembers.

        Examples
        --------
        >>> for event in node.events(["training_round"]):  # doctest: +SKIP
        ...     print(event.data["training_round"])
        """
        feed = Feed(self.endpoint, types, transactions, last_event_id)
        try:
            while True:
                yield self.run(read_next_event(feed))
        finally:
            self.connection.close_feed(feed)

    # --- what one asks of the chain --------------------------------------------------------------

    def payload(self, payload_hash: bytes) -> PayloadInfo:
        """Return where a payload stands at this node; `RpcError` "not_found" if nowhere."""
        return self._ask(transfer_protocol.get_payload(payload_hash))

    def upload(
        self,
        data: PayloadData,
        *,
        task_id: bytes | None = None,
        progress: OnProgress = ignore_progress,
    ) -> PayloadInfo:
        """Upload a payload to this node, as far as it does not have it, ahead of its transaction.

        `submit_update` and `create_task` do so by themselves. The node drops what no transaction
        names within a while.

        Parameters
        ----------
        data : bytes, array or Path
            A mapped array or a file need not be in memory.
        task_id : bytes, 32, optional
            The task that it is an update for, so that one that does not fit is refused at once.
        progress : callable
            Called after each chunk, from another thread.

        Raises
        ------
        RpcError
            If the node refuses it.
        ConnectionFailedError
            If the node stays away; uploading again goes on where this ended.
        """
        with PayloadSource(data) as source:
            script = uploads.upload_payload(
                self.endpoint, source, task_id=task_id, on_progress=progress
            )
            return self.run(script)

    def submit(self, raw: bytes, payload: bytes | None = None) -> Submitted:
        """Hand over a signed transaction; the same bytes again are no error."""
        return self.run(procedures.submit(self.endpoint, raw, payload))

    def submit_many(self, batch: Iterable[tuple[bytes, bytes | None]]) -> list[Submitted]:
        """Hand over many signed transactions; each is accepted or refused by itself."""
        return self.run(procedures.submit_many(self.endpoint, batch))

    def send(
        self, key: PrivateKey, body: Body, payload: bytes | None = None, fee: int | None = None
    ) -> Submitted:
        """Sign a transaction with the account's next nonce and submit it."""
        return self.run(procedures.send_body(self.endpoint, key, body, payload, fee))

    def wait_for_transaction(
        self, transaction_hash: bytes, timeout_s: float = 30.0, waiting: OnWait = ignore_wait
    ) -> TransactionInfo:
        """Wait until a transaction is decided; `WaitTimeoutError` if it is not in time.

        `waiting` is told now and then for how many seconds that has been.
        """
        return self.run(
            procedures.wait_for_transaction(self.endpoint, transaction_hash, timeout_s, waiting)
        )

    def transfer(self, key: PrivateKey, to: bytes, amount: int) -> Submitted:
        """Move coins to another account."""
        return self.run(submissions.transfer(self.endpoint, key, to, amount))

    def create_task(
        self,
        key: PrivateKey,
        spec: TaskSpec,
        weights: PayloadData,
        *,
        progress: OnProgress = ignore_progress,
    ) -> Submitted:
        """Create a task; its id is the transaction's hash.

        Examples
        --------
        >>> draft = draft_task("digits", arrays, policy)  # doctest: +SKIP
        >>> created = node.create_task(key, draft.spec, draft.weights)  # doctest: +SKIP
        >>> node.wait_for_transaction(created.hash)  # doctest: +SKIP
        """
        return self.run(submissions.create_task(self.endpoint, key, spec, weights, progress))

    def change_task_status(self, key: PrivateKey, task: TaskKey, status: TaskStatus) -> Submitted:
        """Open, pause or complete a task, as its authority; completed is for good.

        While it is paused, it takes no updates. When it is resumed (`TaskStatus.OPEN`), its
        training round has a whole period again.

        Raises
        ------
        RpcError
            `not_authorized` with another key than its authority's, `already_exists` if it has that
            status, `task_not_open` if it is completed.
        """
        return self.run(submissions.change_task_status(self.endpoint, key, task, status))

    def register(self, key: PrivateKey, task: TaskKey) -> Submitted:
        """Register the key's account as a participant of a task."""
        return self.run(submissions.register(self.endpoint, key, task))

    def submit_update(
        self,
        key: PrivateKey,
        task: TaskKey,
        draft: UpdateDraft,
        *,
        progress: OnProgress = ignore_progress,
    ) -> Submitted:
        """Submit a model update for an open training round.

        A large one is uploaded first, in chunks, as far as the node does not have it.
        """
        return self.run(submissions.submit_update(self.endpoint, key, task, draft, progress))

    def submit_evaluation(
        self, key: PrivateKey, task: TaskKey, measurement: Measurement
    ) -> Submitted:
        """Submit a measurement of finalized weights on one's own data."""
        return self.run(submissions.submit_evaluation(self.endpoint, key, task, measurement))

    # --- performing scripts ----------------------------------------------------------------------

    def run(self, script: Script[T], *, others: Sequence["Client"] = ()) -> T:
        """Perform a script, on this node and on those of `others`."""
        clients = (*others, self)
        return run_script(script, {client.endpoint: client.connection for client in clients})

    def _ask(self, call: rpc.Call[T]) -> T:
        return self.run(perform(self.endpoint, call))
