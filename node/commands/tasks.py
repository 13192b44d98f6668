"""``task``, ``participant`` and ``update``: what one asks of the chain about training.

Owns what the commands send through the SDK and print. Never signs on a node: keys come from the
keyring and stay in this process.
"""

from itertools import islice
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from quorate.chain.keys import PrivateKey
from quorate.chain.task import FIXED_POINT_ONE
from quorate.chain.transaction import TaskStatus
from quorate.client import Client
from quorate.fixed_point import Array
from quorate.progress import ProgressBar, WaitingLine
from quorate.rpc_types import Submitted, Task
from quorate.submissions import UpdateDraft

from node.commands.keyring import Keyring
from node.commands.printing import Printer, Value
from node.commands.round_views import (
    make_history_row,
    make_participant_rows,
    make_round_record,
)
from node.commands.settings import (
    KEYRING_DEFAULT,
    KeyOption,
    KeyringOption,
    NodeOption,
    OutputOption,
    WaitOption,
    get_node_url,
    get_printer,
    open_client,
)
from node.commands.task_check import explain_task, find_task_fault
from node.commands.task_description import draft_from_file, make_template, read_task_file
from node.commands.task_file import InputFileError, read_arrays, read_update, told_by_name

task_app = typer.Typer(no_args_is_help=True, help="Create and look at tasks.")
participant_app = typer.Typer(no_args_is_help=True, help="Take part in a task.")
update_app = typer.Typer(no_args_is_help=True, help="Submit model updates.")

DECISION_S: Final = 30.0
"""How long a decision is waited for,"""
PAYLOAD_BYTES_PER_S: Final = 1_000_000
"""and a second more for as many bytes of a payload."""

FOLDER_DEFAULT: Final = Path(KEYRING_DEFAULT)


def _require_task(task: str) -> str:
    """Refuse an empty name, as an unset variable of a shell gives: it would ask for all tasks."""
    if not task:
        raise typer.BadParameter("name a task: `quorate task list` shows those that there are.")
    return task


TaskArgument = Annotated[
    str, typer.Argument(metavar="TASK", help="The task's name or id.", callback=_require_task)
]
AuthorityOption = Annotated[
    str, typer.Option("--key", metavar="NAME", help="The key of the task's authority.")
]


PLACEHOLDER: Final[dict[str, Array]] = {"weights": np.zeros(1)}
"""Stands for the initial weights where only the description is checked."""


@task_app.command()
def init(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it; TOML.")],
    name: Annotated[str, typer.Option("--name", help="The task's name.")] = "my-task",
    output: OutputOption = None,
) -> None:
    """Write a description to begin with.

    Every choice is in it, at its default and explained.
    """
    try:
        with file.open("x") as opened:
            opened.write(make_template(name))
    except FileExistsError:
        raise InputFileError(f"{file} is there already: write to another one.") from None
    except OSError as error:
        raise InputFileError(f"{file} cannot be written: {error.strerror}.") from error
    get_printer(context, output).print_record({"file": str(file), "name": name})


@task_app.command()
def check(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The task's description, TOML or JSON.")
    ],
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="NPZ", help="The initial weights.")
    ] = None,
    output: OutputOption = None,
) -> None:
    """Say in words what a description means.

    And what it needs; of sizes and costs only with the initial weights.
    """
    printer = get_printer(context, output)
    arrays = PLACEHOLDER if weights is None else read_arrays(weights)
    described = read_task_file(file)
    with told_by_name(file if weights is None else weights):
        draft = draft_from_file(described, arrays)
    fault = find_task_fault(draft.spec)
    if fault is not None:
        raise InputFileError(f"{file} describes a task that no node takes. {fault}")
    if draft.saturated:
        printer.note(f"{draft.saturated} weights do not fit the scale and were cut off at its end.")
    sentences = explain_task(draft.spec, has_weights=weights is not None)
    if printer.is_json:
        printer.print_record({"name": draft.spec.name, "explanation": sentences})
    else:
        for sentence in sentences:
            printer.print_line(sentence)


