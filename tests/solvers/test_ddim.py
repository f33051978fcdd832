"""DDIM: its two ends are known samplers."""

from __future__ import annotations

import pytest
import torch
from support.oracles import MixtureDenoiser

from sdedit_pl.noise import SeededNoise, StepNoise
from sdedit_pl.sde import SDES
from sdedit_pl.solvers import DDIM, Ancestral
from sdedit_pl.typing import over_images

T = torch.tensor([0.3, 0.8], dtype=torch.float64)
S = torch.tensor([0.1, 0.75], dtype=torch.float64)
X = torch.linspace(-2, 2, 2 * 3 * 4 * 4, dtype=torch.float64).reshape(2, 3, 4, 4)
every_sde = pytest.mark.parametrize("sde", [cls() for cls in SDES.values()], ids=SDES)


@every_sde
def test_eta_one_is_ancestral(sde) -> None:
    denoiser = MixtureDenoiser(sde)
    steps = [
        solver.step(denoiser, X, T, S, None, StepNoise(SeededNoise([1, 2]), 1, X))[0]
        for solver in (DDIM(eta=1.0), Ancestral(variance="small"))
    ]
    torch.testing.assert_close(*steps)


@every_sde
def test_eta_zero_is_euler_in_the_noise_level(sde) -> None:
    denoiser = MixtureDenoiser(sde)
    level_t, level_s = over_images(sde.noise_level(T)), over_images(sde.noise_level(S))
    y = X / over_images(sde.alpha(T))
    slope = (y - denoiser(X, T)) / level_t
    expected = over_images(sde.alpha(S)) * (y + (level_s - level_t) * slope)
    step, _ = DDIM().step(denoiser, X, T, S, None, StepNoise(SeededNoise([1, 2]), 1, X))
    torch.testing.assert_close(step, expected)


@every_sde
def test_any_eta_keeps_the_noise_of_a_single_image(sde) -> None:
    """With x_0 known, x_s has the deviation sigma_s, part of it the old noise and part of it new."""
    for eta in (0.0, 0.3, 1.0):
        added = (1 - sde.transition(T, S).retained) * eta**2
        old = sde.sigma(S) * (1 - added).sqrt()
        torch.testing.assert_close(old**2 + sde.sigma(S) ** 2 * added, sde.sigma(S) ** 2)


@pytest.mark.parametrize("eta", [-0.1, 1.1])
def test_impossible_eta_is_refused(eta: float) -> None:
    with pytest.raises(ValueError, match=rf"eta of DDIM must lie in \[0, 1\], got {eta}; 0 is deterministic"):
        DDIM(eta=eta)
