"""Durations and sizes as people write them: ``"250ms"``, ``"3s"``, ``"8MiB"``.

Owns the reading and writing of these two kinds of text. Never knows which setting they are for.
"""

import re
from fractions import Fraction
from typing import Final

DURATION_UNITS_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
"""Milliseconds in each unit of a duration."""

SIZE_UNITS: Final = {
    "B": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}
"""Bytes in each unit of a size; the binary units come first and are the ones written."""

_QUANTITY: Final = re.compile(r"(\d{1,18}(?:\.\d{1,9})?) ?([A-Za-z]{1,3})")


def parse_duration(text: str) -> int:
    """Return the milliseconds that a text such as ``"1.5s"`` stands for.

    Raises
    ------
    ValueError
        If it is no duration, or no whole number of milliseconds.
    """
    return _parse(text, DURATION_UNITS_MS)


def render_duration(duration_ms: int) -> str:
    """Return the shortest text for a duration in milliseconds: the largest unit that fits."""
    for unit in ("h", "m", "s"):
        if duration_ms and duration_ms % DURATION_UNITS_MS[unit] == 0:
            return f"{duration_ms // DURATION_UNITS_MS[unit]}{unit}"
    return f"{duration_ms}ms" if duration_ms else "0s"


def parse_size(text: str) -> int:
    """Return the bytes that a text such as ``"8MiB"`` stands for.

    Raises
    ------
    ValueError
        If it is no size, or no whole number of bytes.
    """
    return _parse(text, SIZE_UNITS)


def render_size(size: int) -> str:
    """Return the text for a size in bytes: the largest unit that fits, binary ones first."""
    for unit in ("TiB", "GiB", "MiB", "KiB", "TB", "GB", "MB", "KB"):
        if size and size % SIZE_UNITS[unit] == 0:
            return f"{size // SIZE_UNITS[unit]}{unit}"
    return f"{size}B"


def _parse(text: str, units: dict[str, int]) -> int:
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or match[2] not in units:
        raise ValueError(f"{text!r} is no number with one of the units {', '.join(units)}")
    value = Fraction(match[1]) * units[match[2]]
    if value.denominator != 1:
        raise ValueError(f"{text!r} is finer than the smallest unit, {next(iter(units))}")
    return value.numerator
