"""Properties of every solver of the table: cost, noise, precision, independence of the batch."""

from __future__ import annotations

import pytest
import torch
from support.oracles import GaussianDenoiser, MixtureDenoiser

from sdedit_pl.grids import Karras, Uniform
from sdedit_pl.noise import SeededNoise
from sdedit_pl.sampling import integrate
from sdedit_pl.sde import SDES
from sdedit_pl.solvers import ERSDE, SOLVERS, Solver, UniPC
from sdedit_pl.typing import Images, Times

EVERY = {name: solver() for name, solver in SOLVERS.items()} | {"er_sde 2": ERSDE(stages=2), "unipc 3": UniPC(3)}
every_solver = pytest.mark.parametrize("solver", EVERY.values(), ids=EVERY)
every_sde = pytest.mark.parametrize("sde", [cls() for cls in SDES.values()], ids=SDES)


class CountingDenoiser(GaussianDenoiser):
    """Counts evaluations, each of which would call a network once."""

    evaluations = 0

    def forward(self, x_t: Images, t: Times) -> Images:
        self.evaluations += 1
        return super().forward(x_t, t)

    def score(self, x_t: Images, t: Times) -> Images:
        self.evaluations += 1
        return super().score(x_t, t)


def noised(sde, seeds: range, side: int = 6) -> tuple[Images, SeededNoise]:
    """A grey guide noised to t0 = 0.6."""
    noise = SeededNoise(seeds)
    guide = torch.zeros(len(seeds), 3, side, side)
    return sde.perturb(guide, torch.full((len(seeds),), 0.6), noise(0, 0, guide)), noise


@every_solver
def test_evaluations_are_as_declared(solver: Solver) -> None:
    denoiser = CountingDenoiser(SDES["vp"]())
    x, noise = noised(denoiser.sde, range(2))
    integrate(denoiser, solver, x, Uniform().times(denoiser.sde, 0.6, 12), noise=noise, last="mean")
    assert denoiser.evaluations == 12 * solver.evaluations_per_step


@every_solver
@every_sde
def test_noise_matters_to_stochastic_solvers_alone(solver: Solver, sde) -> None:
    denoiser = GaussianDenoiser(sde)
    x, noise = noised(sde, range(2))
    times = Uniform().times(sde, 0.6, 12)
    ends = [integrate(denoiser, solver, x, times, noise=source) for source in (noise, SeededNoise([7, 8]))]
    assert torch.equal(*ends) is not solver.stochastic


@every_solver
@every_sde
def test_samples_do_not_depend_on_their_batch(solver: Solver, sde) -> None:
    denoiser = MixtureDenoiser(sde)
    times = Uniform().times(sde, 0.6, 12)
    batch, alone = (
        integrate(denoiser, solver, x, times, noise=noise)
        for x, noise in (noised(sde, seeds, side=128) for seeds in (range(5), range(3, 4)))
    )
    assert torch.equal(batch[3], alone[0])


@every_solver
@every_sde
@pytest.mark.parametrize("grid", [Uniform(), Karras()], ids=["uniform", "karras"])
def test_float32_follows_float64_down_to_an_image(solver: Solver, sde, grid) -> None:
    denoiser = GaussianDenoiser(sde)
    x, noise = noised(sde, range(2))
    times = grid.times(sde, 0.6, 40)
    single, double = (integrate(denoiser, solver, state, times, noise=noise) for state in (x, x.double()))
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(single.double(), double, rtol=0, atol=2e-4)


@every_solver
@every_sde
def test_samples_have_the_distribution_of_the_data(solver: Solver, sde) -> None:
    """From the exact marginal at t0 in many steps; the bounds are the bias of 300 steps plus the sampling error."""
    denoiser = GaussianDenoiser(sde, mean=0.3, deviation=0.2)
    noise = SeededNoise([11])
    like = torch.zeros(1, 1, 100, 100)
    t0 = torch.full((1,), 0.6)
    x = denoiser.marginal_mean(t0) + denoiser.marginal_variance(t0).sqrt() * noise(0, 0, like)
    image = integrate(denoiser, solver, x, Uniform().times(sde, 0.6, 300), noise=noise)
    assert image.mean().item() == pytest.approx(0.3, abs=0.02)
    assert image.std().item() == pytest.approx(0.2, abs=0.025)
