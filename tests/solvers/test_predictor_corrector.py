"""Predictor-corrector: cost, preserved density and published step size of the corrector."""

from __future__ import annotations

import pytest
import torch
from support.oracles import GaussianDenoiser

from sdedit_pl.noise import SeededNoise, StepNoise
from sdedit_pl.sde import SDES, VESDE
from sdedit_pl.solvers import Ancestral, PredictorCorrector, ProbabilityFlowHeun
from sdedit_pl.solvers.predictor_corrector import norms


def test_cost_and_order_follow_the_parts() -> None:
    solver = PredictorCorrector(predictor=ProbabilityFlowHeun(), corrector_steps=3)
    assert (solver.evaluations_per_step, solver.order, solver.stochastic) == (5, 2.0, True)


def test_corrector_is_the_published_langevin_step() -> None:
    """Algorithm 4 (VE) for a batch of one, for which the published means over the batch are this image's norms."""
    denoiser = GaussianDenoiser(VESDE())
    t, s = torch.tensor([0.5]), torch.tensor([0.49])
    x = torch.linspace(-1, 1, 48).reshape(1, 3, 4, 4)
    noise = SeededNoise([4])
    score, z = denoiser.score(x, t), noise(1, 1, x)
    size = 2 * (0.16 * z.norm() / score.norm()) ** 2
    corrected = x + size * score + (2 * size).sqrt() * z
    expected, _ = Ancestral().step(denoiser, corrected, t, s, None, StepNoise(noise, 1, x))
    step, _ = PredictorCorrector(predictor=Ancestral()).step(denoiser, x, t, s, None, StepNoise(noise, 1, x))
    torch.testing.assert_close(step, expected)


@pytest.mark.parametrize("sde", [cls() for cls in SDES.values()], ids=SDES)
def test_corrector_keeps_the_marginal_up_to_its_bias(sde) -> None:
    """Forty Langevin steps on the exact marginal: the variance stays within twice snr^2."""
    snr, denoiser = 0.1, GaussianDenoiser(sde)
    t = torch.full((1,), 0.4)
    noise = SeededNoise([0])
    x = denoiser.marginal_mean(t) + denoiser.marginal_variance(t).sqrt() * noise(0, 0, torch.zeros(1, 1, 150, 150))
    solver = PredictorCorrector(predictor=Ancestral(), corrector_steps=40, snr=snr)
    corrected, _ = solver.step(denoiser, x, t, t - 1e-6, None, StepNoise(noise, 1, x))
    ratio = corrected.var() / denoiser.marginal_variance(t)
    assert abs(ratio.item() - 1) < 2 * snr**2 + 0.02
    assert (corrected.mean() - denoiser.marginal_mean(t)).abs().item() < 0.02 * x.std().item()
    assert (corrected - x).std() > 0.2 * x.std()


def test_norms_are_each_images_own() -> None:
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(norms(images), images.flatten(1).square().sum(1).sqrt())


@pytest.mark.parametrize("arguments", [{"corrector_steps": 0}, {"snr": 0.0}])
def test_impossible_correctors_are_refused(arguments) -> None:
    with pytest.raises(ValueError, match="at least one step and a positive snr, got corrector_steps="):
        PredictorCorrector(**arguments)
