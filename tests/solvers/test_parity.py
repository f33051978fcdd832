"""The published samplers, number by number: score_sde's predictors from a noised guide, given the same noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.oracles import GaussianDenoiser
from support.recorded_noise import RecordedNoise

from sdedit_pl.sampling import integrate
from sdedit_pl.sde import SDE, VESDE, VPSDE
from sdedit_pl.solvers import Ancestral, EulerMaruyama, ReverseDiffusion, Solver

CASES = {
    "ve/reverse_diffusion": (VESDE(), ReverseDiffusion()),
    "ve/euler_maruyama": (VESDE(), EulerMaruyama()),
    "ve/ancestral_sampling": (VESDE(), Ancestral(variance="small", chain="table")),
    "vp/reverse_diffusion": (VPSDE(), ReverseDiffusion()),
    "vp/euler_maruyama": (VPSDE(), EulerMaruyama()),
    "vp/ancestral_sampling": (VPSDE(), Ancestral(variance="large", chain="table")),
}


@pytest.mark.parametrize(("case", "sde", "solver"), [(case, *pair) for case, pair in CASES.items()], ids=CASES)
def test_states_equal_the_published_ones(case: str, sde: SDE, solver: Solver, reference: Path) -> None:
    """All 25 states after the noised guide, in float32, and the published result, the mean of the last step."""
    recorded = np.load(reference / "predictors.npz")
    expected = torch.from_numpy(recorded[f"{case}/x"])
    noise = RecordedNoise(list(torch.from_numpy(recorded[f"{case}/noise"])))
    denoiser = GaussianDenoiser(sde, mean=float(recorded["mu"]), deviation=float(recorded["s0"]))
    guide = torch.from_numpy(recorded["guide"])
    times = torch.tensor([*recorded[f"{case}/t"], 0.0], dtype=torch.float64)

    x = sde.perturb(guide, torch.full((len(guide),), 0.5), noise(0, 0, guide))
    torch.testing.assert_close(x, expected[0], rtol=1e-5, atol=1e-5)
    states: list[torch.Tensor] = []
    integrate(denoiser, solver, x, times, noise=noise, last="sample", callback=lambda x, time: states.append(x))
    for state, published in zip(states, expected[1:], strict=True):
        assert (state - published).norm() <= 1e-5 * published.norm()
    mean = integrate(denoiser, solver, x, times, noise=noise, last="mean")
    torch.testing.assert_close(mean, torch.from_numpy(recorded[f"{case}/x_mean_last"]), rtol=1e-5, atol=1e-5)
