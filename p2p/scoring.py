"""What is held against a peer, and for how long.

Owns points and bans, bounded in number, with time as an argument. Never closes a connection itself.
"""

from dataclasses import dataclass
from typing import Final

from p2p.network import SCORE_BAN, SCORE_MAX, SCORE_RECOVERY_PER_S, PeerId

SCORES_MAX: Final = 4096
"""Peers that something is held against; the oldest entry makes room."""

SCORE_AFTER_BAN: Final = SCORE_MAX // 2
"""A peer comes back from a ban with as many points."""

PENALTY_MALFORMED: Final = 50
"""A frame or handshake that cannot be read, or one over its limit."""

PENALTY_UNSOLICITED: Final = 20
"""An answer or addresses that nobody asked for."""

PENALTY_OVERLONG: Final = 20
"""An answer longer than the request allowed."""


@dataclass(slots=True)
class _Record:
    points: float
    updated_at: float
    banned_until: float


class ScoreBook:
    """Points of peers; a peer without an entry has `SCORE_MAX`.

    Parameters
    ----------
    ban_s
        Seconds that a ban lasts.
    """

    def __init__(self, ban_s: float) -> None:
        self._ban_s = ban_s
        self._records: dict[PeerId, _Record] = {}

    def __len__(self) -> int:
        return len(self._records)

    def get_score(self, peer: PeerId, now: float) -> int:
        """Give the points of `peer` at `now` (seconds)."""
        record = self._records.get(peer)
        if record is None:
            return SCORE_MAX
        self._recover(record, now)
        return int(record.points)

    def is_banned(self, peer: PeerId, now: float) -> bool:
        """Tell whether `peer` is banned at `now` (seconds)."""
        record = self._records.get(peer)
        return record is not None and now < record.banned_until

    def lower(self, peer: PeerId, penalty: int, now: float) -> bool:
        """Take `penalty` points from `peer`; tell whether this bans it.

        Raises
        ------
        ValueError
            If `penalty` is negative.
        """
        if penalty < 0:
            raise ValueError("penalty must not be negative")
        record = self._records.pop(peer, None) or _Record(SCORE_MAX, now, 0.0)
        # Putting the entry back last makes the dictionary's order the order of offences.
        self._records[peer] = record
        if len(self._records) > SCORES_MAX:
            del self._records[next(iter(self._records))]
        self._recover(record, now)
        record.points -= penalty
        if int(record.points) > SCORE_BAN:
            return False
        record.points = SCORE_AFTER_BAN
        record.banned_until = now + self._ban_s
        return True

    def _recover(self, record: _Record, now: float) -> None:
        since = max(record.updated_at, min(record.banned_until, now))
        earned = max(0.0, now - since) * SCORE_RECOVERY_PER_S
        record.points = min(SCORE_MAX, record.points + earned)
        record.updated_at = now
