"""SDEs: parity with published numbers, and the identities that tie alpha and sigma to drift and diffusion."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from sdedit_pl.sde import SDE, SDES, VESDE, VPSDE, DiscreteVPSDE, SubVPSDE
from sdedit_pl.typing import over_images

PUBLISHED = {
    "ve": (VESDE(0.01, 50.0), 1000),
    "ve_lsun": (VESDE(0.01, 380.0), 2000),
    "vp": (VPSDE(0.1, 20.0), 1000),
    "subvp": (SubVPSDE(0.1, 20.0), 1000),
}
EVERY = [*(cls() for cls in SDES.values()), DiscreteVPSDE(schedule="scaled_linear"), DiscreteVPSDE(schedule="cosine")]
every_sde = pytest.mark.parametrize("sde", EVERY, ids=[*SDES, "ddpm-scaled_linear", "ddpm-cosine"])

# off the knots of a table of 1000, where a piecewise constant beta has no value
TIMES = torch.tensor([0.00025, 0.00105, 0.0123, 0.10005, 0.33335, 0.50005, 0.77777, 0.99905], dtype=torch.float64)


@pytest.mark.parametrize("name", PUBLISHED)
def test_closed_forms_equal_the_published_ones(name: str, reference: Path) -> None:
    sde, _ = PUBLISHED[name]
    published = {key: torch.from_numpy(value) for key, value in np.load(reference / "sde.npz").items()}
    t, x = published["t"], published["x"]
    ours = {
        "mean": over_images(sde.alpha(t)) * x,
        "std": sde.sigma(t),
        "drift": over_images(sde.drift_coefficient(t)) * x,
        "diffusion": sde.diffusion(t),
        "prior_logp": sde.prior_log_density(x),
    }
    for quantity, values in ours.items():
        torch.testing.assert_close(values, published[f"{name}/{quantity}"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_discrete_chains_equal_the_published_ones(name: str, reference: Path) -> None:
    """What float32 holds of the published steps agrees to 1e-6.

    A step's mean is x + f; f alone is float32's small difference of x from it. VE's G^2 is the difference of the
    squares of two levels, of which the same holds.
    """
    sde, steps = PUBLISHED[name]
    published = {key: torch.from_numpy(value).double() for key, value in np.load(reference / "sde.npz").items()}
    t, x = published["t"], published["x"]
    their_drift, their_deviation = published[f"{name}/discrete_f"], published[f"{name}/discrete_G"]
    drift, deviation = sde.discretize(t, steps)
    torch.testing.assert_close(x + over_images(drift) * x, x + their_drift, rtol=1e-6, atol=0)
    assert (over_images(drift) * x - their_drift).norm() <= 1e-5 * their_drift.norm()
    if name.startswith("ve"):
        level = sde.sigma((t * (steps - 1) + 1e-6).floor() / (steps - 1))
        below = level.square() - deviation.square()
        torch.testing.assert_close(below + their_deviation.square(), level.square(), rtol=1e-6, atol=0)
        assert (deviation - their_deviation).norm() <= 1e-5 * their_deviation.norm()
    else:
        assert (deviation - their_deviation).norm() <= 1e-6 * their_deviation.norm()


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
    """sigma / alpha on [-1, 1] of the settings that the paper edits at."""
    level = VPSDE().noise_level(torch.tensor(0.5))
    assert level.item() == pytest.approx(3.41, abs=0.01)
    assert VESDE(0.02, 756.0).noise_level(torch.tensor(0.45)).item() == pytest.approx(2.30, abs=0.01)
    assert VESDE(0.02, 696.0).noise_level(torch.tensor(0.35)).item() == pytest.approx(0.78, abs=0.01)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "cosine"])
def test_table_is_read_at_its_times(schedule: str) -> None:
    """alpha^2 at t = (i + 1) / N is the running product of 1 - beta, and the chain of N steps has the table's betas."""
    sde = DiscreteVPSDE(steps=50, schedule=schedule)
    t = torch.arange(1, 51, dtype=torch.float64) / 50
    betas = sde.betas(t)
    torch.testing.assert_close(sde.alpha(t).square(), (1 - betas).cumprod(0))
    torch.testing.assert_close(sde.discretize(t, 50)[1].square(), betas)
    assert betas[0] < betas[-1]


def test_published_table() -> None:
    betas = DiscreteVPSDE().betas(torch.zeros(()))
    torch.testing.assert_close(betas, torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))


@every_sde
def test_transition_composes_marginals(sde: SDE) -> None:
    s, t = torch.cat([TIMES.new_zeros(1), TIMES[:-1]]), TIMES
    step = sde.transition(t, s)
    torch.testing.assert_close(step.scale * sde.alpha(s), sde.alpha(t))
    torch.testing.assert_close(step.scale.square() * sde.sigma(s).square() + step.deviation.square(), sde.sigma(t) ** 2)
    torch.testing.assert_close(step.retained * sde.sigma(t).square(), (step.scale * sde.sigma(s)).square())


def test_paper_transitions_are_those_of_the_algorithms() -> None:
    t, s = TIMES[1:], TIMES[1:] - 1e-3
    exploding = VESDE().paper_transition(t, s)
    torch.testing.assert_close(exploding.deviation, (VESDE().sigma(t) ** 2 - VESDE().sigma(s) ** 2).sqrt())
    assert (exploding.scale == 1).all()
    preserving = VPSDE().paper_transition(t, s)
    beta = (0.1 + 19.9 * t) * (t - s)
    torch.testing.assert_close(preserving.scale, (1 - beta).sqrt())
    torch.testing.assert_close(preserving.deviation, beta.sqrt())


@every_sde
@pytest.mark.parametrize("kind", ["paper_transition", "table_transition"])
def test_discrete_transitions_tend_to_the_exact_one(sde: SDE, kind: str) -> None:
    errors = []
    for steps in (500, 1000):
        t = torch.arange(steps // 10, steps, steps // 10, dtype=torch.float64) / steps
        exact, discrete = sde.transition(t, t - 1 / steps), getattr(sde, kind)(t, t - 1 / steps)
        errors.append((discrete.deviation / exact.deviation - 1).abs().max().item())
        torch.testing.assert_close(discrete.scale, exact.scale, rtol=0.02 / steps**0.5, atol=0)
        assert discrete.retained.min() >= 0
        assert discrete.retained.max() <= 1
    assert errors[1] < 0.02
    assert errors[1] <= 0.7 * errors[0] or errors[1] < 1e-9


@every_sde
def test_chain_of_one_level_is_finite(sde: SDE) -> None:
    one = torch.ones(1, dtype=torch.float64)
    assert all(value.isfinite().all() for value in sde.discretize(one, 1))


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
    assert sde.prior_log_density(torch.zeros(1, 1, 2, 2)).item() == pytest.approx(
        -2 * math.log(2 * math.pi * sde.prior_deviation**2), rel=1e-5
    )


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
