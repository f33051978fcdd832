"""Losses in ranges of noise levels, which do not depend on the SDE, the parameterisation or the weighting."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.parameterisations import EDM, PARAMETERISATIONS
from sdedit_pl.sde import SDES
from sdedit_pl.training.noise_level_buckets import NoiseBucket, noise_buckets

EDGES = (0.05, 0.2, 0.8, 3.2)
UNIFORM = (torch.arange(64, dtype=torch.float64) + 0.5) / 64


class Zero(nn.Module):
    """A network that returns zero."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return self.weight * x


def test_names_give_the_range() -> None:
    buckets = noise_buckets(EDGES, Denoiser(Zero(), EDM(), SDES["vp"]()))
    assert [bucket.name for bucket in buckets] == ["sigma_0.05-0.2", "sigma_0.2-0.8", "sigma_0.8-3.2"]
    assert noise_buckets((), Denoiser(Zero(), EDM(), SDES["vp"]())) == ()


@pytest.mark.parametrize(("t_max", "count"), [(1.0, 3), (0.4, 2), (0.2, 1), (0.01, 0)])
def test_levels_that_are_not_trained_are_skipped(t_max: float, count: int) -> None:
    # VP reaches 2.0 at t = 0.4 and 0.72 at 0.2
    assert len(noise_buckets(EDGES, Denoiser(Zero(), EDM(), SDES["vp"](), t_max=t_max))) == count


@pytest.mark.parametrize("sde_name", SDES)
def test_levels_are_log_uniform_in_the_range(sde_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sde, levels = SDES[sde_name](), []

    def record(
        denoiser: Denoiser, images: Tensor, t: Tensor, noise: Tensor, *rest: object, **options: object
    ) -> Tensor:
        levels.append(sde.noise_level(t))
        return t

    monkeypatch.setattr("sdedit_pl.training.noise_level_buckets.denoising_loss", record)
    images = torch.zeros(64, 3, 2, 2, dtype=torch.float64)
    NoiseBucket(0.2, 0.8).losses(Denoiser(Zero(), EDM(), sde), images, UNIFORM, images)
    torch.testing.assert_close(levels[0].log(), torch.tensor(0.2).log() + torch.tensor(4.0).log() * UNIFORM)


def test_the_loss_depends_only_on_the_estimate() -> None:
    # A denoiser that returns x_t / alpha has the error s z, and EDM's weight: (1 + s^2 / 0.25) z^2.
    noise = torch.randn(64, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    level = 0.2 * 4**UNIFORM
    expected = noise.square().flatten(1).mean(1) * (1 + level.square() / 0.25)
    for sde in SDES.values():
        for name in ("epsilon", "score"):
            denoiser = Denoiser(Zero(), PARAMETERISATIONS[name](), sde())
            found = NoiseBucket(0.2, 0.8).losses(denoiser, torch.rand_like(noise), UNIFORM, noise)
            torch.testing.assert_close(found, expected)
