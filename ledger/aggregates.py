"""The one long computation of the ledger: from a sealed set of updates to the next weights.

Owns what such a computation depends on, its result, and the seam where a node may put a cache and
a background thread. Never decides when a round is sealed or what follows from the result.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from quorate.chain.codec import encode
from quorate.chain.content import compute_content_hash
from quorate.chain.errors import PendingError
from quorate.chain.ids import NO_HASH, Address, Hash
from quorate.chain.merkle import EMPTY_ROOT
from quorate.chain.round_policy import STALENESS_FACTOR_ONE
from quorate.chain.task import AggregationRule, ServerOptimizer, TensorSpec, UpdateLayout
from quorate.chain.weights import WEIGHT_BYTES

from aggregation import (
    PayloadBytes,
    aggregate,
    apply_optimizer,
    keeps_aggregate,
    needs_seed,
    open_update,
)
from aggregation.optimizer import STATE_BYTES_PER_PARAMETER
from ledger.context import PayloadSource

RESULTS_PER_BLOCK_MAX = 8
"""Training rounds whose results one block may bring. A source holds that many at a time and more:
one that forgot the first result while it computed the last would never have all of them."""
RESULT_BYTES_PER_BLOCK_MAX = 64 << 20
"""Bytes of these results together; a larger one is the only one of its block."""


@dataclass(frozen=True, slots=True)
class AggregateUpdate:
    """One update of a sealed set; `factor` is what it is scaled by for its staleness."""

    participant: Address
    payload_hash: Hash
    example_count: int
    factor: int = STALENESS_FACTOR_ONE


@dataclass(frozen=True)
class AggregateInputs:
    """Everything the result of a training round depends on.

    Attributes
    ----------
    task_id : bytes, 32
    training_round : int
    rule, optimizer, tensors, layout
        Of the task's specification.
    seed : bytes, 32
        What a rule that permutes the updates does so by.
    base_weights_root, optimizer_root : bytes, 32
        The weights and the state before, of `AggregateOutput`'s layout. `EMPTY_ROOT` stands for
        the state that a task starts from, and for none where rule and optimizer keep none.
    updates : tuple of AggregateUpdate
        In canonical order: by participant's address.
    is_weighted : bool
        Whether example counts weigh the updates.
    """

    task_id: Hash
    training_round: int
    rule: AggregationRule
    seed: Hash
    optimizer: ServerOptimizer
    tensors: tuple[TensorSpec, ...]
    layout: UpdateLayout
    base_weights_root: Hash
    optimizer_root: Hash
    updates: tuple[AggregateUpdate, ...]
    is_weighted: bool

    @property
    def dimension(self) -> int:
        """The number of parameters d."""
        return self.layout.dimension

    @property
    def payload_hashes(self) -> tuple[Hash, ...]:
        """What must be at hand: base weights, optimizer state if there is one, the updates."""
        state = () if self.optimizer_root == EMPTY_ROOT else (self.optimizer_root,)
        updates = tuple(update.payload_hash for update in self.updates)
        return (self.base_weights_root, *state, *updates)

    @cached_property
    def key(self) -> Hash:
        """What the result may be cached by.

        The task's id stands for its rule, optimizer, tensors and codec, which never change. The
        block is no part of it, so that a new consensus round does not repeat the work; nor is the
        seed, unless the rule reads it.
        """
        updates = tuple(
            (u.participant, u.payload_hash, u.factor, u.example_count if self.is_weighted else 1)
            for u in self.updates
        )
        seed = self.seed if needs_seed(self.rule) else NO_HASH
        roots = (self.base_weights_root, self.optimizer_root)
        return Hash(sha256(encode((self.task_id, *roots, seed, updates))).digest())


@dataclass(frozen=True)
class AggregateOutput:
    """The result of a training round.

    Attributes
    ----------
    weights, optimizer_state : bytes or read-only memoryview of bytes
        The next weights, little-endian int32, and the next state: first the aggregate that the rule
        keeps, as little-endian int16, if it keeps one; then the server optimizer's state. The model
        root commits to both as one.
    weights_root, optimizer_root : bytes, 32
        Their content addresses; `EMPTY_ROOT` for an empty state.
    scores : tuple of int, (n_updates,)
        Contribution scores with 16 fraction bits, in the order of the inputs.
    set_aside, clipped : tuple of bool, (n_updates,)
    saturated, clamped : int
        How many integers of updates, and how many weights, were cut off.
    """

    weights: bytes | memoryview
    weights_root: Hash
    optimizer_state: bytes | memoryview
    optimizer_root: Hash
    scores: tuple[int, ...]
    set_aside: tuple[bool, ...]
    clipped: tuple[bool, ...]
    saturated: int
    clamped: int


class AggregateSource(Protocol):
    """Where results come from: computed on the spot, from a cache, or in the background."""

    def get(
        self, inputs: AggregateInputs, compute: Callable[[], AggregateOutput], /
    ) -> AggregateOutput | None:
        """Return the result for `inputs`, or None while it is being computed.

        `compute` depends on nothing but `inputs` and the payload source, may run in any thread,
        and raises `PendingError` if a payload is not here.
        """


class InlineAggregates:
    """Computes every result on the spot, and remembers none."""

    def get(
        self,
        inputs: AggregateInputs,  # noqa: ARG002 - part of the protocol.
        compute: Callable[[], AggregateOutput],
        /,
    ) -> AggregateOutput:
        """Compute and return the result."""
        return compute()


def compute_aggregate(inputs: AggregateInputs, payloads: PayloadSource) -> AggregateOutput:
    """Aggregate a sealed set and take the optimizer's step.

    What goes in is read by slices, so that a set larger than memory can be aggregated: what must
    fit are the result and some megabytes for every hundred updates. Nothing of the state that a
    task starts from is stored, and nothing of it is made as a whole.

    Raises
    ------
    PendingError
        If a payload, the base weights or the optimizer's state is not here.
    AggregationError
        If the state before has another length than the rule and the optimizer keep.
    """
    fetched = {name: payloads.open_memmap(name) for name in inputs.payload_hashes}
    missing = tuple(name for name, data in fetched.items() if data is None)
    present = {name: data for name, data in fetched.items() if data is not None}
    if missing:
        raise PendingError(f"{len(missing)} payloads of a training round are not here", missing)
    dimension = inputs.dimension
    vectors = [
        open_update(present[update.payload_hash], inputs.layout) for update in inputs.updates
    ]
    counts = [update.example_count for update in inputs.updates] if inputs.is_weighted else None
    is_start = inputs.optimizer_root == EMPTY_ROOT
    state = None if is_start else present[inputs.optimizer_root]
    kept_bytes = _compute_kept_bytes(inputs.rule, dimension)
    result = aggregate(
        inputs.rule,
        vectors,
        counts,
        staleness_factors=[update.factor for update in inputs.updates],
        seed=inputs.seed if needs_seed(inputs.rule) else None,
        previous=_read_kept(state, dimension) if kept_bytes else None,
    )
    step = apply_optimizer(
        inputs.optimizer,
        inputs.tensors,
        present[inputs.base_weights_root],
        None if state is None else _Tail(state, kept_bytes),
        result.vector,
    )
    following_state = _prepend(result.vector, step.state) if kept_bytes else step.state
    return AggregateOutput(
        step.weights,
        compute_content_hash(step.weights),
        following_state,
        compute_content_hash(following_state),
        result.scores,
        result.set_aside,
        result.clipped,
        result.saturated,
        step.clamped,
    )


def _read_kept(state: PayloadBytes | None, dimension: int) -> NDArray[np.int16]:
    """Return the aggregate that a state begins with; before the first, zeros that take no room."""
    if state is None:
        return np.broadcast_to(np.int16(0), (dimension,))
    return state[: 2 * dimension].view("<i2").astype(np.int16)


def _prepend(kept: NDArray[np.int16], state: memoryview) -> memoryview:
    """Return the bytes of an aggregate and of the state after it; numpy copies without the lock."""
    parts = (kept.astype("<i2").view(np.uint8), np.frombuffer(state, np.uint8))
    return np.concatenate(parts).data.toreadonly()


class _Tail:
    """What of some bytes stands behind a certain place."""

    def __init__(self, payload: PayloadBytes, first: int) -> None:
        self.size = payload.size - first
        self._payload = payload
        self._first = first

    def __getitem__(self, part: slice, /) -> NDArray[np.uint8]:
        start, stop, _ = part.indices(self.size)
        return self._payload[self._first + start : self._first + stop]


def compute_result_bytes(rule: AggregationRule, optimizer: ServerOptimizer, dimension: int) -> int:
    """Return the bytes of a training round's result: its weights and the state beside them."""
    return WEIGHT_BYTES * dimension + compute_state_bytes(rule, optimizer, dimension)


def compute_state_bytes(rule: AggregationRule, optimizer: ServerOptimizer, dimension: int) -> int:
    """Return the bytes of the state that every result leaves beside its weights; 0 for none."""
    moments = STATE_BYTES_PER_PARAMETER[optimizer.name] * dimension
    return _compute_kept_bytes(rule, dimension) + moments


def _compute_kept_bytes(rule: AggregationRule, dimension: int) -> int:
    return 2 * dimension if keeps_aggregate(rule) else 0
