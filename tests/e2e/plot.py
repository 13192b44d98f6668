"""Curves over time as SVG, without a plotting library.

Owns the drawing. Never measures.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, PANEL_HEIGHT = 760, 170
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 30, 24
COLORS = ("#1b6ca8", "#c0392b", "#2d8a4e", "#8e5ea2", "#b8860b", "#555555", "#16a3a3", "#d35400")
MARK_ROWS = 4
POINTS_MAX = 600
"""Points of a curve that are drawn; of more, every so manieth."""


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
    """

    title: str
    curves: dict[str, Sequence[tuple[float, float]]]
    marks: Sequence[tuple[float, str]] = ()
    gap: float = math.inf


def draw_panels(panels: Sequence[Panel]) -> str:
    """Return an SVG document with one panel below the other, all from zero, on one time axis."""
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
    ys = [y for curve in panel.curves.values() for _, y in curve]
    peak = max(ys, default=1.0) * 1.1 or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + x / end * (WIDTH - LEFT - RIGHT)
        return round(across, 1), round(bottom - y / peak * (bottom - top), 1)

    parts = [f'<text x="{LEFT}" y="{offset + 16}" font-weight="bold">{escape(panel.title)}</text>']
    for share in (0, 0.5, 1):
        x, y = place(0, share * peak)
        parts.append(f'<line x1="{x}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{x - 6}" y="{y + 4}" text-anchor="end">{share * peak:.3g}</text>')
        right, _ = place(share * end, 0)
        parts.append(
            f'<text x="{right}" y="{bottom + 15}" text-anchor="middle">{share * end:.0f} s</text>'
        )
    for number, (x_mark, name) in enumerate(panel.marks):
        # Names of marks that are close to each other shall not lie on one line.
        row = top + 9 + 9 * (number % MARK_ROWS)
        x, _ = place(x_mark, 0)
        parts.append(
            f'<line x1="{x}" y1="{top}" x2="{x}" y2="{bottom}" stroke="#999" '
            'stroke-dasharray="3 3"/>'
            f'<text x="{x + 3}" y="{row}" fill="#666" font-size="9">{escape(name)}</text>'
        )
    for number, (name, curve) in enumerate(panel.curves.items()):
        color = COLORS[number % len(COLORS)]
        step = max(1, len(curve) // POINTS_MAX)
        for piece in _split(curve[::step], panel.gap):
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