@task_app.command()
def create(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The task's description, TOML or JSON.")
    ],
    weights: Annotated[
        Path, typer.Option("--weights", metavar="NPZ", help="The initial weights, by tensor.")
    ],
    key: KeyOption,
    *,
    keyring: KeyringOption = FOLDER_DEFAULT,
    wait: WaitOption = True,
    node: NodeOption = None,
    output: OutputOption = None,
) -> None:
    """Create a task.

    From its description and the initial weights of its model; the key becomes its authority.
    """
    printer = get_printer(context, output)
    described, arrays = read_task_file(file), read_arrays(weights)
    with told_by_name(weights):
        draft = draft_from_file(described, arrays)
    fault = find_task_fault(draft.spec)
    if fault is not None:
        raise InputFileError(f"{file} describes a task that no node takes. {fault}")
    if draft.saturated:
        printer.note(f"{draft.saturated} weights do not fit the scale and were cut off at its end.")
    signer = Keyring(keyring).load(key)
    with open_client(get_node_url(context, node)) as client:
        with ProgressBar() as bar:
            submitted = client.create_task(signer, draft.spec, draft.weights, progress=bar.show)
        outcome = _await_decision(client, submitted, wait, len(draft.weights))
    printer.print_record({"task_id": submitted.hash, "name": draft.spec.name, **outcome})


@task_app.command(name="list")
def list_tasks(
    context: typer.Context, node: NodeOption = None, output: OutputOption = None
) -> None:
    """List the chain's tasks."""
    with open_client(get_node_url(context, node)) as client:
        rows: list[dict[str, Value]] = [
            {"name": task.name, "training_round": task.training_round, "task_id": task.task_id}
            for task in client.tasks()
        ]
    get_printer(context, output).print_table("tasks", rows)


@task_app.command()
def show(
    context: typer.Context,
    task: TaskArgument,
    *,
    training_round: Annotated[
        int | None, typer.Option("--round", min=0, help="Show this training round instead.")
    ] = None,
    node: NodeOption = None,
    output: OutputOption = None,
) -> None:
    """Show a task, or one of its rounds in full."""
    printer = get_printer(context, output)
    with open_client(get_node_url(context, node)) as client:
        if training_round is None:
            printer.print_record(_describe_task(client.task(task)))
            return
        state = client.training_round(task, training_round)
    record, rows = make_round_record(state), make_participant_rows(state)
    if printer.is_json:
        printer.print_record({**record, "rows": rows})
    else:
        printer.print_record(record)
        printer.print_table("participants", rows)


@task_app.command()
def history(
    context: typer.Context,
    task: TaskArgument,
    *,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=1000, help="How many of the latest ones.")
    ] = 20,
    node: NodeOption = None,
    output: OutputOption = None,
) -> None:
    """List the rounds that have ended.

    The latest first: how, and with how many updates.
    """
    with open_client(get_node_url(context, node)) as client:
        current = client.task(task).training_round
        states = (client.training_round(task, n) for n in range(current - 1, -1, -1))
        ended = islice((state for state in states if state.is_over), limit)
        rows = [make_history_row(state) for state in ended]
    get_printer(context, output).print_table("rounds", rows)


@task_app.command()
def pause(
    context: typer.Context,
    task: TaskArgument,
    key: AuthorityOption,
    *,
    keyring: KeyringOption = FOLDER_DEFAULT,
    wait: WaitOption = True,
    node: NodeOption = None,
    output: OutputOption = None,
) -> None:
    """Take no updates for a while.

    Those that the open round has stay, and it does not end meanwhile. By the task's authority.
    """
    with open_client(get_node_url(context, node)) as client:
        record = _change_status(client, Keyring(keyring).load(key), task, TaskStatus.PAUSED, wait)
    get_printer(context, output).print_record(record)


@task_app.command()
def resume(
    context: typer.Context,
    task: TaskArgument,
    key: AuthorityOption,
    *,
    keyring: KeyringOption = FOLDER_DEFAULT,
    wait: WaitOption = True,
    node: NodeOption = None,
    output: OutputOption = None,
) -> None:
    """Take updates again after a pause.

    The open round has a whole period from now on. By the task's authority.
    """
    with open_client(get_node_url(context, node)) as client:
        record = _change_status(client, Keyring(keyring).load(key), task, TaskStatus.OPEN, wait)
    get_printer(context, output).print_record(record)


