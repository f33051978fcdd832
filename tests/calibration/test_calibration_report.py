"""The report of a calibration: its verdict, and the paper's range."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

from sdedit_pl.calibration.calibration_report import CalibrationReport, paper_noise_levels
from sdedit_pl.calibration.knee import TradeOff
from sdedit_pl.metrics.intervals import Estimate


@pytest.mark.parametrize(("level", "place"), [(1.2, "below"), (1.2341, "in"), (6.0974, "in"), (7.0, "above")])
def test_the_verdict_compares_noise_levels_with_the_papers(level: float, place: str) -> None:
    measured = [Estimate(1.0, low=0.9, high=1.1)] * 4
    found = TradeOff(measured, measured, 900.0, 2, [0.0, 0.0, 1.0, 0.0])
    report = CalibrationReport(found, [0.1, "sigma:x", 1.0], [0.1, level, 150.0])
    assert f"knee at t0=sigma:x (sigma:{level:.3g}), {place} the paper's range" in report.verdict()
    for end in (1, 3):
        assert ", at an end of the sweep, " in replace(report, found=replace(found, knee=end)).verdict()


def test_the_papers_range_as_noise_levels() -> None:
    # sqrt(exp(0.5 * 19.9 t^2 + 0.1 t) - 1)
    assert paper_noise_levels() == pytest.approx((1.2341, 6.0974), abs=2e-3)


def test_the_plot_spans_the_edits_and_not_the_unrelated_images(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []

    def plot(curves: Any, **options: object) -> Image.Image:
        drawn.append(curves)
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr("sdedit_pl.calibration.calibration_report.trade_off_plot", plot)
    l2 = [Estimate(value, low=value, high=value) for value in (0.0, 40.0, 100.0)]
    kid = [Estimate(value, low=value, high=value) for value in (1.0, 0.5, 0.25)]
    found = TradeOff(kid, l2, 1000.0, 1, [0.0, 1.0, 0.0])
    CalibrationReport(found, [0.3, 0.6], [1.2, 6.0]).plot("a", torch.zeros(3, 3, 8, 8))
    assert list(drawn[0]["line of the knee"].values()) == [(0.0, 1.0), (pytest.approx(115.0), pytest.approx(0.885))]
