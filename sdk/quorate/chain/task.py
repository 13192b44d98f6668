"""What a task is: the model under training, how its updates are encoded, aggregated and counted.

Owns the wire types of a task's specification and the checks that need nothing but the
specification itself. Never looks at state, and knows no aggregation arithmetic.
"""

from enum import IntEnum, StrEnum
from typing import Annotated, assert_never

from msgspec import Meta, Struct

from quorate.chain.ids import Name, Uint32, Uint64, WireHash
from quorate.chain.round_policy import UPDATES_PER_ROUND_MAX, BelowMinimum, RoundPolicy

__all__ = [
    "DEFAULT_RULE",
    "FIXED_POINT_ONE",
    "INT8_BLOCK_VALUES",
    "INT8_EXPONENT_MAX",
    "ITERATIONS_MAX",
    "PARAMETERS_MAX",
    "PRE_AGGREGATIONS",
    "STAGES_MAX",
    "TENSORS_MAX",
    "TENSOR_RANK_MAX",
    "UPDATES_PER_ROUND_MAX",
    "AggregationRule",
    "BelowMinimum",
    "OptimizerName",
    "RoundPolicy",
    "ServerOptimizer",
    "Stage",
    "TaskSpec",
    "TensorSpec",
    "UpdateCodec",
    "UpdateLayout",
]

TENSORS_MAX = 4096
TENSOR_RANK_MAX = 8
PARAMETERS_MAX = 2**30
"""Bound of exact int64 distances: d <= 2^30 (see the aggregation package)."""
STAGES_MAX = 4
ITERATIONS_MAX = 16
"""Of the rules that iterate: each costs time that grows with the square of the updates."""
FIXED_POINT_ONE = 1 << 16
"""The scale of a learning rate, a momentum or a fraction in a task: 16 fraction bits."""

INT8_BLOCK_VALUES = 1024
"""Parameters that share an exponent in `UpdateCodec.DENSE_INT8`."""
INT8_EXPONENT_MAX = 8

FractionBits = Annotated[int, Meta(ge=0, le=30)]
Scaled = Annotated[int, Meta(ge=0, le=1 << 32)]
"""A non-negative number with 16 fraction bits."""


class Stage(StrEnum):
    """The stages an aggregation rule can be composed of.

    A stage in front (`PRE_AGGREGATIONS`) maps updates to updates, one each, or with `bucketing` one
    per bucket; the last one maps them to one vector.
    """

    CLIP = "clip"
    NNM = "nnm"
    MEAN = "mean"
    MEDIAN = "median"
    TRIMMED_MEAN = "trimmed_mean"
    MULTI_KRUM = "multi_krum"
    ARC = "arc"
    BUCKETING = "bucketing"
    KRUM = "krum"
    BULYAN = "bulyan"
    CENTERED_CLIPPING = "centered_clipping"
    GEOMETRIC_MEDIAN = "geometric_median"


PRE_AGGREGATIONS = frozenset({Stage.CLIP, Stage.ARC, Stage.NNM, Stage.BUCKETING})
DEFAULT_RULE = (Stage.ARC, Stage.NNM, Stage.GEOMETRIC_MEDIAN)


class OptimizerName(StrEnum):
    """The server optimizers, computed in integers."""

    SGD = "sgd"
    MOMENTUM = "momentum"
    ADAGRAD = "adagrad"
    ADAM = "adam"
    YOGI = "yogi"


class UpdateCodec(IntEnum):
    """How the bytes of an update are laid out; all integers little-endian.

    Whatever the codec, an update is d integers v in +-32767, and `update_fraction_bits` say what v
    stands for. A codec decides which of them can be written down, and in how many bytes.

    - `DENSE_INT16`: d int16 values v.
    - `DENSE_INT8`: ceil(d / 1024) exponents e as uint8 in 0..8, one for each block of 1,024
      parameters, then d int8 values q in +-127. v = q * 2**e, but q = +-127 with e = 8 is the end
      of the range, v = +-32767.
    - `TOP_K_INT16`: k indexes as uint32, strictly rising and below d, then k int16 values v, one
      for each index. All other parameters are 0. k is the task's.
    """

    DENSE_INT16 = 1
    DENSE_INT8 = 2
    TOP_K_INT16 = 3


