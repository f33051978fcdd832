"""A thick round brush: what a person's hand does in a paint program, drawn by code.

Coordinates are units of the canvas: x runs right and y down, both in [0, 1]; widths are units too. A stroke
is a disc dragged along a smoothed path. The hand's imperfection is modelled by a slow wobble of the path, a
slow change of the width, a colour that differs a little from stroke to stroke, and faint streaks along it.
All of it comes from the brush's own seeded generator, so that the same seed gives the same picture.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

Point = tuple[float, float]
Colour = tuple[int, int, int]

SUPERSAMPLING = 16
WOBBLE = 0.006  # standard deviation of the path's wobble, in canvas units
WIDTH_VARIATION = 0.07  # the same for the width, relative
STROKE_JITTER = 5.0  # of the colour between strokes, in 8-bit levels
STREAK_JITTER = 4.0  # of the streaks within a stroke


def ellipse(x: float, y: float, radius_x: float, radius_y: float, turn: float = 0.0) -> list[Point]:
    """Return twelve points on an ellipse, turned by `turn` degrees: an outline for `Brush.fill`."""
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    u, v = radius_x * np.cos(angles), radius_y * np.sin(angles)
    return [(float(x + c * p - s * q), float(y + s * p + c * q)) for p, q in zip(u, v, strict=True)]


def smooth_path(points: list[Point], closed: bool = False) -> np.ndarray:
    """Return the Catmull-Rom curve through the points, resampled at equal steps of 0.002; shape (N, 2)."""
    knots = np.asarray(points, dtype=float)
    if len(knots) == 1:
        return knots
    if closed:
        knots = np.concatenate([knots[-1:], knots, knots[:2]])
    else:
        knots = np.concatenate([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])
    u = np.linspace(0, 1, 24, endpoint=False)[:, None]
    pieces = [
        0.5 * (2 * b + (c - a) * u + (2 * a - 5 * b + 4 * c - d) * u**2 + (3 * b - a - 3 * c + d) * u**3)
        for a, b, c, d in zip(knots, knots[1:], knots[2:], knots[3:], strict=False)
    ]
    curve = np.concatenate([*pieces, knots[-2:-1]])
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    at = np.arange(0, length[-1], 0.002)
    return np.stack([np.interp(at, length, curve[:, 0]), np.interp(at, length, curve[:, 1])], axis=1)


class Brush:
    """A brush over a transparent sheet.

    Args:
        seed: seed of the hand's imperfection.
        size: pixels on a side of the finished sheet.
    """

    def __init__(self, seed: int, size: int) -> None:
        self.random = np.random.default_rng(seed)
        self.scale = size * SUPERSAMPLING
        self.sheet = Image.new("RGBA", (self.scale, self.scale), (255, 255, 255, 0))
        self.draw = ImageDraw.Draw(self.sheet)

    def stroke(self, points: list[Point], width: float, colour: Colour) -> None:
        """Drag the brush through the points (one point: a dab)."""
        path = smooth_path(points)
        path = path + WOBBLE * np.stack([self._drift(len(path)), self._drift(len(path))], axis=1)
        radius = width / 2 * (1 + WIDTH_VARIATION * self._drift(len(path)))
        colour = self._mix(colour, STROKE_JITTER)
        self._drag(path, radius, colour)
        if len(path) < 2:
            return
        tangent = np.gradient(path, axis=0)
        normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
        normal /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-9
        for _ in range(6):
            track, share = self.random.uniform(-0.7, 0.7), self.random.uniform(0.12, 0.28)
            offset = normal * (track * radius)[:, None]
            self._drag(path + offset, share * radius, self._mix(colour, STREAK_JITTER))

    def fill(self, outline: list[Point], width: float, colour: Colour, angle: float = 0.0) -> None:
        """Paint a shape: once round inside its outline, then to and fro until it is about full.

        Args:
            outline: points of a closed curve around its own middle.
            width: of the brush.
            colour: of the paint.
            angle: direction of the long strokes in degrees; 0 is left to right, 90 up and down.
        """
        shape = np.asarray(outline, dtype=float)
        outward = shape - shape.mean(axis=0)
        distance = np.linalg.norm(outward, axis=1, keepdims=True)
        shape = shape - outward * (width / 2) / np.maximum(distance, width / 2)
        corners: list[Point] = [(float(x), float(y)) for x, y in shape]
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        turn = np.array([[c, s], [-s, c]])  # canvas -> along and across the long strokes
        curve = smooth_path(corners, closed=True) @ turn.T
        low, high = curve[:, 1].min(), curve[:, 1].max()
        inside: list[Point] = []
        rows = np.linspace(low, high, max(3, 1 + round(float(high - low) / (0.55 * width))))
        for index, row in enumerate(rows[1:-1]):
            near = curve[np.abs(curve[:, 1] - row) < width / 4, 0]
            ends = sorted((near.min() + 0.5 * width, near.max() - 0.5 * width), reverse=index % 2 == 1)
            inside += [(float(end), float(row)) for end in ends]
        self.stroke([(float(p[0]), float(p[1])) for p in np.asarray(inside) @ turn], width, colour)
        self.stroke([*corners, corners[0]], width, colour)

    def layer(self) -> Image.Image:
        """Return the sheet at its finished size, RGBA, transparent where nothing was painted."""
        return self.sheet.reduce(SUPERSAMPLING)

    def _drag(self, path: np.ndarray, radius: np.ndarray, colour: Colour) -> None:
        boxes = np.concatenate([path - radius[:, None], path + radius[:, None]], axis=1) * self.scale
        for box in boxes:
            self.draw.ellipse(box.tolist(), fill=(*colour, 255))

    def _drift(self, count: int) -> np.ndarray:
        """Return noise that changes over about a tenth of the canvas, of unit standard deviation."""
        knots = self.random.standard_normal(count // 50 + 2)
        return np.interp(np.linspace(0, len(knots) - 1, count), np.arange(len(knots)), knots)

    def _mix(self, colour: Colour, spread: float) -> Colour:
        """Return the colour as it comes out of the pot this time: brighter or darker, a little off in hue."""
        shift = spread * (self.random.standard_normal() + 0.4 * self.random.standard_normal(3))
        red, green, blue = np.clip(np.asarray(colour) + shift, 0, 255).astype(int).tolist()
        return red, green, blue
