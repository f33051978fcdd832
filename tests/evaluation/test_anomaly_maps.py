"""Anomaly maps by an exact denoiser, whose reconstructions are known."""

from __future__ import annotations

import pytest
import torch
from support.oracles import GaussianDenoiser

from sdedit_pl.data.chosen_images import ChosenImages
from sdedit_pl.editing import SDEdit
from sdedit_pl.evaluation.anomaly_maps import Detector, blurred, image_score
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


def found(samples: int = 2, batch: int | None = None, relative: bool = False) -> list[torch.Tensor]:
    denoiser = GaussianDenoiser(VESDE(0.01, 50.0), mean=0.2, deviation=0.02)
    denoiser.register_parameter("place", torch.nn.Parameter(torch.zeros(())))
    detector = Detector([SDEdit("sigma:0.3", 5), SDEdit("sigma:0.6", 5)], samples, relative=relative, seed=3)
    return [torch.cat([maps.residuals, maps.spread[None]]) for maps in detector.maps(denoiser, Two(), batch)]


def test_a_defect_is_where_the_model_cannot_reconstruct_it() -> None:
    normal, defective = found()
    assert normal.shape == (3, 16, 16) and normal[:2].max() < 0.05
    assert (defective[:2, 4:8, 4:8] - 0.35).abs().max() < 0.05  # back at the mean
    assert 0.002 < defective[2].mean() < 0.02  # about the model's own deviation, halved
    residual, spread = found(samples=1)[1][0], 0.0
    assert torch.allclose(found(samples=1, relative=True)[1][0], residual / (residual + spread + 0.02))
    assert image_score(defective[0], 0.05) == pytest.approx(0.35, abs=0.05) and image_score(normal[0], 0.05) < 0.05


def test_maps_depend_on_the_seeds_and_not_on_the_batch() -> None:
    assert all(torch.equal(one, other) for one, other in zip(found(batch=1), found(batch=2), strict=True))
    assert not torch.equal(found()[0], found(samples=1)[0])
    assert found(samples=1)[0][2].max() == 0  # one reconstruction has no spread


def test_blurring_spreads_a_map_and_keeps_its_sum() -> None:
    maps = torch.zeros(1, 15, 15)
    maps[0, 7, 7] = 1
    assert blurred(maps, 1.5).sum() == pytest.approx(1, abs=1e-5) and blurred(maps, 1.5).max() < 0.1
    assert torch.equal(blurred(maps, 0.0), maps)