class UpdateLayout(Struct, frozen=True):
    """What the length and the meaning of an update's bytes depend on.

    Attributes
    ----------
    codec : UpdateCodec
    dimension : int
        The number of parameters d, at least 1.
    top_k : int
        How many of them an update in `TOP_K_INT16` names, 1..d; 0 for the other codecs.
    """

    codec: UpdateCodec
    dimension: int
    top_k: int = 0

    @property
    def size(self) -> int:
        """How many bytes an update takes: always the same number."""
        match self.codec:
            case UpdateCodec.DENSE_INT16:
                return 2 * self.dimension
            case UpdateCodec.DENSE_INT8:
                return self.exponent_count + self.dimension
            case UpdateCodec.TOP_K_INT16:
                return 6 * self.top_k
            case _:
                assert_never(self.codec)

    @property
    def exponent_count(self) -> int:
        """How many exponents an update in `DENSE_INT8` has."""
        return -(-self.dimension // INT8_BLOCK_VALUES)


class TensorSpec(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """One tensor of the model: its name, shape, and the scales of its weights and updates.

    A weight w is stored as the int32 round(w * 2**weight_fraction_bits); an update u as the integer
    round(u * 2**update_fraction_bits) in +-32767, in whichever codec it is written.
    """

    name: Name
    shape: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=PARAMETERS_MAX)], ...], Meta(max_length=TENSOR_RANK_MAX)
    ]
    weight_fraction_bits: FractionBits
    update_fraction_bits: FractionBits

    @property
    def size(self) -> int:
        """The number of parameters of this tensor."""
        size = 1
        for length in self.shape:
            size *= length
        return size


class AggregationRule(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A composition of aggregation stages and their parameters.

    A parameter that no stage of the composition has must be 0; where a stage has it, 0 means the
    default. `num_byzantine` is the number of hostile updates that all stages are to tolerate.

    `clip_norm` is `clip`'s bound on an update's Euclidean norm, in units of the update's integers;
    by default the median of the norms of the round. `selected` is multi-Krum's m, by default
    n - num_byzantine. `bucket_size` is the number of updates in a bucket, by default 2.
    `iterations` is how often `geometric_median` (by default 8 times) or `centered_clipping` (by
    default once) improves its estimate. `radius` is how far `centered_clipping` lets an update
    lie from the last aggregate, in units of the update's integers; by default the median of the
    distances.
    """

    stages: Annotated[tuple[Stage, ...], Meta(min_length=1, max_length=STAGES_MAX)]
    num_byzantine: Annotated[int, Meta(ge=0, le=UPDATES_PER_ROUND_MAX)]
    clip_norm: Annotated[int, Meta(ge=0, le=2**40)] = 0
    selected: Annotated[int, Meta(ge=0, le=UPDATES_PER_ROUND_MAX)] = 0
    bucket_size: Annotated[int, Meta(ge=0, le=UPDATES_PER_ROUND_MAX)] = 0
    iterations: Annotated[int, Meta(ge=0, le=ITERATIONS_MAX)] = 0
    radius: Annotated[int, Meta(ge=0, le=2**40)] = 0


class ServerOptimizer(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The step from an aggregate to new weights; all numbers carry 16 fraction bits.

    `momentum` is the decay of the first moment, of every optimizer but `sgd`.
    `second_moment_decay` is that of the second moment, of `adam` and `yogi`. `adaptivity` is what
    `adagrad`, `adam` and `yogi` add to the root of the second moment, in the units of the model's
    weights; they need it to be positive. What an optimizer does not have must be 0.
    """

    name: OptimizerName
    learning_rate: Scaled = FIXED_POINT_ONE
    momentum: Annotated[int, Meta(ge=0, lt=FIXED_POINT_ONE)] = 0
    second_moment_decay: Annotated[int, Meta(ge=0, lt=FIXED_POINT_ONE)] = 0
    adaptivity: Scaled = 0


class TaskSpec(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Everything that defines a task, fixed at its creation."""

    name: Name
    tensors: Annotated[tuple[TensorSpec, ...], Meta(min_length=1, max_length=TENSORS_MAX)]
    initial_weights_root: WireHash
    rule: AggregationRule
    optimizer: ServerOptimizer
    codec: UpdateCodec
    policy: RoundPolicy
    example_count_max: Uint32
    """Cap on the example count that weights an update under `mean`; 0: unweighted."""
    reward_pool: Uint64 = 0
    top_k: Annotated[int, Meta(ge=0, le=PARAMETERS_MAX)] = 0
    """How many parameters an update in `TOP_K_INT16` names; 0 for the other codecs."""

    @property
    def dimension(self) -> int:
        """The number of parameters d of the whole model."""
        return sum(tensor.size for tensor in self.tensors)

    @property
    def update_layout(self) -> UpdateLayout:
        """How the bytes of this task's updates are laid out."""
        return UpdateLayout(self.codec, self.dimension, self.top_k)
