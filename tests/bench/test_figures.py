"""The arithmetic from blocks to rates, by hand."""

from collections import Counter

import pytest

from bench.errors import BenchError
from bench.figures import Cost, compute_interval, compute_latency, compute_load
from bench.machine import Memory
from bench.watching import Arrival

COST = Cost(seconds=4.0, nodes_cpu_s=2.0, load_cpu_s=0.4, memory=[Memory(100.0, 120.0)])


def make_arrivals(*counts: int) -> list[Arrival]:
    """Blocks that arrive every half second, with 400 ms between their own times."""
    return [
        Arrival(10 + i, 1_000 + 400 * i, count, 50.0 + 0.5 * i) for i, count in enumerate(counts)
    ]


def test_a_rate_counts_the_blocks_behind_the_first() -> None:
    load = compute_load(make_arrivals(9_999, 100, 300, 200), 4, COST, Counter({"wrong_nonce": 2}))
    assert (load.transactions, load.blocks) == (600, 3)
    assert (load.first_height, load.last_height) == (11, 13)
    assert load.per_s_wall == pytest.approx(600 / 1.5)
    assert load.per_s_block_time == pytest.approx(600 / 1.2)
    # 400 a second for 4 s are 1,600 transactions, for 2 s of processor time.
    assert load.cpu_s_per_1000 == pytest.approx(1.25)
    assert load.cpu_us_per_transaction_and_node == pytest.approx(312.5)
    assert (load.nodes_processors, load.load_processors) == (0.5, 0.1)
    assert load.refused == {"wrong_nonce": 2}


def test_an_interval_is_between_arrivals() -> None:
    figures = compute_interval(make_arrivals(0, 0, 0))
    assert (figures.blocks, figures.median_ms, figures.p99_ms) == (3, 500.0, 500.0)
    assert figures.mean_block_time_ms == 400.0


def test_latencies_are_milliseconds() -> None:
    figures = compute_latency([i / 1000 for i in range(101)], 50.0, Counter())
    assert (figures.p50_ms, figures.p99_ms, figures.max_ms) == pytest.approx((50.0, 99.0, 100.0))


def test_too_little_is_no_figure() -> None:
    with pytest.raises(BenchError, match="measure longer"):
        compute_interval(make_arrivals(0))
    with pytest.raises(BenchError, match="No transaction"):
        compute_load(make_arrivals(5, 0, 0), 4, COST, Counter())
    with pytest.raises(BenchError, match="No transaction"):
        compute_latency([], 50.0, Counter())


def test_a_missed_block_is_an_error() -> None:
    first, _, third = make_arrivals(1, 2, 3)
    with pytest.raises(BenchError, match="left out"):
        compute_load([first, third], 4, COST, Counter())
