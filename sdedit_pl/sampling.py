"""The time loop, which runs a solver over a grid of times; unconditional sampling.

Sampling starts the loop from the prior at t = 1, editing from a noised guide at t0. A time later than the previous one
is a jump (Restart sampling, RePaint's resampling): the SDE's own transition noises the state again, without a network
evaluation. Times stay on the host and nothing is read back from the device, which keeps a GPU's queue full.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import Literal, Protocol, TypeAlias, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from sdedit_pl.denoiser import Denoiser, Labels
from sdedit_pl.grids import Grid, LogSNR
from sdedit_pl.noise import Noise, PrefetchedNoise, SeededNoise, StepNoise
from sdedit_pl.sde import SDE
from sdedit_pl.solvers.ancestral import Ancestral
from sdedit_pl.solvers.base import Solver
from sdedit_pl.typing import Images, Times, over_images

LastStep: TypeAlias = Literal["denoised", "mean", "sample"]
"""Result of the last step: the denoiser's x_0 estimate, the solver's step without its noise, or the whole step."""

Callback: TypeAlias = Callable[[Images, float], None]
"""Called after each step of the solver with the state and its time."""


@runtime_checkable
class Constraint(Protocol):
    """Rewrites the state during a run, for instance to keep a region of an image."""

    def start(self, x: Images, t: Times, noise: StepNoise) -> Images:
        """The first state of the run, from `x` at time `t`; `noise` is that of the starting state."""
        ...

    def after_step(self, x: Images, t: Times, s: Times, noise: StepNoise) -> Images:
        """The state after a step or jump from `t` to `s` with result `x`; `noise.shared` is its z."""
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
    """Integrates `x` from the first of `times` to the last.

    For a run that ends at t = 0, `last="denoised"` replaces the last step by the denoiser's estimate, at the same cost,
    so that no noise remains in the image. `"mean"`, the step without its noise, is what published samplers give; noise
    below the lowest level remains. `"sample"` is the whole step, as in SDEdit's algorithms and for an end above 0.

    Args:
        x: the state at `times[0]`, float32 or float64, the precision of the whole run.
        times: at least two in [0, 1] on the CPU, none later than the first. A jump discards the solver's history.
        first_step: number of the first step in `noise`, one above the starting state's; jumps count as steps.
        constraint: rewrites the state at the start and after each step.
        callback: called after each step, not after jumps.

    Raises:
        ValueError: invalid times or `last`, `last="denoised"` with an end above 0, or a state of another precision.
    """
    levels, descents = _checked(times, last)
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"the state of a solver is float32 or float64, got {x.dtype}; convert it first")
    states = [solver.initial_state(denoiser.sde, descent) for descent in descents]
    with torch.no_grad(), ExitStack() as stack:
        if x.device.type != "cpu" and isinstance(noise, SeededNoise):
            noise = stack.enter_context(PrefetchedNoise(noise, last_step=first_step + len(levels) - 2))
        if constraint is not None:
            x = constraint.start(x, torch.tensor(levels[0], dtype=x.dtype), StepNoise(noise, first_step - 1, x))
        state = states.pop(0)
        for index, (now, then) in enumerate(pairwise(levels)):
            t, s = torch.tensor((now, then), dtype=x.dtype)  # on the host, where computing with them launches no kernel
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
    labels: Labels | None = None,
    device: torch.device | str | None = None,
    callback: Callback | None = None,
) -> Float[Tensor, "samples C H W"]:
    """Draws samples by a run from the prior at t = 1 to t = 0: float32, in about [-1, 1], not clamped.

    Args:
        denoiser: a model trained on all times up to t = 1; raises ValueError for any other.
        shape: (C, H, W) of a sample.
        seeds: one for each sample; a sample depends on its seed and not on the batch.
        solver: None for the ancestral solver.
        grid: None for equal steps in the log-SNR.
        labels: see `Denoiser.labelled`; None for those that the denoiser has already.
        device: None for the device of the denoiser's weights.
    """
    if denoiser.t_max < 1:
        raise ValueError(
            f"a model trained on the times up to {denoiser.t_max:g} cannot start from noise; "
            "unconditional samples need one trained up to 1: sdedit train ... times.t_max=1"
        )
    denoiser = denoiser if labels is None else denoiser.labelled(labels)
    device = next(denoiser.parameters()).device if device is None else device
    noise = SeededNoise(seeds, denoiser.noise)
    prior = denoiser.sde.prior_sample(noise(0, 0, torch.empty(len(seeds), *shape, device=device)))
    times = (grid or LogSNR()).times(denoiser.sde, 1.0, steps)
    return integrate(denoiser, solver or Ancestral(), prior, times, noise=noise, callback=callback)


def _checked(times: Float[Tensor, "levels"], last: LastStep) -> tuple[list[float], list[Float[Tensor, "stretch"]]]:
    """The times as numbers, and the descending parts between jumps."""
    levels = times.tolist()
    if len(levels) < 2 or not levels[0] <= 1 or not min(levels) >= 0:
        raise ValueError(f"times must be at least two, within [0, 1], got {levels}")
    descents = _descents(times)
    if max(levels) > levels[0] or not all(
        len(descent) > 1 and bool((descent.diff() < 0).all()) for descent in descents
    ):
        raise ValueError(
            "times must strictly decrease, except for jumps back up to at most the first time, with a step after "
            f"each jump, got {levels}"
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
    forward = sde.transition(s, t)
    return over_images(forward.scale) * x + over_images(forward.deviation) * noise.shared
