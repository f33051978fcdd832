"""SDEs: parity with published numbers, and the identities between alpha, sigma, drift and diffusion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float
from support.sdes import PUBLISHED, every_sde
from torch import Tensor

from sdedit_pl.sde import SDE, SDES, VESDE, VPSDE, DiscreteVPSDE, SubVPSDE
from sdedit_pl.solvers.published_chains import level_step
from sdedit_pl.typing import Images, over_images

# off the knots of a table of 1000, where a piecewise constant beta has no value
TIMES = torch.tensor([0.00025, 0.00105, 0.0123, 0.10005, 0.33335, 0.50005, 0.77777, 0.99905], dtype=torch.float64)


def prior_log_density(sde: SDE, x: Images) -> Float[Tensor, "B"]:
    """Log density under the prior, summed over pixels and channels, in nats."""
    prior = torch.distributions.Normal(0.0, sde.prior_deviation)
    return prior.log_prob(x).flatten(1).sum(1)


@pytest.mark.parametrize("name", PUBLISHED)
def test_closed_forms_equal_the_published_ones(name: str, reference: Path) -> None:
    sde = PUBLISHED[name]
    published = {key: torch.from_numpy(value) for key, value in np.load(reference / "sde.npz").items()}
    t, x = published["t"], published["x"]
    ours = {
        "mean": over_images(sde.alpha(t)) * x,
        "std": sde.sigma(t),
        "drift": over_images(sde.drift_coefficient(t)) * x,
        "diffusion": sde.diffusion(t),
        "prior_logp": prior_log_density(sde, x),
    }
    for quantity, values in ours.items():
        torch.testing.assert_close(values, published[f"{name}/{quantity}"], rtol=1e-6, atol=0)


@every_sde
def test_drift_is_the_slope_of_log_alpha(sde: SDE) -> None:
    t = TIMES.clone().requires_grad_()
    (slope,) = torch.autograd.grad((sde.log_alpha(t) + 0 * t).sum(), t)  # + 0 t: a VE SDE's does not depend on t
    torch.testing.assert_close(sde.drift_coefficient(TIMES), slope, rtol=1e-9, atol=1e-12)


@every_sde
def test_diffusion_is_what_the_variance_gains_beside_the_drift(sde: SDE) -> None:
    t = TIMES.clone().requires_grad_()
    (slope,) = torch.autograd.grad(sde.sigma(t).square().sum(), t)
    expected = slope - 2 * sde.drift_coefficient(TIMES) * sde.sigma(TIMES).square()
    torch.testing.assert_close(sde.diffusion(TIMES).square(), expected, rtol=1e-7, atol=1e-12)


@every_sde
def test_derived_drift_and_diffusion_equal_the_closed_forms(sde: SDE) -> None:
    with torch.no_grad():
        drift, diffusion = SDE.drift_coefficient(sde, TIMES), SDE.diffusion(sde, TIMES)
    torch.testing.assert_close(drift, sde.drift_coefficient(TIMES), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(diffusion, sde.diffusion(TIMES), rtol=1e-7, atol=1e-9)


def test_beta_tables_are_computed_once_and_stay_usable_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    sde = DiscreteVPSDE(steps=60)
    with torch.inference_mode():
        first = sde.log_alpha(TIMES)
    t = TIMES.clone().requires_grad_()
    monkeypatch.setattr(DiscreteVPSDE, "betas", None)
    sde.log_alpha(t).sum().backward()
    assert torch.equal(sde.log_alpha(TIMES), first)


@every_sde
def test_time_at_log_snr_inverts_log_snr(sde: SDE) -> None:
    log_snr = sde.log_snr(TIMES)
    assert (log_snr.diff() < 0).all()
    torch.testing.assert_close(sde.time_at_log_snr(log_snr), TIMES, rtol=1e-8, atol=0)
    torch.testing.assert_close(sde.time_at_noise_level(sde.noise_level(TIMES)), TIMES, rtol=1e-8, atol=0)


@every_sde
def test_float32_loses_nothing_down_to_the_least_noise(sde: SDE) -> None:
    t = TIMES.float()
    for quantity in (sde.alpha, sde.sigma, sde.diffusion, sde.noise_level):
        torch.testing.assert_close(quantity(t).double(), quantity(t.double()), rtol=5e-6, atol=0)


def test_noise_levels_of_the_paper() -> None:
    """sigma / alpha, on [-1, 1], of the paper's editing settings."""
    level = VPSDE().noise_level(torch.tensor(0.5))
    assert level.item() == pytest.approx(3.41, abs=0.01)
    assert VESDE(0.02, 756.0).noise_level(torch.tensor(0.45)).item() == pytest.approx(2.30, abs=0.01)
    assert VESDE(0.02, 696.0).noise_level(torch.tensor(0.35)).item() == pytest.approx(0.78, abs=0.01)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "cosine"])
