"""The exponential integrators: their first steps, their last ones, and the formulas of their sources."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from support.oracles import GaussianDenoiser, MixtureDenoiser

from sdedit_pl.grids import GRIDS, Karras, Uniform
from sdedit_pl.noise import SeededNoise, StepNoise
from sdedit_pl.sampling import integrate
from sdedit_pl.sde import SDE, SDES, VESDE, VPSDE
from sdedit_pl.solvers import (
    DDIM,
    ERSDE,
    Ancestral,
    DPMSolver2M,
    EDMHeun,
    ProbabilityFlowHeun,
    SDEDPMSolver2M,
    Solver,
    UniPC,
)
from sdedit_pl.solvers.exponential import mean_over_unit_interval
from sdedit_pl.solvers.unipc import weights
from sdedit_pl.typing import Images

X = torch.linspace(-2, 2, 2 * 3 * 4 * 4, dtype=torch.float64).reshape(2, 3, 4, 4)
NOISE = SeededNoise([1, 2])
MULTISTEP = {
    "dpm_solver_2m": DPMSolver2M(),
    "sde_dpm_solver_2m": SDEDPMSolver2M(),
    "er_sde 2": ERSDE(2),
    "er_sde 3": ERSDE(3),
    "unipc 2": UniPC(2),
    "unipc 3": UniPC(3),
}
every_sde = pytest.mark.parametrize("sde", [cls() for cls in SDES.values()], ids=SDES)
every_multistep = pytest.mark.parametrize("solver", MULTISTEP.values(), ids=MULTISTEP)


def run(solver: Solver, sde: SDE, times: list[float], last: str = "sample") -> Images:
    grid = torch.tensor(times, dtype=torch.float64)
    return integrate(MixtureDenoiser(sde), solver, X, grid, noise=NOISE, last=last)


@every_sde
@pytest.mark.parametrize(
    ("solver", "first_order"),
    [(DPMSolver2M(), DDIM()), (UniPC(2), DDIM()), (UniPC(3), DDIM()), (SDEDPMSolver2M(), Ancestral("small"))],
    ids=["dpm_solver_2m", "unipc 2", "unipc 3", "sde_dpm_solver_2m"],
)
def test_the_first_step_is_the_known_one_of_first_order(solver: Solver, first_order: Solver, sde: SDE) -> None:
    torch.testing.assert_close(run(solver, sde, [0.6, 0.4]), run(first_order, sde, [0.6, 0.4]))
    assert (run(solver, sde, [0.6, 0.4, 0.3]) - run(first_order, sde, [0.6, 0.4, 0.3])).abs().max() > 1e-3


@every_sde
@every_multistep
def test_a_step_to_no_noise_returns_the_estimate(solver: Solver, sde: SDE) -> None:
    """Also with a history, although extrapolation over an infinite length of ln r is undefined. VE ends on noise."""
    if sde.noise_level(torch.zeros(())) > 0:
        assert run(solver, sde, [0.6, 0.4, 0.3, 0.0], "mean").isfinite().all()
        return
    here = run(solver, sde, [0.6, 0.4, 0.3])
    estimate = MixtureDenoiser(sde)(here, torch.full((2,), 0.3, dtype=torch.float64))
    torch.testing.assert_close(run(solver, sde, [0.6, 0.4, 0.3, 0.0]), estimate)


@every_sde
@every_multistep
def test_a_run_leaves_no_history_behind(solver: Solver, sde: SDE) -> None:
    assert torch.equal(run(solver, sde, [0.6, 0.4, 0.3]), run(solver, sde, [0.6, 0.4, 0.3]))


@every_multistep
def test_every_sde_takes_the_same_path(solver: Solver) -> None:
    """x / alpha at the same noise levels, from the same start, with the same noise."""
    levels = Karras().times(VESDE(), 0.6, 8, end=0.2)
    levels = VESDE().noise_level(levels)
    ends = []
    for sde in (cls() for cls in SDES.values()):
        times = sde.time_at_noise_level(levels)
        x = integrate(MixtureDenoiser(sde), solver, X * sde.alpha(times[0]), times, noise=NOISE, last="sample")
        ends.append(x / sde.alpha(times[-1]))
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=1e-6, atol=1e-6)


def test_unipc_without_its_corrector_is_dpm_solver() -> None:
    """One step and its history: the correction appears in the start of the next step, not in the prediction."""
    sde = VPSDE()
    times = [torch.full((2,), time, dtype=torch.float64) for time in (0.6, 0.5, 0.4)]
    quiet = StepNoise(NOISE, 1, X)
    denoiser = MixtureDenoiser(sde)
    x, state = UniPC(2).step(denoiser, X, times[0], times[1], None, quiet)
    corrected = UniPC(2).step(denoiser, x, times[1], times[2], state, quiet)[1].y * sde.alpha(times[1])[0]
    assert (corrected - x).abs().max() > 1e-3
    _, before = DPMSolver2M().step(denoiser, X, times[0], times[1], None, quiet)
    predicted, _ = DPMSolver2M().step(denoiser, x, times[1], times[2], before, quiet)
    mine, _ = UniPC(2).step(denoiser, x, times[1], times[2], state, quiet)
    kept = sde.sigma(times[2]) / sde.sigma(times[1])
    torch.testing.assert_close(mine - predicted, kept[0] * (corrected - x))


@pytest.mark.parametrize("length", [1e-3, 0.1, 1.0, 4.0])
def test_weights_of_unipc_integrate_polynomials(length: float) -> None:
    """sum_m c_m p_m^{k-1} = M_k for k up to the number of points, here against M_k in closed form or by a fine sum."""
    step = torch.full((1,), length, dtype=torch.float64)
    for places in ([-1.0, 1.0], [-0.8, -2.1, 1.0]):
        points = [torch.full((1,), place, dtype=torch.float64) for place in places]
        found = weights(points, step)
        u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
        for power in range(1, len(places) + 1):
            moment = length * ((-length * (1 - u)).exp() * u**power).mean().item()
            total = sum(c.item() * place ** (power - 1) for c, place in zip(found, places, strict=True))
            assert total == pytest.approx(moment, rel=1e-7)


def test_the_quadrature_is_exact_for_what_solvers_integrate() -> None:
    for length in (0.01, 1.0, 5.0, 10.0):
        step = torch.full((1,), length, dtype=torch.float64)
        found = mean_over_unit_interval(lambda place, step=step: (-step * place).exp()).item()
        assert found == pytest.approx(-math.expm1(-length) / length, abs=2e-7)


@pytest.mark.parametrize("stages", [2, 3])
def test_er_sde_is_the_published_update(stages: int) -> None:
    """Algorithms 2 and 3 in sigma = r (VE), with their integrals as sums over many points, for four steps."""
    sde = VESDE()
    denoiser = MixtureDenoiser(sde)
    times = Karras().times(sde, 0.6, 4, end=0.3)
    levels = sde.noise_level(times).tolist()

    def phi(level):
        return level * (torch.as_tensor(level, dtype=torch.float64).pow(0.3).exp() + 10)

    x, estimates, slopes = X, [], []
    for index, (here, below) in enumerate(pairwise(levels)):
        estimates.append(denoiser(x, times[index].expand(2)))
        ratio = phi(below) / phi(here)
        points = below + (here - below) * (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
        change = 0.0
        if index >= 1:
            slopes.append((estimates[-1] - estimates[-2]) / (here - levels[index - 1]))
            integral = (here - below) * (1 / phi(points)).mean()
            change = (below - here + phi(below) * integral) * slopes[-1]
        if index >= 2 and stages == 3:
            bend = 2 * (slopes[-1] - slopes[-2]) / (here - levels[index - 2])
            integral = (here - below) * ((points - here) / phi(points)).mean()
            change = change + ((below - here) ** 2 / 2 + phi(below) * integral) * bend
        z = NOISE(index + 1, 0, X)
        x = ratio * x + (1 - ratio) * estimates[-1] + change + (below**2 - (here * ratio) ** 2).sqrt() * z
    ours = integrate(denoiser, ERSDE(stages), X, times, noise=NOISE, last="sample")
    torch.testing.assert_close(ours, x, rtol=1e-6, atol=1e-6)


@every_sde
def test_heun_without_churn_is_the_probability_flow(sde: SDE) -> None:
    times = [0.6, 0.45, 0.3, 0.2]
    assert torch.equal(run(EDMHeun(churn=0.0), sde, times), run(ProbabilityFlowHeun(), sde, times))


@every_sde
def test_churn_raises_levels_by_gamma_and_never_above_the_start(sde: SDE) -> None:
    solver, visited = EDMHeun(churn=100.0), []

    class Noting(GaussianDenoiser):
        def forward(self, x_t, t):
            visited.append(t.item())
            return super().forward(x_t, t)

    times = Uniform().times(sde, 0.6, 20, end=0.3)
    integrate(Noting(sde), solver, X, times, noise=NOISE, last="sample")
    starts = visited[::2]
    assert starts[0] == pytest.approx(0.6)
    assert max(starts) <= 0.6 + 1e-6
    ratios = sde.noise_level(torch.tensor(starts[2:])) / sde.noise_level(times[2:-1])
    ceiling = sde.noise_level(times[0]) / sde.noise_level(times[2:-1])
    torch.testing.assert_close(ratios.double(), ceiling.clamp(max=math.sqrt(2)), rtol=1e-4, atol=0)


def test_churn_is_left_out_at_levels_out_of_its_range() -> None:
    sde = VESDE()
    times = sde.time_at_noise_level(torch.tensor([1.0, 0.5, 0.2], dtype=torch.float64))
    for bounds in ({"lowest": 0.6}, {"highest": 0.4}):
        ends = [
            integrate(MixtureDenoiser(sde), solver, X, times, noise=NOISE, last="sample")
            for solver in (EDMHeun(**bounds), ProbabilityFlowHeun())
        ]
        torch.testing.assert_close(*ends)


@every_sde
@pytest.mark.parametrize("grid", ["uniform", "log_snr", "karras"])
@every_multistep
def test_few_steps_from_any_t0_end_near_the_data(solver: Solver, grid: str, sde: SDE) -> None:
    """Long and uneven steps: nothing explodes, and float32 is enough."""
    denoiser = GaussianDenoiser(sde, mean=0.3, deviation=0.2)
    for t0 in (1.0, 0.45, 0.05):
        for steps in (1, 2, 3, 5):
            time = torch.full((2,), t0)
            start = denoiser.marginal_mean(time)[0] + denoiser.marginal_variance(time)[0].sqrt() * X.float()
            image = integrate(denoiser, solver, start, GRIDS[grid]().times(sde, t0, steps), noise=NOISE)
            assert (image - 0.3).abs().max() < 8 * 0.2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ERSDE(stages=1), "ER-SDE has 2 or 3 stages, got 1; for 1, use ancestral"),
        (lambda: UniPC(predictor_order=4), "predictor of UniPC has order 2 or 3, got 4"),
        (lambda: EDMHeun(churn=-1.0), r"churn >= 0, 0 < inflation <= 2 and 0 <= lowest < highest, got churn=-1\.0"),
        (lambda: EDMHeun(inflation=0.0), r"inflation=0\.0"),
        (lambda: EDMHeun(inflation=1e12), "inflation=1000000000000"),
        (lambda: EDMHeun(lowest=2.0, highest=1.0), r"lowest=2\.0, highest=1\.0"),
    ],
)
def test_impossible_solvers_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
