"""Long computations beside the event loop: their priority, results and errors."""

import os
import threading

import pytest

from node.execution.low_priority import NICENESS, compute_at_low_priority


def get_niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_it_runs_in_a_thread_of_its_own_that_is_nice() -> None:
    before = get_niceness()
    niceness, thread = compute_at_low_priority(lambda: (get_niceness(), threading.get_ident()))
    assert niceness == max(before, NICENESS)
    assert thread != threading.get_ident()
    assert get_niceness() == before


def test_a_second_one_is_nice_too_and_leaves_no_thread() -> None:
    compute_at_low_priority(get_niceness)
    threads = threading.active_count()
    assert compute_at_low_priority(get_niceness) >= NICENESS
    assert threading.active_count() == threads


def test_what_it_raises_is_raised_where_it_is_waited_for() -> None:
    def fail() -> None:
        raise KeyError("missing")

    with pytest.raises(KeyError, match="missing"):
        compute_at_low_priority(fail)
