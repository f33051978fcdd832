"""Parameterisations: with its exact target as output, each gives the same image and score for every SDE."""

from __future__ import annotations

import math

import pytest
import torch
from support.oracles import GaussianDenoiser
from torch import Tensor, nn

from sdedit_pl.denoiser import Denoiser, in_precision
from sdedit_pl.networks import NCSNpp
from sdedit_pl.parameterisations import EDM, PARAMETERISATIONS, Epsilon, Parameterisation, Score, Velocity
from sdedit_pl.sde import SDE, SDES, VESDE, VPSDE
from sdedit_pl.typing import Images, Times, over_images

TIMES = torch.tensor([0.002, 0.03, 0.25, 0.5, 0.8, 1.0], dtype=torch.float64)

every_pair = pytest.mark.parametrize(
    ("parameterisation", "sde"),
    [
        pytest.param(cls(), sde(), id=f"{name}-{sde_name}")
        for name, cls in PARAMETERISATIONS.items()
        for sde_name, sde in SDES.items()
    ],
)


class ExactNetwork(nn.Module):
    """The best network for pixels that are independent N(0.3, 0.2^2): its output is E[target | its input].

    Like a network, it receives only the scaled input and the label.
    """

    def __init__(self, parameterisation: Parameterisation, sde: SDE, t: Times) -> None:
        super().__init__()
        self.precision = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.oracle = GaussianDenoiser(sde, mean=0.3, deviation=0.2)
        self.coefficients = parameterisation.coefficients(sde, t)
        self.t = t

    def forward(self, inputs: Tensor, label: Tensor) -> Tensor:
        x_t = inputs / over_images(self.coefficients.c_in)
        x_0, score = self.oracle(x_t, self.t), self.oracle.score(x_t, self.t)
        noise = -over_images(self.oracle.sde.sigma(self.t)) * score
        target = self.coefficients.target
        return over_images(target.x_0) * x_0 + over_images(target.noise) * noise


def noised(sde: SDE, seed: int = 0) -> tuple[Images, Images, Images]:
    """x_t, x_0 and the noise, one image for each of `TIMES`."""
    generator = torch.Generator().manual_seed(seed)
    x_0 = torch.rand(len(TIMES), 3, 4, 4, generator=generator, dtype=torch.float64) * 2 - 1
    noise = torch.randn(len(TIMES), 3, 4, 4, generator=generator, dtype=torch.float64)
    return sde.perturb(x_0, TIMES, noise), x_0, noise


