"""The multistep solvers against diffusers' schedulers of the same names: same grid, same estimates, same noise.

diffusers' state is that of a VP SDE, alpha^2 + sigma^2 = 1, ours that of any SDE; x / alpha is the same.

Both lower their order at the end of a grid (`lower_order_final`, which DPMSolverMultistepScheduler uses below 15 steps
only), and must on a step to no noise. Ours do so on that step alone; the schedulers are configured not to on grids that
end on noise. With order 3, lowering starts one step earlier, so that UniPC 3 is compared on such grids alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler
from jaxtyping import Float
from support.oracles import MixtureDenoiser
from torch import Tensor

from sdedit_pl.grids import GRIDS, Karras
from sdedit_pl.noise import SeededNoise
from sdedit_pl.sampling import integrate
from sdedit_pl.sde import SDE, SDES, VESDE
from sdedit_pl.solvers import DPMSolver2M, EDMHeun, SDEDPMSolver2M, Solver, UniPC
from sdedit_pl.typing import Images

TOLERANCE = 1e-5
NOISE = SeededNoise([1, 2])
GUIDE = torch.linspace(-1, 1, 96).reshape(2, 3, 4, 4)
CASES = {
    "dpm_solver_2m": (DPMSolver2M(), DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "sde_dpm_solver_2m": (SDEDPMSolver2M(), DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "unipc 2": (UniPC(2), UniPCMultistepScheduler, {"solver_order": 2}),
    "unipc 3": (UniPC(3), UniPCMultistepScheduler, {"solver_order": 3}),
}


def states_of(scheduler: Any, denoiser: MixtureDenoiser, times: Float[Tensor, "levels"], x: Images) -> list[Images]:
    """The states after each step of a scheduler driven along `times`, from the state `x` of our SDE."""
    sde, steps = denoiser.sde, len(times) - 1
    scheduler.set_timesteps(steps)
    scheduler.sigmas = sde.noise_level(times).float()
    scheduler.timesteps = torch.arange(steps, 0, -1)
    theirs = (1 + scheduler.sigmas.square()).rsqrt() / sde.alpha(times).float()
    states = [x * theirs[0]]
    for index, label in enumerate(scheduler.timesteps):
        t = times[index].float().expand(len(x))
        estimate = denoiser(states[-1] / theirs[index], t)
        stochastic = scheduler.config.get("algorithm_type") == "sde-dpmsolver++"
        own = {"variance_noise": NOISE(index + 1, 0, x)} if stochastic else {}
        states.append(scheduler.step(estimate, label, states[-1], **own).prev_sample)
    return [state / scale for state, scale in zip(states[1:], theirs[1:], strict=True)]


@pytest.mark.parametrize("grid", ["uniform", "log_snr", "karras"])
@pytest.mark.parametrize("sde", [cls() for cls in SDES.values()], ids=SDES)
@pytest.mark.parametrize("end", [0.0, 0.05])
@pytest.mark.parametrize(("solver", "scheduler", "options"), CASES.values(), ids=CASES)
def test_states_equal_the_schedulers(
    solver: Solver, scheduler: type, options: dict, end: float, sde: SDE, grid: str
) -> None:
    denoiser, times = MixtureDenoiser(sde), GRIDS[grid]().times(sde, 0.6, 10, end)
    noise_free = not sde.noise_level(times[-1]) > 0
    if noise_free and solver == UniPC(3):
        times, noise_free = times[:-1], False
    x = sde.perturb(GUIDE, times[:1].float().expand(2), NOISE(0, 0, GUIDE))
    ending = {"final_sigmas_type": "zero" if noise_free else "sigma_min", "lower_order_final": noise_free}
    theirs = states_of(scheduler(prediction_type="sample", **options, **ending), denoiser, times, x)
    ours: list[Images] = []
    integrate(denoiser, solver, x, times, noise=NOISE, last="sample", callback=lambda x, time: ours.append(x))
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=TOLERANCE, atol=TOLERANCE)


@dataclass
class OneStream:
    """Noise from one generator, in the order of the calls, like a scheduler's."""

    generator: torch.Generator

    def __call__(self, step: int, draw: int, like: Images) -> Images:
        return torch.randn(like.shape, generator=self.generator)


def test_heun_with_churn_equals_the_stochastic_sampler_of_karras() -> None:
    """Churn at all levels except the first, which only the scheduler would raise."""
    from diffusers.schedulers.deprecated.scheduling_karras_ve import KarrasVeScheduler

    sde = VESDE()
    denoiser, times = MixtureDenoiser(sde), Karras().times(sde, 0.6, 12, end=0.05)
    levels = sde.noise_level(times).tolist()
    highest = (levels[0] + levels[1]) / 2
    start = sde.perturb(GUIDE, times[:1].float().expand(2), NOISE(0, 0, GUIDE))
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]

    scheduler = KarrasVeScheduler(s_churn=3, s_min=0.05, s_max=highest, s_noise=1.003)
    scheduler.set_timesteps(12)
    x = start
    for level, below in pairwise(levels):
        # The scheduler takes the network's output as (x_0 - x) / sigma.
        def output(x: Images, level: float) -> Images:
            t = sde.time_at_noise_level(torch.tensor(level, dtype=torch.float64)).float().expand(2)
            return (denoiser(x, t) - x) / level

        raised, level_hat = scheduler.add_noise_to_input(x, level, generators[0])
        slope = output(raised, level_hat)
        euler = scheduler.step(slope, level_hat, below, raised)
        x = scheduler.step_correct(
            output(euler.prev_sample, below), level_hat, below, raised, euler.prev_sample, euler.derivative
        ).prev_sample
    solver = EDMHeun(churn=3.0, lowest=0.05, highest=highest, inflation=1.003)
    ours = integrate(denoiser, solver, start, times, noise=OneStream(generators[1]), last="sample")
    torch.testing.assert_close(ours, x, rtol=TOLERANCE, atol=TOLERANCE)
