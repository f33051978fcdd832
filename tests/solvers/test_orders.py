"""Measured orders of convergence equal the declared ones, for every SDE.

On Gaussian data a step is affine in the state and the noise, x_s = a x + b z + c, so mean and variance of x are carried
through a run exactly and no sampling error hides a solver's. Predictor-corrector is not affine; its bias has a test of
its own.
"""

from __future__ import annotations

import math

import pytest
import torch
from jaxtyping import Float
from oracles import ConstantNoise, GaussianDenoiser, MixtureDenoiser
from torch import Tensor

from sdedit_pl.grids import LogSNR, Uniform
from sdedit_pl.noise import SeededNoise, StepNoise
from sdedit_pl.sampling import integrate
from sdedit_pl.sde import SDE, SDES
from sdedit_pl.solvers import (
    DDIM,
    Ancestral,
    EulerMaruyama,
    ProbabilityFlowEuler,
    ProbabilityFlowHeun,
    ReverseDiffusion,
    Solver,
)

SOLVERS = {
    "ancestral small": Ancestral(variance="small"),
    "ancestral large": Ancestral(variance="large"),
    "ancestral paper": Ancestral(variance="large", chain="paper"),
    "ancestral table": Ancestral(variance="large", chain="table"),
    "ddim": DDIM(),
    "ddim half": DDIM(eta=0.5),
    "euler_maruyama": EulerMaruyama(),
    "reverse_diffusion": ReverseDiffusion(),
    "reverse_diffusion exact": ReverseDiffusion(chain="exact"),
    "probability_flow_euler": ProbabilityFlowEuler(),
    "probability_flow_heun": ProbabilityFlowHeun(),
}


def pixel(value: float) -> Float[Tensor, "1 1 1 1"]:
    return torch.full((1, 1, 1, 1), value, dtype=torch.float64)


def terminal_moments(
    denoiser: GaussianDenoiser, solver: Solver, times: Float[Tensor, "levels"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean and variance at the end of a run that starts with the exact ones."""
    state = solver.initial_state(denoiser.sde, times)
    mean, variance = denoiser.marginal_mean(times[0]), denoiser.marginal_variance(times[0])
    for t, s in zip(times[:-1, None], times[1:, None], strict=True):

        def step(x: float, z: float, t: Tensor = t, s: Tensor = s) -> Float[Tensor, ""]:
            noise = StepNoise(ConstantNoise(z), 1, pixel(0.0))
            return solver.step(denoiser, pixel(x), t, s, state, noise)[0].squeeze()

        offset = step(0.0, 0.0)
        factor, deviation = step(1.0, 0.0) - offset, step(0.0, 1.0) - offset
        mean = factor * mean + offset
        variance = factor.square() * variance + deviation.square()
    return mean, variance


@pytest.mark.parametrize("sde", [cls() for cls in SDES.values()], ids=SDES)
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_moments_converge_at_the_declared_order(solver: Solver, sde: SDE) -> None:
    denoiser = GaussianDenoiser(sde, mean=0.3, deviation=0.2)
    errors = []
    for steps in (80, 160):
        times = Uniform().times(sde, 0.75, steps, end=0.25)
        mean, variance = terminal_moments(denoiser, solver, times)
        exact_mean, exact_variance = denoiser.marginal_mean(times[-1]), denoiser.marginal_variance(times[-1])
        errors.append(abs(mean - exact_mean) / exact_variance.sqrt() + abs(variance / exact_variance - 1))
    assert errors[-1] < 0.1
    assert math.log2(errors[0] / errors[1]) == pytest.approx(solver.order, abs=0.15)


def path_end(sde: SDE, solver: Solver, steps: int) -> Float[Tensor, "1 1 1 9"]:
    """Where nine paths between two modes of data end."""
    t0 = torch.full((1,), 0.7, dtype=torch.float64)
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(1, 1, 1, 9)
    times = LogSNR().times(sde, 0.7, steps, end=0.2)
    x = sde.perturb(torch.zeros_like(noise), t0, noise)
    return integrate(MixtureDenoiser(sde), solver, x, times, noise=SeededNoise([0]), last="sample")


@pytest.mark.parametrize("sde", [cls() for cls in SDES.values()], ids=SDES)
def test_paths_of_ode_solvers_converge_at_the_declared_order(sde: SDE) -> None:
    """The path itself, on data whose score is not linear, to the one of a much finer run of the best solver."""
    exact = path_end(sde, ProbabilityFlowHeun(), 1000)
    for name, solver in SOLVERS.items():
        if solver.stochastic:
            continue
        errors = [(path_end(sde, solver, steps) - exact).abs().max().item() for steps in (60, 120)]
        assert errors[-1] < 0.05, name
        assert math.log2(errors[0] / errors[1]) == pytest.approx(solver.order, abs=0.2), name
