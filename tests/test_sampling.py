"""The time loop: its times, its last step, its callbacks, and that it never waits for the device."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch
from support.oracles import GaussianDenoiser, moments_at_end
from support.recorded_noise import RecordedNoise
from torch.utils._python_dispatch import TorchDispatchMode

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.grids import Uniform
from sdedit_pl.noise import SeededNoise, StepNoise
from sdedit_pl.sampling import integrate, sample
from sdedit_pl.sde import SDE, SDES, VESDE, VPSDE
from sdedit_pl.solvers import DDIM, SOLVERS, Ancestral, Solver, State, UniPC
from sdedit_pl.typing import Images, Times

NOISE = SeededNoise([3, 4])
X = torch.linspace(-2, 2, 2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
DENOISER = GaussianDenoiser(VPSDE())
TIMES = Uniform().times(DENOISER.sde, 0.5, 5)


def test_each_time_is_visited_once_in_order() -> None:
    visited: list[float] = []
    integrate(DENOISER, Ancestral(), X, TIMES, noise=NOISE, callback=lambda x, time: visited.append(time))
    assert visited == TIMES[1:].tolist()


@pytest.mark.parametrize("sde", [cls() for cls in SDES.values()], ids=SDES)
def test_what_the_last_step_returns(sde: SDE) -> None:
    denoiser, solver = GaussianDenoiser(sde), Ancestral(variance="large")
    before = integrate(denoiser, solver, X, TIMES[:-1], noise=NOISE, last="sample")
    t, s = (torch.full((2,), float(time)) for time in TIMES[-2:])
    sample, _ = solver.step(denoiser, before, t, s, None, StepNoise(NOISE, 5, X))
    mean, _ = solver.step(denoiser, before, t, s, None, StepNoise(NOISE, 5, X, silent=True))
    assert not torch.equal(mean, sample)
    for last, expected in (("sample", sample), ("mean", mean), ("denoised", denoiser(before, t))):
        torch.testing.assert_close(integrate(denoiser, solver, X, TIMES, noise=NOISE, last=last), expected)


def test_a_denoised_end_has_less_noise_left_than_the_mean_of_the_last_step() -> None:
    """A single grey image as data and few steps, so that the noise left by the solver's mean is visible."""
    denoiser = GaussianDenoiser(VESDE(), mean=0.3, deviation=1e-4)
    x = 0.3 + denoiser.sde.sigma(torch.tensor(0.5)) * NOISE(0, 0, X)
    times = Uniform().times(denoiser.sde, 0.5, 50)
    deviations = {
        last: integrate(denoiser, Ancestral(), x, times, noise=NOISE, last=last).std().item()
        for last in ("denoised", "mean", "sample")
    }
    assert deviations["denoised"] < 1e-3 < deviations["mean"] < deviations["sample"]
    assert deviations["sample"] == pytest.approx(0.01, rel=0.2)


@dataclass
class Diary:
    """A constraint that changes nothing and records its calls and their z."""

    entries: list[tuple[float, ...]] = field(default_factory=list)
    shared: list[Images] = field(default_factory=list)

    def start(self, x: Images, t: Times, noise: StepNoise) -> Images:
        self.entries.append((t.item(),))
        self.shared.append(noise.shared)
        return x

    def after_step(self, x: Images, t: Times, s: Times, noise: StepNoise) -> Images:
        self.entries.append((t.item(), s.item()))
        self.shared.append(noise.shared)
        return x


def test_a_constraint_sees_the_start_and_each_step_with_its_noise() -> None:
    diary = Diary()
    integrate(DENOISER, Ancestral(), X, TIMES, noise=NOISE, constraint=diary, first_step=11)
    times = TIMES.float().tolist()
    assert diary.entries == [(times[0],), *pairwise(times)]
    for step, shared in zip(range(10, 15), diary.shared[:-1], strict=True):
        assert torch.equal(shared, NOISE(step, 0, X))
    assert (diary.shared[-1] == 0).all()  # the last step adds no noise


class Halve:
    """A constraint that halves the state at the start and after each step."""

    def start(self, x: Images, t: Times, noise: StepNoise) -> Images:
        return x / 2

    def after_step(self, x: Images, t: Times, s: Times, noise: StepNoise) -> Images:
        return x / 2


def test_a_constraint_rewrites_the_state() -> None:
    times = TIMES[:2]
    plain = integrate(DENOISER, Ancestral(), X / 2, times, noise=NOISE, last="sample")
    halved = integrate(DENOISER, Ancestral(), X, times, noise=NOISE, last="sample", constraint=Halve())
    torch.testing.assert_close(halved, plain / 2)


@dataclass(frozen=True)
class Remembering(Solver):
    """A solver whose state is the list of its times, like the history of a multistep solver."""

    @property
    def stochastic(self) -> bool:
        return False

    def initial_state(self, sde: SDE, times: torch.Tensor) -> State:
        return [len(times)]

    def step(
        self, denoiser: Denoiser, x_t: Images, t: Times, s: Times, state: State, noise: StepNoise
    ) -> tuple[Images, State]:
        return x_t + len(state), [*state, t.item()]


def test_a_solvers_state_is_handed_from_step_to_step_and_not_to_the_next_run() -> None:
    for _ in range(2):
        x = integrate(DENOISER, Remembering(), torch.zeros_like(X), TIMES, noise=NOISE, last="sample")
        assert (x == 1 + 2 + 3 + 4 + 5).all()


