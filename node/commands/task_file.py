"""Files a person writes or trains: task descriptions, weights and updates.

Owns their reading, and the sentences about mistakes in them. Never sends anything, and never
unpickles: arrays are read as numbers or not at all.
"""

import tomllib
import zipfile
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
import numpy as np
from msgspec import Meta, Struct, field
from quorate.chain.errors import QuorateError
from quorate.chain.task import (
    DEFAULT_RULE,
    FIXED_POINT_ONE,
    AggregationRule,
    BelowMinimum,
    OptimizerName,
    RoundPolicy,
    ServerOptimizer,
    Stage,
    TaskSpec,
    UpdateCodec,
)
from quorate.fixed_point import (
    UPDATE_FRACTION_BITS_DEFAULT,
    WEIGHT_FRACTION_BITS_DEFAULT,
    Array,
    ModelSchema,
)
from quorate.payload_source import PayloadData
from quorate.task_draft import TaskDraft, draft_task
from quorate.update_encoding import encode_update

from node.config.quantities import parse_duration

TASK_FILE_BYTES_MAX: Final = 1 << 20

_Count = Annotated[int, Meta(ge=0)]
_Rate = Annotated[float, Meta(ge=0, le=65_536)]

CodecName: TypeAlias = Literal["dense_int16", "dense_int8", "top_k_int16"]


class InputFileError(QuorateError):
    """A file that a command was given and that cannot be used."""


class RuleSection(Struct, forbid_unknown_fields=True, frozen=True):
    """``[rule]``: how updates become one."""

    stages: tuple[Stage, ...] = DEFAULT_RULE
    num_byzantine: _Count = 0
    clip_norm: _Count = 0
    selected: _Count = 0


class OptimizerSection(Struct, forbid_unknown_fields=True, frozen=True):
    """``[optimizer]``: the step from the aggregate to new weights."""

    name: OptimizerName = OptimizerName.SGD
    learning_rate: _Rate = 1.0
    momentum: _Rate = 0.0


class PolicySection(Struct, forbid_unknown_fields=True, frozen=True):
    """``[policy]``: when a training round closes."""

    updates_min: Annotated[int, Meta(ge=1)]
    updates_max: Annotated[int, Meta(ge=1)]
    deadline: str = "1m"
    is_void_below_minimum: bool = False
    staleness_max: _Count = 0
    waive_proposer_spread: bool = False
    rounds_max: _Count = 0


class ScaleSection(Struct, forbid_unknown_fields=True, frozen=True):
    """``[scale]``: the bits behind the point of weights (of 32) and updates (of 16)."""

    weight_fraction_bits: _Count = WEIGHT_FRACTION_BITS_DEFAULT
    update_fraction_bits: _Count = UPDATE_FRACTION_BITS_DEFAULT


class TaskFile(Struct, forbid_unknown_fields=True, frozen=True):
    """A task as a person describes it; its tensors come from the initial weights."""

    name: str
    policy: PolicySection
    rule: RuleSection = field(default_factory=RuleSection)
    optimizer: OptimizerSection = field(default_factory=OptimizerSection)
    scale: ScaleSection = field(default_factory=ScaleSection)
    example_count_max: _Count = 0
    codec: CodecName = "dense_int16"
    density: float | None = None
    """With ``top_k_int16``: the part of the parameters that an update names."""


def read_task_file(path: Path) -> TaskFile:
    """Return the description of a task in a TOML or JSON file.

    Raises
    ------
    InputFileError
        One sentence that names the file and the field.
    """
    raw = read_bytes(path, TASK_FILE_BYTES_MAX)
    try:
        if path.suffix == ".json":
            document = msgspec.json.decode(raw)
        else:
            document = tomllib.loads(raw.decode())
        return msgspec.convert(document, TaskFile)
    except (ValueError, RecursionError) as error:
        # msgspec's, tomllib's and UTF-8's errors are ValueErrors.
        raise InputFileError(f"{path} describes no task: {error}.") from error


