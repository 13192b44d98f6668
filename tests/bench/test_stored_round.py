"""A training round through the executor, the payload files and the background, and what it gives.

Owns that it is the result of the rule on the same integers. Never asserts a time.
"""

from pathlib import Path

import numpy as np
import pytest
from quorate.chain.content import compute_content_hash
from quorate.chain.task import AggregationRule, TensorSpec

from aggregation import aggregate, apply_optimizer, keeps_aggregate
from bench.aggregation_cases import RULES
from bench.made_chain import list_participants
from bench.stored_round import OPTIMIZERS, make_update, measure

N, D = 9, 70_000


@pytest.mark.parametrize(
    ("name", "optimizer"), [("default", "sgd"), ("trimmed_mean", "adam"), ("mean", "sgd")]
)
async def test_a_stored_round_equals_one_in_memory(
    tmp_path: Path, name: str, optimizer: str
) -> None:
    rule = AggregationRule(RULES[name], 0 if name == "mean" else 2)
    figures = await measure(tmp_path / "network", N, D, rule, OPTIMIZERS[optimizer])
    by_address = sorted(range(N), key=lambda index: list_participants(N)[index].address)
    rows = [np.frombuffer(make_update(index, D), "<i2").astype(np.int16) for index in by_address]
    assert not keeps_aggregate(rule)
    expected = aggregate(rule, rows)
    tensors = [TensorSpec("w", (D,), 24, 14)]
    step = apply_optimizer(OPTIMIZERS[optimizer], tensors, bytes(4 * D), None, expected.vector)
    assert figures.weights_root == compute_content_hash(step.weights)
    assert tuple(update.score for update in figures.receipt.updates) == expected.scores
    assert figures.peak_mb > 0
