"""Plots: where things lie, that labels do not collide, that the SVG is well formed."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

import pytest

from kartina.study.plots import (
    BOTTOM,
    HEIGHT,
    TOP,
    Axis,
    Point,
    Series,
    apart,
    curves,
    linear_ticks,
    log_ticks,
    pareto,
    scatter,
    short,
)


def test_axes() -> None:
    linear = Axis(0, 10, 100, 200)
    assert (linear(0), linear(5), linear(10)) == (100, 150, 200)
    log = Axis(1, 100, 0, 200, log=True)
    assert (log(1), log(10), log(100)) == (0, 100, 200)


def test_ticks() -> None:
    assert linear_ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert linear_ticks(0.13, 0.92) == [0.2, 0.4, 0.6, 0.8]
    assert log_ticks(80, 1200) == [100, 200, 500, 1000]
    assert log_ticks(1, 1e6) == [1, 10, 100, 1000, 1e4, 1e5, 1e6]
    assert len(log_ticks(2.2, 2.9)) > 1 and all(2.2 <= t <= 2.9 for t in log_ticks(2.2, 2.9))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (12500, "12.5k"),
        (800, "800"),
        (0.05, "0.05"),
        (2e6, "2M"),
        (0.0002, "0.0002"),
        (3e-5, "3e-5"),
        (1.5, "1.5"),
    ],
)
def test_short_numbers(value: float, text: str) -> None:
    assert short(value) == text


def test_the_front_is_what_nothing_beats() -> None:
    assert pareto([(3, 1), (1, 3), (2, 2), (2.5, 2.5), (1, 4)]) == [(1, 3), (2, 2), (3, 1)]


def test_labels_keep_their_order_and_distance() -> None:
    found = apart([10, 11, 200, 12], 0, 210, 13)
    assert found[0] < found[1] < found[3] < found[2]
    places = sorted(found)
    assert all(b - a >= 13 - 1e-9 for a, b in pairwise(places)) and places[-1] <= 210
    assert apart([209, 210, 211], 0, 210, 13) == [184, 197, 210]
    crowded = sorted(apart([5.0] * 40, 0, 210, 13))
    assert crowded[0] >= -1e-9 and crowded[-1] <= 210


def series(n: int) -> list[Series]:
    return [
        Series(
            f"<b>{k}</b> & a long name indeed", k, (Point(10, 1 + k, y_range=(0.5 + k, 2 + k)), Point(1000, 0.1 + k))
        )
        for k in range(n)
    ]


@pytest.mark.parametrize("n", [0, 1, 3, 14])
def test_pictures_are_well_formed_and_inside(n: int) -> None:
    for text in (
        curves("t <i>", series(n), "x & y", "y", 0.2),
        scatter("t", series(n), "x", "y", log_x=True, front=True),
    ):
        root = ElementTree.fromstring(text)
        marks = [e for e in root.iter() if "dot" in e.get("class", "").split()]
        assert len(marks) >= n
        for circle in (e for e in marks if e.get("cy")):
            assert TOP - 10 <= float(circle.attrib["cy"]) <= HEIGHT - BOTTOM + 10
        names = [e.text for e in root.iter() if "name" in e.get("class", "").split()]
        assert len(names) == n and all(name and len(name) <= 20 for name in names)
        assert root.get("role") == "img" and root.get("aria-label")


def test_a_floor_below_0_leaves_the_axis_logarithmic() -> None:
    text = curves("t", [Series("a", 0, (Point(1, 0.02), Point(10, 20.0)))], "x", "y", floor=-0.0301)
    root = ElementTree.fromstring(text)
    ticks = [e.text for e in root.iter() if "tick" in e.get("class", "").split()]
    assert "0.1" in ticks and "10" in ticks and "real images: -0.0301, below the axis" in text
    assert not [e for e in root.iter() if e.get("class") == "floor"]
    assert [
        e for e in ElementTree.fromstring(curves("t", series(1), "x", "y", 0.2)).iter() if e.get("class") == "floor"
    ]


def test_a_value_below_0_gets_a_linear_axis() -> None:
    root = ElementTree.fromstring(curves("t", [Series("a", 0, (Point(1, -0.1), Point(10, 0.5)))], "x", "y"))
    ticks = [e.text for e in root.iter() if "tick" in e.get("class", "").split()]
    assert "0" in ticks and "0.4" in ticks
