"""Curves over time as SVG, without a plotting library.

Owns the drawing. Never measures.
"""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, PANEL_HEIGHT = 760, 170
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 30, 24
COLORS = ("#1b6ca8", "#c0392b", "#2d8a4e", "#8e5ea2", "#b8860b", "#555555", "#16a3a3", "#d35400")
MARK_ROWS = 4
POINTS_MAX = 600
"""Points of a curve that are drawn; of more, the lowest and the highest of each stretch."""
WINDOWS = 150
"""Stretches of time in a panel of `summarize_by_window`."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes.

    Attributes
    ----------
    title : str
    curves : dict of str to sequence of (x, y)
        By name; x in seconds.
    marks : sequence of (x, name)
        Vertical lines, where something begins.
    gap : float
        Points that are further apart are not joined: nothing is known of what was between them.
    is_log : bool
        Whether the axis of y is logarithmic, between powers of ten, rather than from zero.
    """

    title: str
    curves: dict[str, Sequence[tuple[float, float]]]
    marks: Sequence[tuple[float, str]] = ()
    gap: float = math.inf
    is_log: bool = False


def draw_panels(panels: Sequence[Panel]) -> str:
    """Return an SVG document with one panel below the other, on one time axis from zero."""
    height = PANEL_HEIGHT * len(panels)
    xs = [x for panel in panels for curve in panel.curves.values() for x, _ in curve]
    end = max(xs, default=1.0) or 1.0
    box = f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="11"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box}>',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for i, panel in enumerate(panels):
        parts += _draw(panel, i * PANEL_HEIGHT, end)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _draw(panel: Panel, offset: float, end: float) -> list[str]:
    top, bottom = offset + TOP, offset + PANEL_HEIGHT - BOTTOM
    ticks, scale = _make_axis(panel)

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + x / end * (WIDTH - LEFT - RIGHT)
        return round(across, 1), round(bottom - scale(y) * (bottom - top), 1)

    parts = [f'<text x="{LEFT}" y="{offset + 16}" font-weight="bold">{escape(panel.title)}</text>']
    for tick in ticks:
        x, y = place(0, tick)
        parts.append(f'<line x1="{x}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{x - 6}" y="{y + 4}" text-anchor="end">{tick:.3g}</text>')
    for share in (0, 0.5, 1):
        right, _ = place(share * end, ticks[0])
        parts.append(
            f'<text x="{right}" y="{bottom + 15}" text-anchor="middle">{share * end:.0f} s</text>'
        )
    for number, (x_mark, name) in enumerate(panel.marks):
        # Names of marks that are close to each other shall not lie on one line.
        row = top + 9 + 9 * (number % MARK_ROWS)
        x, _ = place(x_mark, ticks[0])
        parts.append(
            f'<line x1="{x}" y1="{top}" x2="{x}" y2="{bottom}" stroke="#999" '
            'stroke-dasharray="3 3"/>'
            f'<text x="{x + 3}" y="{row}" fill="#666" font-size="9">{escape(name)}</text>'
        )
    for number, (name, curve) in enumerate(panel.curves.items()):
        color = COLORS[number % len(COLORS)]
        for piece in _split(_thin(curve), panel.gap):
            if len(piece) == 1:
                x, y = place(*piece[0])
                parts.append(f'<circle cx="{x}" cy="{y}" r="1.5" fill="{color}"/>')
                continue
            points = " ".join(f"{x},{y}" for x, y in (place(*point) for point in piece))
            parts.append(
                f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.4"/>'
            )
        if name:
            legend = WIDTH - RIGHT - 66 * (len(panel.curves) - number)
            parts.append(
                f'<text x="{legend}" y="{offset + 16}" fill="{color}">{escape(name)}</text>'
            )
    return parts


def summarize_by_window(
    points: Sequence[tuple[float, float]],
) -> dict[str, Sequence[tuple[float, float]]]:
    """Return two curves of many points: the median of each stretch of time, and its highest.

    A spike is one point of thousands; it shall be seen, and so shall what is usual around it.

    Parameters
    ----------
    points : sequence of (x, y)
        In any order. A stretch without any is left out.
    """
    width = max((x for x, _ in points), default=0.0) / WINDOWS or 1.0
    windows: dict[int, list[float]] = {}
    for x, y in points:
        windows.setdefault(min(int(x / width), WINDOWS - 1), []).append(y)
    middles = [((number + 0.5) * width, ys) for number, ys in sorted(windows.items())]
    return {
        "median": [(x, statistics.median(ys)) for x, ys in middles],
        "highest": [(x, max(ys)) for x, ys in middles],
    }


def _make_axis(panel: Panel) -> tuple[Sequence[float], Callable[[float], float]]:
    """Return where the axis of y has lines, the lowest first, and each y's share of its height."""
    ys = [y for curve in panel.curves.values() for _, y in curve]
    if not panel.is_log:
        peak = max(ys, default=1.0) * 1.1 or 1.0
        return (0, peak / 2, peak), lambda y: y / peak
    positive = [y for y in ys if y > 0] or [1.0]
    low = math.floor(math.log10(min(positive)))
    high = max(math.ceil(math.log10(max(positive))), low + 1)
    # What is nothing lies on the lowest line: there is no zero.
    return [
        10.0**power for power in range(low, high + 1)
    ], lambda y: (math.log10(max(y, 10.0**low)) - low) / (high - low)


def _thin(curve: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """Return at most `POINTS_MAX` points, with every peak and every trough."""
    if len(curve) <= POINTS_MAX:
        return curve
    step = math.ceil(2 * len(curve) / POINTS_MAX)
    kept = []
    for begin in range(0, len(curve), step):
        stretch = curve[begin : begin + step]
        extremes = (min(stretch, key=_get_y), max(stretch, key=_get_y))
        kept += sorted(set(extremes))
    return kept


def _get_y(point: tuple[float, float]) -> float:
    return point[1]


def _split(
    curve: Sequence[tuple[float, float]], gap: float
) -> Iterator[Sequence[tuple[float, float]]]:
    """Yield the pieces of a curve between its gaps."""
    begin = 0
    for i in range(1, len(curve)):
        if curve[i][0] - curve[i - 1][0] > gap:
            yield curve[begin:i]
            begin = i
    yield curve[begin:]
