"""Plans: what they promise of every seed, and that nothing they could draw is never drawn."""

from collections import Counter
from dataclasses import replace

import pytest

from tests.simulation.byzantine import Behaviour
from tests.simulation.load_plan import FREEZING_COST, TWINS_SHARE, make_load_plan
from tests.simulation.machines import MACHINES_MAX
from tests.simulation.plan import FAULT_KINDS, Plan, make_plan
from tests.simulation.schedules import SCHEDULES
from tests.simulation.users import USERS

SEEDS = 2_000
FAULT_NAMES = {"crash", "crash_at_write", "start", "cut", "loss", "skew", "full", "room", "lag"}


@pytest.fixture(scope="module")
def plans() -> list[Plan]:
    return [make_plan(seed) for seed in range(SEEDS)]


def test_byzantine_power_stays_under_a_third(plans: list[Plan]) -> None:
    for plan in plans:
        byzantine = sum(plan.powers[number] for number in plan.byzantine)
        assert 3 * byzantine < sum(plan.powers), plan


def test_networks_have_four_to_ten_nodes_and_one_entry_for_each(plans: list[Plan]) -> None:
    for plan in plans:
        count = len(plan.powers)
        assert 4 <= count <= MACHINES_MAX, plan
        assert len(plan.skews_ms) == len(plan.lags_s) == count
        # Followers come last: the load counts validators from the first.
        assert list(plan.powers[: sum(map(bool, plan.powers))]).count(0) == 0
    assert {len(plan.powers) for plan in plans} == set(range(4, MACHINES_MAX + 1))


def test_honest_nodes_are_connected_without_the_others(plans: list[Plan]) -> None:
    for plan in plans:
        if plan.cables is None:
            continue
        honest = {number for number in range(len(plan.powers)) if number not in plan.byzantine}
        reached = {min(honest)}
        for _ in honest:
            reached |= {
                near
                for pair in plan.cables
                for near in pair
                if set(pair) <= honest and reached & set(pair)
            }
        assert reached == honest, plan


def test_whoever_stops_starts_again(plans: list[Plan]) -> None:
    for plan in plans:
        down: set[object] = set(plan.late)
        for _, fault in plan.faults:
            if fault[0] in {"crash", "crash_at_write", "full"}:
                down.add(fault[1])
            if fault[0] in {"start", "room"}:
                down.discard(fault[1])
        assert not down, plan


def test_all_that_can_be_drawn_is_drawn(plans: list[Plan]) -> None:
    drawn = Counter(
        behaviour for plan in plans for said in plan.byzantine.values() for behaviour in said
    )
    assert set(drawn) == set(Behaviour)
    assert {plan.schedule for plan in plans} == {"", *SCHEDULES}
    assert {fault[0] for plan in plans for _, fault in plan.faults} == FAULT_NAMES
    assert len(FAULT_KINDS) == len(set(FAULT_KINDS))
    assert any(plan.remote is not None for plan in plans)
    assert any(0 in plan.powers for plan in plans)
    assert any(any(plan.lags_s) for plan in plans)


def test_some_loads_have_tasks_that_end_their_rounds_together() -> None:
    twins = [
        plan
        for plan in (make_load_plan(seed, USERS) for seed in range(SEEDS))
        if len(plan.tasks) > 1 and len({replace(task, name="") for task in plan.tasks}) == 1
    ]
    assert TWINS_SHARE / 2 < len(twins) / SEEDS < TWINS_SHARE * 2
    for plan in twins:
        assert len({task.name for task in plan.tasks}) == len(plan.tasks)
        # A block that ends their rounds needs all of their results, and waits for a thread.
        assert not plan.is_inline
        assert plan.parameters.aggregation_cost_block_max > FREEZING_COST


def test_a_seed_has_one_plan() -> None:
    assert repr(make_plan(7)) == repr(make_plan(7)) != repr(make_plan(8))
