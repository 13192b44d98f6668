"""Requests about tasks: what is trained, by whom, how far, and the proof of where it stands.

Owns these answers. Never serves weights: `weights` does.
"""

from typing import Annotated, Final
from urllib.parse import unquote

from litestar import Response, get
from litestar.params import PathParameter
from quorate.chain.codec import encode
from quorate.chain.errors import ErrorCode
from quorate.chain.ids import HASH_BYTES, INT64_MAX, Hash
from quorate.chain.receipt import RoundOutcome

from ledger.queries import (
    ModelProof,
    TaskView,
    find_task_by_name,
    get_model_proof,
    get_task,
    get_tasks,
    get_training_round,
)
from ledger.queries import get_participants as list_participants
from node.rpc import answers
from node.rpc.answers import HeightQuery, LimitQuery, StartQuery, TaskPath, answer, document
from node.rpc.blocks import load_stored_position, resolve_height
from node.rpc.context import Node, RpcContext
from node.rpc.problems import Refusal
from node.rpc.round_index import SearchUnfinished
from node.views import to_object

PAGE_ITEMS: Final = 1000


@get("/v1/tasks", responses=document("The tasks.", answers.Tasks))
async def list_tasks(
    node: Node, start: StartQuery = 0, limit: LimitQuery = PAGE_ITEMS
) -> Response[bytes]:
    """List the tasks of the chain."""
    state = node.services.executor.state
    tasks = [
        answers.TaskSummary(
            task.task_id.hex(),
            task.spec.name,
            task.record.status.name.lower(),
            str(task.record.training_round),
            task.record.weights_root.hex(),
            task.spec.dimension,
            task.record.registered_count,
        )
        for task in get_tasks(state, start, limit)
    ]
    return answer(answers.Tasks(tasks, state.task_count))


@get("/v1/tasks/{task:str}", responses=document("The task.", answers.Task, ErrorCode.UNKNOWN_TASK))
async def show_task(node: Node, task: TaskPath) -> Response[bytes]:
    """Return a task by its id or name."""
    found = find_task(node, task)
    spec, record = found.spec, found.record
    return answer(
        answers.Task(
            task_id=found.task_id.hex(),
            name=spec.name,
            authority=record.authority.hex(),
            status=record.status.name.lower(),
            training_round=str(record.training_round),
            rounds_finalized=str(record.rounds_finalized),
            weights_root=record.weights_root.hex(),
            optimizer_root=record.optimizer_root.hex(),
            dimension=spec.dimension,
            tensors=[to_object(tensor) for tensor in spec.tensors],
            rule=to_object(spec.rule),
            optimizer=to_object(spec.optimizer),
            policy=to_object(spec.policy),
            codec=spec.codec.name.lower(),
            participants=record.registered_count,
            best=None if found.best is None else to_object(found.best),
            created_height=str(record.created_height),
            spec_msgpack=encode(spec).hex(),
        )
    )


@get(
    "/v1/tasks/{task:str}/participants",
    responses=document("Who.", answers.Participants, ErrorCode.UNKNOWN_TASK),
)
async def show_participants(
    node: Node, task: TaskPath, start: StartQuery = 0, limit: LimitQuery = PAGE_ITEMS
) -> Response[bytes]:
    """List the registered participants of a task."""
    found = find_task(node, task)
    participants = [
        answers.Participant(
            participant.address.hex(),
            str(participant.registered_height),
            participant.has_update,
            participant.is_awaited,
            str(participant.active_round),
        )
        for participant in list_participants(
            node.services.executor.state, found.task_id, start, limit
        )
    ]
    return answer(answers.Participants(participants, found.record.registered_count))


