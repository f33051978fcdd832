"""The measurement on a Gaussian mixture: its exact answers are exact, its costs are counted, and it runs."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch

from sdedit_pl.editing import SDEdit
from sdedit_pl.grids import LogSNR
from sdedit_pl.sde import SDES, VPSDE
from sdedit_pl.solvers import SOLVERS, Ancestral

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import mixture


def denoiser_of(sde) -> mixture.MixtureDenoiser:
    return mixture.MixtureDenoiser.of_smooth_images(sde, modes=3, seed=1)


@pytest.mark.parametrize("sde", [cls() for cls in SDES.values()], ids=SDES)
def test_the_score_is_the_gradient_of_the_log_density(sde) -> None:
    denoiser, t = denoiser_of(sde), torch.tensor([0.1, 0.5])
    dimensions = denoiser.basis.shape[1]
    x = denoiser.sde.perturb(denoiser.crude_paintings(2, 0), t, torch.randn(2, *mixture.SHAPE))
    for own, time in zip(x, t, strict=True):
        alpha, sigma = sde.alpha(time).double(), sde.sigma(time).double()
        basis = denoiser.basis.double()
        spread = (denoiser.along - denoiser.off) * basis @ basis.mT
        covariance = alpha**2 * (spread + denoiser.off * torch.eye(dimensions)) + sigma**2 * torch.eye(dimensions)
        normal = torch.distributions.MultivariateNormal(alpha * denoiser.mean.double(), covariance)
        flat = own.flatten().double().requires_grad_()
        (gradient,) = torch.autograd.grad(normal.log_prob(flat).logsumexp(0), flat)
        found = denoiser.score(own[None], time[None]).flatten()
        torch.testing.assert_close(found.double(), gradient, rtol=1e-3, atol=1e-3 * gradient.abs().max().item())


def test_exact_edits_have_the_posteriors_moments_and_are_what_many_small_steps_give() -> None:
    denoiser, samples, t0 = denoiser_of(VPSDE()), 1500, 0.4
    guide = denoiser.crude_paintings(1, 3)
    t = torch.full((samples,), t0)
    noise = torch.randn(guide.shape, generator=torch.Generator().manual_seed(4)).expand(samples, -1, -1, -1)
    noised = denoiser.sde.perturb(guide.expand(samples, -1, -1, -1), t, noise)
    drawn = denoiser.sample_posterior(noised, t, torch.Generator().manual_seed(5))
    estimate = denoiser(noised[:1], t[:1])[0]
    error = drawn.std(0) / math.sqrt(samples)
    assert ((drawn.mean(0) - estimate).abs() < 5 * error).all()

    config = {"seed": 0, "directions": 64, "samples": samples}
    right = mixture.RightEdits.of(denoiser, guide, t0, config)
    floor = right.distance(mixture.exact_edits(denoiser, guide, t0, samples, torch.Generator().manual_seed(6)))
    repeated = guide.expand(samples, -1, -1, -1)
    distances = [
        right.distance(
            SDEdit(t0, steps, solver=Ancestral(), grid=LogSNR())(denoiser, repeated, noise=mixture.Draws(1))[None]
        )
        for steps in (8, 120)
    ]
    assert distances[1] < 2 * floor < distances[0]


@pytest.mark.parametrize("evaluations", [5, 12, 25])
@pytest.mark.parametrize("name", SOLVERS)
def test_an_affordable_edit_calls_the_denoiser_as_often_as_it_may(name: str, evaluations: int) -> None:
    denoiser, solver = denoiser_of(VPSDE()), SOLVERS[name]()
    edit = mixture.affordable(denoiser.sde, 0.3, solver, "uniform", evaluations)
    assert edit is not None
    edit(denoiser, denoiser.crude_paintings(2, 0))
    assert evaluations - solver.evaluations_per_step < denoiser.evaluations <= evaluations


def test_an_edit_that_solver_or_grid_refuse_is_left_out() -> None:
    assert mixture.affordable(VPSDE(), 0.5, SOLVERS["ddim"](), "restart", 5) is None
    assert mixture.affordable(VPSDE(), 1.0, SOLVERS["reverse_diffusion"](), "uniform", 4) is None


def run(folder: Path, *more: str) -> int:
    small = ["t0=[0.3]", "evaluations=[5,10]", "guides=2", "samples=8", "directions=4"]
    return mixture.run_benchmark(
        [f"out={folder}", *small, *more], mixture.COMMAND, mixture.measure, mixture.report, mixture.plot
    )


def test_measures_every_solver_on_every_grid_and_says_the_same_twice(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(mixture, "REFERENCE_STEPS", 20)
    assert run(tmp_path / "a") == run(tmp_path / "b") == 0
    first, second = (json.loads((tmp_path / name / "results.json").read_text()) for name in "ab")
    assert first["distance"] == second["distance"]
    assert set(first["distance"]["0.3"]) == set(mixture.all_solvers()) >= set(SOLVERS)
    assert set(first["distance"]["0.3"]["ddim"]) == {"uniform", "log_snr", "karras", "restart"}
    assert first["reference_20_steps"]["0.3"].keys() == {"Algorithm 4", "ancestral"}
    report = (tmp_path / "a" / "report.md").read_text()
    assert "| ddim | karras | " in report
    assert report in capsys.readouterr().out
    assert (tmp_path / "a" / "mixture_t0_0.3.png").stat().st_size > 1000


def test_the_best_are_found() -> None:
    found = {"ddim": {"uniform": {"5": 0.3, "10": 0.1}, "karras": {"5": 0.2}}, "unipc": {"uniform": {"5": 0.25}}}
    assert mixture.best(found, "5", 2) == [(0.2, "ddim, karras"), (0.25, "unipc, uniform")]
    assert mixture.best(found, "10") == [(0.1, "ddim, uniform")]


def test_results_are_not_replaced_unasked(tmp_path: Path, capsys) -> None:
    (tmp_path / "kept.txt").write_text("")
    assert run(tmp_path) == 2
    assert "already holds files; give another out=, or overwrite=true" in capsys.readouterr().err


def test_impossible_arguments_are_refused(tmp_path: Path, capsys) -> None:
    assert run(tmp_path / "new", "samples=1") == 2
    assert "samples must be at least 2, got 1" in capsys.readouterr().err
