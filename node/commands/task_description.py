"""Descriptions of tasks: a file a person writes, with every choice that a task has.

Owns the sections of the file, its template, the sentences about mistakes in it, and what is said of
a task before it is created. Never sends anything.
"""

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct, field
from msgspec.inspect import EnumType, LiteralType, StructType, Type, VarTupleType
from quorate.chain.known_types import convert_plain, get_type_info
from quorate.chain.round_policy import (
    EXTENSIONS_MAX,
    SILENT_ROUNDS_MAX,
    STALENESS_MAX,
    RoundMode,
    StalenessWeighting,
)
from quorate.chain.task import (
    DEFAULT_RULE,
    FIXED_POINT_ONE,
    ITERATIONS_MAX,
    STAGES_MAX,
    UPDATES_PER_ROUND_MAX,
    AggregationRule,
    BelowMinimum,
    OptimizerName,
    RoundPolicy,
    ServerOptimizer,
    Stage,
    UpdateCodec,
)
from quorate.fixed_point import (
    UPDATE_FRACTION_BITS_DEFAULT,
    WEIGHT_FRACTION_BITS_DEFAULT,
    Array,
    ModelSchema,
)
from quorate.task_draft import TaskDraft, draft_task

from node.commands.task_file import InputFileError, read_bytes
from node.config.quantities import parse_duration

TASK_FILE_BYTES_MAX: Final = 1 << 20

_UNKNOWN_WORD: Final = re.compile(
    r"Invalid enum value (?P<word>.*) - at `\$\.(?P<place>[a-z_.]+)(\[(?P<index>\d+)\])?`",
    re.DOTALL,
)
"""What msgspec says of a word that is none of a field's, and where it stands."""

_Count = Annotated[int, Meta(ge=0)]
_Updates = Annotated[int, Meta(ge=0, le=UPDATES_PER_ROUND_MAX)]
_UpdatesOfRound = Annotated[int, Meta(ge=1, le=UPDATES_PER_ROUND_MAX)]
_Length = Annotated[int, Meta(ge=0, le=2**40)]
_Rate = Annotated[float, Meta(ge=0, le=65_536)]
_Decay = Annotated[float, Meta(ge=0, lt=1)]
_Bits = Annotated[int, Meta(ge=0, le=30)]

CodecName: TypeAlias = Literal["dense_int16", "dense_int8", "top_k_int16"]
ModeName: TypeAlias = Literal["synchronous", "asynchronous"]
WeightingName: TypeAlias = Literal["constant", "inverse_sqrt"]


class RuleSection(Struct, forbid_unknown_fields=True, frozen=True):
    """``[rule]``: how updates become one; see `AggregationRule` for its parameters."""

    stages: Annotated[tuple[Stage, ...], Meta(min_length=1, max_length=STAGES_MAX)] = DEFAULT_RULE
    num_byzantine: _Updates = 0
    clip_norm: _Length = 0
    selected: _Updates = 0
    bucket_size: _Updates = 0
    iterations: Annotated[int, Meta(ge=0, le=ITERATIONS_MAX)] = 0
    radius: _Length = 0


class OptimizerSection(Struct, forbid_unknown_fields=True, frozen=True):
    """``[optimizer]``: the step from the aggregate to new weights."""

    name: OptimizerName = OptimizerName.SGD
    learning_rate: _Rate = 1.0
    momentum: _Decay = 0.0
    second_moment_decay: _Decay = 0.0
    adaptivity: _Rate = 0.0


class PolicySection(Struct, forbid_unknown_fields=True, frozen=True):
    """``[policy]``: when a training round closes, and whom it waits for."""

    updates_min: _UpdatesOfRound
    updates_max: _UpdatesOfRound
    deadline: str = "1m"
    is_void_below_minimum: bool = False
    extensions_max: Annotated[int, Meta(ge=1, le=EXTENSIONS_MAX)] = 16
    silent_rounds_max: Annotated[int, Meta(ge=0, le=SILENT_ROUNDS_MAX)] = 3
    mode: ModeName = "synchronous"
    staleness_max: Annotated[int, Meta(ge=0, le=STALENESS_MAX)] = 0
    staleness_weighting: WeightingName = "inverse_sqrt"
    waive_proposer_spread: bool = False
    rounds_max: _Count = 0


