"""The validator set: order, quorums, and a rotation that is fair to within one turn."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quorate.chain.errors import InvariantError
from quorate.chain.ids import compute_address
from quorate.chain.keys import PrivateKey
from quorate.chain.validators import (
    POWER_MAX,
    TOTAL_POWER_MAX,
    VALIDATORS_MAX,
    Validator,
    ValidatorSet,
    ValidatorUpdate,
)

from tests.chain.samples import KEYS, make_validators

MANY_KEYS = [PrivateKey(i.to_bytes(32, "big")).public_key for i in range(1, 31)]
POWERS = st.lists(
    st.integers(1, 50) | st.integers(1, 2**20) | st.integers(0, 30).map(lambda e: 2**e),
    min_size=1,
    max_size=30,
)


def make_set(powers: list[int]) -> ValidatorSet:
    return ValidatorSet.from_powers(zip(MANY_KEYS, powers, strict=False))


def test_members_are_ordered_by_power_then_address() -> None:
    equal = make_validators((5, 5, 9, 5))
    assert equal.validators[0].public_key == KEYS[2].public_key
    addresses = [v.address for v in equal.validators[1:]]
    assert addresses == sorted(addresses)
    assert equal.index_by_address[KEYS[2].address] == 0
    assert equal.by_address[KEYS[0].address].address == compute_address(KEYS[0].public_key)
    assert len(equal) == 4


def test_bounds_of_a_set() -> None:
    with pytest.raises(ValueError, match="1 to"):
        ValidatorSet(())
    one = Validator(KEYS[0].public_key, 1)
    with pytest.raises(ValueError, match="names each key once"):
        ValidatorSet((one, Validator(KEYS[0].public_key, 2)))
    with pytest.raises(ValueError, match="1 to"):
        ValidatorSet((one,) * (VALIDATORS_MAX + 1))
    keys = [PrivateKey((1000 + i).to_bytes(32, "big")).public_key for i in range(1024)]
    full = TOTAL_POWER_MAX // POWER_MAX
    assert full > VALIDATORS_MAX  # So the bound on members is reached first,
    assert ValidatorSet.from_powers((k, POWER_MAX) for k in keys).total_power == 2**50
    with pytest.raises(ValueError, match="total voting power"):  # and power is checked anyway.
        ValidatorSet((Validator(KEYS[0].public_key, TOTAL_POWER_MAX), one.__class__(keys[0], 1)))


@pytest.mark.parametrize(
    ("total", "quorum", "honest"), [(1, 1, 1), (3, 3, 2), (4, 3, 2), (6, 5, 3), (7, 5, 3)]
)
def test_quorums_are_more_than_two_thirds_and_more_than_one(
    total: int, quorum: int, honest: int
) -> None:
    members = make_set([1] * total)
    assert next(p for p in range(total + 1) if members.is_quorum(p)) == quorum
    assert next(p for p in range(total + 1) if members.is_one_honest(p)) == honest


def test_equal_validators_take_turns_by_address() -> None:
    members = make_validators((10, 10, 10, 10))
    seen = [members.get_proposer(round_).address for round_ in range(8)]
    assert seen == sorted(seen[:4]) * 2


@given(powers=POWERS, turns=st.integers(1, 150))
def test_everybody_is_within_one_turn_of_the_fair_share(powers: list[int], turns: int) -> None:
    members = make_set(powers)
    total = members.total_power
    counts: Counter[bytes] = Counter()
    for turn in range(1, turns + 1):
        counts[members.proposer.public_key] += 1
        members = members.advance(1)
        for validator in members.validators:
            owed = validator.power * turn - counts[validator.public_key] * total
            assert abs(owed) < total
            # The priority is exactly what is owed: nothing is lost to rounding.
            assert validator.priority == owed


def test_a_set_on_which_the_highest_priority_is_unfair() -> None:
    # With "highest priority first" the lag here grows to 1.34 turns.
    powers = [128, 64, 32, 1 << 14, 2048, 1 << 14, 1 << 20, 1, 256, 128, 1, 256, 1 << 20, 1024]
    powers += [1 << 16, 1 << 18, 32, 2048, 1 << 14, 128]
    members = make_set(powers)
    for _ in range(600):
        members = members.advance(1)
        assert max(v.priority for v in members.validators) < members.total_power


@given(powers=POWERS, first=st.integers(1, 20), second=st.integers(1, 20))
def test_advancing_twice_is_advancing_by_the_sum(
    powers: list[int], first: int, second: int
) -> None:
    members = make_set(powers)
    assert members.advance(first + second) == members.advance(first).advance(second)
    assert members.get_proposer(first) == members.advance(first).proposer


@pytest.mark.parametrize("turns", [0, -1])
def test_the_rotation_only_moves_forward(turns: int) -> None:
    with pytest.raises(InvariantError):
        make_validators().advance(turns)


CHANGES = st.lists(
    st.tuples(st.integers(0, 29), st.integers(0, 2**20) | st.just(POWER_MAX), st.integers(1, 8)),
    max_size=12,
)


@given(powers=POWERS, changes=CHANGES)
def test_priorities_stay_bounded_and_centered_whatever_changes(
    powers: list[int], changes: list[tuple[int, int, int]]
) -> None:
    members = make_set(powers)
    for who, power, turns in changes:
        update = ValidatorUpdate(MANY_KEYS[who], power)
        if power == 0 and [v.public_key for v in members.validators] == [MANY_KEYS[who]]:
            with pytest.raises(ValueError, match="1 to"):
                members.apply_updates([update])
            continue
        members = members.apply_updates([update]).advance(turns)
        priorities = [v.priority for v in members.validators]
        assert max(priorities) - min(priorities) <= 2 * members.total_power
        assert 0 <= sum(priorities) < len(members)
        proposer = members.proposer
        assert proposer.priority + proposer.power > 0


def test_a_newcomer_cannot_jump_the_queue() -> None:
    members = make_validators((10, 10, 10)).advance(3)
    joined = members.apply_updates([ValidatorUpdate(KEYS[3].public_key, 10)])
    assert joined.total_power == 40
    seen = [joined.get_proposer(round_).public_key for round_ in range(4)]
    assert KEYS[3].public_key not in seen[:3]
    # Leaving and joining again is no way to propose sooner.
    again = joined.apply_updates([ValidatorUpdate(KEYS[3].public_key, 0)]).apply_updates(
        [ValidatorUpdate(KEYS[3].public_key, 10)]
    )
    assert again.by_address[KEYS[3].address].priority <= joined.by_address[KEYS[3].address].priority
    # In the long run its share is fair.
    counts: Counter[bytes] = Counter()
    for _ in range(400):
        counts[joined.proposer.public_key] += 1
        joined = joined.advance(1)
    assert all(abs(count - 100) <= 2 for count in counts.values())


def test_a_powerful_newcomer_waits_too() -> None:
    members = make_validators((10, 10, 10)).advance(3)
    joined = members.apply_updates([ValidatorUpdate(KEYS[3].public_key, 30)])
    assert joined.proposer.public_key != KEYS[3].public_key
    assert joined.get_proposer(1).public_key == KEYS[3].public_key


def test_updates_change_powers_and_keep_priorities() -> None:
    members = make_validators((10, 20, 30)).advance(2)
    before = members.by_address[KEYS[0].address].priority
    changed = members.apply_updates([ValidatorUpdate(KEYS[0].public_key, 11)])
    assert changed.by_address[KEYS[0].address] == Validator(KEYS[0].public_key, 11, before)
    assert members.apply_updates([]) == members
    gone = members.apply_updates([ValidatorUpdate(KEYS[0].public_key, 0)])
    assert KEYS[0].address not in gone.by_address
    unknown = members.apply_updates([ValidatorUpdate(KEYS[4].public_key, 0)])
    assert unknown == members


def test_the_root_covers_keys_powers_and_priorities() -> None:
    members = make_validators()
    roots = {
        members.root,
        members.advance(1).root,
        make_validators((10, 20, 30, 41)).root,
        make_validators((10, 20, 30)).root,
        make_validators((40, 30, 20, 10)).root,
    }
    assert len(roots) == 5
