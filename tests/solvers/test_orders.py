"""Measured orders of convergence equal the declared ones, for every SDE.

On Gaussian data a run is affine in its start and its noise, so that the coefficients give the exact mean and variance
at its end, without sampling error. Predictor-corrector is not affine; a separate test covers its bias. On data with two
modes, runs with different numbers of steps share a Brownian path.
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from jaxtyping import Float
from support.oracles import GaussianDenoiser, MixtureDenoiser, moments_at_end
from torch import Tensor

from sdedit_pl.grids import LogSNR, Uniform, start_time
from sdedit_pl.noise import SeededNoise
from sdedit_pl.sampling import integrate
from sdedit_pl.sde import SDE, SDES, VESDE, VPSDE
from sdedit_pl.solvers import (
    DDIM,
    ERSDE,
    Ancestral,
    DPMSolver2M,
    EDMHeun,
    EulerMaruyama,
    ProbabilityFlowEuler,
    ProbabilityFlowHeun,
    ReverseDiffusion,
    SDEDPMSolver2M,
    Solver,
    UniPC,
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
    "dpm_solver_2m": DPMSolver2M(),
    "sde_dpm_solver_2m": SDEDPMSolver2M(),
    "er_sde 2": ERSDE(stages=2),
    "er_sde 3": ERSDE(stages=3),
    "unipc 2": UniPC(),
    "edm_heun": EDMHeun(churn=5.0),  # more would be cut to sqrt(2) - 1 at so many steps, and not shrink with them
    "edm_heun without churn": EDMHeun(churn=0.0),
}


def relative_errors(denoiser: GaussianDenoiser, solver: Solver, grid: list[Float[Tensor, "levels"]]) -> list[float]:
    """Of mean and variance at the end of runs over each of the grids."""
    errors = []
    for times in grid:
        mean, variance = moments_at_end(denoiser, solver, times)
        exact_mean, exact_variance = denoiser.marginal_mean(times[-1]), denoiser.marginal_variance(times[-1])
        errors.append((abs(mean - exact_mean) / exact_variance.sqrt() + abs(variance / exact_variance - 1)).item())
    return errors


@pytest.mark.parametrize("sde", [cls() for cls in SDES.values()], ids=SDES)
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_moments_converge_at_the_declared_order(solver: Solver, sde: SDE) -> None:
    denoiser = GaussianDenoiser(sde, mean=0.3, deviation=0.2)
    t0, end = start_time("sigma:1.2", sde), start_time("sigma:0.3", sde)
    errors = relative_errors(denoiser, solver, [Uniform().times(sde, t0, steps, end) for steps in (80, 160)])
    assert errors[-1] < 0.1
    assert math.log2(errors[0] / errors[1]) == pytest.approx(solver.order, abs=0.2)


def test_the_first_step_limits_unipc_3_where_the_estimate_changes_at_the_start() -> None:
    """It does not appear from nearly pure noise, the start of all published numbers."""
    sde = VPSDE()
    denoiser = GaussianDenoiser(sde, mean=0.3, deviation=0.2)
    for t0, end, order in ((0.15, 0.03, 3.0), (0.75, 0.25, 4.0)):
        errors = relative_errors(denoiser, UniPC(3), [LogSNR().times(sde, t0, steps, end) for steps in (80, 160)])
        assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


def path_end(sde: SDE, solver: Solver, steps: int) -> Float[Tensor, "1 1 1 9"]:
    """The ends of nine paths between two modes of data."""
    t0 = torch.full((1,), 0.7, dtype=torch.float64)
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(1, 1, 1, 9)
    times = LogSNR().times(sde, 0.7, steps, end=0.2)
    x = sde.perturb(torch.zeros_like(noise), t0, noise)
    return integrate(MixtureDenoiser(sde), solver, x, times, noise=SeededNoise([0]), last="sample")


@pytest.mark.parametrize("sde", [cls() for cls in SDES.values()], ids=SDES)
def test_paths_of_ode_solvers_converge_at_the_declared_order(sde: SDE) -> None:
    """The path on data with a non-linear score, against a much finer run of the best solver."""
    exact = path_end(sde, UniPC(3), 300)
    for name, solver in SOLVERS.items():
        if solver.stochastic:
            continue
        errors = [(path_end(sde, solver, steps) - exact).abs().max().item() for steps in (60, 120)]
        assert errors[-1] < 0.05, name
        assert math.log2(errors[0] / errors[1]) == pytest.approx(solver.order, abs=0.2), name


class BrownianPath:
    """The noise of runs over a part of the levels of one grid, as increments of one Brownian motion.

    The noise of a step of the reverse SDE from r_t to r_s is an increment over 1 / r^2. That of a coarse step is
    composed of those of the fine steps within it.

    Args:
        sde: the SDE.
        fine: the finest grid.
        steps: the steps of the run, a divisor of the fine grid's.
    """

    def __init__(self, sde: SDE, fine: Float[Tensor, "levels"], steps: int) -> None:
        self.durations = sde.noise_level(fine).square().reciprocal().diff()
        self.within = (len(fine) - 1) // steps

    def __call__(self, step: int, draw: int, like: Tensor) -> Tensor:
        own = range((step - 1) * self.within, step * self.within)
        increments = [self.durations[fine].sqrt() * SeededNoise([7])(fine, draw, like) for fine in own]
        return torch.stack(increments).sum(0) / self.durations[own.start : own.stop].sum().sqrt()


@pytest.mark.parametrize("sde", [VPSDE(), VESDE()], ids=["vp", "ve"])
@pytest.mark.parametrize(
    "solver", [Ancestral(), SDEDPMSolver2M(), ERSDE(2), ERSDE(3), EDMHeun(churn=2.0)], ids=lambda solver: repr(solver)
)
def test_weak_order_on_two_modes(solver: Solver, sde: SDE) -> None:
    """E[x^2] from a noised grey image; its error is the change from a number of steps to twice as many."""
    denoiser, fine_steps = MixtureDenoiser(sde), 32
    t0 = start_time("sigma:1.2", sde)
    fine = LogSNR().times(sde, t0, fine_steps, end=start_time("sigma:0.15", sde))
    grey = torch.zeros(1, 1, 1, 60_000, dtype=torch.float64)
    x = sde.perturb(grey, torch.full((1,), t0, dtype=torch.float64), SeededNoise([8])(0, 0, grey))
    squares = []
    for steps in (8, 16, 32):
        noise = BrownianPath(sde, fine, steps)
        times = fine[:: fine_steps // steps]
        squares.append(integrate(denoiser, solver, x, times, noise=noise, last="sample").square())
    changes = [(coarse - finer).mean().item() for coarse, finer in pairwise(squares)]
    assert math.log2(changes[0] / changes[1]) == pytest.approx(solver.order, abs=0.3)
