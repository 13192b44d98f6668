"""Multi-Krum: the mean of the updates that lie closest to their neighbours.

Owns Krum scores and the selection by them. Never looks at single coordinates.

Formula::

    s(i) = sum of |u_i - u_j|^2 over the n - f - 2 updates j != i closest to u_i
    a    = round( sum_{i in M} u_i / m ),  M = the m updates of smallest s, ties by index

Symbols: n updates, f = num_byzantine, m = `selected`, or n - f if that is 0. m = 1 is Krum.

Bounds: |u_i - u_j|^2 < 2^62 in int64; scores are sums of up to 4,096 of these and are Python
integers; sums of selected values stay below 2^27.

Precondition: n >= 2 f + 3, and m <= n - f.

Source: Blanchard, El Mhamdi, Guerraoui, Stainer, arXiv:1703.02757 (Krum, and its variant
Multi-Krum).
"""

import numpy as np
from numpy.typing import NDArray

from aggregation.arithmetic import compute_score
from aggregation.columns import ColumnSource, get_block_bounds, validate_precondition
from aggregation.distances import compute_squared_distances
from aggregation.errors import BoundError
from aggregation.trimmed_mean import compute_rows_mean
from aggregation.verdict import Verdict


def aggregate_multi_krum(
    source: ColumnSource, num_byzantine: int, selected: int
) -> tuple[NDArray[np.int16], Verdict]:
    """Return the mean of the m most central updates and the verdict on all.

    Parameters
    ----------
    source : ColumnSource
        n >= 2 * num_byzantine + 3.
    num_byzantine : int
    selected : int
        m, or 0 for n - num_byzantine.

    Returns
    -------
    vector : int16, (d,)
    verdict : Verdict
        See `judge_centrality`.

    Raises
    ------
    BoundError
        If there are fewer updates, or m > n - num_byzantine.
    """
    n = source.n_updates
    validate_precondition(n, num_byzantine, 2 * num_byzantine + 3)
    if not 0 <= selected <= n - num_byzantine:
        raise BoundError(f"{selected} of {n} updates were to be selected with f = {num_byzantine}")
    krum_scores = compute_krum_scores(compute_squared_distances(source), num_byzantine)
    ranking = sorted(range(n), key=krum_scores.__getitem__)
    chosen = sorted(ranking[: selected or n - num_byzantine])
    vector = np.empty(source.dimension, np.int16)
    for start, stop in get_block_bounds(source):
        block = source.read(start, stop)
        vector[start:stop] = compute_rows_mean([block[index] for index in chosen])
    return vector, judge_centrality(krum_scores, chosen)


def compute_krum_scores(distances: NDArray[np.int64], num_byzantine: int) -> list[int]:
    """Return s(i) of each update.

    Parameters
    ----------
    distances : int64, (n, n)
        Squared distances.
    num_byzantine : int

    Returns
    -------
    list of int, (n,)

    Raises
    ------
    BoundError
        If n < num_byzantine + 3, so that an update has no neighbour to count.
    """
    neighbours = distances.shape[0] - num_byzantine - 2
    validate_precondition(distances.shape[0], num_byzantine, num_byzantine + 3)
    # An update's distance to itself is 0 and so among the smallest: one more entry, adding nothing.
    nearest = np.sort(distances, axis=1, kind="stable")[:, : neighbours + 1]
    # Row by row, so that there are never n^2 Python integers.
    return [sum(row.tolist()) for row in nearest]


def judge_centrality(krum_scores: list[int], chosen: list[int]) -> Verdict:
    """Score each update by how its Krum score compares with the worst that was selected.

    With s* the largest Krum score in the selection, score_i = s* / (s* + s(i)): at least 0.5 for
    whoever was selected, near 0 for a distant update, and 0.5 if both are 0. Set aside: exactly
    the updates that were not selected.

    Parameters
    ----------
    krum_scores : list of int, (n,)
    chosen : list of int
        Indexes of the selected updates.

    Returns
    -------
    Verdict
        Scores are in 0..1.0.
    """
    worst = max(krum_scores[index] for index in chosen)
    scores = tuple(
        compute_score(worst, worst + score) if worst + score else compute_score(1, 2)
        for score in krum_scores
    )
    selected = [False] * len(krum_scores)
    for index in chosen:
        selected[index] = True
    return Verdict(scores, tuple(not is_selected for is_selected in selected))
