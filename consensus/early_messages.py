"""Messages for heights that have not started here.

Owns them until their height starts, a few for each validator. Never checks a signature: what
comes in is genuine.
"""

from quorate.chain.ids import Address

from consensus.inputs import ProposalReceived, VoteReceived

FUTURE_HEIGHTS_MAX = 2
"""How many heights after the current one are listened to."""
EARLY_MESSAGES_PER_VALIDATOR_MAX = 8
"""For each height and validator: two rounds of a proposal and two votes, and some to spare."""

EarlyMessage = ProposalReceived | VoteReceived


class EarlyMessages:
    """The messages of the next `FUTURE_HEIGHTS_MAX` heights, in the order they came."""

    __slots__ = ("_by_height",)

    def __init__(self) -> None:
        self._by_height: dict[int, dict[Address, list[EarlyMessage]]] = {}

    def has_any(self, height: int) -> bool:
        """Tell whether there is a message for `height`."""
        return height in self._by_height

    def has_place(self, current: int, message: EarlyMessage) -> bool:
        """Tell whether `message` would be kept, seen from the current height."""
        height, round_, sender = _get_slot(message)
        if not current < height <= current + FUTURE_HEIGHTS_MAX:
            return False
        kept = self._by_height.get(height, {}).get(sender, [])
        if any(_is_same(message, other) for other in kept):
            return False
        return len(kept) < EARLY_MESSAGES_PER_VALIDATOR_MAX or any(
            _get_slot(other)[1] < round_ for other in kept
        )

    def add(self, message: EarlyMessage) -> None:
        """Keep a message that has a place; one of the sender's lowest round may go for it."""
        height, _, sender = _get_slot(message)
        kept = self._by_height.setdefault(height, {}).setdefault(sender, [])
        if len(kept) == EARLY_MESSAGES_PER_VALIDATOR_MAX:
            kept.remove(min(kept, key=lambda other: _get_slot(other)[1]))
        kept.append(message)

    def take(self, height: int) -> list[EarlyMessage]:
        """Return the messages for `height`, and forget them and all of lower heights."""
        messages = [
            message for kept in self._by_height.pop(height, {}).values() for message in kept
        ]
        for past in [past for past in self._by_height if past < height]:
            del self._by_height[past]
        return messages


def _get_slot(message: EarlyMessage) -> tuple[int, int, Address]:
    """Return height, round and sender."""
    if isinstance(message, VoteReceived):
        return message.vote.height, message.vote.round, message.vote.validator
    return message.proposal.height, message.proposal.round, message.proposal.proposer


def _is_same(one: EarlyMessage, other: EarlyMessage) -> bool:
    """Tell whether two messages differ at most in the time they came."""
    if isinstance(one, ProposalReceived) and isinstance(other, ProposalReceived):
        return one.proposal == other.proposal
    return one == other
