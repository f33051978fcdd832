"""Forward chains: parity with published numbers, agreement with the exact transition, and their limits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.oracles import GaussianDenoiser
from support.sdes import PUBLISHED, every_sde

from sdedit_pl.grids import Uniform
from sdedit_pl.noise import SeededNoise
from sdedit_pl.sampling import integrate
from sdedit_pl.sde import SDE, VESDE, VPSDE
from sdedit_pl.solvers import Ancestral, PredictorCorrector, ReverseDiffusion
from sdedit_pl.solvers.published_chains import CHAINS, level_step, paper_step
from sdedit_pl.typing import over_images

TIMES = torch.tensor([0.00105, 0.0123, 0.10005, 0.33335, 0.50005, 0.77777, 0.99905], dtype=torch.float64)


@pytest.mark.parametrize("name", PUBLISHED)
def test_discrete_chains_equal_the_published_ones(name: str, reference: Path) -> None:
    """To 1e-6, for quantities that float32 represents this accurately.

    These are a step's mean x + f and the squared levels of VE. The published f itself and VE's G^2 are small
    differences of them, known to 1e-5.
    """
    sde, steps = PUBLISHED[name], 2000 if name == "ve_lsun" else 1000
    published = {key: torch.from_numpy(value).double() for key, value in np.load(reference / "sde.npz").items()}
    t, x = published["t"], published["x"]
    their_drift, their_deviation = published[f"{name}/discrete_f"], published[f"{name}/discrete_G"]
    scale, deviation, _ = level_step(sde, t, steps)
    drift = scale - 1
    torch.testing.assert_close(x + over_images(drift) * x, x + their_drift, rtol=1e-6, atol=0)
    assert (over_images(drift) * x - their_drift).norm() <= 1e-5 * their_drift.norm()
    if name.startswith("ve"):
        level = sde.sigma((t * (steps - 1) + 1e-6).floor() / (steps - 1))
        below = level.square() - deviation.square()
        torch.testing.assert_close(below + their_deviation.square(), level.square(), rtol=1e-6, atol=0)
        assert (deviation - their_deviation).norm() <= 1e-5 * their_deviation.norm()
    else:
        assert (deviation - their_deviation).norm() <= 1e-6 * their_deviation.norm()


def test_paper_transitions_are_those_of_the_algorithms() -> None:
    t, s = TIMES[1:], TIMES[1:] - 1e-3
    exploding = paper_step(VESDE(), t, s)
    torch.testing.assert_close(exploding.deviation, (VESDE().sigma(t) ** 2 - VESDE().sigma(s) ** 2).sqrt())
    assert (exploding.scale == 1).all()
    preserving = paper_step(VPSDE(), t, s)
    beta = (0.1 + 19.9 * t) * (t - s)
    torch.testing.assert_close(preserving.scale, (1 - beta).sqrt())
    torch.testing.assert_close(preserving.deviation, beta.sqrt())


@every_sde
@pytest.mark.parametrize("chain", ["paper", "table"])
def test_discrete_transitions_tend_to_the_exact_one(sde: SDE, chain: str) -> None:
    errors = []
    for steps in (500, 1000):
        t = torch.arange(steps // 10, steps, steps // 10, dtype=torch.float64) / steps
        exact, discrete = sde.transition(t, t - 1 / steps), CHAINS[chain](sde, t, t - 1 / steps)
        errors.append((discrete.deviation / exact.deviation - 1).abs().max().item())
        torch.testing.assert_close(discrete.scale, exact.scale, rtol=0.02 / steps**0.5, atol=0)
        assert discrete.retained.min() >= 0
        assert discrete.retained.max() <= 1
    assert errors[1] < 0.02
    assert errors[1] <= 0.7 * errors[0] or errors[1] < 1e-9


@every_sde
def test_chain_of_one_level_is_finite(sde: SDE) -> None:
    one = torch.ones(1, dtype=torch.float64)
    assert all(value.isfinite().all() for value in level_step(sde, one, 1))


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
    with pytest.raises(ValueError, match=r"a step of 0\.25 is too long for the '\w+' chain .* use more steps"):
        integrate(GaussianDenoiser(sde), solver, x, Uniform().times(sde, 1.0, 4), noise=SeededNoise([0]))


def test_the_exact_chain_takes_steps_of_any_length() -> None:
    sde = VPSDE()
    x = torch.zeros(1, 1, 2, 2)
    assert (
        integrate(GaussianDenoiser(sde), Ancestral(), x, Uniform().times(sde, 1.0, 1), noise=SeededNoise([0]))
        .isfinite()
        .all()
    )
