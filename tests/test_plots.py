"""Plots: what is drawn where, read from the pixels, and what cannot be drawn."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image, ImageColor

from sdedit_pl.plots import COLOURS, GREY, bar_plot, line_plot, trade_off_plot

TITLES = {"title": "title", "x_title": "x", "y_title": "y"}


def drawn(picture: Image.Image, colour: str) -> np.ndarray:
    """Where a plot has a colour, (height, width)."""
    return (np.asarray(picture) == ImageColor.getrgb(colour)).all(-1)


def columns_of_markers(picture: Image.Image, colour: str) -> list[float]:
    """The x of each marker of a level curve, from the columns where more is drawn than its line."""
    heights = drawn(picture, colour).sum(0)
    wide = np.flatnonzero(heights > heights[heights > 0].min() + 2)
    return [group.mean() for group in np.split(wide, np.flatnonzero(np.diff(wide) > 1) + 1)]


@pytest.mark.parametrize(("logarithmic", "first_share"), [(True, 1 / 2), (False, 1 / 11)])
def test_points_stand_where_the_axis_has_them(logarithmic: bool, first_share: float) -> None:
    picture = line_plot({"a": [(1, 3), (10, 3.0), (100, 3)]}, **TITLES, logarithmic=logarithmic)
    first, second, last = columns_of_markers(picture, COLOURS[0])
    assert (second - first) / (last - first) == pytest.approx(first_share, abs=0.01)


def test_the_y_axis_shows_zero() -> None:
    low, high = (
        np.flatnonzero(drawn(line_plot({"a": [(1, y), (2, 2.0)]}, **TITLES), COLOURS[0]).any(1)) for y in (0, 1)
    )
    bottom, top, half = low.max(), low.min(), high.max()
    assert (half - top) / (bottom - top) == pytest.approx(0.5, abs=0.03)


def test_error_bars_are_drawn_between_their_ends_even_beside_the_value() -> None:
    plain = line_plot({"a": [(1, 1.0), (2, 1.0)]}, **TITLES)
    bars = line_plot({"a": [(1, (1.0, 1.5, 2.0)), ((2, 1.5, 2.5), 1.0)]}, **TITLES)
    assert bars.size == plain.size and bars.tobytes() != plain.tobytes()


def test_curves_levels_and_rings_are_told_apart_and_named() -> None:
    curves = {"a": {"0.3": (1, 2.0), "0.5": (2, 1.0)}, "b": {"0.5": (3, 0.5)}}
    plain = trade_off_plot(curves, **TITLES)
    assert all(drawn(plain, colour).any() for colour in COLOURS[:2]) and not drawn(plain, COLOURS[2]).any()
    for more in ({"marked": {"knee": "0.5"}}, {"levels": {"strokes": 3.0}}, {"levels": {"strokes": (3.0, 2.5, 3.2)}}):
        assert trade_off_plot(curves, **TITLES, **more).tobytes() != plain.tobytes()


def test_small_pictures_stand_below_the_plot_in_their_order() -> None:
    shown = {name: Image.new("RGB", (8, 8), name) for name in ("red", "lime", "blue")}
    curves = {"a": {"0.3": (1, 2.0)}}
    picture = trade_off_plot(curves, **TITLES, pictures=shown)
    plain = trade_off_plot(curves, **TITLES)
    places = [np.argwhere(drawn(picture, name)).mean(0) for name in shown]
    assert picture.height > plain.height and picture.width == plain.width
    assert places[0][1] < places[1][1] < places[2][1]
    assert min(place[0] for place in places) > 0.8 * picture.height


def test_bars_are_as_long_as_their_values_and_ours_stand_out() -> None:
    groups = {"one": {"our network": (0.8, 0.7, 0.9), "another": 0.4}, "two": {"another": 0.4}, "none": {}}
    picture = bar_plot(groups, x_title="share", levels={"ceiling": 1.0}, ours={"our network"})
    ours, others = (drawn(picture, colour).sum(1) for colour in (COLOURS[0], GREY))
    assert ours.max() == pytest.approx(2 * others.max(), rel=0.02)
    assert drawn(bar_plot(groups, x_title="share"), GREY).sum() < 50  # edges of letters


def test_a_plot_is_the_same_every_time_and_leaves_no_global_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it fails
    first, again = (line_plot({"a": [(1, 1.0)]}, **TITLES, levels={"b": 2.0}) for _ in range(2))
    assert first.tobytes() == again.tobytes() and first.mode == "RGB"


def test_what_cannot_be_drawn_is_refused() -> None:
    for draw in (line_plot, trade_off_plot):
        with pytest.raises(ValueError, match="at least one point"):
            draw({}, **TITLES)
    with pytest.raises(ValueError, match="numbers above 0, got 0"):
        line_plot({"a": [(0, 1.0), (1, 1.0)]}, **TITLES, logarithmic=True)
    with pytest.raises(ValueError, match=r"no point is labelled .* to be marked as knee"):
        trade_off_plot({"a": {"0.3": (1, 2.0)}}, **TITLES, marked={"knee": "0.4"})
    with pytest.raises(ValueError, match="at least one bar"):
        bar_plot({"one": {}}, x_title="share")
