"""Forward chains: their names and their limits."""

from __future__ import annotations

import pytest
import torch
from support.oracles import GaussianDenoiser

from sdedit_pl.grids import Uniform
from sdedit_pl.noise import SeededNoise
from sdedit_pl.sampling import integrate
from sdedit_pl.sde import VPSDE
from sdedit_pl.solvers import Ancestral, PredictorCorrector, ReverseDiffusion


@pytest.mark.parametrize("make", [Ancestral, ReverseDiffusion])
def test_unknown_chains_are_refused(make) -> None:
    with pytest.raises(ValueError, match="one of exact, paper, table, got 'literal'"):
        make(chain="literal")


@pytest.mark.parametrize(
    "solver",
    [Ancestral(chain="paper"), Ancestral(chain="table"), ReverseDiffusion(), PredictorCorrector()],
    ids=repr,
)
def test_steps_too_long_for_a_chain_are_refused_before_anything_is_computed(solver) -> None:
    sde = VPSDE()
    x = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match=r"a step of 0\.25 is too long for the '\w+' chain .* take more steps"):
        integrate(GaussianDenoiser(sde), solver, x, Uniform().times(sde, 1.0, 4), noise=SeededNoise([0]))


def test_the_exact_chain_takes_steps_of_any_length() -> None:
    sde = VPSDE()
    x = torch.zeros(1, 1, 2, 2)
    assert (
        integrate(GaussianDenoiser(sde), Ancestral(), x, Uniform().times(sde, 1.0, 1), noise=SeededNoise([0]))
        .isfinite()
        .all()
    )
