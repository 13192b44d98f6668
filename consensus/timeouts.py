"""How long a node waits in each step, and how late a proposal may come.

Owns durations as numbers. Never measures time: the caller does.
"""

from dataclasses import dataclass

from consensus.inputs import TimeoutKind

TIMEOUT_MS_MAX = 600_000
"""However high the round, a node tries again within ten minutes."""
DELAY_GROWTH_ROUNDS_MAX = 100
"""After so many rounds the bound on message delay, by then 13,780-fold, grows no further."""


@dataclass(frozen=True, slots=True)
class TimeoutConfig:
    """The timeouts of round 0 and what each further round adds, in milliseconds.

    Raises
    ------
    ValueError
        If any is negative, or a timeout of round 0 exceeds `TIMEOUT_MS_MAX`.
    """

    propose_ms: int = 3000
    propose_delta_ms: int = 500
    prevote_ms: int = 1000
    prevote_delta_ms: int = 500
    precommit_ms: int = 1000
    precommit_delta_ms: int = 500

    def __post_init__(self) -> None:
        for kind in TimeoutKind:
            base_ms, delta_ms = self._get_pair(kind)
            if not 0 <= base_ms <= TIMEOUT_MS_MAX or delta_ms < 0:
                raise ValueError(
                    f"timeout {kind.name.lower()} must lie between 0 and {TIMEOUT_MS_MAX} ms, "
                    "and must not shrink with the round"
                )

    def compute_duration_ms(self, kind: TimeoutKind, round_: int) -> int:
        """Return timeoutX(round) of Algorithm 1, in milliseconds."""
        base_ms, delta_ms = self._get_pair(kind)
        return min(base_ms + delta_ms * round_, TIMEOUT_MS_MAX)

    def _get_pair(self, kind: TimeoutKind) -> tuple[int, int]:
        match kind:
            case TimeoutKind.PROPOSE:
                return self.propose_ms, self.propose_delta_ms
            case TimeoutKind.PREVOTE:
                return self.prevote_ms, self.prevote_delta_ms
            case TimeoutKind.PRECOMMIT:
                return self.precommit_ms, self.precommit_delta_ms


@dataclass(frozen=True, slots=True)
class TimelinessBounds:
    """The bounds of proposer-based timestamps: clock precision and message delay, in ms."""

    precision_ms: int
    message_delay_ms: int

    def is_timely(self, time_ms: int, received_ms: int, round_: int) -> bool:
        """Tell whether a proposal with `time_ms` came at a plausible time of this node's clock.

        The bound on delay grows by a tenth with each round, so that a delay underestimated in
        the genesis file costs rounds, and never a height.
        """
        growth = min(round_, DELAY_GROWTH_ROUNDS_MAX)
        delay_ms: int = self.message_delay_ms * 11**growth // 10**growth
        earliest_ms = time_ms - self.precision_ms
        latest_ms = time_ms + delay_ms + self.precision_ms
        return earliest_ms <= received_ms <= latest_ms
