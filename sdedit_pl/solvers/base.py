"""The interface of solvers: one step of a reverse process, from a noised image at time t to an earlier time s.

A solver contains only hyper-parameters. A multistep solver keeps its history in a state that it creates at the start of
a run and returns after each step, so that one solver object can serve several runs at once.

Source: Anderson, "Reverse-time diffusion equation models", 1982; Song et al. 2021, equations 6 and 13.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, TypeAlias

from jaxtyping import Float
from torch import Tensor

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.noise import StepNoise
from sdedit_pl.sde import SDE
from sdedit_pl.typing import Images, Times

State: TypeAlias = Any


@dataclass(frozen=True)
class Solver(abc.ABC):
    """A solver of the reverse SDE, or of the ODE with the same marginals."""

    order = 1.0
    """Order of convergence in the step size: weak (moments) for an SDE solver, of the path for an ODE solver."""
    evaluations_per_step = 1
    stochastic = True
    """Whether steps add noise, which reduces a guide's mismatch with the domain; an ODE solver preserves it."""

    def initial_state(self, sde: SDE, times: Float[Tensor, "levels"]) -> State:
        """The state before the first of `times`, (steps + 1,) on the CPU; raises ValueError for impossible steps."""
        return None

    @abc.abstractmethod
    def step(
        self, denoiser: Denoiser, x_t: Images, t: Times, s: Times, state: State, noise: StepNoise
    ) -> tuple[Images, State]:
        """Takes a step from `t` to `s`; returns the images at time `s`, in the dtype of `x_t`, and the next state.

        Args:
            x_t: images at time `t`.
            s: target time, below `t`. A run gives one time for all images, on the CPU.
            state: the result of `initial_state` or of the previous step.
            noise: noise of this step; `noise.shared` is the z of the transition.
        """