def test_table_is_read_at_its_times(schedule: str) -> None:
    """alpha^2 at t = (i + 1) / N is cumprod(1 - beta), and score_sde's chain of N steps has its betas."""
    sde = DiscreteVPSDE(steps=50, schedule=schedule)
    t = torch.arange(1, 51, dtype=torch.float64) / 50
    betas = sde.betas
    torch.testing.assert_close(sde.alpha(t).square(), (1 - betas).cumprod(0))
    torch.testing.assert_close(level_step(sde, t, 50).deviation.square(), betas)
    assert betas[0] < betas[-1]


def test_published_table() -> None:
    betas = DiscreteVPSDE().betas
    torch.testing.assert_close(betas, torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))


@every_sde
def test_transition_composes_marginals(sde: SDE) -> None:
    s, t = torch.cat([TIMES.new_zeros(1), TIMES[:-1]]), TIMES
    step = sde.transition(t, s)
    torch.testing.assert_close(step.scale * sde.alpha(s), sde.alpha(t))
    torch.testing.assert_close(step.scale.square() * sde.sigma(s).square() + step.deviation.square(), sde.sigma(t) ** 2)
    torch.testing.assert_close(step.retained * sde.sigma(t).square(), (step.scale * sde.sigma(s)).square())


@every_sde
def test_perturbed_images_have_the_marginal(sde: SDE) -> None:
    noise = torch.randn(2, 1, 200, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.tensor([0.3, 0.9], dtype=torch.float64)
    x_t = sde.perturb(torch.full_like(noise, 0.5), t, noise)
    torch.testing.assert_close(x_t.mean((1, 2, 3)), 0.5 * sde.alpha(t), rtol=0, atol=0.02 * sde.sigma(t).max().item())
    torch.testing.assert_close(x_t.std((1, 2, 3)), sde.sigma(t), rtol=0.02, atol=0)


@pytest.mark.parametrize("name", SDES)
def test_prior_is_the_marginal_at_the_end(name: str) -> None:
    sde = SDES[name]()
    end = torch.ones(1, dtype=torch.float64)
    noise = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    assert sde.alpha(end).item() / sde.sigma(end).item() < 0.021
    torch.testing.assert_close(sde.prior_sample(noise).mean(), sde.sigma(end).mean(), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VPSDE(beta_min=0.0), "0 < beta_min <= beta_max, got beta_min=0.0"),
        (lambda: VPSDE(beta_min=30.0), "beta_max=20.0; the published values are 0.1 and 20"),
        (lambda: SubVPSDE(beta_min=-1.0), "0 < beta_min <= beta_max, got beta_min=-1.0"),
        (lambda: VESDE(sigma_min=0.0), "0 < sigma_min < sigma_max, got sigma_min=0.0"),
        (lambda: VESDE(sigma_min=60.0), "sigma_max=50.0; the published values"),
        (lambda: DiscreteVPSDE(schedule="sigmoid"), "linear, scaled_linear or cosine, got 'sigmoid'"),
        (lambda: DiscreteVPSDE(beta_end=1.5), "0 < beta_start <= beta_end < 1 .* beta_end=1.5"),
        (lambda: DiscreteVPSDE(steps=1), "at least 2 steps, got .* steps=1"),
    ],
)
def test_impossible_schedules_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
