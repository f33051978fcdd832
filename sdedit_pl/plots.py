"""Plots of measurements, as pictures: curves, points of a trade-off, bars.

Everything is drawn on matplotlib's figures themselves, without pyplot and its global state. Whoever draws imports this
module, so that nobody else waits for matplotlib. A coordinate is a number, or (value, low, high), whose ends become an
error bar. Series differ by marker as well as by colour, and the colours are told apart by colour-blind readers.

Source: Okabe and Ito, "Color Universal Design", 2008 (the colours).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

Number: TypeAlias = float | int
Value: TypeAlias = Number | tuple[Number, Number, Number]
"""A number, or (value, low, high): the ends of its error bar, which need not hold the value."""
Point: TypeAlias = tuple[Value, Value]
"""x and y."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#8c8c8c"
WIDTH, HEIGHT = 8.0, 5.0
"""Of a plot, in inches."""
DOTS_PER_INCH = 120
TITLE_SIZE, TEXT_SIZE = 13, 11
TICKS_AT_POINTS = 10
"""Largest number of different x on a logarithmic axis that each get a tick of their own."""


def line_plot(
    curves: Mapping[str, Sequence[Point]],
    *,
    title: str,
    x_title: str,
    y_title: str,
    levels: Mapping[str, Value] | None = None,
    logarithmic: bool = False,
) -> Image.Image:
    """Curves over x, on a y axis that shows 0.

    Args:
        curves: name -> points, in the order of x.
        title: above the plot.
        x_title: below it.
        y_title: beside it.
        levels: name -> a y that is drawn as a dashed line, with its interval as a band.
        logarithmic: whether the x axis is; x must be above 0 then.

    Raises:
        ValueError: there is no point, or one that a logarithmic axis cannot show.
    """
    points = _all_points(curves.values())
    places = sorted({_number(x) for x, _ in points})
    if logarithmic and places[0] <= 0:
        raise ValueError(f"a logarithmic x axis shows numbers above 0, got {places[0]}")
    figure = _figure(HEIGHT)
    axes = figure.add_subplot()
    _describe(axes, title, x_title, y_title)
    for number, (name, curve) in enumerate(curves.items()):
        _draw(axes, number, name, curve)
    if logarithmic:
        axes.set_xscale("log")
        if len(places) <= TICKS_AT_POINTS:
            axes.set_xticks(places, [f"{place:,g}" for place in places])
            axes.minorticks_off()
    _draw_levels(axes, levels or {})
    if axes.get_ylim()[0] > 0:
        axes.set_ylim(bottom=0)
    if len(curves) + len(levels or {}) > 1:
        figure.legend(loc="outside right upper", fontsize=TEXT_SIZE, frameon=False)
    return _picture(figure)


def trade_off_plot(
    curves: Mapping[str, Mapping[str, Point]],
    *,
    title: str,
    x_title: str,
    y_title: str,
    levels: Mapping[str, Value] | None = None,
    marked: Mapping[str, str] | None = None,
    pictures: Mapping[str, Image.Image] | None = None,
) -> Image.Image:
    """Points that have a label each, joined in their order: what is paid on one axis for what the other gains.

    Args:
        curves: name -> label -> point; KID against L2 with t0 for a label is figure 3 of SDEdit.
        title: above the plot.
        x_title: below it.
        y_title: beside it.
        levels: name -> a y that is drawn as a dashed line, with its interval as a band.
        marked: what a ring means -> the label of the points that get one.
        pictures: caption -> small picture, in a row below the plot.

    Raises:
        ValueError: there is no point, or none with a label that is to be marked.
    """
    _all_points([curve.values() for curve in curves.values()])
    strip = pictures or {}
    figure = _figure(HEIGHT + (1.5 if strip else 0))
    rows = [HEIGHT, 1.2] if strip else [HEIGHT]
    places = figure.add_gridspec(len(rows), max(1, len(strip)), height_ratios=rows)
    axes = figure.add_subplot(places[0, :])
    _describe(axes, title, x_title, y_title)
    for number, (name, curve) in enumerate(curves.items()):
        _draw(axes, number, name, list(curve.values()))
        for label, (x, y) in curve.items():
            place = (_number(x), _number(y))
            axes.annotate(label, place, (5, 5), textcoords="offset points", fontsize=TEXT_SIZE)
    for meaning, label in (marked or {}).items():
        rings = [curve[label] for curve in curves.values() if label in curve]
        if not rings:
            raise ValueError(f"no point is labelled {label!r}, which is to be marked as {meaning}")
        numbers = [[_number(coordinate) for coordinate in axis] for axis in zip(*rings, strict=True)]
        axes.scatter(*numbers, s=220, facecolors="none", edgecolors="black", linewidths=1.5, zorder=5, label=meaning)
    _draw_levels(axes, levels or {})
    if len(curves) + len(levels or {}) + len(marked or {}) > 1:
        axes.legend(loc="best", fontsize=TEXT_SIZE)
    for index, (caption, picture) in enumerate(strip.items()):
        below = figure.add_subplot(places[1, index])
        below.imshow(np.asarray(picture.convert("RGB")))
        below.set_title(caption, fontsize=TEXT_SIZE - 1)
        below.axis("off")
    return _picture(figure)


