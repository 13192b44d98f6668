"""The validator set and the rotation of proposers.

Owns the order of validators, their voting power, and the weighted rotation with bounded
priorities that decides who proposes. Never knows why a validator has the power it has.

Each turn adds every validator's power to its priority, and the proposer pays the total power: a
priority is what the validator is owed, in units of power. Whoever is owed anything is eligible,
and of those the one proposes whose debt would first reach a whole turn. This is earliest deadline
first over unit jobs with windows [floor((j-1)/share), ceil(j/share)), which keeps everybody within
one turn of the fair share (Baruah, Cohen, Plaxton, Varvel, Algorithmica 15, 1996); taking the
highest priority instead does not: with 20 validators of very unequal power some fall 1.3 turns
behind. Priorities stay centered and within twice the total power, so that a newcomer can't jump
the queue.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from msgspec import Meta, Struct

from quorate.chain.codec import encode
from quorate.chain.errors import InvariantError
from quorate.chain.ids import Address, Hash, PublicKey, WirePublicKey, compute_address
from quorate.chain.merkle import compute_root

POWER_MAX = 2**40
TOTAL_POWER_MAX = 2**53
VALIDATORS_MAX = 1024
PRIORITY_SPREAD_FACTOR = 2

Power = Annotated[int, Meta(ge=1, le=POWER_MAX)]


class Validator(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """One validator: who it is, how much its vote weighs, and its place in the rotation."""

    public_key: WirePublicKey
    power: Power
    priority: Annotated[int, Meta(ge=-(2**60), le=2**60)] = 0

    @property
    def address(self) -> Address:
        """The address that votes and blocks name it by."""
        return compute_address(self.public_key)


class ValidatorUpdate(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A change the ledger asks for: a new power for a key; 0 removes it."""

    public_key: WirePublicKey
    power: Annotated[int, Meta(ge=0, le=POWER_MAX)]


@dataclass(frozen=True)
class ValidatorSet:
    """An immutable set of validators, ordered by power (descending), then address.

    Raises
    ------
    ValueError
        If it is empty, too large, names a key twice, or its total power exceeds the bound.
    """

    validators: tuple[Validator, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.validators) <= VALIDATORS_MAX:
            raise ValueError(f"a validator set has 1 to {VALIDATORS_MAX} members")
        ordered = tuple(sorted(self.validators, key=lambda v: (-v.power, v.address)))
        object.__setattr__(self, "validators", ordered)
        if len(self.by_address) != len(ordered):
            raise ValueError("a validator set names each key once")
        if self.total_power > TOTAL_POWER_MAX:
            raise ValueError(f"total voting power exceeds {TOTAL_POWER_MAX}")

    @classmethod
    def from_powers(cls, powers: Iterable[tuple[PublicKey, int]]) -> "ValidatorSet":
        """Make the first set of a chain: all priorities 0."""
        return cls(tuple(Validator(key, power) for key, power in powers))

    @cached_property
    def by_address(self) -> Mapping[Address, Validator]:
        """The validators by address."""
        return {validator.address: validator for validator in self.validators}

    @cached_property
    def index_by_address(self) -> Mapping[Address, int]:
        """The position of each validator, as used in commits and vote bitmaps."""
        return {validator.address: i for i, validator in enumerate(self.validators)}

    @cached_property
    def total_power(self) -> int:
        """The sum of the voting powers."""
        return sum(validator.power for validator in self.validators)

    def __len__(self) -> int:
        return len(self.validators)

    def is_quorum(self, power: int) -> bool:
        """Tell whether `power` is more than two thirds of the total (2f+1)."""
        return 3 * power > 2 * self.total_power

    def is_one_honest(self, power: int) -> bool:
        """Tell whether `power` is more than a third of the total (f+1)."""
        return 3 * power > self.total_power

    @cached_property
    def proposer(self) -> Validator:
        """Who proposes in round 0: of those owed a turn, the first to become overdue."""
        # Priorities are centered, so that with this turn's gain somebody's is positive.
        eligible = [v for v in self.validators if v.priority + v.power > 0]
        return min(
            eligible or self.validators,
            key=lambda v: (-((v.priority - self.total_power) // v.power), v.address),
        )

    @cached_property
    def root(self) -> Hash:
        """The Merkle root over keys, powers and priorities."""
        return compute_root([encode(validator) for validator in self.validators])

    def advance(self, turns: int) -> "ValidatorSet":
        """Return the set `turns` (at least 1) turns of the rotation later."""
        if turns < 1:
            raise InvariantError("the rotation only moves forward")
        current = self
        for _ in range(turns):
            current = _take_turn(current)
        return current

    def get_proposer(self, round_: int) -> Validator:
        """Return the proposer of a consensus round of the height this set stands for."""
        return self.proposer if round_ == 0 else self.advance(round_).proposer

    def apply_updates(self, updates: Iterable[ValidatorUpdate]) -> "ValidatorSet":
        """Return the set after the ledger's changes.

        A newcomer starts 1.125 total powers behind, so that leaving and joining again is no way
        to propose sooner.

        Raises
        ------
        ValueError
            If the result would be empty or beyond the bounds.
        """
        members = {validator.public_key: validator for validator in self.validators}
        newcomers = []
        for update in updates:
            known = members.get(update.public_key)
            if update.power == 0:
                members.pop(update.public_key, None)
            elif known is not None:
                members[update.public_key] = Validator(
                    update.public_key, update.power, known.priority
                )
            else:
                members[update.public_key] = Validator(update.public_key, update.power)
                newcomers.append(update.public_key)
        total = sum(validator.power for validator in members.values())
        for key in newcomers:
            if key in members:
                members[key] = Validator(key, members[key].power, -(total + total // 8))
        return _bound_priorities(ValidatorSet(tuple(members.values())))


def _set_priorities(current: ValidatorSet, priorities: list[int]) -> ValidatorSet:
    return ValidatorSet(
        tuple(
            Validator(v.public_key, v.power, priority)
            for v, priority in zip(current.validators, priorities, strict=True)
        )
    )


def _bound_priorities(current: ValidatorSet) -> ValidatorSet:
    """Scale the priorities into the window of twice the total power, and center them."""
    priorities = [validator.priority for validator in current.validators]
    spread = max(priorities) - min(priorities)
    window = PRIORITY_SPREAD_FACTOR * current.total_power
    if spread > window:
        ratio = -(-spread // window)
        # Truncation toward zero treats both signs alike.
        priorities = [p // ratio if p >= 0 else -(-p // ratio) for p in priorities]
    mean = sum(priorities) // len(priorities)
    return _set_priorities(current, [p - mean for p in priorities])


def _take_turn(current: ValidatorSet) -> ValidatorSet:
    """Let the proposer pay the total power, after each has gained its own."""
    proposer = current.proposer
    total = current.total_power
    moved = _set_priorities(
        current,
        [v.priority + v.power - (total if v is proposer else 0) for v in current.validators],
    )
    return _bound_priorities(moved)