@get(
    "/v1/tasks/{task:str}/rounds/{number:str}",
    responses=document(
        "The training round.", answers.TrainingRound, ErrorCode.UNKNOWN_TASK, ErrorCode.NOT_FOUND
    ),
)
async def show_training_round(
    node: Node,
    task: TaskPath,
    number: Annotated[str, PathParameter(description='A number, or "current".')],
) -> Response[bytes]:
    """Return a training round: the open one with its updates, an earlier one with its receipt.

    The receipt says who was counted and how, who was not and why, and what followed.
    """
    found = find_task(node, task)
    current = found.record.training_round
    wanted = current if number == "current" else _read_number(number)
    if wanted > current:
        raise Refusal(
            ErrorCode.NOT_FOUND,
            f"Training round {wanted} has not begun: the current one is {current}.",
        )
    view = get_training_round(node.services.executor.state, found.task_id, wanted)
    if view is None:
        return answer(await _find_ended_round(node, found.task_id, wanted))
    return answer(
        answers.TrainingRound(
            str(wanted),
            "frozen" if view.is_frozen else "open",
            opened_time_ms=str(view.opened_time_ms),
            deadline_ms=str(view.deadline_time_ms),
            base_weights_root=view.base_weights_root.hex(),
            updates=[
                answers.RoundUpdate(
                    update.participant.hex(),
                    update.payload_hash.hex(),
                    update.example_count,
                    staleness,
                )
                for update, staleness in zip(view.updates, view.staleness, strict=True)
            ],
            evaluations=len(view.evaluations),
            participants=view.registered_count,
            awaited=view.awaited_count,
            extensions=view.extension_count,
        )
    )


@get(
    "/v1/tasks/{task:str}/proof",
    responses=document("The proof.", answers.Proof, ErrorCode.UNKNOWN_TASK, ErrorCode.NOT_FOUND),
)
async def show_proof(node: Node, task: TaskPath, height: HeightQuery = None) -> Response[bytes]:
    """Prove a task's weights root against the model root of a header, by default the latest.

    For every height whose block this node has.
    """
    found = find_task(node, task)
    state = node.services.executor.state
    proof: ModelProof | None
    if height is None or height == state.height:
        height = state.height
        proof = get_model_proof(state, found.task_id)
    else:
        height = resolve_height(node, height)
        root = load_stored_position(node, height).model_root
        proof = await node.models.get_proof(height, root, found.task_id)
    if proof is None:
        if height < found.record.created_height:
            raise make_too_early(found, height)
        raise Refusal(
            ErrorCode.NOT_FOUND,
            f"This node remembers no proof of this task at height {height}: ask for the latest "
            "one, or another node.",
        )
    return answer(answers.Proof(str(height), to_object(proof.leaf), _show_path(proof)))


def find_task(node: RpcContext, key: str) -> TaskView:
    """Return the task with this id or name.

    Raises
    ------
    Refusal
        If there is none.
    """
    state = node.services.executor.state
    name = unquote(key)  # A slash in a name is still encoded.
    if len(name) == 2 * HASH_BYTES:
        try:
            found = get_task(state, Hash(bytes.fromhex(name)))
        except ValueError:
            found = None
        if found is not None:
            return found
    task_id = find_task_by_name(state, name)
    found = None if task_id is None else get_task(state, task_id)
    if found is None:
        raise make_unknown(name)
    return found


def make_unknown(name: str) -> Refusal:
    """Return what a client is told who asks for a task that does not exist."""
    return Refusal(
        ErrorCode.UNKNOWN_TASK,
        f"The chain has no task {name[:80]!r} as far as this node knows: /v1/tasks and "
        "`quorate task list` list them.",
    )


def make_too_early(task: TaskView, height: int) -> Refusal:
    """Return what a client is told who asks for a task at a height before it was created."""
    return Refusal(
        ErrorCode.NOT_FOUND,
        f"The task was not there yet at height {height}: it was created at height "
        f"{task.record.created_height}.",
    )


def _read_number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text[:20]) <= INT64_MAX):
        raise Refusal(
            ErrorCode.MALFORMED,
            f'{text[:80]!r} is not a training round: write its number, or "current".',
        )
    return int(text)


async def _find_ended_round(node: RpcContext, task_id: Hash, number: int) -> answers.TrainingRound:
    try:
        found = await node.rounds.find(task_id, number)
    except SearchUnfinished:
        raise Refusal(
            ErrorCode.NOT_AVAILABLE,
            f"The node is still looking for training round {number}: ask again in a moment.",
        ) from None
    if found is None:
        raise Refusal(
            ErrorCode.NOT_FOUND,
            f"Training round {number} ended in a block that this node does not have any more: ask "
            "another node.",
        )
    height, receipt = found
    status = "void" if receipt.outcome is RoundOutcome.VOID else "finalized"
    return answers.TrainingRound(
        str(number), status, height=str(height), receipt=to_object(receipt)
    )


def _show_path(proof: ModelProof) -> answers.View:
    return to_object(proof.proof)


HANDLERS: Final = (list_tasks, show_task, show_participants, show_training_round, show_proof)
