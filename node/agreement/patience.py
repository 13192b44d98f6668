"""How long this node waits in round 0 for a proposer that has fallen silent.

Owns the memory of which validators missed their turns, and of how long proposals take to arrive.
Never touches the rotation, a rule of consensus or a later round: it only shortens timeouts of
this node's own, on which the safety of Algorithm 1 does not depend. Liveness does not suffer
either: whoever is waited for too briefly is heard a moment later, and waited for in full again.

A turn counts as missed when the timeout of its round 0 elapses and nothing that the proposer
signed for this height or a later one has come. Each missed turn in a row quarters the wait for its
proposal, down to a floor above the slowest proposal that has arrived of late. The wait for
precommits in such a round shrinks likewise: where nobody has proposed there is nothing to decide.
The first genuine message of the proposer restores both. It must be of the height that it missed
or a later one, so that nobody restores them by repeating what it said before.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from quorate.chain.ids import Address
from quorate.chain.validators import VALIDATORS_MAX
from quorate.chain.vote import Proposal, Vote

from consensus.effects import ScheduleTimeout
from consensus.inputs import Input, ProposalReceived, TimeoutKind, VoteReceived

SHRINKING_BITS: Final = 2
"""Each missed turn halves the wait so many times."""
FLOOR_MS_MIN: Final = 20
"""The shortest floor, in milliseconds, however fast proposals arrive."""
FLOOR_DELAYS: Final = 2
"""The floor lies so many times above the slowest proposal of late."""
FADING: Final = 0.9
"""What is left of the slowest delay's weight with each further proposal: half after 7."""
SILENT_MAX: Final = VALIDATORS_MAX
"""Silent validators that are remembered; the one that has been silent for longest goes first."""


@dataclass(slots=True)
class _Silence:
    """Turns missed in a row, and the height of the first."""

    height: int
    misses: int = 0


class Patience:
    """Shortens the timeouts of round 0 for proposers that missed their last turns.

    Parameters
    ----------
    own : bytes, 20, or None
        This validator, which never waits for itself any shorter.
    is_genuine : callable
        Whether a message's signature is that of the validator it names. Asked only about messages
        of silent validators that the driver had no use for.
    now_s : callable
        A clock that never goes back, in seconds.
    """

    def __init__(
        self,
        own: Address | None,
        is_genuine: Callable[[Vote | Proposal], bool],
        now_s: Callable[[], float],
    ) -> None:
        self._own = own
        self._is_genuine = is_genuine
        self._now_s = now_s
        self._silent: dict[Address, _Silence] = {}
        self._height = 0
        self._proposer: Address | None = None
        self._is_heard = True
        self._has_begun_at = 0.0
        self._delay_s: float | None = None

    @property
    def silent(self) -> tuple[Address, ...]:
        """Validators that missed their last turn, whoever fell silent first in front."""
        return tuple(self._silent)

    @property
    def floor_ms(self) -> int | None:
        """The shortest wait for a proposal, in milliseconds; None before any has arrived."""
        if self._delay_s is None:
            return None
        return FLOOR_MS_MIN + round(FLOOR_DELAYS * self._delay_s * 1000)

    def shorten(self, timeout: ScheduleTimeout, proposer: Address | None) -> ScheduleTimeout:
        """Return the timeout that this node keeps; the same one unless its proposer is silent.

        Parameters
        ----------
        timeout : ScheduleTimeout
            What the driver asks for.
        proposer : bytes, 20, or None
            Whose turn it is in its round.
        """
        if timeout.round != 0 or proposer is None or proposer == self._own:
            return timeout
        if timeout.kind is TimeoutKind.PROPOSE:
            self._height, self._proposer, self._is_heard = timeout.height, proposer, False
            self._has_begun_at = self._now_s()
        silence, floor_ms = self._silent.get(proposer), self.floor_ms
        if silence is None or floor_ms is None or timeout.kind is TimeoutKind.PREVOTE:
            return timeout
        shrunk_ms = timeout.duration_ms >> SHRINKING_BITS * silence.misses
        return replace(timeout, duration_ms=min(timeout.duration_ms, max(shrunk_ms, floor_ms)))

    def note_elapsed(self, timeout: ScheduleTimeout) -> None:
        """Count a missed turn if a proposer's time is over and nothing of it has come."""
        proposer = self._proposer
        is_awaited = (timeout.kind, timeout.height, timeout.round) == (
            TimeoutKind.PROPOSE,
            self._height,
            0,
        )
        if proposer is None or self._is_heard or not is_awaited:
            return
        if proposer not in self._silent and len(self._silent) >= SILENT_MAX:
            del self._silent[next(iter(self._silent))]
        silence = self._silent.setdefault(proposer, _Silence(timeout.height))
        silence.misses += 1

    def notice(self, input_: Input, outcome: bool | None) -> None:
        """Look at a peer's message: whoever signed it is not silent.

        Parameters
        ----------
        input_ : Input
            What came.
        outcome : bool or None
            Whether the driver found it genuine; None if it had no use for it.
        """
        message: Vote | Proposal
        match input_:
            case VoteReceived(vote=message):
                author = message.validator
            case ProposalReceived(proposal=message):
                author = message.proposer
            case _:
                return
        if outcome:
            self._note_delay(message, author)
        silence = self._silent.get(author)
        is_recent = silence is not None and message.height >= silence.height
        is_awaited = author == self._proposer and message.height >= self._height
        if not is_recent and (not is_awaited or self._is_heard):
            return
        if self._is_genuine(message) if outcome is None else outcome:
            self._silent.pop(author, None)
            self._is_heard = self._is_heard or is_awaited

    def _note_delay(self, message: Vote | Proposal, author: Address) -> None:
        is_of_round = (message.height, message.round) == (self._height, 0)
        if not isinstance(message, Proposal) or not is_of_round or author != self._proposer:
            return
        delay_s = self._now_s() - self._has_begun_at
        self._delay_s = max(delay_s, FADING * (self._delay_s or 0.0))
