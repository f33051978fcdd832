"""Trade-off plots as images. Source of the colour-blind safe colours: Okabe and Ito, "Color Universal Design", 2008."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

Number: TypeAlias = float | int
NumberOrInterval: TypeAlias = Number | tuple[Number, Number, Number]
"""A number, or (value, low, high) for an error bar; the interval need not contain the value."""
Point: TypeAlias = tuple[NumberOrInterval, NumberOrInterval]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
WIDTH, HEIGHT = 8.0, 5.0  # inches
DOTS_PER_INCH = 120
TITLE_SIZE, TEXT_SIZE = 13, 11


def trade_off_plot(
    curves: Mapping[str, Mapping[str, Point]],
    *,
    title: str,
    x_title: str,
    y_title: str,
    levels: Mapping[str, NumberOrInterval] | None = None,
    marked: Mapping[str, str] | None = None,
    pictures: Mapping[str, Image.Image] | None = None,
    labels: bool = True,
) -> Image.Image:
    """Plots curves of labelled points; raises ValueError if there are none, or a marked label is missing.

    Args:
        curves: name -> label -> point, joined in order; KID against L2 labelled by t0 is figure 3 of SDEdit.
        levels: name -> y of a dashed line, with its interval as a band.
        marked: name of a ring in the legend -> label of the points to ring.
        pictures: caption -> small image, in a row below the plot.
    """
    if not any(curves.values()):
        raise ValueError("a plot needs at least one point")
    strip = pictures or {}
    size = (WIDTH, HEIGHT + (1.5 if strip else 0))
    figure = Figure(figsize=size, dpi=DOTS_PER_INCH, layout="constrained")
    rows = [HEIGHT, 1.2] if strip else [HEIGHT]
    places = figure.add_gridspec(len(rows), max(1, len(strip)), height_ratios=rows)
    axes = figure.add_subplot(places[0, :])
    axes.set_title(title, fontsize=TITLE_SIZE, loc="left")
    axes.set_xlabel(x_title, fontsize=TEXT_SIZE)
    axes.set_ylabel(y_title, fontsize=TEXT_SIZE)
    axes.tick_params(labelsize=TEXT_SIZE)
    axes.grid(visible=True, color="#e0e0e0", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    for number, (name, curve) in enumerate(curves.items()):
        _draw_curve(axes, number, name, list(curve.values()))
        for label, (x, y) in curve.items() if labels else ():
            place = (_number(x), _number(y))
            axes.annotate(label, place, (5, 5), textcoords="offset points", fontsize=TEXT_SIZE)
    for meaning, label in (marked or {}).items():
        rings = [curve[label] for curve in curves.values() if label in curve]
        if not rings:
            raise ValueError(f"no point has the label {label!r} to mark as {meaning}")
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
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # names of folders may hold dollar signs
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _draw_curve(axes: Axes, number: int, name: str, points: Sequence[Point]) -> None:
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    across, up = [_number(x) for x, _ in points], [_number(y) for _, y in points]
    axes.plot(across, up, color=colour, marker=marker, linewidth=1.8, label=name)
    style: dict[str, Any] = {"fmt": "none", "ecolor": colour, "elinewidth": 1, "capsize": 3, "alpha": 0.7}
    for x, y in points:
        (middle, width), (centre, height) = _interval(x), _interval(y)
        if width > 0:
            axes.errorbar(middle, _number(y), xerr=width, **style)
        if height > 0:
            axes.errorbar(_number(x), centre, yerr=height, **style)


def _draw_levels(axes: Axes, levels: Mapping[str, NumberOrInterval]) -> None:
    styles = ((0, (5, 3)), (0, (1, 2)), (0, (5, 2, 1, 2)))
    for number, (name, value) in enumerate(levels.items()):
        axes.axhline(_number(value), color="#333333", linestyle=styles[number % len(styles)], linewidth=1.4, label=name)
        middle, half = _interval(value)
        if half > 0:
            axes.axhspan(middle - half, middle + half, color="#333333", alpha=0.1, linewidth=0)


def _number(value: NumberOrInterval) -> Number:
    return value[0] if isinstance(value, tuple) else value


def _interval(value: NumberOrInterval) -> tuple[Number, Number]:
    _, low, high = value if isinstance(value, tuple) else (value, value, value)
    return (low + high) / 2, (high - low) / 2
