"""The demonstration on the terminal: live where there is one, plain lines otherwise.

Owns how progress and the summary look. Never computes anything, and never ends the process.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from quorate.rpc_types import Status
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from node.demo.closing import Closing
from node.demo.training import FinishedRound

ROUNDS_LIVE: Final = 7
"""Rounds of each training that are shown while it goes on; all of them at the end."""
_REFRESHES_PER_SECOND: Final = 4


@dataclass(slots=True)
class _Section:
    """A training as it is shown."""

    title: str
    rounds: list[FinishedRound] = field(default_factory=list)


class Terminal:
    """Shows the progress of the demonstration, on standard error.

    Works as a context manager; on a terminal the lines are live while it is open.

    Parameters
    ----------
    hostile : sequence of int
        The numbers of the hostile participants, marked wherever they appear.
    """

    def __init__(self, hostile: Sequence[int]) -> None:
        self._hostile = frozenset(hostile)
        self._console = Console(stderr=True, highlight=False)
        self._sections: list[_Section] = []
        self._step = ""
        self._heights = ""
        self._live: Live | None = None
        self._is_open = True

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(
                console=self._console,
                refresh_per_second=_REFRESHES_PER_SECOND,
                get_renderable=self._render,
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._step = self._heights = ""
            self._is_open = False
            self._live.stop()

    def show_step(self, text: str) -> None:
        """Say what is being done now."""
        self._step = text
        if self._live is None:
            print(text, file=sys.stderr)

    def show_statuses(self, statuses: Sequence[Status | None]) -> None:
        """Show the nodes' heights."""
        heights = ["no answer" if each is None else str(each.height) for each in statuses]
        self._heights = f"heights {'  '.join(heights)}"

    def begin_section(self, title: str) -> None:
        """Begin a training."""
        self._sections.append(_Section(title))
        self.show_step(title)

    def show_round(self, finished: FinishedRound) -> None:
        """Show what became of a training round."""
        self._sections[-1].rounds.append(finished)
        if self._live is None:
            print(
                f"  height {finished.height:>4}  round {finished.training_round + 1:>2}  "
                f"accepted {self._name(finished.accepted)}  "
                f"set aside {self._name(finished.set_aside)}  accuracy {finished.accuracy:.3f}",
                file=sys.stderr,
            )

    def _name(self, numbers: Sequence[int]) -> str:
        """Return participants' numbers, the hostile ones marked."""
        return " ".join(f"{n}*" if n in self._hostile else str(n) for n in numbers) or "-"

    def _render(self) -> Group:
        # What is live must fit a terminal of 24 lines, or its end would be cut off.
        count = ROUNDS_LIVE if self._is_open else None
        parts: list[Text | Table] = []
        for section in self._sections:
            parts.append(Text(section.title, style="bold"))
            if section.rounds:
                parts.append(self._make_table(section.rounds[-count:] if count else section.rounds))
        if self._step:
            parts.append(Text(f"{self._step}   {self._heights}", style="dim"))
        return Group(*parts)

    def _make_table(self, rounds: Sequence[FinishedRound]) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 2))
        for heading in ("height", "round", "accepted", "set aside", "accuracy"):
            table.add_column(heading, justify="left" if heading[0] in "s" else "right")
        for each in rounds:
            table.add_row(
                str(each.height),
                str(each.training_round + 1),
                self._name(each.accepted),
                self._name(each.set_aside),
                f"{each.accuracy:.3f}",
            )
        return table


def describe_closing(closing: Closing) -> str:
    """Return the summary: a line each for the accuracies, the roots, and every criterion."""
    lines = [
        f"accuracy  {closing.accuracy:.3f} under arc, nnm, geometric median",
        f"accuracy  {closing.mean_accuracy:.3f} under the plain mean",
        f"model root at height {closing.height}",
        *(f"  {name}  {root}" for name, root in closing.model_roots.items()),
        f"weights root  {closing.weights_root or 'not verified'}",
    ]
    lines += [
        f"{'passed' if each.is_met else 'FAILED'}: {each.sentence}" for each in closing.criteria
    ]
    return "\n".join(lines)
