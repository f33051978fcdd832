"""Solvers whose state a mask rewrites after each step, on data whose pixels depend on each other.

A multistep solver's estimates depend on kept pixels, so that their noise enters its history. If the kept pixels move
smoothly (one noise for all levels), free pixels are as accurate as without a mask. Edits instead draw new noise at each
level, which gives free pixels the right spread. No step size resolves this noise, but the extrapolation removes at the
next step what it added of it.
"""

from __future__ import annotations

import math

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing import SDEdit
from sdedit_pl.editing.constraints import KeptRegion
from sdedit_pl.grids import GRIDS, LogSNR
from sdedit_pl.noise import SeededNoise
from sdedit_pl.parameterisations import Epsilon
from sdedit_pl.sampling import integrate
from sdedit_pl.sde import SDE, VESDE, VPSDE
from sdedit_pl.solvers import DDIM, ERSDE, SOLVERS, Ancestral, DPMSolver2M, SDEDPMSolver2M, Solver, UniPC
from sdedit_pl.typing import Images, over_images

KEPT, VARIANCE, CORRELATION = 0.5, 0.25, 0.9
MASK = torch.tensor([False, True]).reshape(1, 1, 1, 2)


class PairDenoiser(Denoiser):
    """The exact denoiser of images of two columns: a row's pixels are Gaussian, correlated, of mean zero."""

    def __init__(self, sde: SDE) -> None:
        super().__init__(nn.Identity(), Epsilon(), sde)

    def forward(self, x_t: Images, t: Float[Tensor, "B"]) -> Images:
        y, noise = x_t / over_images(self.sde.alpha(t)), over_images(self.sde.noise_level(t)).square()
        total, difference = y.sum(-1, keepdim=True) / 2, y.diff(dim=-1) / 2
        common, opposite = VARIANCE * (1 + CORRELATION), VARIANCE * (1 - CORRELATION)
        total, difference = total * common / (common + noise), difference * opposite / (opposite + noise)
        return torch.cat([total - difference, total + difference], -1)

    def score(self, x_t: Images, t: Float[Tensor, "B"]) -> Images:
        return (over_images(self.sde.alpha(t)) * self(x_t, t) - x_t) / over_images(self.sde.sigma(t)).square()


def free_pixels(solver: Solver, sde: SDE, steps: int, *, one_noise: bool, end: float, rows: int) -> Tensor:
    """The free pixels of rows whose other pixel is kept at a value."""
    t0, end = (float(sde.time_at_noise_level(torch.tensor(level).double())) for level in (3.0, end))
    guide = torch.full((1, 1, rows, 2), KEPT, dtype=torch.float64)
    noise = SeededNoise([3])
    z = noise(0, 0, guide)
    kept = KeptRegion(guide, MASK.expand(1, 1, rows, 2), sde, noise=z if one_noise else None)
    x = sde.perturb(guide, torch.full((1,), t0, dtype=torch.float64), z)
    times = LogSNR().times(sde, t0, steps, end)
    return integrate(PairDenoiser(sde), solver, x, times, noise=noise, constraint=kept, last="sample")[..., 1]


@pytest.mark.parametrize("solver", [DDIM(), DPMSolver2M(), UniPC(2)], ids=repr)
@pytest.mark.parametrize("sde", [VPSDE(), VESDE()], ids=["vp", "ve"])
def test_free_pixels_keep_their_order_beside_kept_ones_that_move_smoothly(solver: Solver, sde: SDE) -> None:
    def ends(solver: Solver, steps: int) -> Tensor:
        return free_pixels(solver, sde, steps, one_noise=True, end=0.2, rows=8)

    exact = ends(UniPC(3), 200)
    errors = [(ends(solver, steps) - exact).abs().max().item() for steps in (40, 80)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(solver.order, abs=0.15)


@pytest.mark.parametrize(
    ("solver", "first_order"),
    [(DPMSolver2M(), DDIM()), (UniPC(2), DDIM()), (UniPC(3), DDIM()), (SDEDPMSolver2M(), Ancestral())],
    ids=["dpm_solver_2m", "unipc 2", "unipc 3", "sde_dpm_solver_2m"],
)
def test_a_history_does_no_harm_beside_kept_pixels_with_new_noise_at_each_level(
    solver: Solver, first_order: Solver
) -> None:
    """Mean and deviation over rows after 20 steps: closer to those of many steps than without a history."""

    def moments(solver: Solver, steps: int) -> Tensor:
        pixels = free_pixels(solver, VPSDE(), steps, one_noise=False, end=0.02, rows=20_000)
        return torch.stack([pixels.mean(), pixels.std()])

    limit = moments(first_order, 400)
    distance, without = ((moments(own, 20) - limit).abs() for own in (solver, first_order))
    assert (distance < without).all()
    assert (distance < 0.03).all()


@pytest.mark.parametrize("solver", [*(kind() for kind in SOLVERS.values()), UniPC(3), ERSDE(2)], ids=str)
def test_kept_pixels_stay_bit_for_bit_and_samples_do_not_depend_on_their_batch(solver: Solver) -> None:
    generator = torch.Generator().manual_seed(0)
    guide = torch.rand(4, 3, 8, 2, generator=generator) * 2 - 1
    mask = torch.rand(4, 1, 8, 2, generator=generator) > 0.4
    edit, denoiser, seeds = (
        SDEdit(t0=0.5, steps=40, repeats=2, solver=solver, grid=GRIDS["restart"]()),
        PairDenoiser(VPSDE()),
        [5, 6, 7, 8],
    )
    images = edit(denoiser, guide, edit_mask=mask, seeds=seeds)
    assert images.dtype == torch.float32
    kept = ~mask.expand_as(guide)
    assert torch.equal(images[kept], guide[kept])
    assert (images - guide)[~kept].abs().mean() > 0.05
    own = slice(2, 3)
    assert torch.equal(edit(denoiser, guide[own], edit_mask=mask[own], seeds=seeds[own]), images[own])
