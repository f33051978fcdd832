"""Ancestral sampling: SDEdit's and DDPM's own formulas, and the data for which each variance is exact."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.oracles import ConstantNoise, GaussianDenoiser

from sdedit_pl import load_denoiser
from sdedit_pl.noise import SeededNoise, StepNoise
from sdedit_pl.sde import SDES, VESDE, VPSDE, DiscreteVPSDE
from sdedit_pl.solvers import Ancestral
from sdedit_pl.typing import over_images

T = torch.tensor([0.3, 0.8], dtype=torch.float64)
X = torch.linspace(-2, 2, 2 * 3 * 4 * 4, dtype=torch.float64).reshape(2, 3, 4, 4)
NOISE = SeededNoise([1, 2])
Z = NOISE(1, 0, X)


def step(solver: Ancestral, denoiser: GaussianDenoiser, s: torch.Tensor) -> torch.Tensor:
    return solver.step(denoiser, X, T, s, None, StepNoise(NOISE, 1, X))[0]


def test_algorithm_2() -> None:
    denoiser = GaussianDenoiser(VESDE())
    e = over_images((denoiser.sde.sigma(T) ** 2 - denoiser.sde.sigma(T - 0.01) ** 2).sqrt())
    expected = X + e**2 * denoiser.score(X, T) + e * Z
    for chain in ("exact", "paper"):
        torch.testing.assert_close(step(Ancestral("large", chain), denoiser, T - 0.01), expected)


def test_algorithm_4() -> None:
    denoiser = GaussianDenoiser(VPSDE())
    beta = over_images((0.1 + 19.9 * T) * 0.01)
    expected = (X + beta * denoiser.score(X, T)) / (1 - beta).sqrt() + beta.sqrt() * Z
    torch.testing.assert_close(step(Ancestral("large", "paper"), denoiser, T - 0.01), expected)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm(variance: str) -> None:
    """Algorithm 2 of DDPM on its table: from index i = 1000 t - 1 to i - 1."""
    denoiser = GaussianDenoiser(DiscreteVPSDE())
    betas = denoiser.sde.betas
    index = (T * 1000).round().long() - 1
    products = (1 - betas).cumprod(0)
    beta, here, below = (
        over_images(table[i]) for table, i in ((betas, index), (products, index), (products, index - 1))
    )
    epsilon = -(1 - here).sqrt() * denoiser.score(X, T)
    mean = (X - beta / (1 - here).sqrt() * epsilon) / (1 - beta).sqrt()
    deviation = (beta * (1 - below) / (1 - here) if variance == "small" else beta).sqrt()
    torch.testing.assert_close(step(Ancestral(variance), denoiser, T - 1e-3), mean + deviation * Z)


@pytest.mark.parametrize("sde", [cls() for cls in SDES.values()], ids=SDES)
def test_small_variance_is_exact_for_a_single_image(sde) -> None:
    """In one step of any length, from the marginal at t to that at s."""
    denoiser = GaussianDenoiser(sde, mean=0.3, deviation=1e-6)
    t, s = T[1:], T[:1]

    def moved(x: float, z: float) -> torch.Tensor:
        image = torch.full((1, 1, 1, 1), x, dtype=torch.float64)
        return Ancestral("small").step(denoiser, image, t, s, None, StepNoise(ConstantNoise(z), 1, image))[0].squeeze()

    offset = moved(0.0, 0.0)
    factor, deviation = moved(1.0, 0.0) - offset, moved(0.0, 1.0) - offset
    torch.testing.assert_close(factor * denoiser.marginal_mean(t) + offset, denoiser.marginal_mean(s))
    variance = factor.square() * denoiser.marginal_variance(t) + deviation.square()
    torch.testing.assert_close(variance, denoiser.marginal_variance(s))


def test_large_variance_is_exact_for_unit_variance() -> None:
    """Data N(0, 1) under a VP SDE: every marginal is N(0, 1), and a step of any length preserves it."""
    denoiser = GaussianDenoiser(VPSDE(), mean=0.0, deviation=1.0)

    def moved(x: float, z: float) -> torch.Tensor:
        image = torch.full((1, 1, 1, 1), x, dtype=torch.float64)
        noise = StepNoise(ConstantNoise(z), 1, image)
        return Ancestral("large").step(denoiser, image, T[1:], T[:1], None, noise)[0].squeeze()

    torch.testing.assert_close(moved(1.0, 0.0) ** 2 + moved(0.0, 1.0) ** 2, torch.ones((), dtype=torch.float64))


def test_the_last_step_to_no_noise_is_the_estimated_image() -> None:
    denoiser = GaussianDenoiser(VPSDE())
    torch.testing.assert_close(step(Ancestral("small"), denoiser, torch.zeros_like(T)), denoiser(X, T))


def test_an_unknown_variance_is_refused() -> None:
    with pytest.raises(ValueError, match="one of auto, small, large, learned, got 'medium'"):
        Ancestral(variance="medium")


def test_a_model_without_a_learned_variance_says_so(tiny_checkpoint: Path) -> None:
    x, t = torch.zeros(2, 3, 16, 16), T.float()
    with pytest.raises(ValueError, match=r"variance=learned .* EDM"):
        Ancestral("learned").step(load_denoiser(tiny_checkpoint), x, t, t / 2, None, StepNoise(NOISE, 1, x))