class ScaleSection(Struct, forbid_unknown_fields=True, frozen=True):
    """``[scale]``: the bits behind the point of weights (of 32) and updates (of 16)."""

    weight_fraction_bits: _Bits = WEIGHT_FRACTION_BITS_DEFAULT
    update_fraction_bits: _Bits = UPDATE_FRACTION_BITS_DEFAULT


class TaskFile(Struct, forbid_unknown_fields=True, frozen=True):
    """A task as a person describes it; its tensors come from the initial weights."""

    name: str
    policy: PolicySection
    rule: RuleSection = field(default_factory=RuleSection)
    optimizer: OptimizerSection = field(default_factory=OptimizerSection)
    scale: ScaleSection = field(default_factory=ScaleSection)
    example_count_max: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0
    codec: CodecName = "dense_int16"
    density: Annotated[float, Meta(gt=0, le=1)] | None = None
    """With ``top_k_int16``: the part of the parameters that an update names."""


TEMPLATE: Final = """\
# A task: the model that is trained, and how. What stands behind a # is the default.
# `quorate task check FILE --weights NPZ` says what it means before it is created.

name = "{name}"            # Unique on the chain: letters, digits and _ . : / -
# example_count_max = 0    # Weigh updates by their examples, up to so many each; 0: all the same.
# codec = "dense_int16"    # Or "dense_int8" (half the bytes), "top_k_int16" (the largest values).
# density = 0.01           # With top_k_int16: the part of the parameters that an update names.

[policy]
updates_min = 3            # A training round with fewer updates has no result.
updates_max = 8            # With as many it ends at once; if asynchronous, the buffer's goal.
# deadline = "1m"          # Block time after which it ends with what it has.
# is_void_below_minimum = false  # Below the minimum: false extends the round, true voids it.
# extensions_max = 16      # How often it is extended before it is void after all (1 to 1024).
# silent_rounds_max = 3    # Who was silent in so many rounds is not waited for; 0: everybody is.
# mode = "synchronous"     # "asynchronous": updates count in the buffer they arrive in.
# staleness_max = 0        # How many rounds old an update's base weights may be (0 to 1024).
# staleness_weighting = "inverse_sqrt"  # What such an update counts; or "constant".
# waive_proposer_spread = false  # true: one proposer alone may choose the set of updates.
# rounds_max = 0           # The task completes after so many; 0: never by itself.

[rule]
# Any of clip, arc, nnm, bucketing, then one of mean, median, trimmed_mean, krum, multi_krum,
# bulyan, centered_clipping, geometric_median. Parameters of absent stages stay 0.
# stages = ["arc", "nnm", "geometric_median"]
num_byzantine = 1          # How many hostile participants are tolerated.
# clip_norm = 0            # clip: the longest update, in its integers; 0: the round's median.
# selected = 0             # multi_krum: how many updates; 0: all but num_byzantine.
# bucket_size = 0          # bucketing: updates in a bucket; 0: 2.
# iterations = 0           # geometric_median (0: 8) and centered_clipping (0: 1); at most 16.
# radius = 0               # centered_clipping: in the updates' integers; 0: the median distance.

[optimizer]
# name = "sgd"             # Or momentum, adagrad, adam, yogi.
# learning_rate = 1.0
# momentum = 0.0           # All but sgd: below 1.
# second_moment_decay = 0.0  # adam and yogi: below 1, for example 0.99.
# adaptivity = 0.0         # adagrad, adam and yogi need it positive, for example 0.001.

[scale]
# weight_fraction_bits = {weight_bits}  # Bits behind the point of weights, of 32.
# update_fraction_bits = {update_bits}  # And of updates, of 16.
"""


