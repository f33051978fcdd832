"""The variants against the paper's algorithms, written out, and recorded runs of its code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support.denoisers import denoiser_of
from support.oracles import GaussianDenoiser
from support.recorded_noise import RecordedNoise

from sdedit_pl.checkpoints.importers import importer
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing import SDEdit
from sdedit_pl.editing.published import ChainMarginals
from sdedit_pl.grids import Uniform
from sdedit_pl.noise import SeededNoise
from sdedit_pl.sde import SDES, VESDE, VPSDE
from sdedit_pl.typing import Images, Mask

GUIDE = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
T0, STEPS, REPEATS = 0.5, 40, 2
NOISE = SeededNoise([1, 2])


def algorithm_2_and_3(denoiser: Denoiser, edit_mask: Mask) -> Images:
    """The VE algorithms, with 3's mask (all True is 2)."""
    sde, omega = denoiser.sde, edit_mask.double()

    def sigma(t: float) -> float:
        return sde.sigma_min * (sde.sigma_max / sde.sigma_min) ** t

    x = GUIDE
    for repeat in range(REPEATS):
        first = repeat * (STEPS + 1)
        x = (1 - omega) * GUIDE + omega * x + sigma(T0) * NOISE(first, 0, GUIDE)
        for n in range(STEPS, 0, -1):
            t, z = T0 * n / STEPS, NOISE(first + 1 + STEPS - n, 0, GUIDE)
            e = (sigma(t) ** 2 - sigma(t - T0 / STEPS) ** 2) ** 0.5
            score = denoiser.score(x, torch.full((2,), t, dtype=torch.float64))
            x = (1 - omega) * (GUIDE + sigma(t) * z) + omega * (x + e**2 * score + e * z)
    return x


def algorithm_4_and_5(denoiser: Denoiser, edit_mask: Mask) -> Images:
    """The VP algorithms, with 5's mask (all True is 4)."""
    omega, duration = edit_mask.double(), T0 / STEPS
    beta = [0.1 + 19.9 * T0 * n / STEPS for n in range(STEPS + 1)]
    a = [1.0]
    for n in range(1, STEPS + 1):
        a.append(a[-1] * (1 - beta[n] * duration))

    x = GUIDE
    for repeat in range(REPEATS):
        first = repeat * (STEPS + 1)
        x = (1 - omega) * GUIDE + omega * x
        x = a[STEPS] ** 0.5 * x + (1 - a[STEPS]) ** 0.5 * NOISE(first, 0, GUIDE)
        for n in range(STEPS, 0, -1):
            z = NOISE(first + 1 + STEPS - n, 0, GUIDE)
            score = denoiser.score(x, torch.full((2,), T0 * n / STEPS, dtype=torch.float64))
            edited = (x + beta[n] * duration * score) / (1 - beta[n] * duration) ** 0.5 + (
                beta[n] * duration
            ) ** 0.5 * z
            x = (1 - omega) * (a[n] ** 0.5 * GUIDE + (1 - a[n]) ** 0.5 * z) + omega * edited
    return x


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize(
    ("sde", "algorithm"), [(VESDE(), algorithm_2_and_3), (VPSDE(), algorithm_4_and_5)], ids=["ve", "vp"]
)
def test_paper_equals_its_algorithms(sde, algorithm: Callable[..., Images], masked: bool) -> None:
    edit_mask = torch.ones(1, 1, 6, 6, dtype=torch.bool)
    if masked:
        edit_mask[..., :3] = False
    denoiser = GaussianDenoiser(sde)
    edit = SDEdit(t0=T0, steps=STEPS, repeats=REPEATS, variant="paper")
    result = edit(denoiser, GUIDE, edit_mask=edit_mask if masked else None, noise=NOISE)
    torch.testing.assert_close(result, algorithm(denoiser, edit_mask), rtol=1e-9, atol=1e-9)


def recorded_denoiser(folder: Path) -> Denoiser:
    """The tiny U-Net of the recorded runs; its label is the index in the beta table."""
    config = json.loads((folder / "config.json").read_text())
    imported = importer("ddim").read(folder / "edit_model.safetensors", config=config)
    return denoiser_of(imported)


@pytest.mark.parametrize("run", ["edit_unmasked", "edit_masked"])
def test_reference_reproduces_recorded_runs(run: str, reference: Path) -> None:
    """Runs of the paper's code, compared after each repeat, with its recorded noise. Its mask is 1 where kept."""
    with np.load(reference / f"sdedit_ddpm/{run}.npz") as archive:
        recorded = {key: torch.from_numpy(np.asarray(value)) for key, value in archive.items()}
    denoiser = recorded_denoiser(reference / "sdedit_ddpm")
    guide = recorded["guide"] * 2 - 1
    edit_mask = (recorded["mask"][:1] != 1)[None]
    steps = int(recorded["t"])
    assert bool(edit_mask.all()) is (run == "edit_unmasked")
    for repeats, expected in enumerate(recorded["samples"], start=1):
        edit = SDEdit(t0=steps / 1000, steps=steps, repeats=repeats, variant="reference")
        samples = edit(denoiser, guide, edit_mask=edit_mask, noise=RecordedNoise(list(recorded["noise"])))
        torch.testing.assert_close(samples, expected, rtol=0, atol=1e-4)


def test_variants_differ_where_they_should() -> None:
    """Kept pixels equal the guide in exact, and carry noise of the lowest level in the others."""
    mask = torch.zeros(1, 1, 6, 6, dtype=torch.bool)
    mask[..., 3:] = True
    kept = {
        variant: SDEdit(steps=STEPS, variant=variant)(GaussianDenoiser(VPSDE()), GUIDE, edit_mask=mask)[..., :3]
        for variant in ("exact", "paper", "reference")
    }
    assert torch.equal(kept["exact"], GUIDE[..., :3])
    lowest = VPSDE().sigma(torch.tensor(T0 / STEPS)).item()
    for variant in ("paper", "reference"):
        assert (kept[variant] - GUIDE[..., :3]).std().item() == pytest.approx(lowest, rel=0.3)


@pytest.mark.parametrize("name", SDES)
def test_chain_marginals_tend_to_the_closed_form(name: str) -> None:
    sde = SDES[name]()
    errors = []
    for steps in (50, 100):
        times = Uniform().times(sde, 0.6, steps)
        chain = ChainMarginals.of(sde, times, GUIDE)
        torch.testing.assert_close(chain.times, times.flip(0))
        at = torch.tensor([0.6, 0.3], dtype=torch.float64)
        ours = [
            chain.perturb(torch.full_like(GUIDE, x_0), at, torch.full_like(GUIDE, z)) for x_0, z in ((1, 0), (0, 1))
        ]
        exact = [sde.perturb(torch.full_like(GUIDE, x_0), at, torch.full_like(GUIDE, z)) for x_0, z in ((1, 0), (0, 1))]
        errors.append(max((one - other).abs().max().item() for one, other in zip(ours, exact, strict=True)))
    assert errors[1] < 1e-9 or errors[1] < 0.6 * errors[0] < 0.1
