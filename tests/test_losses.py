"""Losses against their published formulas, and the distributions of training times in closed form."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.losses import (
    TIME_SAMPLERS,
    WEIGHTINGS,
    DataWeighting,
    EDMWeighting,
    LogNormalNoise,
    LogUniformNoise,
    MinSNRWeighting,
    NoiseWeighting,
    SoftMinSNRWeighting,
    TableTimes,
    UniformTimes,
    denoising_error,
    denoising_loss,
)
from sdedit_pl.parameterisations import EDM, PARAMETERISATIONS, Epsilon
from sdedit_pl.sde import SDES
from sdedit_pl.typing import over_images

TIMES = torch.tensor([0.01, 0.05, 0.2, 0.5, 0.8, 1.0], dtype=torch.float64)
QUANTILES = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000

# The published objectives: lambda(t) of lambda(t) ||score estimate - score||^2, and of lambda(t) ||D - x_0||^2.
SCORE_WEIGHTS = {
    "noise": lambda sde, t: sde.sigma(t).square(),
    "likelihood": lambda sde, t: sde.diffusion(t).square(),
}
DATA_WEIGHTS = {
    "edm": lambda sde, t: (sde.noise_level(t).square() + 0.25) / (sde.noise_level(t) * 0.5).square(),
    "min_snr": lambda sde, t: (1 / sde.noise_level(t).square()).clamp(max=5.0),
    # EDM's weight times (s sd)^2 / (s^2 + sd^2)^2, as in k-diffusion
    "soft_min_snr": lambda sde, t: (
        DATA_WEIGHTS["edm"](sde, t) * (sde.noise_level(t) * 0.5 / (sde.noise_level(t).square() + 0.25)).square()
    ),
    "data": lambda sde, t: torch.ones_like(t),
}


class Answer(nn.Module):
    """A network with a fixed output."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = nn.Parameter(answer)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return self.answer


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Images, noise and the output of an untrained network."""
    generator = torch.Generator().manual_seed(0)
    x_0, noise, answer = torch.randn(3, len(TIMES), 3, 4, 4, generator=generator, dtype=torch.float64)
    return x_0.clamp(-1, 1), noise, answer


def squared(images: Tensor) -> Tensor:
    return images.square().flatten(1).sum(1)


@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
@pytest.mark.parametrize("sde_name", SDES)
def test_every_loss_is_its_published_formula(
    sde_name: str, parameterisation: str, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    x_0, noise, answer = batch
    sde = SDES[sde_name]()
    denoiser = Denoiser(Answer(answer), PARAMETERISATIONS[parameterisation](), sde)
    x_t = sde.perturb(x_0, TIMES, noise)
    score_error = squared(denoiser.score(x_t, TIMES) + noise / over_images(sde.sigma(TIMES)))
    data_error = squared(denoiser(x_t, TIMES) - x_0)
    expected = {name: weight(sde, TIMES) * score_error for name, weight in SCORE_WEIGHTS.items()}
    expected |= {name: weight(sde, TIMES) * data_error for name, weight in DATA_WEIGHTS.items()}
    assert expected.keys() == WEIGHTINGS.keys()
    for name, weighting in WEIGHTINGS.items():
        loss = denoising_loss(denoiser, x_0, TIMES, noise, weighting(), reduction="sum")
        torch.testing.assert_close(loss, expected[name], rtol=1e-6, atol=0)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
@pytest.mark.parametrize("sde_name", SDES)
def test_the_exact_answer_costs_nothing(
    sde_name: str, parameterisation: str, weighting: str, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    x_0, noise, _ = (tensor.float() for tensor in batch)
    t = TIMES.float()
    sde, chosen = SDES[sde_name](), PARAMETERISATIONS[parameterisation]()
    target = chosen.coefficients(sde, t).target
    exact = over_images(target.x_0) * x_0 + over_images(target.noise) * noise
    loss = denoising_loss(Denoiser(Answer(exact), chosen, sde), x_0, t, noise, WEIGHTINGS[weighting]())
    assert torch.equal(loss, torch.zeros_like(t))


@pytest.mark.parametrize("sde_name", SDES)
def test_the_noise_weighting_of_epsilon_is_the_plain_error_of_the_noise(
    sde_name: str, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    x_0, noise, answer = (tensor.float() for tensor in batch)
    t = torch.tensor([1e-4, 1e-3, 0.01, 0.1, 0.5, 1.0])
    denoiser = Denoiser(Answer(answer), Epsilon(), SDES[sde_name]())
    loss = denoising_loss(denoiser, x_0, t, noise, NoiseWeighting())
    torch.testing.assert_close(loss, (answer - noise).square().flatten(1).mean(1), rtol=1e-5, atol=0)


@pytest.mark.parametrize("deviation", [0.5, 0.3])
@pytest.mark.parametrize("sde_name", SDES)
def test_edm_weights_its_networks_output_evenly(sde_name: str, deviation: float) -> None:
    sde = SDES[sde_name]()
    c_out = EDM(data_deviation=deviation).coefficients(sde, TIMES).x_0.out
    weight = EDMWeighting(deviation).weight(sde, TIMES)
    torch.testing.assert_close(weight * c_out.square(), torch.ones_like(TIMES), rtol=1e-9, atol=0)


def test_the_sum_is_the_mean_times_the_pixels(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    x_0, noise, answer = batch
    denoiser = Denoiser(Answer(answer), EDM(), SDES["ve"]())
    mean = denoising_loss(denoiser, x_0, TIMES, noise, DataWeighting())
    total = denoising_loss(denoiser, x_0, TIMES, noise, DataWeighting(), reduction="sum")
    torch.testing.assert_close(total, mean * 3 * 4 * 4)
    with pytest.raises(ValueError, match="mean or sum, got 'max'"):
        denoising_loss(denoiser, x_0, TIMES, noise, DataWeighting(), reduction="max")


@pytest.mark.parametrize("limits", [(1e-4, 1.0), (0.02, 0.6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sampler", TIME_SAMPLERS)
@pytest.mark.parametrize("sde_name", SDES)
def test_times_rise_with_the_quantile_and_stay_in_range(
    sde_name: str, sampler: str, dtype: torch.dtype, limits: tuple[float, float]
) -> None:
    uniform = torch.cat([torch.zeros(1), QUANTILES, torch.tensor([1 - 2**-24])]).to(dtype)
    t = TIME_SAMPLERS[sampler](*limits).times(SDES[sde_name](), uniform)
    assert t.dtype == dtype and t.shape == uniform.shape
    low, high = torch.tensor(limits, dtype=dtype)
    assert low <= t.min() and t.max() <= high
    assert (t.diff() >= -1e-6 * t[1:]).all() and t.unique().numel() > 500


def test_uniform_times_are_uniform() -> None:
    t = UniformTimes(0.2, 0.7).times(SDES["vp"](), QUANTILES)
    torch.testing.assert_close(t, 0.2 + 0.5 * QUANTILES)


@pytest.mark.parametrize(
    ("limits", "steps", "levels"),
    [
        ((1e-4, 1.0), 1000, range(1, 1001)),
        ((0.3, 0.6), 10, range(3, 7)),
        ((0.31, 0.69), 10, range(4, 7)),
        ((0.035, 0.29), 1000, range(35, 291)),  # 0.035 x 1000 is more than 35 in floats
        ((0.07, 0.29), 100, range(7, 30)),  # and 0.29 x 100 less than 29
    ],
)
def test_table_times_are_the_tables_levels_equally_often(
    limits: tuple[float, float], steps: int, levels: range
) -> None:
    quantiles = (torch.arange(3 * len(levels)) + 0.5) / (3 * len(levels))
    t = TableTimes(*limits, steps).times(SDES["ddpm"](), quantiles)
    expected = torch.tensor([level / steps for level in levels])
    found, counts = t.unique(return_counts=True)
    assert torch.equal(found, expected) and (counts == 3).all()


@pytest.mark.parametrize("limits", [(1e-4, 1.0), (0.1, 0.5)])
@pytest.mark.parametrize("sde_name", SDES)
def test_log_uniform_noise_is_uniform_in_the_log_of_the_level(sde_name: str, limits: tuple[float, float]) -> None:
    sde = SDES[sde_name]()
    level = -sde.log_snr(LogUniformNoise(*limits).times(sde, QUANTILES)) / 2
    low, high = -sde.log_snr(torch.tensor(limits, dtype=torch.float64)) / 2
    torch.testing.assert_close(level, low + (high - low) * QUANTILES, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("mean", "deviation", "limits"), [(-1.2, 1.2, (1e-4, 1.0)), (-0.5, 1.4, (1e-3, 0.4)), (1.0, 0.5, (0.1, 0.6))]
)
@pytest.mark.parametrize("sde_name", SDES)
def test_log_normal_noise_is_a_truncated_normal_distribution(
    sde_name: str, mean: float, deviation: float, limits: tuple[float, float]
) -> None:
    sde = SDES[sde_name]()
    t = LogNormalNoise(*limits, mean=mean, deviation=deviation).times(sde, QUANTILES)
    level = -sde.log_snr(t) / 2
    low, high = ((-sde.log_snr(torch.tensor(limits, dtype=torch.float64)) / 2 - mean) / deviation).tolist()

    def density(z: float) -> float:
        return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    def distribution(z: float) -> float:
        return math.erfc(-z / math.sqrt(2)) / 2

    mass = distribution(high) - distribution(low)
    truncated_mean = mean + deviation * (density(low) - density(high)) / mass
    assert level.mean().item() == pytest.approx(truncated_mean, abs=2e-3)
    for share in (0.1, 0.5, 0.9):
        standardised = ((level.quantile(share) - mean) / deviation).item()
        assert (distribution(standardised) - distribution(low)) / mass == pytest.approx(share, abs=1e-3)


@pytest.mark.parametrize("sampler", TIME_SAMPLERS)
@pytest.mark.parametrize("limits", [(0.0, 1.0), (0.5, 0.5), (0.6, 0.2), (0.1, 1.5)])
def test_time_limits_out_of_order_are_refused(sampler: str, limits: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=f"0 < t_min < t_max <= 1, got t_min={limits[0]}, t_max={limits[1]}"):
        TIME_SAMPLERS[sampler](*limits)


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="deviation of log-normal noise must be positive, got 0"):
        LogNormalNoise(deviation=0.0)
    with pytest.raises(ValueError, match="data_deviation must be positive, got 0"):
        EDMWeighting(0.0)
    with pytest.raises(ValueError, match="data_deviation must be positive, got -1"):
        SoftMinSNRWeighting(-1.0)
    with pytest.raises(ValueError, match="limit of the min-SNR weight must be positive, got 0"):
        MinSNRWeighting(0.0)
    with pytest.raises(ValueError, match=r"no level i/10 with i >= 1 between t_min=0.31 and t_max=0.39"):
        TableTimes(0.31, 0.39, 10)
    with pytest.raises(ValueError, match="steps=0"):
        replace(TableTimes(), steps=0)


def test_denoising_error_of_a_network_that_answers_zero_is_in_units_of_the_noise() -> None:
    """EDM's estimate is then c_skip x_t, with error (c_skip - 1)^2 x_0^2 + (c_skip level)^2."""
    denoiser, level = Denoiser(Answer(torch.zeros(1, 3, 64, 64)), EDM(), SDES["vp"]()), 0.5
    images = torch.full((1, 3, 64, 64), 0.6)
    skip = 0.25 / (0.25 + level**2)
    expected = ((skip - 1) * 0.6) ** 2 / level**2 + skip**2
    assert denoising_error(denoiser, images, level) == pytest.approx(expected, rel=0.03)
