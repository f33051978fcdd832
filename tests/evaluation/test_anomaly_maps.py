"""Anomaly maps by an exact denoiser, whose reconstructions are known."""

from __future__ import annotations

import pytest
import torch
from support.oracles import GaussianDenoiser

from sdedit_pl.data.chosen_images import ChosenImages
from sdedit_pl.editing import SDEdit
from sdedit_pl.evaluation.anomaly_maps import AnomalyMaps, Detector, blurred, image_score
from sdedit_pl.sde import VESDE


class Two(ChosenImages):
    """An image at the model's mean and one with a defect."""

    def __init__(self) -> None:
        self.images = torch.full((2, 3, 16, 16), 0.2)
        self.images[1, :, 4:8, 4:8] = 0.9

    def __len__(self) -> int:
        return len(self.images)

    def image(self, number: int) -> torch.Tensor:
        return self.images[number]


def found(samples: int = 2, batch: int | None = None) -> list[AnomalyMaps]:
    denoiser = GaussianDenoiser(VESDE(0.01, 50.0), mean=0.2, deviation=0.02)
    denoiser.register_parameter("place", torch.nn.Parameter(torch.zeros(())))
    detector = Detector([SDEdit("sigma:0.3", 5), SDEdit("sigma:0.6", 5)], samples, seed=3)
    return list(detector.maps(denoiser, Two(), batch))


def test_a_defect_is_where_the_model_cannot_reconstruct_it() -> None:
    normal, defective = found()
    assert normal.residuals.shape == (2, 16, 16) and normal.residuals.max() < 0.05
    assert (defective.residuals[:, 4:8, 4:8] - 0.35).abs().max() < 0.05  # back at the mean
    assert 0.002 < defective.spreads.mean() < 0.02  # about the model's own deviation, halved
    assert defective.relative[:, 4:8, 4:8].min() > 0.8 and normal.relative.mean() < 0.4
    assert image_score(defective.residuals[0], 0.05) == pytest.approx(0.35, abs=0.05)


def test_maps_depend_on_the_seeds_and_not_on_the_batch() -> None:
    one, other = found(batch=1)[1], found(batch=2)[1]
    assert all(torch.equal(first, second) for first, second in zip(one, other, strict=True))
    assert not torch.equal(one.residuals, found(samples=1)[1].residuals)
    assert found(samples=1)[1].spreads.max() == 0


def test_blurring_spreads_a_map_and_keeps_its_sum() -> None:
    maps = torch.zeros(1, 15, 15)
    maps[0, 7, 7] = 1
    assert blurred(maps, 1.5).sum() == pytest.approx(1, abs=1e-5) and blurred(maps, 1.5).max() < 0.1
    assert torch.equal(blurred(maps, 0.0), maps)
