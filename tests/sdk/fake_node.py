"""A node as its clients see it: the RPC's contract over a chain small enough to read.

Every accepted transaction is decided in a block of its own, unless `is_holding`; updates are
averaged. Blocks, commits and proofs are real: signed by four validators.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from threading import RLock
from urllib.parse import unquote

import httpx
import msgpack
import msgspec
import numpy as np
from quorate.chain.block import (
    Block,
    Header,
    Version,
    compute_last_commit_root,
    compute_transactions_root,
)
from quorate.chain.codec import encode
from quorate.chain.content import compute_chunk_hashes, compute_content_hash
from quorate.chain.errors import ErrorCode, TransactionError
from quorate.chain.genesis import Admission, Genesis, GenesisValidator, encode_genesis
from quorate.chain.ids import Hash, Height
from quorate.chain.keys import PrivateKey
from quorate.chain.merkle import compute_proofs, compute_root
from quorate.chain.task import TaskSpec
from quorate.chain.transaction import (
    Body,
    CreateTask,
    RegisterParticipant,
    SubmitUpdate,
    compute_transaction_hash,
    decode_transaction,
    is_transaction_signature_valid,
)
from quorate.chain.vote import BlockId, Commit
from quorate.chain.weights import ModelLeaf

from aggregation import decode_update
from tests.chain.samples import make_commit, make_hash
from tests.sdk.fake_payloads import FakePayloads

VALIDATOR_KEYS = tuple(PrivateKey(bytes([100 + i]) * 32) for i in range(4))
GENESIS = Genesis(
    "fake-1",
    1_700_000_000_000,
    Admission.OPEN,
    tuple(GenesisValidator(f"v{i}", key.public_key, 10) for i, key in enumerate(VALIDATOR_KEYS)),
    fee_min=3,
)

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class FakeTask:
    """A task's state."""

    task_id: bytes
    spec: TaskSpec
    authority: bytes
    weights: bytes
    status: str = "open"
    training_round: int = 0
    participants: list[bytes] = field(default_factory=list)
    updates: dict[bytes, tuple[bytes, bytes]] = field(default_factory=dict)
    finished: dict[int, dict] = field(default_factory=dict)  # type: ignore[type-arg]
    past: dict[int, bytes] = field(default_factory=dict)
    """The weights of earlier training rounds, by the height at which others followed."""
    since: int = 0
    void: set[int] = field(default_factory=set)
    """The training rounds that end without a result."""
    frozen: dict[bytes, tuple[bytes, bytes]] | None = None
    """Of an asynchronous task: the buffer before the open one, until `thaw`."""
    is_thawing: bool = False

    @property
    def leaf(self) -> ModelLeaf:
        return ModelLeaf(
            Hash(self.task_id), compute_content_hash(self.weights), make_hash("optimizer")
        )