def test_jumps_noise_the_state_again_by_the_transition() -> None:
    denoiser = GaussianDenoiser(VPSDE())
    times = torch.tensor([0.5, 0.3, 0.4, 0.2], dtype=torch.float64)
    x = integrate(denoiser, DDIM(), X, times[:2], noise=NOISE, last="sample")
    forward = denoiser.sde.transition(times[2:3].float(), times[1:2].float())
    x = forward.scale * x + forward.deviation * NOISE(2, 0, X)
    x = integrate(denoiser, DDIM(), x, times[2:], noise=NOISE, last="sample")
    torch.testing.assert_close(integrate(denoiser, DDIM(), X, times, noise=NOISE, last="sample"), x)


@pytest.mark.parametrize("sde", [cls() for cls in SDES.values()], ids=SDES)
def test_jumps_keep_the_distribution(sde: SDE) -> None:
    denoiser = GaussianDenoiser(sde)
    down = torch.linspace(0.5, 0.2, 30, dtype=torch.float64)
    mean, variance = moments_at_end(denoiser, UniPC(), torch.cat([down] * 4))
    torch.testing.assert_close(mean, denoiser.marginal_mean(down[-1]), rtol=2e-3, atol=0)
    torch.testing.assert_close(variance, denoiser.marginal_variance(down[-1]), rtol=2e-3, atol=0)


def test_a_jump_is_constrained_and_numbered_but_no_step() -> None:
    diary, visited = Diary(), []
    times = torch.tensor([0.5, 0.25, 0.375, 0.125], dtype=torch.float64)
    integrate(
        DENOISER,
        Ancestral(),
        X,
        times,
        noise=NOISE,
        last="sample",
        constraint=diary,
        callback=lambda _, t: visited.append(t),
    )
    assert diary.entries == [(0.5,), (0.5, 0.25), (0.25, 0.375), (0.375, 0.125)]
    for step, shared in enumerate(diary.shared):
        assert torch.equal(shared, NOISE(step, 0, X))
    assert visited == [0.25, 0.125]


def test_a_solver_restarts_after_a_jump() -> None:
    times = torch.tensor([0.5, 0.4, 0.3, 0.4, 0.2, 0.1], dtype=torch.float64)
    zero = RecordedNoise([torch.zeros_like(X)] * 6)
    x = integrate(DENOISER, Remembering(), torch.zeros_like(X), times, noise=zero, last="sample")
    forward = DENOISER.sde.transition(torch.tensor(0.4), torch.tensor(0.3))
    torch.testing.assert_close(x, torch.full_like(X, (1 + 2) * forward.scale.item() + 1 + 2))


class NothingIsReadBack(TorchDispatchMode):
    """Refuses operations that make the host wait for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert "_local_scalar_dense" not in str(func)
        assert "nonzero" not in str(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("sde", [cls() for cls in SDES.values()], ids=SDES)
def test_steps_do_not_wait_for_the_device(name: str, sde: SDE) -> None:
    solver, denoiser = SOLVERS[name](), GaussianDenoiser(sde)
    times = [torch.full((2,), time) for time in (0.5, 0.48, 0.46, 0.44)]
    x, state = X, solver.initial_state(sde, torch.stack(times)[:, 0])
    with NothingIsReadBack():
        for number, (t, s) in enumerate(pairwise(times), start=1):
            x, state = solver.step(denoiser, x, t, s, state, StepNoise(NOISE, number, X))


def test_results_need_no_gradient_and_keep_their_precision() -> None:
    x = X.double().requires_grad_()
    image = integrate(DENOISER, Ancestral(), x, TIMES, noise=NOISE)
    assert not image.requires_grad
    assert image.dtype == torch.float64


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0.5], "at least two, within"),
        ([1.5, 0.0], r"within \[0, 1\], got \[1.5, 0.0\]"),
        ([0.5, -0.1], r"within \[0, 1\]"),
        ([float("nan"), 0.0], r"within \[0, 1\]"),
        ([0.5, 0.5, 0.0], "must strictly decrease"),
        ([0.5, 0.3, 0.6, 0.0], "jumps back up to at most the first"),
        ([0.5, 0.3, 0.4], "with a step after each"),
        ([0.5, 0.2, 0.3, 0.4, 0.0], "with a step after each"),
        ([0.5, 0.1], r"'denoised' needs times that end at 0, got an end of 0\.1; last='sample' stops"),
    ],
)
def test_impossible_times_are_refused(times: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        integrate(DENOISER, Ancestral(), X, torch.tensor(times, dtype=torch.float64), noise=NOISE)


def test_half_precision_states_are_refused() -> None:
    with pytest.raises(ValueError, match=r"float32 or float64, got torch\.float16; convert"):
        integrate(DENOISER, Ancestral(), X.half(), TIMES, noise=NOISE)


def test_unconditional_samples_are_of_the_domain_and_depend_on_their_seed_alone() -> None:
    denoiser = GaussianDenoiser(VPSDE(), mean=0.3, deviation=0.2)
    samples = sample(denoiser, (3, 16, 16), [1, 2, 3], steps=50, device="cpu")
    assert samples.mean().item() == pytest.approx(0.3, abs=0.03)
    assert samples.std().item() == pytest.approx(0.2, abs=0.03)
    assert torch.equal(sample(denoiser, (3, 16, 16), [2], steps=50, device="cpu")[0], samples[1])
    other = sample(denoiser, (3, 16, 16), [2], steps=50, solver=DDIM(), grid=Uniform(), device="cpu")
    assert not torch.equal(other[0], samples[1])


def test_a_model_of_low_times_has_no_unconditional_samples() -> None:
    denoiser = GaussianDenoiser(VPSDE())
    denoiser.t_max = 0.6
    with pytest.raises(ValueError, match=r"up to 0.6 cannot start from noise"):
        sample(denoiser, (3, 4, 4), [0], steps=5, device="cpu")