@participant_app.command()
def register(
    context: typer.Context,
    task: TaskArgument,
    key: KeyOption,
    *,
    keyring: KeyringOption = FOLDER_DEFAULT,
    wait: WaitOption = True,
    node: NodeOption = None,
    output: OutputOption = None,
) -> None:
    """Register an account for a task."""
    signer = Keyring(keyring).load(key)
    with open_client(get_node_url(context, node)) as client:
        submitted = client.register(signer, task)
        outcome = _await_decision(client, submitted, wait)
    get_printer(context, output).print_record({"participant": signer.address, **outcome})


@update_app.command()
def submit(
    context: typer.Context,
    task: TaskArgument,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="New minus base weights: .npz by tensor, .npy as a vector, or the codec's bytes.",
        ),
    ],
    key: KeyOption,
    *,
    examples: Annotated[
        int, typer.Option("--examples", min=0, help="How many examples it was trained on.")
    ] = 0,
    keyring: KeyringOption = FOLDER_DEFAULT,
    wait: WaitOption = True,
    node: NodeOption = None,
    output: OutputOption = None,
) -> None:
    """Submit an update to the open round.

    A large one goes in chunks; after an interruption, submitting it again goes on where that ended.
    """
    printer: Printer = get_printer(context, output)
    signer = Keyring(keyring).load(key)
    with open_client(get_node_url(context, node)) as client:
        found = client.task(task)
        data, saturated = read_update(file, found.spec)
        if saturated:
            printer.note(f"{saturated} numbers do not fit the task's scale and were cut off.")
        draft = UpdateDraft(found.training_round, found.weights_root, data, examples)
        with ProgressBar() as bar:
            submitted = client.submit_update(signer, found, draft, progress=bar.show)
        size = found.spec.update_layout.size
        outcome = _await_decision(client, submitted, wait, size)
    printer.print_record(
        {"participant": signer.address, "training_round": found.training_round, **outcome}
    )


def _change_status(
    client: Client, signer: PrivateKey, task: str, status: TaskStatus, wait: bool
) -> dict[str, Value]:
    """Change a task's status and return what is printed about it."""
    found = client.task(task)
    submitted = client.change_task_status(signer, found, status)
    outcome = _await_decision(client, submitted, wait)
    return {
        "task_id": found.task_id,
        "name": found.name,
        "task_status": status.name.lower(),
        **outcome,
    }


def _await_decision(
    client: Client, submitted: Submitted, wait: bool, payload_bytes: int = 0
) -> dict[str, Value]:
    """Return what became of a transaction that the node has accepted."""
    if not wait:
        return {"transaction": submitted.hash, "status": submitted.status}
    # Validators have to pull a payload first.
    patience_s = DECISION_S + payload_bytes / PAYLOAD_BYTES_PER_S
    with WaitingLine("a block") as line:
        line.show(0)
        info = client.wait_for_transaction(submitted.hash, patience_s, waiting=line.show)
    return {"transaction": submitted.hash, "status": info.status, "height": info.height}


def _describe_task(task: Task) -> dict[str, Value]:
    spec = task.spec
    policy, rule, optimizer = spec.policy, spec.rule, spec.optimizer
    return {
        "task_id": task.task_id,
        "name": task.name,
        "status": TaskStatus(task.status).name.lower(),
        "authority": bytes(task.authority),
        "training_round": task.training_round,
        "participants": task.participants,
        "weights_root": task.weights_root,
        "optimizer_root": task.optimizer_root,
        "parameters": spec.dimension,
        "tensors": [f"{each.name} {list(each.shape)}" for each in spec.tensors],
        "codec": spec.codec.name.lower(),
        "update_bytes": spec.update_layout.size,
        "rule": [str(stage) for stage in rule.stages],
        "num_byzantine": rule.num_byzantine,
        "optimizer": str(optimizer.name),
        "learning_rate": optimizer.learning_rate / FIXED_POINT_ONE,
        "momentum": optimizer.momentum / FIXED_POINT_ONE,
        "mode": policy.mode.name.lower(),
        "deadline_ms": policy.deadline_ms,
        "updates_min": policy.updates_min,
        "updates_max": policy.updates_max,
        "below_minimum": policy.below_minimum.name.lower(),
        "extensions_max": policy.extensions_max,
        "silent_rounds_max": policy.silent_rounds_max,
        "staleness_max": policy.staleness_max,
        "staleness_weighting": policy.staleness_weighting.name.lower(),
        "rounds_max": policy.rounds_max,
    }