def draft_from_file(described: TaskFile, arrays: dict[str, Array]) -> TaskDraft:
    """Return the draft of a described task with these initial weights.

    Raises
    ------
    InputFileError
        If its deadline is no duration.
    EncodingError
        If anything is beyond its bounds.
    """
    policy, rule, optimizer = described.policy, described.rule, described.optimizer
    try:
        deadline_ms = parse_duration(policy.deadline)
    except ValueError as error:
        raise InputFileError(f"The task's deadline cannot be used: {error}.") from error
    return draft_task(
        described.name,
        arrays,
        RoundPolicy(
            deadline_ms=deadline_ms,
            updates_min=policy.updates_min,
            updates_max=policy.updates_max,
            below_minimum=(
                BelowMinimum.VOID if policy.is_void_below_minimum else BelowMinimum.EXTEND
            ),
            staleness_max=policy.staleness_max,
            waive_proposer_spread=policy.waive_proposer_spread,
            rounds_max=policy.rounds_max,
        ),
        rule=AggregationRule(rule.stages, rule.num_byzantine, rule.clip_norm, rule.selected),
        optimizer=ServerOptimizer(
            optimizer.name,
            round(optimizer.learning_rate * FIXED_POINT_ONE),
            round(optimizer.momentum * FIXED_POINT_ONE),
        ),
        schema=ModelSchema.from_arrays(
            arrays,
            weight_fraction_bits=described.scale.weight_fraction_bits,
            update_fraction_bits=described.scale.update_fraction_bits,
        ),
        example_count_max=described.example_count_max,
        codec=UpdateCodec[described.codec.upper()],
        density=described.density,
    )


def read_arrays(path: Path) -> dict[str, Array]:
    """Return the arrays of a ``.npz`` file by their names, or the one of a ``.npy`` file as "0".

    Raises
    ------
    InputFileError
        If it cannot be read, or holds anything but numbers.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"0": loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except FileNotFoundError:
        raise InputFileError(f"There is no file {path}.") from None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputFileError(
            f"{path} cannot be read as arrays of numbers ({error}): write it with numpy.savez or "
            "numpy.save."
        ) from error


def read_update(path: Path, spec: TaskSpec) -> tuple[PayloadData, int]:
    """Return an update from a file, encoded, and how many of its numbers did not fit.

    Parameters
    ----------
    path : Path
        ``.npz``: the differences by the tensors' names; ``.npy``: all of them in one vector;
        anything else: the bytes of the task's codec, as the chain takes them; those stay in the
        file.
    spec : TaskSpec
        The task's.

    Raises
    ------
    InputFileError, EncodingError
        If the file cannot be used, or does not fit the task.
    """
    schema, layout = ModelSchema.from_spec(spec), spec.update_layout
    if path.suffix not in (".npz", ".npy"):
        try:
            size = path.stat().st_size
        except OSError as error:
            raise InputFileError(f"{path} cannot be read: {error.strerror}.") from error
        if size != layout.size:
            raise InputFileError(
                f"{path} has {size} bytes; {layout.dimension} parameters take "
                f"{layout.size} in {layout.codec.name.lower()}."
            )
        return path, 0
    arrays = read_arrays(path)
    if path.suffix == ".npy":
        parts = schema.unflatten(arrays["0"].reshape(-1))
    else:
        parts = pick_tensors(path, arrays, schema)
    encoded = encode_update(schema, layout, parts)
    return encoded.data, encoded.saturated


def pick_tensors(path: Path, arrays: dict[str, Array], schema: ModelSchema) -> list[Array]:
    """Return a file's arrays in the order of a task's tensors.

    Raises
    ------
    InputFileError
        If one is missing or too many.
    """
    names = [tensor.name for tensor in schema.tensors]
    if sorted(names) != sorted(arrays):
        raise InputFileError(
            f"{path} has the arrays {', '.join(arrays)}; the task's tensors are {', '.join(names)}."
        )
    return [arrays[name] for name in names]


def read_bytes(path: Path, bytes_max: int) -> bytes:
    """Return what a file holds.

    Raises
    ------
    InputFileError
        If it cannot be read or is longer.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(bytes_max + 1)
    except OSError as error:
        raise InputFileError(f"{path} cannot be read: {error.strerror}.") from error
    if len(raw) > bytes_max:
        raise InputFileError(f"{path} has more than {bytes_max} bytes: it is another file.")
    return raw
