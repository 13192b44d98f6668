"""The summaries as a figure: SVG without a plotting library.

Owns the drawing. Never computes an accuracy.
"""

from collections.abc import Sequence
from typing import Final
from xml.sax.saxutils import escape

from node.robustness.grid import DEFAULT, SETTINGS, Summary

PANEL_WIDTH: Final = 360
LEFT: Final = 190
"""Room for the names of the rules, the longest of which has 24 letters."""
RIGHT: Final = 46
ROW_HEIGHT: Final = 17
TOP: Final = 44
GAP: Final = 18
BAR_HEIGHT: Final = 9
BAR_COLOR: Final = "#1b6ca8"
DEFAULT_COLOR: Final = "#c0392b"
CLEAN_COLOR: Final = "#555555"


def draw_summaries(summaries: Sequence[Summary], title: str) -> str:
    """Return an SVG document: a panel for each setting, two side by side, a bar for each rule.

    A bar is the accuracy under the worst attack, with its name at the end; the mark beyond it is
    the accuracy without an attack. The default rule has a color of its own.
    """
    rules = list(dict.fromkeys(summary.rule for summary in summaries))
    cells = {(each.rule, each.num_byzantine, each.alpha): each for each in summaries}
    settings = [each for each in SETTINGS if any((rule, *each) in cells for rule in rules)]
    panel_height = TOP + ROW_HEIGHT * len(rules) + GAP
    width = LEFT + 2 * (PANEL_WIDTH + RIGHT)
    height = 26 + panel_height * -(-len(settings) // 2)
    box = f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box}>',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="8" y="18" font-weight="bold">{escape(title)}</text>',
    ]
    for index, (num_byzantine, alpha) in enumerate(settings):
        row, column = divmod(index, 2)
        left = LEFT + column * (PANEL_WIDTH + RIGHT)
        top = 26 + row * panel_height
        parts.append(
            f'<text x="{left}" y="{top + 16}" font-weight="bold">f = {num_byzantine} of 20,'
            f" alpha = {alpha:g}</text>"
        )
        parts += _draw_axis(left, top + TOP, ROW_HEIGHT * len(rules))
        for place, rule in enumerate(rules):
            y = top + TOP + ROW_HEIGHT * place
            if column == 0:
                parts.append(
                    f'<text x="{LEFT - 8}" y="{y + 12}" text-anchor="end">{escape(rule)}</text>'
                )
            summary = cells.get((rule, num_byzantine, alpha))
            if summary is not None:
                parts += _draw_bar(summary, left, y)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _draw_axis(left: int, top: int, height: int) -> list[str]:
    parts = []
    for percent in range(0, 101, 20):
        x = left + PANEL_WIDTH * percent / 100
        parts.append(f'<line x1="{x}" y1="{top}" x2="{x}" y2="{top + height}" stroke="#ddd"/>')
        parts.append(
            f'<text x="{x}" y="{top - 6}" text-anchor="middle" fill="#666">{percent} %</text>'
        )
    return parts


def _draw_bar(summary: Summary, left: int, y: int) -> list[str]:
    parts = []
    color = DEFAULT_COLOR if summary.rule == DEFAULT else BAR_COLOR
    if summary.worst is not None:
        attack, accuracy = summary.worst
        end = round(PANEL_WIDTH * accuracy, 1)
        parts.append(
            f'<rect x="{left}" y="{y + 4}" width="{end}" height="{BAR_HEIGHT}" fill="{color}"/>'
        )
        # Inside a long bar, beside a short one.
        is_inside = accuracy > 0.4
        x, anchor, fill = (end - 4, "end", "white") if is_inside else (end + 4, "start", "#333")
        parts.append(
            f'<text x="{left + x}" y="{y + 12}" text-anchor="{anchor}" fill="{fill}"'
            f' font-size="9">{100 * accuracy:.1f} {attack}</text>'
        )
    if summary.clean is not None:
        x = left + round(PANEL_WIDTH * summary.clean, 1)
        parts.append(
            f'<line x1="{x}" y1="{y + 2}" x2="{x}" y2="{y + 6 + BAR_HEIGHT}"'
            f' stroke="{CLEAN_COLOR}" stroke-width="2"/>'
        )
    return parts