def bar_plot(
    groups: Mapping[str, Mapping[str, Value]],
    *,
    x_title: str,
    title: str = "",
    levels: Mapping[str, Value] | None = None,
    ours: Collection[str] = (),
) -> Image.Image:
    """Horizontal bars in groups that stand below each other and share their axis.

    Args:
        groups: title of a group -> name of a bar -> its length; from top to bottom.
        x_title: what the lengths are.
        title: above the plot.
        levels: name -> an x that is drawn as a dashed line in each group, with its interval as a band.
        ours: names of the bars that stand out; the others are grey. Where there are none, all do.

    Raises:
        ValueError: there is no bar.
    """
    drawn = {name: bars for name, bars in groups.items() if bars}
    if not drawn:
        raise ValueError("a plot needs at least one bar")
    rows = [len(bars) for bars in drawn.values()]
    figure = _figure(0.6 + sum(0.9 + 0.4 * count for count in rows))
    if title:
        figure.suptitle(title, fontsize=TITLE_SIZE)
    heights = [count + 1.5 for count in rows]
    panels = figure.subplots(len(drawn), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (name, bars) in zip(panels, drawn.items(), strict=True):
        _describe(axes, name, x_title if axes is panels[-1] else "", "")
        names, lengths = list(bars), [_number(value) for value in bars.values()]
        colours = [COLOURS[0] if not ours or bar in ours else GREY for bar in names]
        axes.barh(names, lengths, color=colours)
        for place, value in enumerate(bars.values()):
            _draw_error_bars(axes, value, place, "black")
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        _draw_levels(axes, levels or {}, upright=True)
    if levels:
        # Every group shows the same ones.
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower right", fontsize=TEXT_SIZE)
    return _picture(figure)


def _figure(height: float) -> Figure:
    return Figure(figsize=(WIDTH, height), dpi=DOTS_PER_INCH, layout="constrained")


def _picture(figure: Figure) -> Image.Image:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _describe(axes: Axes, title: str, x_title: str, y_title: str) -> None:
    axes.set_title(title, fontsize=TITLE_SIZE, loc="left")
    axes.set_xlabel(x_title, fontsize=TEXT_SIZE)
    axes.set_ylabel(y_title, fontsize=TEXT_SIZE)
    axes.tick_params(labelsize=TEXT_SIZE)
    axes.grid(visible=True, color="#e0e0e0", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw(axes: Axes, number: int, name: str, points: Sequence[Point]) -> None:
    """A curve with its error bars, as the `number`-th of its plot."""
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    across, up = [x for x, _ in points], [y for _, y in points]
    axes.plot([*map(_number, across)], [*map(_number, up)], color=colour, marker=marker, linewidth=1.8, label=name)
    for x, y in points:
        _draw_error_bars(axes, x, y, colour)


def _draw_error_bars(axes: Axes, x: Value, y: Value, colour: str) -> None:
    style: dict[str, Any] = {"fmt": "none", "ecolor": colour, "elinewidth": 1, "capsize": 3, "alpha": 0.7}
    (across, width), (up, height) = _interval(x), _interval(y)
    if width > 0:
        axes.errorbar(across, _number(y), xerr=width, **style)
    if height > 0:
        axes.errorbar(_number(x), up, yerr=height, **style)


def _draw_levels(axes: Axes, levels: Mapping[str, Value], *, upright: bool = False) -> None:
    """Dashed lines across the axes, or up them, with their intervals as bands."""
    line, band = (axes.axvline, axes.axvspan) if upright else (axes.axhline, axes.axhspan)
    styles = ((0, (5, 3)), (0, (1, 2)), (0, (5, 2, 1, 2)))
    for number, (name, value) in enumerate(levels.items()):
        line(_number(value), color="#333333", linestyle=styles[number % len(styles)], linewidth=1.4, label=name)
        middle, half = _interval(value)
        if half > 0:
            band(middle - half, middle + half, color="#333333", alpha=0.1, linewidth=0)


def _all_points(curves: Collection[Collection[Point]]) -> list[Point]:
    points = [point for curve in curves for point in curve]
    if not points:
        raise ValueError("a plot needs at least one point")
    return points


def _number(value: Value) -> Number:
    return value[0] if isinstance(value, tuple) else value


def _interval(value: Value) -> tuple[Number, Number]:
    """The middle of an interval and half its length, which is 0 for a plain number."""
    _, low, high = value if isinstance(value, tuple) else (value, value, value)
    return (low + high) / 2, (high - low) / 2