def plain(value: object) -> object:
    """The RPC's JSON form: 64-bit integers as text, bytes as hexadecimal."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value


def problem(status: int, code: str, detail: str = "Because.") -> Answer:
    body = {"type": "about:blank", "title": code, "status": status, "code": code}
    return (
        status,
        {"content-type": "application/problem+json"},
        msgspec.json.encode(body | {"detail": detail}),
    )


def answer(value: object, status: int = 200) -> Answer:
    return status, {"content-type": "application/json"}, msgspec.json.encode(plain(value))


class FakeNode:
    """The whole network in one object."""

    def __init__(self) -> None:
        self.genesis = GENESIS
        self.validators = GENESIS.validator_set
        self.blocks: list[tuple[Block, Commit, dict[bytes, tuple[ModelLeaf, object]]]] = []
        self.nonces: dict[bytes, int] = {}
        self.pending: list[tuple[bytes, bytes | None]] = []
        self.decided: dict[bytes, int] = {}
        self.tasks: dict[bytes, FakeTask] = {}
        self.events: list[tuple[str, dict]] = []  # type: ignore[type-arg]
        self.is_holding = False
        self.page_rows = 1000
        self.requests: list[str] = []
        self.intercept: Callable[[httpx.Request, Callable[[], Answer]], Answer | None] | None = None
        self.commit_keys = VALIDATOR_KEYS
        self.payloads = FakePayloads()
        self.lock = RLock()
        self.decide([])

    # --- the chain -------------------------------------------------------------------------------

    @property
    def height(self) -> int:
        return len(self.blocks)

    def decide(self, transactions: list[tuple[bytes, bytes | None]]) -> None:
        """Decide a block with these transactions."""
        height = self.height + 1
        for raw, payload in transactions:
            self.apply(raw, payload, height)
        for task in self.tasks.values():
            self.seal(task, height)
        leaves = [self.tasks[task_id].leaf for task_id in sorted(self.tasks)]
        root, proofs = compute_proofs([encode(leaf) for leaf in leaves])
        raws = tuple(raw for raw, _ in transactions)
        last = self.blocks[-1] if self.blocks else None
        header = Header(
            chain_id=GENESIS.chain_id,
            version=Version(1, 1),
            height=Height(height),
            time_ms=GENESIS.genesis_time_ms + height,
            last_block_id=last[1].block_id if last else None,
            last_commit_root=compute_last_commit_root(last[1] if last else None),
            transactions_root=compute_transactions_root(raws),
            evidence_root=compute_root([]),
            validators_root=self.validators.root,
            next_validators_root=self.validators.root,
            consensus_parameters_root=GENESIS.parameters.root,
            state_root=make_hash("state"),
            receipts_root=make_hash("receipts"),
            model_root=root,
            proposer=self.validators.proposer.address,
        )
        block = Block(header, raws, (), last[1] if last else None)
        block_id = BlockId(header.hash, 1, make_hash("parts"))
        commit = make_commit(
            self.validators,
            block_id,
            signers=self.commit_keys,
            height=height,
            chain_id=GENESIS.chain_id,
        )
        proven = {leaf.task_id: (leaf, proof) for leaf, proof in zip(leaves, proofs, strict=True)}
        self.blocks.append((block, commit, proven))  # type: ignore[arg-type]
        self.events.append(("block", {"height": height, "hash": header.hash}))

    def release(self) -> None:
        """Decide what was held back."""
        self.is_holding = False
        waiting, self.pending = self.pending, []
        self.decide(waiting)

    def apply(self, raw: bytes, payload: bytes | None, height: int) -> None:
        signed = decode_transaction(raw)
        transaction_hash = compute_transaction_hash(raw)
        self.nonces[signed.sender] = signed.transaction.nonce + 1
        self.decided[transaction_hash] = height
        match signed.transaction.body:
            case CreateTask(spec):
                assert payload is not None
                self.tasks[transaction_hash] = FakeTask(
                    transaction_hash, spec, signed.sender, payload, since=height
                )
            case RegisterParticipant(task_id):
                self.tasks[task_id].participants.append(signed.sender)
            case SubmitUpdate(task_id):
                assert payload is not None
                task = self.tasks[task_id]
                task.updates[signed.sender] = (signed.transaction.body.payload_hash, payload)

    def thaw(self, task_id: bytes) -> None:
        """Decide a block with the result of a task's frozen buffer."""
        self.tasks[task_id].is_thawing = True
        self.decide([])

    def seal(self, task: FakeTask, height: int) -> None:
        policy = task.spec.policy
        if task.frozen is not None and task.is_thawing:
            frozen, task.frozen, task.is_thawing = task.frozen, None, False
            self.finish(task, task.training_round - 1, frozen, height)
        if len(task.updates) < policy.updates_max or task.frozen is not None:
            return
        if policy.is_asynchronous:
            task.frozen = task.updates
        else:
            self.finish(task, task.training_round, task.updates, height)
        task.updates = {}
        task.training_round += 1
        if policy.rounds_max and task.training_round >= policy.rounds_max:
            task.status = "completed"

    def finish(
        self,
        task: FakeTask,
        number: int,
        counted: dict[bytes, tuple[bytes, bytes]],
        height: int,
    ) -> None:
        """End a training round with the mean of its updates, or without a result."""
        before, is_void = task.leaf.weights_root, number in task.void
        if not is_void:
            self.add_mean(task, counted, height)
        receipt = {
            "task_id": task.task_id,
            "training_round": number,
            "outcome": "void" if is_void else "finalized",
            "base_weights_root": before,
            "weights_root": task.leaf.weights_root,
            "set_root": make_hash("set"),
            "updates": [
                {
                    "participant": sender,
                    "payload_hash": counted[sender][0],
                    "score": 0 if is_void else 1 << 15,
                    "is_set_aside": False,
                }
                for sender in sorted(counted)
            ],
            "saturated": 0,
            "clamped": 0,
            "evaluation_count": 1,
            "evaluations": [{"name": "loss", "value": 65536}],
        }
        task.finished[number] = {
            "status": receipt["outcome"],
            "height": height,
            "receipt": receipt,
        }
        self.events.append(("training_round", {"height": height, **receipt}))

    def add_mean(
        self, task: FakeTask, counted: dict[bytes, tuple[bytes, bytes]], height: int
    ) -> None:
        updates = [counted[sender] for sender in sorted(counted)]
        layout = task.spec.update_layout
        matrix = np.array([decode_update(data, layout)[:] for _, data in updates], np.int64)
        shifts = [t.weight_fraction_bits - t.update_fraction_bits for t in task.spec.tensors]
        scale = np.repeat(np.array(shifts), [t.size for t in task.spec.tensors])
        step = np.rint(matrix.mean(axis=0)).astype(np.int64) << scale
        base = np.frombuffer(task.weights, "<i4").astype(np.int64)
        task.past[height] = task.weights
        task.weights = (base + step).astype("<i4").tobytes()
        task.since = height

    # --- the door --------------------------------------------------------------------------------

    def admit(self, raw: bytes, payload: bytes | None) -> bool:
        """Take a transaction; False if it was here before."""
        transaction_hash = compute_transaction_hash(raw)
        signed = decode_transaction(raw)
        transaction = signed.transaction
        body = transaction.body
        if payload is None and isinstance(body, CreateTask | SubmitUpdate):
            payload = self.payloads.stored.get(body.payload_hash)
        if transaction_hash in self.decided or (raw, payload) in self.pending:
            return False
        if transaction.chain_id != GENESIS.chain_id:
            raise TransactionError(ErrorCode.WRONG_CHAIN_ID, "Another chain.")
        if not is_transaction_signature_valid(signed):
            raise TransactionError(ErrorCode.BAD_SIGNATURE, "Sign it.")
        if transaction.fee < GENESIS.fee_min:
            raise TransactionError(ErrorCode.FEE_TOO_LOW, "Pay more.")
        if transaction.nonce != self.get_pending_nonce(signed.sender):
            raise TransactionError(ErrorCode.WRONG_NONCE, "Ask for the nonce.")
        if isinstance(body, CreateTask | SubmitUpdate):
            if payload is None:
                raise TransactionError(ErrorCode.PAYLOAD_MISSING, "Send it along.")
            assert compute_content_hash(payload) == body.payload_hash
            assert len(payload) == body.payload_size
        self.check_training(signed.sender, body)
        if self.is_holding:
            self.pending.append((raw, payload))
        else:
            self.decide([(raw, payload)])
        return True

    def check_training(self, sender: bytes, body: Body) -> None:
        match body:
            case RegisterParticipant(task_id):
                if sender in self.tasks[task_id].participants:
                    raise TransactionError(ErrorCode.ALREADY_EXISTS, "Registered.")
            case SubmitUpdate(task_id):
                task = self.tasks[task_id]
                is_asynchronous = task.spec.policy.is_asynchronous
                if body.training_round != task.training_round and not is_asynchronous:
                    raise TransactionError(ErrorCode.WRONG_TRAINING_ROUND, "Too late.")
                if body.base_weights_root != task.leaf.weights_root:
                    raise TransactionError(ErrorCode.STALE_WEIGHTS, "Stale.")
                if sender in task.updates:
                    raise TransactionError(ErrorCode.DUPLICATE_UPDATE, "Twice.")
                if sender not in task.participants:
                    raise TransactionError(ErrorCode.NOT_ADMITTED, "Register first.")

    def get_pending_nonce(self, address: bytes) -> int:
        waiting = sum(decode_transaction(raw).sender == address for raw, _ in self.pending)
        return self.nonces.get(address, 0) + waiting

    # --- HTTP ------------------------------------------------------------------------------------

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self.respond)

    def respond(self, request: httpx.Request) -> httpx.Response:
        target = request.url.raw_path.decode()
        with self.lock:
            self.requests.append(f"{request.method} {target}")
        # Without the lock: an interception may send requests of its own, from other threads.
        result = None
        if self.intercept is not None:
            result = self.intercept(request, lambda: self.answer(request))
        status, headers, body = self.answer(request) if result is None else result
        return httpx.Response(status, headers=headers, content=body)

    def answer(self, request: httpx.Request) -> Answer:
        """Answer one request at a time: chunks come from several threads."""
        with self.lock:
            return self.route(request)

    def stream(self, request: httpx.Request) -> bytes:
        """All events after the last one seen; then the stream ends."""
        start = int(request.headers.get("last-event-id", "0"))
        types = request.url.params.get("types", "")
        return b": welcome\n\n" + self.stream_between(start, len(self.events), types)

    def stream_between(self, start: int, end: int, types: str) -> bytes:
        """Events of these types in the form they are sent."""
        lines = []
        for number, (kind, data) in enumerate(self.events[start:end], start + 1):
            if not types or kind in types.split(","):
                content = msgspec.json.encode(plain(data)).decode()
                lines.append(f"id: {number}\nevent: {kind}\ndata: {content}\n\n")
        return "".join(lines).encode()

    def route(self, request: httpx.Request) -> Answer:  # noqa: PLR0911
        query = dict(request.url.params)
        path = [unquote(part) for part in request.url.raw_path.decode().split("?")[0].split("/")]
        match [request.method, *path[1:]]:
            case ["GET", "health"]:
                return answer({})
            case ["GET", "status"]:
                return answer(self.status())
            case ["GET", "genesis"]:
                return 200, {"content-type": "application/json"}, encode_genesis(GENESIS)
            case ["GET", "block" | "commit" | "validators" as what]:
                return self.at_height(what, query, request.headers.get("accept", ""))
            case ["GET", "tx"]:
                return self.transaction(bytes.fromhex(query["hash"]))
            case ["GET", "v1", "accounts", address]:
                sender = bytes.fromhex(address)
                return answer(
                    {
                        "address": sender,
                        "nonce": self.nonces.get(sender, 0),
                        "balance": 2**60,
                        "pending_nonce": self.get_pending_nonce(sender),
                    }
                )
            case ["POST", "v1", "transactions"]:
                assert request.headers["content-type"] == "application/msgpack"
                return self.submit(*msgpack.unpackb(request.content))
            case ["POST", "v1", "transactions", "batch"]:
                assert len(msgpack.unpackb(request.content)) <= 1000
                return answer({"results": list(self.submit_batch(request.content))})
            case [method, "v1", "payloads", *rest]:
                return self.upload(method, rest, request.content)
            case ["GET", "v1", "events"]:
                return 200, {"content-type": "text/event-stream"}, self.stream(request)
            case ["GET", "v1", "tasks"]:
                rows = [self.describe(task) for task in self.tasks.values()]
                return self.page("tasks", rows, query)
            case ["GET", "v1", "tasks", key, *rest]:
                return self.task(key, rest, query)
        return problem(404, "not_found")

    def upload(self, method: str, rest: list[str], content: bytes) -> Answer:
        match [method, *rest]:
            case ["POST"]:
                return answer(self.payloads.begin(content), 201)
            case ["GET", key]:
                shown = self.payloads.show(bytes.fromhex(key))
                return problem(404, "not_found") if shown is None else answer(shown)
            case ["PUT", key, "chunks", index]:
                code = self.payloads.take(bytes.fromhex(key), int(index), content)
                statuses = {"not_found": 404, "payload_mismatch": 422}
                return answer({}) if code is None else problem(statuses[code], code)
        return problem(404, "not_found")

    def page(self, name: str, rows: list, query: dict[str, str]) -> Answer:
        start = int(query.get("start", "0"))
        return answer({name: rows[start : start + self.page_rows], "total": len(rows)})

    def status(self) -> dict[str, object]:
        header = self.blocks[-1][0].header
        return {
            "chain_id": GENESIS.chain_id,
            "genesis_hash": GENESIS.hash,
            "version": "0.1.0",
            "moniker": "fake",
            "peer_id": "Qm",
            "listen_addresses": ["/ip4/127.0.0.1/tcp/26656"],
            "validator": {"address": VALIDATOR_KEYS[0].address, "power": 10},
            "height": self.height,
            "earliest_height": 1,
            "block_hash": header.hash,
            "block_time_ms": header.time_ms,
            "state_root": header.state_root,
            "model_root": header.model_root,
            "catching_up": False,
            "peer_count": 3,
            "mempool": {"transactions": len(self.pending), "bytes": 0},
            "consensus": {"height": self.height + 1, "round": 0, "step": "propose"},
            "a_field_of_later_days": [1, 2],
        }

    def at_height(self, what: str, query: dict[str, str], accept: str) -> Answer:
        height = int(query.get("height", self.height))
        if not 1 <= height <= self.height:
            return problem(404, "not_found")
        block, commit, _ = self.blocks[height - 1]
        assert accept == "application/msgpack"
        value = {
            "block": block,
            "commit": (block.header, commit),
            "validators": self.validators.validators,
        }[what]
        return 200, {"content-type": "application/msgpack"}, encode(value)

    def transaction(self, transaction_hash: bytes) -> Answer:
        if transaction_hash in self.decided:
            found = {"hash": transaction_hash, "status": "decided", "index": 0, "is_success": True}
            return answer(found | {"height": self.decided[transaction_hash], "transaction": {}})
        if any(compute_transaction_hash(raw) == transaction_hash for raw, _ in self.pending):
            return answer({"hash": transaction_hash, "status": "pending"})
        return problem(404, "not_found")

    def submit(self, raw: bytes, payload: bytes | None) -> Answer:
        transaction_hash = compute_transaction_hash(raw)
        try:
            is_new = self.admit(raw, payload)
        except TransactionError as error:
            conflicts = {ErrorCode.WRONG_NONCE, ErrorCode.DUPLICATE_UPDATE}
            return problem(409 if error.code in conflicts else 422, error.code, error.message)
        if is_new:
            return answer({"hash": transaction_hash, "status": "pending"}, 202)
        return self.transaction(transaction_hash)

    def submit_batch(self, content: bytes) -> Iterator[dict[str, object]]:
        for raw, payload in msgpack.unpackb(content):
            transaction_hash = compute_transaction_hash(raw)
            try:
                self.admit(raw, payload)
                yield {"hash": transaction_hash, "status": "pending"}
            except TransactionError as error:
                yield {"hash": transaction_hash, "code": error.code, "detail": error.message}

    def find_task(self, key: str) -> FakeTask | None:
        for task in self.tasks.values():
            if key in (task.spec.name, task.task_id.hex()):
                return task
        return None

    def describe(self, task: FakeTask) -> dict[str, object]:
        return {
            "task_id": task.task_id,
            "name": task.spec.name,
            "authority": task.authority,
            "status": task.status,
            "training_round": task.training_round,
            "weights_root": task.leaf.weights_root,
            "optimizer_root": task.leaf.optimizer_root,
            "dimension": task.spec.dimension,
            "participants": len(task.participants),
            "best": None,
            "spec_msgpack": encode(task.spec),
        }

    def task(self, key: str, rest: list[str], query: dict[str, str]) -> Answer:
        task = self.find_task(key)
        if task is None:
            return problem(404, "unknown_task", f"There is no task {key}.")
        match rest:
            case []:
                return answer(self.describe(task))
            case ["participants"]:
                rows = [{"address": a, "registered_height": 2} for a in task.participants]
                return self.page("participants", rows, query)
            case ["rounds", number]:
                return self.training_round(task, number)
            case ["weights"]:
                return self.weights(task, query)
            case ["weights", "chunks"]:
                return self.weights_chunks(task, query)
            case ["proof"]:
                height = int(query.get("height", self.height))
                leaf, path = self.blocks[height - 1][2][task.task_id]
                fields = {name: getattr(leaf, name) for name in leaf.__struct_fields__}
                proof = {name: getattr(path, name) for name in ("index", "total", "siblings")}
                return answer({"height": height, "leaf": fields, "proof": proof})
        return problem(404, "not_found")

    def training_round(self, task: FakeTask, number: str) -> Answer:
        if number != "current" and int(number) in task.finished:
            return answer(task.finished[int(number)])
        is_frozen = task.frozen is not None and number == str(task.training_round - 1)
        if not is_frozen and number not in ("current", str(task.training_round)):
            return problem(404, "not_found")
        found = task.frozen if is_frozen and task.frozen is not None else task.updates
        updates = [{"participant": a, "payload_hash": u[0]} for a, u in found.items()]
        return answer(
            {
                "training_round": task.training_round - is_frozen,
                "status": "frozen" if is_frozen else "open",
                "opened_time_ms": 1,
                "deadline_ms": 60_001,
                "updates": updates,
                "base_weights_root": task.leaf.weights_root,
            }
        )

    def find_weights(self, task: FakeTask, query: dict[str, str]) -> tuple[bytes, int]:
        """The weights of a height, and since when they are."""
        height = int(query.get("height", self.height))
        since = 0
        for until, data in sorted(task.past.items()):
            if height < until:
                return data, since
            since = until
        return task.weights, since or task.since

    def weights(self, task: FakeTask, query: dict[str, str]) -> Answer:
        data, since = self.find_weights(task, query)
        headers = {
            "content-type": "application/octet-stream",
            "quorate-weights-root": compute_content_hash(data).hex(),
            "quorate-height": str(since),
            "quorate-training-round": str(task.training_round),
        }
        if (chunk := query.get("chunk")) is not None:
            data = data[int(chunk) << 20 : (int(chunk) + 1) << 20]
        return 200, headers, data

    def weights_chunks(self, task: FakeTask, query: dict[str, str]) -> Answer:
        data, since = self.find_weights(task, query)
        return answer(
            {
                "weights_root": compute_content_hash(data),
                "height": since,
                "training_round": task.training_round,
                "size": len(data),
                "chunk_hashes": compute_chunk_hashes(data),
            }
        )
