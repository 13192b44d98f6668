"""Nodes of a localnet that end while it runs: told, started again, and at some point left down.

Owns when a node is started again and what the person at the terminal is told. Never starts a
process itself: the `Localnet` does.

What ends by a signal or with a failure is started again after `RESTART_PAUSE_SECONDS`, as after any
crash; but at most `RESTARTS_MAX` times within `RESTART_WINDOW_SECONDS`: what keeps ending does so
for a reason, which is in its log, and would fill the disk with copies of it. What ends without a
failure has been asked to, and is left to whoever asked: that is how one looks at a network which
lacks a node. Once too few are left to decide anything, the localnet ends with a failure, and
whoever waits for it hears of that.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from quorate.rpc_types import Status

from node.localnet import Localnet, LocalnetError, NodeProcess

RESTARTS_MAX: Final = 3
"""How often a node is started again within `RESTART_WINDOW_SECONDS`."""
RESTART_WINDOW_SECONDS: Final = 60.0
RESTART_PAUSE_SECONDS: Final = 1.0


@dataclass(slots=True)
class _Watched:
    """What became of one node."""

    restarts: deque[float] = field(default_factory=lambda: deque(maxlen=RESTARTS_MAX))
    restart_at: float | None = None
    is_awaited: bool = False
    is_left_down: bool = False


class Supervisor:
    """Watches the processes of a network that runs.

    Parameters
    ----------
    network : Localnet
        Started.
    tell : callable
        Called with each sentence for the person at the terminal.
    """

    def __init__(self, network: Localnet, tell: Callable[[str], None]) -> None:
        self._network = network
        self._tell = tell
        self._watched = [_Watched() for _ in network.nodes]

    def look(self, now: float) -> None:
        """Tell what has ended, and start again what is due.

        Parameters
        ----------
        now : float
            Seconds of a clock that never goes back.

        Raises
        ------
        LocalnetError
            If too few nodes are left to decide anything.
        """
        for number, watched in enumerate(self._watched):
            if watched.is_left_down:
                continue
            if watched.restart_at is None:
                self._look_at(self._network.processes[number], watched, now)
            elif now >= watched.restart_at:
                watched.restart_at, watched.is_awaited = None, True
                self._network.restart(number)
        self._check_quorum()

    def note_statuses(self, statuses: Sequence[Status | None]) -> None:
        """Tell which nodes answer that were started again.

        Parameters
        ----------
        statuses : sequence of Status or None
            As `Localnet.get_statuses` returns them.
        """
        for node, watched, status in zip(self._network.nodes, self._watched, statuses, strict=True):
            if watched.is_awaited and status is not None:
                watched.is_awaited = False
                self._tell(f"{node.moniker} runs again, at height {status.height}.")

    def _look_at(self, process: NodeProcess, watched: _Watched, now: float) -> None:
        if process.is_running:
            return
        while watched.restarts and now - watched.restarts[0] >= RESTART_WINDOW_SECONDS:
            watched.restarts.popleft()
        what = f"{process.node.moniker} has ended ({process.end})"
        log = f"Its log: {process.log_file}"
        code = process.process.returncode
        # What a signal ends has no last words.
        rest = f"{process.read_last_words()} {log}" if code > 0 else log
        if code == 0:
            watched.is_left_down = True
            self._tell(f"{what}: somebody has stopped it, and it stays down. {rest}")
        elif len(watched.restarts) == RESTARTS_MAX:
            watched.is_left_down = True
            self._tell(
                f"{what} after {RESTARTS_MAX} restarts within {RESTART_WINDOW_SECONDS:g} s, and "
                f"STAYS DOWN. {rest}"
            )
        else:
            watched.restarts.append(now)
            watched.restart_at = now + RESTART_PAUSE_SECONDS
            self._tell(
                f"{what}; it is started again in {RESTART_PAUSE_SECONDS:g} s "
                f"({len(watched.restarts)} of at most {RESTARTS_MAX} times). {rest}"
            )

    def _check_quorum(self) -> None:
        down = [
            process
            for process, watched in zip(self._network.processes, self._watched, strict=True)
            if watched.is_left_down
        ]
        total = len(self._watched)
        # The validators of a localnet have the same power each, and a decision takes more than two
        # thirds of it.
        if 3 * (total - len(down)) > 2 * total:
            return
        names = " and ".join(process.node.moniker for process in down)
        raise LocalnetError(
            f"{names} stayed down, and without more than two thirds of the {total} nodes nothing "
            f"can be decided: look at {' and '.join(str(each.log_file) for each in down)}, then "
            "start the network again."
        )
