"""As many updates as a round may have, with as many hostile ones among them as the rule admits.

Owns the extremes of n and f together. What a rule computes is compared with its dumb version where
there are few updates.
"""

import tracemalloc

import numpy as np
import pytest
from quorate.chain.task import DEFAULT_RULE, UPDATES_PER_ROUND_MAX, AggregationRule, Stage

from aggregation import aggregate, compute_updates_min, keeps_aggregate
from aggregation.multi_krum import compute_krum_scores

HONEST = np.array([100, -7, 0, 3], np.int16)
HOSTILE = np.array([32767, -32767, 32767, -32767], np.int16)
N = UPDATES_PER_ROUND_MAX


@pytest.mark.parametrize(
    ("stages", "f"),
    [
        ((Stage.MEDIAN,), (N - 1) // 2),
        ((Stage.TRIMMED_MEAN,), (N - 1) // 2),
        ((Stage.MULTI_KRUM,), (N - 3) // 2),
        ((Stage.BULYAN,), (N - 3) // 4),
        ((Stage.CENTERED_CLIPPING,), (N - 1) // 2),
        (DEFAULT_RULE, N // 4),
    ],
)
def test_the_largest_round_keeps_what_is_honest(stages: tuple[Stage, ...], f: int) -> None:
    rule = AggregationRule(stages, f)
    if len(stages) == 1:
        one_more = AggregationRule(stages, f + 1)
        assert compute_updates_min(rule) <= N < compute_updates_min(one_more)
    kept = HONEST if keeps_aggregate(rule) else None
    result = aggregate(rule, [HOSTILE] * f + [HONEST] * (N - f), previous=kept)
    assert np.abs(result.vector.astype(int) - HONEST).max() <= 1
    assert result.saturated == 4 * f
    assert min(result.scores[f:]) > max(result.scores[:f])
    if stages[-1] is not Stage.BULYAN:
        assert not any(result.set_aside[f:])


def test_scores_of_the_largest_round_take_no_memory_for_all_pairs_at_once() -> None:
    n = 512
    distances = np.full((n, n), 2**61, np.int64)
    tracemalloc.start()
    scores = compute_krum_scores(distances, 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert scores == [2**61 * (n - 1)] * n
    # A sorted copy of the matrix, and the Python integers of a row.
    assert peak < 1.5 * distances.nbytes
