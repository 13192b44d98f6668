"""The vote set against a counter too plain to be wrong, and its bounds."""

from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quorate.chain.errors import InvariantError
from quorate.chain.ids import Height, Round, Signature
from quorate.chain.validators import ValidatorSet
from quorate.chain.vote import BlockId, Vote, VoteType

from consensus.vote_set import VoteSet
from tests.consensus.scenario import make_block, make_keys

KEYS = make_keys(7)
VALUES: tuple[str | None, ...] = (None, "X", "Y", "Z")


def make_set(powers: Sequence[int]) -> ValidatorSet:
    return ValidatorSet.from_powers(
        (key.public_key, power) for key, power in zip(KEYS, powers, strict=False)
    )


def make_vote(validators: ValidatorSet, index: int, value: str | None) -> Vote:
    """Return a vote whose signature nobody checks."""
    return Vote(
        VoteType.PREVOTE,
        Height(1),
        Round(0),
        None if value is None else make_block(value),
        validators.validators[index].address,
        Signature(bytes([index + 1]) * 64),
    )


class NaiveCounter:
    """Keeps every message in a list and counts from the beginning whenever asked."""

    def __init__(self, validators: ValidatorSet) -> None:
        self.powers = [validator.power for validator in validators.validators]
        self.messages: list[tuple[int, str | None]] = []
        self.claim: str | None = None

    def is_quorum(self, members: list[int]) -> bool:
        power = sum(self.powers[index] for index in members)
        return Fraction(power, sum(self.powers)) > Fraction(2, 3)

    def get_voters(self, value: str | None) -> list[int]:
        """Return who voted for `value`, first or for the claimed block."""
        return [
            index
            for index in range(len(self.powers))
            if (index, value) in self.messages
            and (
                value == self.claim is not None
                or next(v for i, v in self.messages if i == index) == value
            )
        ]

    def get_quorum(self) -> tuple[str | None] | None:
        for value in VALUES:
            if self.is_quorum(self.get_voters(value)):
                return (value,)
        return None


@given(
    powers=st.lists(st.integers(1, 9), min_size=1, max_size=7),
    messages=st.lists(st.tuples(st.integers(0, 6), st.sampled_from(VALUES)), max_size=30),
    claim=st.sampled_from((None, "X", "Y")),
)
def test_counts_as_the_naive_counter(
    powers: list[int], messages: list[tuple[int, str | None]], claim: str | None
) -> None:
    validators = make_set(powers)
    votes = VoteSet(validators)
    naive = NaiveCounter(validators)
    if claim is not None:
        votes.claim(make_block(claim))
        naive.claim = claim
    found: tuple[str | None] | None = None
    reported: list[int] = []
    for index, value in messages:
        if index >= len(powers):
            continue
        vote = make_vote(validators, index, value)
        was_wanted = votes.is_wanted(index, vote)
        addition = votes.add(index, vote)
        assert was_wanted == (addition.is_counted or addition.conflicting is not None)
        naive.messages.append((index, value))
        # With a third of the power voting twice two values can have a quorum; the first stays.
        found = naive.get_quorum() if found is None else found
        block_id = None if found is None or found[0] is None else make_block(found[0])
        assert votes.quorum_block == block_id
        assert votes.has_nil_quorum == (found == (None,))
        assert votes.has_any_quorum == naive.is_quorum(sorted({i for i, _ in naive.messages}))
        reported += [index] if addition.conflicting is not None else []
    equivocators = [
        index
        for index in range(len(powers))
        if len({value for i, value in naive.messages if i == index}) > 1
    ]
    assert sorted(reported) == equivocators
    assert len(votes) <= 2 * len(powers)


@given(
    powers=st.lists(st.integers(1, 9), min_size=1, max_size=7),
    kept=st.lists(st.tuples(st.integers(0, 6), st.sampled_from(VALUES)), max_size=20),
    removed=st.lists(st.integers(0, 6), max_size=4),
)
def test_what_is_removed_was_never_there(
    powers: list[int], kept: list[tuple[int, str | None]], removed: list[int]
) -> None:
    validators = make_set(powers)
    votes, fresh = VoteSet(validators), VoteSet(validators)
    for one in (votes, fresh):
        one.claim(make_block("X"))
    for index, value in kept:
        if index < len(powers):
            votes.add(index, make_vote(validators, index, value))
            if index not in removed:
                fresh.add(index, make_vote(validators, index, value))
    for index in removed:
        votes.remove(index)
    assert votes.has_any_quorum == fresh.has_any_quorum
    assert votes.get_lacking(0) == fresh.get_lacking(0)
    assert len(votes) == len(fresh)
    for value in ("X", "Y", "Z"):
        block_id = make_block(value)
        assert votes.compute_bits_for(block_id) == fresh.compute_bits_for(block_id)


