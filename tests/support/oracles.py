"""Exact denoisers: data whose score is known in closed form, so that errors are the solver's alone."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.parameterisations import Epsilon
from sdedit_pl.sampling import integrate
from sdedit_pl.sde import SDE
from sdedit_pl.solvers import Solver
from sdedit_pl.typing import Images, over_images


class GaussianDenoiser(Denoiser):
    """The exact denoiser of data whose pixels are independent N(mean, deviation^2); elementwise."""

    def __init__(self, sde: SDE, mean: float = 0.3, deviation: float = 0.2) -> None:
        super().__init__(nn.Identity(), Epsilon(), sde)
        self.mean = mean
        self.deviation = deviation

    def marginal_mean(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        """E[x_t]."""
        return self.sde.alpha(t) * self.mean

    def marginal_variance(self, t: Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
        """Var[x_t]."""
        return (self.sde.alpha(t) * self.deviation).square() + self.sde.sigma(t).square()

    def score(self, x_t: Images, t: Float[Tensor, "B"]) -> Images:
        return (over_images(self.marginal_mean(t)) - x_t) / over_images(self.marginal_variance(t))

    def forward(self, x_t: Images, t: Float[Tensor, "B"]) -> Images:
        gain = self.sde.alpha(t) * self.deviation**2 / self.marginal_variance(t)
        return self.mean + over_images(gain) * (x_t - over_images(self.marginal_mean(t)))


class MixtureDenoiser(Denoiser):
    """The exact denoiser of data whose pixels are N(-centre, deviation^2) or N(centre, deviation^2), evenly."""

    def __init__(self, sde: SDE, centre: float = 0.5, deviation: float = 0.2) -> None:
        super().__init__(nn.Identity(), Epsilon(), sde)
        self.centre = centre
        self.deviation = deviation

    def score(self, x_t: Images, t: Float[Tensor, "B"]) -> Images:
        alpha, sigma = over_images(self.sde.alpha(t)), over_images(self.sde.sigma(t))
        variance = (alpha * self.deviation).square() + sigma.square()
        mode = alpha * self.centre
        return (mode * torch.tanh(x_t * mode / variance) - x_t) / variance

    def forward(self, x_t: Images, t: Float[Tensor, "B"]) -> Images:
        alpha, sigma = over_images(self.sde.alpha(t)), over_images(self.sde.sigma(t))
        return (x_t + sigma.square() * self.score(x_t, t)) / alpha


class ConstantNoise:
    """Noise that is the same number everywhere: with 0 and 1 it reads off the coefficients of an affine step."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, step: int, draw: int, like: Images) -> Images:
        return torch.full_like(like, self.value)


class BasisNoise:
    """Noise whose draws are the unit vectors of a row of pixels, two for each step, from pixel 2 on.

    An affine solver that starts from 0, but from 1 in the second pixel, ends with its offset in the first pixel. The
    others, less that offset, hold its coefficients of the start and of each draw.
    """

    def __call__(self, step: int, draw: int, like: Images) -> Images:
        assert draw < 2
        noise = torch.zeros_like(like)
        noise[..., 2 * step + draw] = 1
        return noise


def moments_at_end(
    denoiser: GaussianDenoiser, solver: Solver, times: Float[Tensor, "levels"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean and variance at the end of a run that starts with the exact ones: exact, because no noise is drawn."""
    x = torch.zeros(1, 1, 1, 2 * len(times) + 2, dtype=torch.float64)
    x[..., 1] = 1
    offset, *rest = integrate(denoiser, solver, x, times, noise=BasisNoise(), last="sample").flatten()
    factor, deviations = rest[0] - offset, torch.stack(rest[1:]) - offset
    mean, variance = denoiser.marginal_mean(times[0]), denoiser.marginal_variance(times[0])
    return factor * mean + offset, factor.square() * variance + deviations.square().sum()
