"""What a person must be able to see in a figure: a spike, whatever is around it."""

import itertools
import xml.etree.ElementTree as ET

import pytest

from tests.e2e.plot import (
    BOTTOM,
    PANEL_HEIGHT,
    POINTS_MAX,
    TOP,
    Panel,
    draw_panels,
    summarize_by_window,
)


def read_curves(panel: Panel) -> list[list[tuple[float, float]]]:
    """Return the points of the curves that are drawn, as places in the picture."""
    root = ET.fromstring(draw_panels([panel]))
    drawn = [each.attrib["points"].split() for each in root.iter() if "points" in each.attrib]
    return [[(float(x), float(y)) for x, _, y in (p.partition(",") for p in ps)] for ps in drawn]


@pytest.mark.parametrize("at", [0, 1_234, 4_999])
def test_a_single_spike_among_thousands_is_drawn(at: int) -> None:
    curve = [(x / 10, 24.0 if x == at else 0.02) for x in range(5_000)]
    (points,) = read_curves(Panel("", {"": curve}))
    assert len(points) <= POINTS_MAX
    xs = [x for x, _ in points]
    assert xs == sorted(xs)
    # The axis ends a tenth above the highest.
    assert min(y for _, y in points) == pytest.approx(
        PANEL_HEIGHT - BOTTOM - (PANEL_HEIGHT - BOTTOM - TOP) / 1.1, abs=0.1
    )


def test_what_is_usual_stays_readable_beside_a_spike() -> None:
    latencies = [(x / 10, 0.02 + 0.01 * (x % 2)) for x in range(3_000)]
    latencies[1_500] = (150.0, 24.0)
    latencies[700:740] = [(x, 0.2) for x, _ in latencies[700:740]]
    panel = Panel("", summarize_by_window(latencies), is_log=True)
    median, highest = read_curves(panel)
    height = PANEL_HEIGHT - BOTTOM - TOP
    # From 0.01 to 100 s: the usual lies at a tenth of the height, ten times as much far above it.
    shares = [(PANEL_HEIGHT - BOTTOM - y) / height for _, y in median]
    assert sorted(shares)[0] == pytest.approx(0.099, abs=0.01)
    assert sorted(shares)[-1] == pytest.approx(0.325, abs=0.01)
    assert max((PANEL_HEIGHT - BOTTOM - y) / height for _, y in highest) > 0.8
    labels = [each.text for each in ET.fromstring(draw_panels([panel])).iter() if each.text]
    assert {"0.01", "0.1", "1", "10", "100"} <= set(labels)


def test_a_window_has_its_median_and_its_highest_and_an_empty_one_nothing() -> None:
    points = [(0.1, 3.0), (0.2, 1.0), (0.3, 2.0), (150.0, 7.0)]
    curves = summarize_by_window(points)
    assert curves == {
        "median": [(0.5, 2.0), (149.5, 7.0)],
        "highest": [(0.5, 3.0), (149.5, 7.0)],
    }
    assert summarize_by_window([]) == {"median": [], "highest": []}


def test_a_point_without_neighbours_is_drawn() -> None:
    panel = Panel("", {"": [(0.0, 1.0), (1.0, 1.0), (9.0, 5.0), (20.0, 1.0), (21.0, 1.0)]}, gap=5.0)
    root = ET.fromstring(draw_panels([panel]))
    (lone,) = (each for each in root.iter() if "cx" in each.attrib)
    assert float(lone.attrib["cy"]) < PANEL_HEIGHT / 2


def test_nothing_and_zero_have_a_place_on_a_logarithmic_axis() -> None:
    assert list(itertools.chain(*read_curves(Panel("", {"": []}, is_log=True)))) == []
    (points,) = read_curves(Panel("", {"": [(0.0, 0.0), (1.0, 1.0)]}, is_log=True))
    assert points[0][1] == PANEL_HEIGHT - BOTTOM
