"""The read models."""

import pytest
from quorate.chain.ids import Hash
from quorate.chain.weights import compute_model_root

from ledger.queries import (
    PAGE_ITEMS_MAX,
    find_task_by_name,
    get_account,
    get_frozen_inputs,
    get_model_leaves,
    get_participants,
    get_task,
    get_tasks,
    get_training_round,
)
from tests.ledger.chain import AUTHORITY, COINS, PARTICIPANTS, STRANGER, Chain, make_spec

UNKNOWN = Hash(b"?" * 32)


def test_what_does_not_exist_is_nothing() -> None:
    state = Chain().state
    assert get_account(state, STRANGER.address) == state.get_account(STRANGER.address)
    assert get_account(state, STRANGER.address).nonce == 0
    assert get_task(state, UNKNOWN) is None
    assert get_training_round(state, UNKNOWN) is None
    assert get_frozen_inputs(state, UNKNOWN) is None
    assert get_participants(state, UNKNOWN) == []
    assert get_tasks(state) == []
    assert find_task_by_name(state, "digits") is None


def test_tasks_come_page_by_page_in_order() -> None:
    chain = Chain()
    ids = sorted(chain.create_task(make_spec(name), participants=0) for name in "abcde")
    assert [view.task_id for view in get_tasks(chain.state)] == ids
    assert [view.task_id for view in get_tasks(chain.state, 1, 3)] == ids[1:4]
    assert get_tasks(chain.state, 5) == []
    view = get_tasks(chain.state, 2, 1)[0]
    assert find_task_by_name(chain.state, view.spec.name) == view.task_id
    assert view.record.name == view.spec.name
    assert compute_model_root(tuple(get_model_leaves(chain.state))) == chain.state.model_root


def test_participants_come_page_by_page() -> None:
    chain = Chain()
    task_id = chain.create_task(participants=5)
    chain.submit(task_id, 1, first=2)
    views = get_participants(chain.state, task_id)
    assert [view.address for view in views] == [key.address for key in PARTICIPANTS[:5]]
    assert [view.has_update for view in views] == [False, False, True, False, False]
    assert {view.registered_height for view in views} == {2}
    assert get_participants(chain.state, task_id, 1, 2) == views[1:3]
    assert get_participants(chain.state, task_id, 4, 10 * PAGE_ITEMS_MAX) == views[4:]


def test_pages_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.queries.PAGE_ITEMS_MAX", 2)
    chain = Chain()
    for name in "abc":
        task_id = chain.create_task(make_spec(name), participants=3)
    assert len(get_tasks(chain.state, 0, 100)) == 2
    assert len(get_participants(chain.state, task_id, 0, 100)) == 2


def test_the_training_round_shows_its_updates_in_order() -> None:
    chain = Chain()
    task_id = chain.create_task(participants=4)
    chain.submit(task_id, 3, 2, 1)
    view = get_training_round(chain.state, task_id)
    assert view is not None
    assert (view.training_round, view.is_frozen, view.opened_height) == (0, False, 1)
    assert view.base_weights_root == chain.get_task(task_id).weights_root
    order = [update.participant for update in view.updates]
    assert order == sorted(key.address for key in PARTICIPANTS[:3])


def test_accounts_show_what_is_committed() -> None:
    chain = Chain()
    chain.create_task(participants=0)
    assert get_account(chain.state, AUTHORITY.address).nonce == 1
    assert get_account(chain.state, AUTHORITY.address).balance == COINS
