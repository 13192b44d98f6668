"""No result depends on how the columns are cut: one digest for blocks of any width.

Owns the widths that a machine's own block sizes never come to, and the borders of those they do.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray
from quorate.chain.task import PRE_AGGREGATIONS, AggregationRule, Stage

from aggregation import (
    aggregate,
    columns,
    compute_updates_min,
    is_weightable,
    keeps_aggregate,
    needs_seed,
)
from aggregation.columns import RowSource, get_block_bounds, get_block_width
from aggregation.registry import FINAL_STAGES

FRONTS = [front for length in range(3) for front in permutations(sorted(PRE_AGGREGATIONS), length)]
N, D = 15, 61


def compute_digest(rule: AggregationRule, updates: list[NDArray[np.int16]]) -> str:
    """Digest all that a rule says of a round, weighted and stale if it can be."""
    result = aggregate(
        rule,
        updates,
        range(1, len(updates) + 1) if is_weightable(rule) else None,
        staleness_factors=[65_536 - 9_000 * (place % 3) for place in range(len(updates))],
        seed=b"seed" if needs_seed(rule) else None,
        previous=updates[0][::-1] if keeps_aggregate(rule) else None,
    )
    digest = hashlib.sha256(result.vector.tobytes())
    said = (result.scores, result.set_aside, result.saturated, result.clipped)
    digest.update(repr(said).encode())
    return digest.hexdigest()


def make_rule(stages: tuple[Stage, ...], n: int) -> AggregationRule:
    """As many hostile updates as n admit; the plain mean tolerates none."""
    if stages[-1] is Stage.MEAN and not {Stage.CLIP, Stage.ARC} & set(stages):
        return AggregationRule(stages, 0)
    rule = AggregationRule(stages, 0)
    f = max(f for f in range(n) if compute_updates_min(replace(rule, num_byzantine=f)) <= n)
    return replace(rule, num_byzantine=f)


def cut_at(monkeypatch: pytest.MonkeyPatch, widest: int) -> None:
    """Let no block be wider; what stages have made room for is at least as wide."""

    def cut(dimension: int, width: int) -> Iterator[tuple[int, int]]:
        step = min(width, widest)
        for start in range(0, dimension, step):
            yield start, min(start + step, dimension)

    monkeypatch.setattr(columns, "_cut", cut)


@pytest.mark.parametrize("last", FINAL_STAGES)
def test_blocks_of_any_width_give_one_digest(last: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(6)
    updates = list(generator.integers(-32767, 32768, (N, D), dtype=np.int16))
    updates[3][5], updates[4][D - 1] = 32767, -32767
    source = RowSource(updates)
    for front in FRONTS:
        rule = make_rule((*front, last), N)
        digests = set()
        for widest in (D, D - 1, 7, 1):
            cut_at(monkeypatch, widest)
            assert len(list(get_block_bounds(source))) == -(-D // widest)
            digests.add(compute_digest(rule, updates))
        assert len(digests) == 1, rule.stages


@pytest.mark.parametrize("last", FINAL_STAGES)
@pytest.mark.parametrize("beyond", [-1, 0, 1])
@pytest.mark.parametrize("blocks", [1, 2])
def test_around_the_border_of_a_block_nothing_changes(
    last: Stage, blocks: int, beyond: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One column less than a block or two have, as many, and one more, in the blocks there are."""
    d = blocks * columns.COLUMNS_MIN + beyond
    updates = list(np.random.default_rng(8).integers(-32767, 32768, (N, d), dtype=np.int16))
    assert len(list(get_block_bounds(RowSource(updates)))) == blocks + (beyond > 0)
    rule = make_rule((Stage.NNM, last), N)
    digest = compute_digest(rule, updates)
    cut_at(monkeypatch, 1000)
    assert compute_digest(rule, updates) == digest


@dataclass
class Behind:
    """What stands behind a stage, as far as its blocks go by it."""

    n_updates: int
    rows_read: int
    dimension: int

    def read(self, start: int, stop: int) -> NDArray[np.int16]:
        return np.zeros((self.n_updates, stop - start), np.int16)


@pytest.mark.parametrize("n", [1, 2, 5, 63, 64, 65, 700, 4096])
@pytest.mark.parametrize("d", [1, 4095, 4096, 4097, 65_537, 2**20, 2**30])
def test_behind_a_stage_blocks_are_never_wider_than_it_has_room_for(n: int, d: int) -> None:
    room = get_block_width(RowSource([np.broadcast_to(np.int16(1), (d,))] * n))
    for rows_read in (n, n + 1):
        assert 1 <= get_block_width(Behind(rows_read, rows_read, d)) <= room