@every_pair
def test_exact_target_gives_the_exact_image_and_score(parameterisation: Parameterisation, sde: SDE) -> None:
    denoiser = Denoiser(ExactNetwork(parameterisation, sde, TIMES), parameterisation, sde)
    oracle = GaussianDenoiser(sde, mean=0.3, deviation=0.2)
    x_t, _, _ = noised(sde)
    torch.testing.assert_close(denoiser(x_t, TIMES), oracle(x_t, TIMES), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(denoiser.score(x_t, TIMES), oracle.score(x_t, TIMES), rtol=1e-9, atol=1e-9)


@every_pair
def test_target_of_one_image_gives_it_back(parameterisation: Parameterisation, sde: SDE) -> None:
    """With the training target of (x_0, z) as output: the estimate is x_0, the score -z / sigma."""
    x_t, x_0, noise = noised(sde)
    coefficients = parameterisation.coefficients(sde, TIMES)
    target = over_images(coefficients.target.x_0) * x_0 + over_images(coefficients.target.noise) * noise
    for affine, expected in (
        (coefficients.x_0, x_0),
        (coefficients.score, -noise / over_images(sde.sigma(TIMES))),
    ):
        torch.testing.assert_close(over_images(affine.skip) * x_t + over_images(affine.out) * target, expected)


@every_pair
def test_float32_coefficients_do_not_cancel(parameterisation: Parameterisation, sde: SDE) -> None:
    """Neither the image nor the score is a difference of large numbers, down to the lowest noise."""
    exact, single = (parameterisation.coefficients(sde, t) for t in (TIMES.float().double(), TIMES.float()))
    for one, other in zip((*exact.x_0, *exact.score), (*single.x_0, *single.score), strict=True):
        torch.testing.assert_close(other.double(), one, rtol=5e-6, atol=0)


def test_labels_are_those_of_published_models() -> None:
    t = torch.tensor([0.25, 1.0], dtype=torch.float64)
    exploding = VESDE(0.02, 100.0)  # published as 0.01 to 50 on images in [0, 1]
    torch.testing.assert_close(Epsilon().network_label(VPSDE(), t), 999 * t)
    torch.testing.assert_close(Epsilon(label_scale=1000.0, label_offset=-1.0).network_label(VPSDE(), t), 1000 * t - 1)
    torch.testing.assert_close(Score().network_label(exploding, t), (0.01 * (50 / 0.01) ** t).log())
    torch.testing.assert_close(EDM().network_label(VPSDE(), t), VPSDE().noise_level(t).log() / 4)


def test_edm_is_the_published_preconditioning() -> None:
    """On a VE SDE sigma is EDM's sigma: c_skip, c_out and c_in as in its table 1, and the target's unit variance."""
    sde, t = VESDE(0.002, 80.0), TIMES
    sigma, deviation = sde.sigma(t), 0.5
    coefficients = EDM().coefficients(sde, t)
    total = sigma**2 + deviation**2
    torch.testing.assert_close(coefficients.x_0.skip, deviation**2 / total)
    torch.testing.assert_close(coefficients.x_0.out, sigma * deviation / total.sqrt())
    torch.testing.assert_close(coefficients.c_in, 1 / total.sqrt())
    variance = (coefficients.target.x_0 * deviation) ** 2 + coefficients.target.noise**2
    torch.testing.assert_close(variance, torch.ones_like(variance))


def test_velocity_is_a_rotation_for_a_vp_sde() -> None:
    sde = VPSDE()
    coefficients = Velocity().coefficients(sde, TIMES)
    torch.testing.assert_close(coefficients.c_in, torch.ones_like(TIMES))
    torch.testing.assert_close(coefficients.x_0.skip, sde.alpha(TIMES))
    torch.testing.assert_close(coefficients.x_0.out, -sde.sigma(TIMES))


class Recorder(nn.Module):
    """A half-precision network that records its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=torch.bfloat16))
        self.dtypes: list[torch.dtype] = []

    def forward(self, inputs: Tensor, label: Tensor) -> Tensor:
        self.dtypes = [inputs.dtype, label.dtype]
        return inputs * self.weight


def test_network_precision_stays_inside() -> None:
    network = Recorder()
    denoiser = Denoiser(network, EDM(), VPSDE())
    x_t = torch.zeros(2, 3, 4, 4)
    t = torch.tensor([0.1, 0.7])
    assert denoiser(x_t, t).dtype == denoiser.score(x_t, t).dtype == torch.float32
    assert network.dtypes == [torch.bfloat16, torch.float32]


def test_errors() -> None:
    with pytest.raises(ValueError, match="time or log_noise_level, got 'sigma'"):
        Epsilon(label="sigma")
    with pytest.raises(ValueError, match=r"data_deviation must be positive, got 0\.0; EDM uses 0\.5"):
        EDM(data_deviation=0.0)
    assert math.isclose(Score().label_offset, -math.log(2))


@pytest.mark.parametrize("at_once", [1, 3])
def test_with_groups_an_image_is_the_same_bit_for_bit_in_every_batch(at_once: int) -> None:
    torch.manual_seed(0)
    network = NCSNpp(channels=8, channel_multipliers=(1, 2), blocks_per_level=1, attention_levels=(1,), init_scale=1.0)
    denoiser = Denoiser(network.eval(), EDM(), VPSDE(), at_once=at_once)
    x, t = torch.randn(8, 3, 16, 16), torch.linspace(0.1, 0.9, 8)
    with torch.no_grad():
        alone = torch.cat([denoiser(x[index : index + 1], t[index : index + 1]) for index in range(8)])
        for batch in (2, 3, 5, 8):
            together = torch.cat([denoiser(*pair) for pair in zip(x.split(batch), t.split(batch), strict=True)])
            assert torch.equal(together, alone), batch
        torch.testing.assert_close(Denoiser(network, EDM(), VPSDE())(x, t), alone)


def test_groups_hold_at_least_one_image() -> None:
    with pytest.raises(ValueError, match="at_once must be at least 1, or None for whole batches, got 0"):
        Denoiser(nn.Identity(), EDM(), VPSDE(), at_once=0)


def test_a_network_is_converted_except_its_label_embedding_also_inside_windows() -> None:
    network = nn.ModuleDict({"label_embedding": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    for wrapped in (network, nn.ModuleDict({"network": network})):
        network.float()
        in_precision(Denoiser(wrapped, Epsilon(), VPSDE()), "bfloat16")
        assert network["label_embedding"].weight.dtype == torch.float32  # pyright: ignore
        assert network["head"].weight.dtype == torch.bfloat16  # pyright: ignore
