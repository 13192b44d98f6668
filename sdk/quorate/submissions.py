"""What one asks of the chain: from plain arguments to a transaction's body.

Owns the bodies that participants, task authorities and account holders send. Never signs by
itself: `procedures.send_body` does, with the key the caller hands over.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from quorate.chain.errors import ErrorCode
from quorate.chain.ids import Address, Hash
from quorate.chain.keys import PrivateKey
from quorate.chain.task import TaskSpec
from quorate.chain.transaction import (
    ChangeTaskStatus,
    CreateTask,
    RegisterParticipant,
    SubmitEvaluation,
    SubmitUpdate,
    TaskStatus,
    Transfer,
)
from quorate.chain.weights import WEIGHT_BYTES
from quorate.errors import EncodingError, RpcError
from quorate.payload_source import PayloadData, PayloadSource
from quorate.procedures import get_task, make_metrics, scale_metric, send_body
from quorate.progress import OnProgress, ignore_progress
from quorate.rpc_protocol import TaskKey, get_training_round
from quorate.rpc_types import Submitted, Task
from quorate.script import Endpoint, Script, perform, run_function
from quorate.uploads import RIDES_ALONG_BYTES_MAX, send_with_payload


@dataclass(frozen=True)
class UpdateDraft:
    """A model update, encoded.

    Attributes
    ----------
    training_round : int
        The open round.
    base_weights_root : bytes, 32
        The weights it is a difference to.
    data : bytes, array or Path
        In the task's codec, from `update_encoding.encode_update`. A mapped array or a file need
        not be in memory.
    example_count : int
        How many examples it was trained on; reported, not proven.
    metrics : mapping of str to float
        Measurements of the training, for the record.
    """

    training_round: int
    base_weights_root: bytes
    data: PayloadData
    example_count: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """An evaluation of finalized weights.

    Attributes
    ----------
    training_round : int
        The open round, whose receipt the median goes into.
    weights_root : bytes, 32
        The weights that were measured.
    loss : float
    example_count : int
    metrics : mapping of str to float
    """

    training_round: int
    weights_root: bytes
    loss: float
    example_count: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)


def transfer(endpoint: Endpoint, key: PrivateKey, to: bytes, amount: int) -> Script[Submitted]:
    """Move coins."""
    return (yield from send_body(endpoint, key, Transfer(Address(to), amount)))


def create_task(
    endpoint: Endpoint,
    key: PrivateKey,
    spec: TaskSpec,
    weights: PayloadData,
    on_progress: OnProgress = ignore_progress,
) -> Script[Submitted]:
    """Create a task with its initial weights."""
    with PayloadSource(weights) as source:
        if source.size != WEIGHT_BYTES * spec.dimension:
            raise EncodingError(
                f"the task has {spec.dimension} parameters, so its weights take "
                f"{WEIGHT_BYTES * spec.dimension} bytes, not {source.size}"
            )
        return (yield from send_with_payload(endpoint, key, CreateTask(spec), source, on_progress))


def change_task_status(
    endpoint: Endpoint, key: PrivateKey, task: TaskKey, status: TaskStatus
) -> Script[Submitted]:
    """Pause, resume or complete a task; with its authority's key."""
    found = yield from get_task(endpoint, task)
    return (yield from send_body(endpoint, key, ChangeTaskStatus(found.task_id, status)))


def register(endpoint: Endpoint, key: PrivateKey, task: TaskKey) -> Script[Submitted]:
    """Register for a task."""
    found = yield from get_task(endpoint, task)
    return (yield from send_body(endpoint, key, RegisterParticipant(found.task_id)))


def submit_update(
    endpoint: Endpoint,
    key: PrivateKey,
    task: TaskKey,
    draft: UpdateDraft,
    on_progress: OnProgress = ignore_progress,
) -> Script[Submitted]:
    """Submit an update; a large one is uploaded first, as far as the node does not have it.

    Raises
    ------
    RpcError
        If the node refuses it; of a large one, `duplicate_update` before anything is uploaded.
    """
    found = yield from get_task(endpoint, task)
    layout = found.spec.update_layout
    with PayloadSource(draft.data) as source:
        if source.size != layout.size:
            raise EncodingError(
                f"the task has {layout.dimension} parameters, so an update in "
                f"{layout.codec.name.lower()} takes {layout.size} bytes, not {source.size}"
            )
        if source.size > RIDES_ALONG_BYTES_MAX:
            yield from _check_slot(endpoint, key, found)
        body = SubmitUpdate(
            found.task_id,
            draft.training_round,
            Hash(draft.base_weights_root),
            found.spec.codec,
            (yield from run_function(lambda: source.content_hash)),
            source.size,
            draft.example_count,
            make_metrics(draft.metrics),
        )
        return (yield from send_with_payload(endpoint, key, body, source, on_progress))


def _check_slot(endpoint: Endpoint, key: PrivateKey, task: Task) -> Script[None]:
    """Raise if the open training round has an update of the account, as the node would later."""
    current = yield from perform(endpoint, get_training_round(task, None))
    if any(Address(update.participant) == key.address for update in current.updates):
        raise RpcError(
            HTTPStatus.CONFLICT,
            ErrorCode.DUPLICATE_UPDATE,
            f"The account has an update in training round {current.training_round} already, and "
            "may have 1: wait for the next one; nothing was uploaded.",
        )


def submit_evaluation(
    endpoint: Endpoint, key: PrivateKey, task: TaskKey, measurement: Measurement
) -> Script[Submitted]:
    """Submit an evaluation."""
    found = yield from get_task(endpoint, task)
    body = SubmitEvaluation(
        found.task_id,
        measurement.training_round,
        Hash(measurement.weights_root),
        scale_metric(measurement.loss),
        measurement.example_count,
        make_metrics(measurement.metrics),
    )
    return (yield from send_body(endpoint, key, body))
