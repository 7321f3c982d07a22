"""The charts of the accuracy page: valid SVG, with the numbers where the eye and a screen reader look for them."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

from reports.charts.calibration import CalibrationPoint, calibration_chart
from reports.charts.pit import pit_chart
from reports.charts.sharpness import sharpness_chart
from reports.charts.standalone import standalone


def parsed(chart: str) -> ElementTree.Element:
    return ElementTree.fromstring(standalone(chart))


def test_a_point_above_the_diagonal_is_drawn_above_it() -> None:
    chart = calibration_chart(
        [("all", "all", [CalibrationPoint(0.5, 0.7, 0.6, 0.8), CalibrationPoint(0.9, 0.8, None, None)])]
    )
    tree = parsed(chart)
    circles = [c for c in tree.iter("{http://www.w3.org/2000/svg}circle") if len(c)]
    wide, sure = (float(circle.attrib["cy"]) for circle in circles)
    diagonal = re.search(r'class="target" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"', chart)
    assert diagonal is not None
    x1, y1, x2, y2 = (float(text) for text in diagonal.groups())
    on = [y1 + (y2 - y1) * (float(circle.attrib["cx"]) - x1) / (x2 - x1) for circle in circles]
    assert wide < on[0]  # SVG's y grows downwards
    assert sure > on[1]
    assert "70% inside 50%" in tree.attrib["aria-label"]


def test_pit_bars_are_as_high_as_their_shares() -> None:
    tree = parsed(pit_chart([1.0, 3.0, 0.0, 0.0], (0.1, 0.4)))
    bars = [r for r in tree.iter("{http://www.w3.org/2000/svg}rect") if r.attrib["class"] == "glyph-bar"]
    heights = [float(bar.attrib["height"]) for bar in bars]
    assert abs(heights[1] / heights[0] - 3.0) < 0.05
    assert heights[2] == 0.0
    assert "25%, 75%, 0%, 0%" in tree.attrib["aria-label"]


def test_sharpness_has_a_row_for_each_quantity_and_keeps_extremes_on_the_paper() -> None:
    tree = parsed(sharpness_chart([("p95, inject", [0.1, 0.2, 0.4]), ("budget_spent, all", [0.0, 1e6])]))
    width = float(tree.attrib["width"])
    bars = [r for r in tree.iter("{http://www.w3.org/2000/svg}rect") if r.attrib["class"] == "glyph-bar"]
    assert len(bars) == 2
    assert all(0 <= float(b.attrib["x"]) <= float(b.attrib["x"]) + float(b.attrib["width"]) <= width for b in bars)


def test_groups_are_told_apart_without_colour() -> None:
    point = CalibrationPoint(0.9, 0.8, None, None)
    tree = parsed(calibration_chart([(name, name, [point]) for name in ("all", "moved", "held")]))
    dots = [node for node in tree.iter() if node.attrib.get("class", "").startswith("dot ") and len(node)]
    assert len({node.tag for node in dots}) == 3
