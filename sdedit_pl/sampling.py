"""The time loop, which takes a solver over a grid of times that decrease but for jumps back up; and sampling with it.

The loop knows neither what is sampled nor why: unconditional sampling starts it from the prior at t = 1, editing from a
noised guide at t0, a constraint rewrites the state after each step. Where a time is later than the one before it, the
state is noised again by the SDE's own transition, which calls no network: that is how Restart sampling and RePaint's
resampling are told to the loop. Times stay on the host and nothing is read back from the device, so that a GPU's queue
never runs dry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import Literal, Protocol, TypeAlias, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.grids import Grid, LogSNR
from sdedit_pl.noise import Noise, PrefetchedNoise, SeededNoise, StepNoise
from sdedit_pl.sde import SDE
from sdedit_pl.solvers.ancestral import Ancestral
from sdedit_pl.solvers.base import Solver
from sdedit_pl.typing import Images, Times, over_images

LastStep: TypeAlias = Literal["denoised", "mean", "sample"]
"""What the last step returns: the denoiser's x_0 estimate, the solver's step without its noise, or the whole step."""

Callback: TypeAlias = Callable[[Images, float], None]
"""Called after each step of the solver with the state and the time it has reached."""


@runtime_checkable
class Constraint(Protocol):
    """What rewrites the state as a run goes on, for instance to keep a region of an image."""

    def start(self, x: Images, t: Times, noise: StepNoise) -> Images:
        """The state that the run starts from, for one given as `x` at time `t`; `noise` is that of step 0."""
        ...

    def after_step(self, x: Images, t: Times, s: Times, noise: StepNoise) -> Images:
        """The state after the step or jump from `t` to `s` that arrived at `x`; `noise.shared` is its z."""
        ...


def integrate(
    denoiser: Denoiser,
    solver: Solver,
    x: Images,
    times: Float[Tensor, "levels"],
    *,
    noise: Noise,
    first_step: int = 1,
    last: LastStep = "denoised",
    constraint: Constraint | None = None,
    callback: Callback | None = None,
) -> Images:
    """Takes `x` from the first of `times` to the last.

    A run that ends at t = 0 should end on an image, not on a state: no noise is added that nothing removes, and at the
    lowest level visited what noise is left is removed by the denoiser, for the cost of a usual step. That is
    `last="denoised"`. The published samplers return the mean of the last step (`"mean"`), which leaves the noise below
    the lowest level in; `"sample"` is the plain step, for a run that stops at a noise level or follows SDEdit's
    algorithms literally.

    Args:
        denoiser: the model.
        solver: how steps are taken.
        x: the state at `times[0]`, float32 or float64, the precision of the whole run.
        times: in [0, 1], at least two, none later than the first and none like the one before it; on the CPU, so that
            they need not be read back. A later one than the one before it is a jump: the state is noised up to it, and
            the solver starts anew there, without its history.
        noise: where the noise of steps comes from.
        first_step: number of the first step in `noise`; jumps are numbered like steps. The number before it is that of
            the starting state.
        last: what the last step returns.
        constraint: rewrites the state at the start and after each step.
        callback: called after each step, not after jumps.

    Returns:
        The state at `times[-1]`, in the shape, dtype and device of `x`.

    Raises:
        ValueError: times that cannot be visited, `last="denoised"` with an end above 0, a state of another precision,
            or steps that the solver cannot take.
    """
    levels, descents = _checked(times, last)
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"the state of a solver is float32 or float64, got {x.dtype}; convert it first")
    states = [solver.initial_state(denoiser.sde, descent) for descent in descents]
    with torch.no_grad(), ExitStack() as stack:
        if x.device.type != "cpu" and isinstance(noise, SeededNoise):
            noise = stack.enter_context(PrefetchedNoise(noise, last_step=first_step + len(levels) - 2))
        if constraint is not None:
            x = constraint.start(x, _everywhere(levels[0], x), StepNoise(noise, first_step - 1, x))
        state = states.pop(0)
        for index, (now, then) in enumerate(pairwise(levels)):
            t, s = _everywhere(now, x), _everywhere(then, x)
            is_jump, is_last = then > now, index == len(levels) - 2
            step_noise = StepNoise(noise, first_step + index, x, silent=is_last and last != "sample")
            if is_jump:
                x, state = _noised_again(denoiser.sde, x, t, s, step_noise), states.pop(0)
            elif is_last and last == "denoised":
                x = denoiser(x, t)
            else:
                x, state = solver.step(denoiser, x, t, s, state, step_noise)
            if constraint is not None:
                x = constraint.after_step(x, t, s, step_noise)
            if callback is not None and not is_jump:
                callback(x, then)
    return x


def sample(
    denoiser: Denoiser,
    shape: tuple[int, int, int],
    seeds: Sequence[int],
    *,
    steps: int,
    solver: Solver | None = None,
    grid: Grid | None = None,
    device: torch.device | str | None = None,
    callback: Callback | None = None,
) -> Float[Tensor, "samples C H W"]:
    """Draws unconditional samples: noise from the prior at t = 1, integrated down to t = 0.

    Args:
        denoiser: a model trained on all times up to t = 1.
        shape: (C, H, W) of a sample.
        seeds: one for each sample, which depends on its seed and not on the batch.
        steps: the number of solver steps.
        solver: how steps are taken; None for the ancestral solver.
        grid: how the steps are spread; None for equal steps in the log-SNR.
        device: where to sample; None for the device of the denoiser's weights.
        callback: called after each step.

    Returns:
        Samples in about [-1, 1], float32, not clamped.

    Raises:
        ValueError: a model that was not trained up to t = 1, or fewer than one step or seed.
    """
    if denoiser.t_max < 1:
        raise ValueError(
            f"a model trained on the times up to {denoiser.t_max:g} cannot start from noise; "
            "unconditional samples need one trained up to 1"
        )
    device = next(denoiser.parameters()).device if device is None else device
    noise = SeededNoise(seeds)
    prior = denoiser.sde.prior_sample(noise(0, 0, torch.empty(len(seeds), *shape, device=device)))
    times = (grid or LogSNR()).times(denoiser.sde, 1.0, steps)
    return integrate(denoiser, solver or Ancestral(), prior, times, noise=noise, callback=callback)


def _checked(times: Float[Tensor, "levels"], last: LastStep) -> tuple[list[float], list[Float[Tensor, "stretch"]]]:
    """The times as numbers, and their stretches between jumps."""
    levels = times.tolist()
    if len(levels) < 2 or not levels[0] <= 1 or not min(levels) >= 0:
        raise ValueError(f"times must be at least two, within [0, 1], got {levels}")
    descents = _descents(times)
    if max(levels) > levels[0] or not all(
        len(descent) > 1 and bool((descent.diff() < 0).all()) for descent in descents
    ):
        raise ValueError(
            "times must strictly decrease, but for jumps back up to at most the first of them and with a step after "
            f"each, got {levels}"
        )
    if last not in get_args(LastStep):
        raise ValueError(f"the last step returns one of {', '.join(get_args(LastStep))}, got {last!r}")
    if last == "denoised" and levels[-1] > 0:
        raise ValueError(
            f"last='denoised' needs times that end at 0, got an end of {levels[-1]}; "
            "last='sample' stops at a noise level"
        )
    return levels, descents


def _descents(times: Float[Tensor, "levels"]) -> list[Float[Tensor, "stretch"]]:
    jumps = (times.diff() > 0).nonzero().flatten().add(1).tolist()
    return [times[start:end] for start, end in pairwise([0, *jumps, len(times)])]


def _noised_again(sde: SDE, x: Images, t: Times, s: Times, noise: StepNoise) -> Images:
    """The state at a time `s` later than `t`."""
    forward = sde.transition(s, t)
    return over_images(forward.scale) * x + over_images(forward.deviation) * noise.shared


def _everywhere(time: float, x: Images) -> Times:
    """The time of every image of the batch `x`, (B,)."""
    return x.new_full((len(x),), time)
