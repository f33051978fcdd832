"""A line plot drawn with Pillow, which is there anyway."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 960, 600
LEFT, RIGHT, TOP, BOTTOM = 110, 250, 60, 80
COLOURS = ("#3366cc", "#dc3912", "#109618", "#990099", "#ff9900", "#0099c6")
GREY, DARK = "#dddddd", "#333333"


def line_plot(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str,
    x_title: str,
    y_title: str,
    level: tuple[str, float] | None = None,
) -> Image.Image:
    """Curves over a logarithmic x.

    Args:
        curves: name -> points (x, y) with x above 0, in the order of x.
        title: above the plot.
        x_title: below it.
        y_title: above its y axis.
        level: a name and a y that is drawn as a dashed line.

    Raises:
        ValueError: there is no point.
    """
    points = [point for curve in curves.values() for point in curve]
    if not points:
        raise ValueError("a plot needs at least one point")
    x_ticks = sorted({x for x, _ in points})
    heights = [y for _, y in points] + ([level[1]] if level else [])
    y_ticks = ticks(min(0.0, *heights), max(heights))
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(16)

    def place(x: float, y: float) -> tuple[float, float]:
        low, high = math.log(x_ticks[0]), math.log(x_ticks[-1])
        across = 0.5 if high == low else 0.04 + 0.92 * (math.log(x) - low) / (high - low)
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    for tick in y_ticks:
        height = place(x_ticks[0], tick)[1]
        draw.line([(LEFT, height), (WIDTH - RIGHT, height)], GREY)
        draw.text((LEFT - 10, height), f"{tick:g}", DARK, font, anchor="rm")
    for tick in x_ticks:
        draw.text((place(tick, y_ticks[0])[0], HEIGHT - BOTTOM + 10), f"{tick:,.0f}", DARK, font, anchor="ma")
    draw.text((LEFT, 15), title, DARK, ImageFont.load_default(20))
    draw.text((10, TOP - 22), y_title, DARK, font)
    draw.text(((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 20), x_title, DARK, font, anchor="ms")
    if level is not None:
        height = place(x_ticks[0], level[1])[1]
        for start in range(LEFT, WIDTH - RIGHT, 12):
            draw.line([(start, height), (start + 6, height)], DARK)
        draw.text((WIDTH - RIGHT + 12, height), level[0], DARK, font, anchor="lm")
    for number, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        places = [place(x, y) for x, y in curve]
        draw.line(places, colour, 3)
        for x, y in places:
            draw.ellipse((x - 5, y - 5, x + 5, y + 5), colour)
        row = TOP + 24 * number
        draw.rectangle((WIDTH - RIGHT + 12, row + 4, WIDTH - RIGHT + 28, row + 12), colour)
        draw.text((WIDTH - RIGHT + 36, row), name, DARK, font)
    return picture


def ticks(low: float, high: float) -> list[float]:
    """Round numbers, four to about nine, that hold `low` and `high` between them."""
    span = max(high - low, 1e-9)
    power = 10 ** math.floor(math.log10(span / 4))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if span / (power * factor) <= 8)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]
