"""How far an upload or a download is, and how long somebody has waited, told while it goes on.

Owns the types of the callbacks, the count that several requests at a time add to, and lines for
terminals. Never moves a byte of the transfer itself.
"""

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self, TextIO, TypeAlias

BAR_CHARACTERS: Final = 24
_MB: Final = 1e6


@dataclass(frozen=True)
class Progress:
    """How far a transfer is.

    Attributes
    ----------
    what : str
        "upload" or "download".
    bytes_done : int
        Transferred and verified, with what was there already from an earlier attempt.
    bytes_total : int
    """

    what: str
    bytes_done: int
    bytes_total: int

    @property
    def fraction(self) -> float:
        """The part that is done, from 0 to 1."""
        return self.bytes_done / self.bytes_total if self.bytes_total else 1.0


OnProgress: TypeAlias = Callable[[Progress], None]
"""Called after each chunk, one call at a time, perhaps in another thread than the caller's."""


OnWait: TypeAlias = Callable[[float], object]
"""Called now and then while something is waited for, with the seconds that it has taken."""


def ignore_wait(_waited_s: float) -> None:
    """Show nothing."""


def ignore_progress(_progress: Progress) -> None:
    """Show nothing."""


class TransferCount:
    """The bytes of one transfer, counted by all that carry it.

    Parameters
    ----------
    what : str
        "upload" or "download".
    bytes_done, bytes_total : int
    on_progress : callable
    """

    def __init__(
        self, what: str, bytes_done: int, bytes_total: int, on_progress: OnProgress
    ) -> None:
        self._what = what
        self._bytes_total = bytes_total
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._is_changed = False
        self.bytes_done = bytes_done
        self.add(0)

    def add(self, count: int) -> None:
        """Count bytes, and tell."""
        with self._lock:
            self._is_changed |= count > 0
            self.bytes_done += count
            self._on_progress(Progress(self._what, self.bytes_done, self._bytes_total))

    def set(self, bytes_done: int) -> None:
        """Take over how much is done in truth: of what was lost some is to be done again."""
        with self._lock:
            self.bytes_done = bytes_done
            self._on_progress(Progress(self._what, bytes_done, self._bytes_total))

    def take_unchanged(self) -> bool:
        """Tell whether nothing has been added since the last call."""
        with self._lock:
            is_changed, self._is_changed = self._is_changed, False
            return not is_changed


class _TerminalLine:
    """One line of a terminal, drawn anew; where there is no terminal, nothing."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._shown = ""
        self._is_open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_open:
            self._is_open = False
            self._shown = ""
            stream = self._get_stream()
            stream.write("\n")
            stream.flush()

    def _draw(self, text: str, *, is_last: bool = False) -> None:
        stream = self._get_stream()
        if text != self._shown and stream.isatty():
            self._shown = text
            self._is_open = not is_last
            end = "\n" if is_last else ""
            stream.write(f"\r{text}{end}")
            stream.flush()

    def _get_stream(self) -> TextIO:
        return sys.stderr if self._stream is None else self._stream


class ProgressBar(_TerminalLine):
    """Shows a transfer on one line of a terminal; where there is no terminal, nothing.

    Parameters
    ----------
    stream : text file, optional
        Standard error by default.

    As a context manager it ends its line when the block ends, so that what is printed after a
    transfer that failed stands on a line of its own.

    Examples
    --------
    >>> from quorate.progress import Progress, ProgressBar
    >>> with ProgressBar() as bar:
    ...     bar.show(Progress("upload", 5_000_000, 20_000_000))
    """

    def show(self, progress: Progress) -> None:
        """Draw the line anew; at the end of the transfer, go to the next one."""
        is_last = progress.bytes_done >= progress.bytes_total
        self._draw(render_progress(progress), is_last=is_last)


class WaitingLine(_TerminalLine):
    """Shows on one line of a terminal how long something has been waited for.

    Parameters
    ----------
    what : str
        What is waited for.
    stream : text file, optional
        Standard error by default.

    As a context manager it ends its line when the block ends. Where there is no terminal, it shows
    nothing.

    Examples
    --------
    >>> from quorate.progress import WaitingLine
    >>> with WaitingLine("a block") as line:
    ...     line.show(2.5)
    """

    def __init__(self, what: str, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._what = what

    def show(self, waited_s: float) -> None:
        """Draw the line anew, in whole seconds."""
        self._draw(f"waiting for {self._what}, {int(waited_s)} s")


def render_progress(progress: Progress) -> str:
    """Return a transfer as a line of text.

    Examples
    --------
    >>> render_progress(Progress("upload", 5_000_000, 20_000_000))
    'upload   [######..................]  25%    5.0 of 20.0 MB'
    """
    filled = int(progress.fraction * BAR_CHARACTERS)
    bar = "#" * filled + "." * (BAR_CHARACTERS - filled)
    done, total = progress.bytes_done / _MB, progress.bytes_total / _MB
    return f"{progress.what:<8} [{bar}] {progress.fraction:>4.0%} {done:>6.1f} of {total:.1f} MB"