def make_template(name: str) -> str:
    """Return a description with every choice in it, at its default and explained."""
    return TEMPLATE.format(
        name=name,
        weight_bits=WEIGHT_FRACTION_BITS_DEFAULT,
        update_bits=UPDATE_FRACTION_BITS_DEFAULT,
    )


def read_task_file(path: Path) -> TaskFile:
    """Return the description of a task in a TOML or JSON file.

    Raises
    ------
    InputFileError
        One sentence that names the file, the field and its bound.
    """
    raw = read_bytes(path, TASK_FILE_BYTES_MAX)
    try:
        if path.suffix == ".json":
            document = msgspec.json.decode(raw)
        else:
            document = tomllib.loads(raw.decode())
        return convert_plain(document, TaskFile)
    except UnicodeDecodeError:
        raise InputFileError(f"{path} describes no task: it is no text.") from None
    except (ValueError, RecursionError) as error:
        # msgspec's and tomllib's errors are ValueErrors.
        raise InputFileError(
            f"{path} describes no task: {_describe_mistake(error)}. `quorate task init` writes "
            "a description with every choice in it."
        ) from error


def draft_from_file(described: TaskFile, arrays: dict[str, Array]) -> TaskDraft:
    """Return the draft of a described task with these initial weights.

    Raises
    ------
    InputFileError
        If its deadline is no duration.
    EncodingError
        If anything is beyond its bounds.
    """
    rule, optimizer = described.rule, described.optimizer
    return draft_task(
        described.name,
        arrays,
        _make_policy(described.policy),
        rule=AggregationRule(
            rule.stages,
            rule.num_byzantine,
            rule.clip_norm,
            rule.selected,
            rule.bucket_size,
            rule.iterations,
            rule.radius,
        ),
        optimizer=ServerOptimizer(
            optimizer.name,
            round(optimizer.learning_rate * FIXED_POINT_ONE),
            round(optimizer.momentum * FIXED_POINT_ONE),
            round(optimizer.second_moment_decay * FIXED_POINT_ONE),
            round(optimizer.adaptivity * FIXED_POINT_ONE),
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


def _describe_mistake(error: Exception) -> str:
    """Return what is wrong and where; of a word that is none of a field's, those that are, too."""
    unknown = _UNKNOWN_WORD.fullmatch(str(error))
    if unknown is None:
        return str(error)
    names = unknown["place"].split(".")
    section = f"[{'.'.join(names[:-1])}] " if len(names) > 1 else ""
    item = "" if unknown["index"] is None else f", item {int(unknown['index']) + 1},"
    words = ", ".join(map(repr, _get_words(names)))
    return f"{section}{names[-1]}{item} must be one of {words}, not {unknown['word']}"


def _get_words(names: Sequence[str]) -> list[str]:
    """Return the words that a field of a description may hold; `names` leads to it."""
    found: Type = get_type_info(TaskFile)
    for name in names:
        if isinstance(found, StructType):
            found = next(each.type for each in found.fields if each.encode_name == name)
    if isinstance(found, VarTupleType):
        found = found.item_type
    match found:
        case EnumType(cls):
            return [str(each.value) for each in cls]
        case LiteralType(values):
            return list(map(str, values))
        case _:
            return []


def _make_policy(policy: PolicySection) -> RoundPolicy:
    try:
        deadline_ms = parse_duration(policy.deadline)
    except ValueError as error:
        raise InputFileError(f"The task's deadline cannot be used: {error}.") from error
    return RoundPolicy(
        deadline_ms=deadline_ms,
        updates_min=policy.updates_min,
        updates_max=policy.updates_max,
        below_minimum=BelowMinimum.VOID if policy.is_void_below_minimum else BelowMinimum.EXTEND,
        staleness_max=policy.staleness_max,
        waive_proposer_spread=policy.waive_proposer_spread,
        rounds_max=policy.rounds_max,
        mode=RoundMode[policy.mode.upper()],
        staleness_weighting=StalenessWeighting[policy.staleness_weighting.upper()],
        silent_rounds_max=policy.silent_rounds_max,
        extensions_max=policy.extensions_max,
    )
