"""Plots: the positions of what is drawn, read from the pixels, and refused input."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image, ImageColor

from sdedit_pl.plots import COLOURS, trade_off_plot

TITLES = {"title": "title", "x_title": "x", "y_title": "y"}


def drawn(picture: Image.Image, colour: str) -> np.ndarray:
    """The pixels of a colour, (height, width)."""
    return (np.asarray(picture) == ImageColor.getrgb(colour)).all(-1)


def columns_of_markers(picture: Image.Image, colour: str) -> list[float]:
    """The x of each marker of a level curve: the columns in which more is drawn than its line."""
    heights = drawn(picture, colour).sum(0)
    wide = np.flatnonzero(heights > heights[heights > 0].min() + 2)
    return [group.mean() for group in np.split(wide, np.flatnonzero(np.diff(wide) > 1) + 1)]


def test_a_name_is_not_a_formula() -> None:
    trade_off_plot({"$_{$": {"$\\frac$": (1, 2)}, "b": {"": (2, 3)}}, **{**TITLES, "title": "runs/$\\frac$"})


def test_points_are_at_their_places() -> None:
    picture = trade_off_plot({"a": {"": (1, 3), " ": (10, 3.0), "  ": (100, 3)}}, **TITLES)
    first, second, last = columns_of_markers(picture, COLOURS[0])
    assert (second - first) / (last - first) == pytest.approx(1 / 11, abs=0.01)


def test_error_bars_are_drawn_even_beside_the_value() -> None:
    plain = trade_off_plot({"a": {"0.3": (1, 1.0), "0.5": (2, 1.0)}}, **TITLES)
    bars = trade_off_plot({"a": {"0.3": (1, (1.0, 1.5, 2.0)), "0.5": ((2, 1.5, 2.5), 1.0)}}, **TITLES)
    assert bars.size == plain.size and bars.tobytes() != plain.tobytes()


def test_curves_levels_and_rings_differ_and_are_named() -> None:
    curves = {"a": {"0.3": (1, 2.0), "0.5": (2, 1.0)}, "b": {"0.5": (3, 0.5)}}
    plain = trade_off_plot(curves, **TITLES)
    assert all(drawn(plain, colour).any() for colour in COLOURS[:2]) and not drawn(plain, COLOURS[2]).any()
    for more in ({"marked": {"knee": "0.5"}}, {"levels": {"strokes": 3.0}}, {"levels": {"strokes": (3.0, 2.5, 3.2)}}):
        assert trade_off_plot(curves, **TITLES, **more).tobytes() != plain.tobytes()


def test_small_pictures_are_below_the_plot_in_order() -> None:
    shown = {name: Image.new("RGB", (8, 8), name) for name in ("red", "lime", "blue")}
    curves = {"a": {"0.3": (1, 2.0)}}
    picture = trade_off_plot(curves, **TITLES, pictures=shown)
    plain = trade_off_plot(curves, **TITLES)
    places = [np.argwhere(drawn(picture, name)).mean(0) for name in shown]
    assert picture.height > plain.height and picture.width == plain.width
    assert places[0][1] < places[1][1] < places[2][1]
    assert min(place[0] for place in places) > 0.8 * picture.height


def test_a_plot_is_deterministic_and_does_not_use_pyplot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it fails
    first, again = (trade_off_plot({"a": {"0.3": (1, 1.0)}}, **TITLES, levels={"b": 2.0}) for _ in range(2))
    assert first.tobytes() == again.tobytes() and first.mode == "RGB"


def test_invalid_plots_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one point"):
        trade_off_plot({}, **TITLES)
    with pytest.raises(ValueError, match=r"no point .*'0.4'.* knee"):
        trade_off_plot({"a": {"0.3": (1, 2.0)}}, **TITLES, marked={"knee": "0.4"})