def add(votes: VoteSet, validators: ValidatorSet, index: int, value: str | None) -> bool:
    return votes.add(index, make_vote(validators, index, value)).is_counted


def test_one_validator_fills_two_places_at_most() -> None:
    validators = make_set((1,) * 7)
    votes = VoteSet(validators)
    votes.claim(make_block("X"))
    assert add(votes, validators, 0, "Y")
    counted = [add(votes, validators, 0, value) for value in ("Z", None, "X", "W", "X")]
    assert counted == [False, False, True, False, False]
    assert len(votes) == 2
    # The next claim takes the place of the last.
    votes.claim(make_block("Z"))
    assert len(votes) == 1
    assert add(votes, validators, 0, "Z")
    assert len(votes) == 2


def test_a_claim_stays_once_there_is_a_quorum() -> None:
    validators = make_set((1,) * 4)
    votes = VoteSet(validators)
    votes.claim(make_block("X"))
    add(votes, validators, 0, None)
    for index in range(3):
        add(votes, validators, index, "X")
    votes.claim(make_block("Y"))
    assert votes.has_quorum_for(make_block("X"))
    assert len(votes) == 4


def test_what_peers_should_still_send() -> None:
    validators = make_set((1,) * 4)
    votes = VoteSet(validators)
    votes.claim(make_block("X"))
    add(votes, validators, 0, "X")
    add(votes, validators, 1, "Y")
    add(votes, validators, 2, "Y")
    assert votes.compute_held_bits() == 0b0111
    # Validator 1 has voted twice, and its vote for the claimed block may be on its way.
    assert not add(votes, validators, 1, None)
    assert votes.compute_held_bits() == 0b0101
    assert votes.compute_bits_for(make_block("X")) == 0b0001
    assert add(votes, validators, 1, "X")
    assert votes.compute_held_bits() == 0b0111
    assert votes.compute_bits_for(make_block("X")) == 0b0011


def test_votes_for_the_quorum_are_sent_first() -> None:
    validators = make_set((1,) * 5)
    votes = VoteSet(validators)
    for index, value in enumerate(("Y", "X", None, "X", "X")):
        add(votes, validators, index, value)
    assert [vote.validator for vote in votes.get_lacking(0b00010)] == [
        validators.validators[index].address for index in (0, 2, 3, 4)
    ]
    votes.claim(make_block("X"))
    add(votes, validators, 0, "X")
    assert votes.has_quorum_for(make_block("X"))
    lacking = votes.get_lacking(0b00010)
    assert [vote.block_id for vote in lacking] == [make_block("X")] * 3 + [None]


def test_a_commit_holds_the_precommits_for_its_block() -> None:
    validators = make_set((1,) * 4)
    votes = VoteSet(validators)
    votes.claim(make_block("X"))
    for index, value in ((0, "X"), (1, None), (2, "X")):
        add(votes, validators, index, value)
    with pytest.raises(InvariantError):
        votes.make_commit(make_block("X"))
    add(votes, validators, 1, "X")
    commit = votes.make_commit(make_block("X"))
    assert [bool(signature) for signature in commit.signatures] == [True, True, True, False]
    block: BlockId = make_block("X")
    assert (commit.height, commit.round, commit.block_id) == (1, 0, block)


def test_what_is_removed_takes_its_quorum_and_its_offence_along() -> None:
    validators = make_set((1,) * 4)
    votes = VoteSet(validators)
    for index in range(3):
        add(votes, validators, index, "X")
    add(votes, validators, 2, "Y")
    assert votes.quorum_block == make_block("X")
    votes.remove(2)
    assert votes.quorum_block is None
    assert not votes.has_any_quorum
    add(votes, validators, 2, "Y")
    again = votes.add(2, make_vote(validators, 2, "X"))
    assert again.conflicting is not None
    for index in (0, 1):
        votes.remove(index)
    for index in (0, 1):
        add(votes, validators, index, "Y")
    assert votes.quorum_block == make_block("Y")
