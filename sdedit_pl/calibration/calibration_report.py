"""The report of a calibration: a table, plain data and a plot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from PIL import Image

from sdedit_pl.calibration.knee import TradeOff
from sdedit_pl.metrics.intervals import Estimate
from sdedit_pl.picture_grid import to_picture
from sdedit_pl.plots import trade_off_plot
from sdedit_pl.sde import VPSDE
from sdedit_pl.typing import Images

STROKES = "strokes"

PAPER_RANGE = (0.3, 0.6)
"""Range of t0 that SDEdit recommends, as times of its VP SDE."""


class SweepLevel(NamedTuple):
    """One level of a sweep; the paintings have t0 and noise level 0."""

    t0: float | str
    noise_level: float
    kid: Estimate
    l2: Estimate
    knee_share: float

    @property
    def label(self) -> str:
        return str(self.t0) if self.noise_level else STROKES


@dataclass(frozen=True)
class CalibrationReport:
    """The trade-off of a finished sweep, with t0 and noise level (sigma / alpha) of each level except the paintings."""

    found: TradeOff
    t0s: Sequence[float | str]
    noise_levels: Sequence[float]

    @property
    def levels(self) -> Iterator[SweepLevel]:
        """All levels, beginning with the paintings."""
        found = self.found
        columns = [0.0, *self.t0s], [0.0, *self.noise_levels], found.kid, found.l2, found.knee_shares
        return (SweepLevel(*row) for row in zip(*columns, strict=True))

    @property
    def knee(self) -> SweepLevel | None:
        return None if self.found.knee is None else list(self.levels)[self.found.knee]

    @property
    def t0(self) -> float | str | None:
        return None if self.knee is None else self.knee.t0

    def verdict(self) -> str:
        """The knee and its place relative to the paper's range, in one sentence."""
        number, knee = self.found.knee, self.knee
        if number is None or knee is None:
            return "no knee: at every t0, edits lose more faithfulness than they gain realism"
        low, high = paper_noise_levels()
        # The margins allow for the rounding of times that were written as noise levels.
        place = "below" if knee.noise_level < 0.999 * low else "above" if knee.noise_level > 1.001 * high else "in"
        at_end = "" if 1 < number < len(self.t0s) else ", at an end of the sweep"
        return (
            f"knee at t0={knee.t0} (sigma:{knee.noise_level:.3g}){at_end}, {place} the paper's range "
            f"{PAPER_RANGE[0]} to {PAPER_RANGE[1]} of the VP SDE (sigma:{low:.3g} to sigma:{high:.3g})"
        )

    def table(self) -> str:
        lines = [f"{'t0':>12} {'sigma':>7} {'KID [95 %]':>24} {'L2 [95 %]':>26} {'knee in':>8}"]
        for level in self.levels:
            kid, l2 = formatted_estimate(level.kid, ".3f"), formatted_estimate(level.l2, ".1f")
            lines.append(f"{level.label:>12} {level.noise_level:>7.3g} {kid:>24} {l2:>26} {level.knee_share:>8.0%}")
        return "\n".join([*lines, "(last column: share of the bootstrap draws in which this level is the knee)"])

    def as_data(self) -> dict[str, Any]:
        """All numbers as plain data; estimates are [value, low, high]."""
        return {
            "verdict": self.verdict(),
            "unrelated_squared_l2": round(self.found.unrelated_l2, 2),
            "levels": [
                {
                    "t0": level.t0,
                    "noise_level": round(level.noise_level, 4),
                    "kid": [round(number, 5) for number in level.kid.with_interval],
                    "squared_l2": [round(number, 2) for number in level.l2.with_interval],
                    "knee_in": round(level.knee_share, 3),
                }
                for level in self.levels
            ],
        }

    def plot(self, name: str, shown: Images) -> Image.Image:
        levels, knee = list(self.levels), self.knee
        # The whole line, down to unrelated images, would squeeze the edits into a corner of the plot.
        start, unrelated = levels[0].kid.value, self.found.unrelated_l2
        end = min(1.15 * max(level.l2.value for level in levels), unrelated)
        found = f"knee at t0={knee.t0} (sigma:{knee.noise_level:.3g})" if knee else "no knee"
        return trade_off_plot(
            {
                "edits": {level.label: (level.l2.with_interval, level.kid.with_interval) for level in levels},
                "line of the knee": {"": (0.0, start), " ": (end, start * (1 - end / unrelated))},
            },
            title=f"{name}: {found}",
            x_title="squared L2 to the strokes (bars: 95 % intervals)",
            y_title="KID to the originals",
            marked={} if knee is None else {"knee": knee.label},
            pictures={level.label: to_picture(image) for level, image in zip(levels, shown, strict=True)},
        )


def paper_noise_levels() -> tuple[float, float]:
    low, high = VPSDE().noise_level(torch.tensor(PAPER_RANGE, dtype=torch.float64)).tolist()
    return low, high


def formatted_estimate(estimate: Estimate, form: str) -> str:
    value, low, high = (format(number, form) for number in estimate.with_interval)
    return f"{value} [{low}, {high}]"
