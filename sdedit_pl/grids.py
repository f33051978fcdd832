"""Time grids: the times that a solver visits from t0 to an end.

A grid of `steps` steps has steps + 1 decreasing times. A jump back up adds one time and costs no network evaluation.

A grid in the noise level cannot reach an end without noise, because the level's logarithm is infinite there. If the end
lies below `lowest`, the last step leads from `lowest` to the end.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sdedit_pl.sde import SDE


@dataclass(frozen=True)
class Grid(abc.ABC):
    @abc.abstractmethod
    def spread(self, sde: SDE, t0: float, end: float, steps: int) -> Float[Tensor, "levels"]:
        """The times for valid arguments; `times` then sets the first and last one exactly."""

    def times(self, sde: SDE, t0: float, steps: int, end: float = 0.0) -> Float[Tensor, "levels"]:
        """The times of `steps` steps from `t0` to `end`, (steps + 1 + jumps,), float64 on the CPU.

        Args:
            t0: the first time, in (0, 1].
            steps: at least 1; raises ValueError if the grid needs more.
            end: the last time, in [0, t0).
        """
        if not 0 < t0 <= 1:
            raise ValueError(f"t0 must lie in (0, 1], got {t0}; t0=1 samples from the prior")
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}; 100 is a good start")
        if not 0 <= end < t0:
            raise ValueError(f"a grid's end must lie in [0, t0), got {end} with t0={t0}")
        times = self.spread(sde, t0, end, steps)
        times[0], times[-1] = t0, end
        return times


@dataclass(frozen=True)
class Uniform(Grid):
    """Equal steps in t, as in the papers."""

    def spread(self, sde: SDE, t0: float, end: float, steps: int) -> Float[Tensor, "levels"]:
        return torch.linspace(t0, end, steps + 1, dtype=torch.float64)


@dataclass(frozen=True)
class NoiseLevelGrid(Grid):
    """A grid in the noise level sigma / alpha.

    Args:
        lowest: the lowest noise level before the last step, on images in [-1, 1]; 0.01 is about one grey level of 255.
    """

    lowest: float = 0.01

    def __post_init__(self) -> None:
        if not self.lowest > 0:
            raise ValueError(f"the lowest noise level of a grid must be positive, got {self.lowest}; 0.01 is usual")

    @abc.abstractmethod
    def levels(self, first: float, last: float, count: int) -> Float[Tensor, "count"]:
        """`count` noise levels from `first` down to `last`."""

    def spread(self, sde: SDE, t0: float, end: float, steps: int) -> Float[Tensor, "levels"]:
        first, last = sde.noise_level(torch.tensor([t0, end], dtype=torch.float64)).tolist()
        lowest = min(self.lowest, first / 2)
        if last >= lowest:
            return sde.time_at_noise_level(self.levels(first, last, steps + 1))
        times = sde.time_at_noise_level(self.levels(first, lowest, steps))
        return torch.nn.functional.pad(times, (0, 1), value=end)


@dataclass(frozen=True)
class LogSNR(NoiseLevelGrid):
    """Equal steps in the logarithm of the signal-to-noise ratio."""

    def levels(self, first: float, last: float, count: int) -> Float[Tensor, "count"]:
        return torch.linspace(math.log(first), math.log(last), count, dtype=torch.float64).exp()


@dataclass(frozen=True)
class Karras(NoiseLevelGrid):
    """Equal steps in the noise level to the power 1 / rho.

    Args:
        rho: 1 spreads the levels evenly; a larger rho makes more of them low.

    Source: Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022, equation 5.
    """

    rho: float = 7.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rho >= 1:
            raise ValueError(f"rho of a Karras grid must be at least 1, got {self.rho}; 7 is the published value")

    def levels(self, first: float, last: float, count: int) -> Float[Tensor, "count"]:
        roots = torch.linspace(first ** (1 / self.rho), last ** (1 / self.rho), count, dtype=torch.float64)
        return roots**self.rho


@dataclass(frozen=True)
class Restart(Karras):
    """Restart sampling: a Karras grid that repeats a range of noise levels, for any solver.

    At the level nearest to `bottom`, the state is noised up to `top` (at most to t0) and steps lead down again,
    `restarts` times; then the grid continues to its end. The added noise corrects earlier errors, as a stochastic
    solver's does, while a deterministic solver (Heun's, in the paper) keeps its accuracy between restarts.

    Args:
        bottom: the noise level at which a restart begins; published for CIFAR-10: 0.06.
        top: the noise level that a restart returns to; published: 0.3.
        restarts: number of restarts, K; published: 2 for 43 evaluations, more with more evaluations.
        restart_steps: steps of each restart; published: 2.

    Source: Xu et al., "Restart Sampling for Improving Generative Processes", NeurIPS 2023, Algorithm 1 and table 3.
    """

    bottom: float = 0.06
    top: float = 0.3
    restarts: int = 2
    restart_steps: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.bottom < self.top:
            raise ValueError(f"a restart needs 0 < bottom < top, got bottom={self.bottom}, top={self.top}")
        if self.restarts < 1 or self.restart_steps < 1:
            raise ValueError(
                f"restarts and restart_steps must be at least 1, got restarts={self.restarts}, "
                f"restart_steps={self.restart_steps}; a grid without restarts is karras"
            )

    def spread(self, sde: SDE, t0: float, end: float, steps: int) -> Float[Tensor, "levels"]:
        main_steps = steps - self.restarts * self.restart_steps
        if main_steps < 2:
            raise ValueError(
                f"{self.restarts} restarts of {self.restart_steps} steps leave {main_steps} of the {steps} steps for "
                "the way from t0 to the end, which needs at least 2; use more steps or fewer restarts"
            )
        main = super().spread(sde, t0, end, main_steps)
        levels = sde.noise_level(main).tolist()
        turns = [index for index in range(1, main_steps) if levels[index] < self.top]
        if not turns:
            raise ValueError(
                f"the {main_steps} steps from t0 to the end have no noise level below top={self.top}, the level to "
                "which restarts return; use more steps or a higher top"
            )
        turn = min(turns, key=lambda index: abs(math.log(levels[index] / self.bottom)))
        again = self.levels(min(self.top, levels[0]), levels[turn], self.restart_steps + 1)
        ways = sde.time_at_noise_level(again).clamp(max=t0).repeat(self.restarts)
        return torch.cat([main[: turn + 1], ways, main[turn + 1 :]])


def with_jumps_back(times: Float[Tensor, "levels"], length: int, passes: int) -> Float[Tensor, "longer"]:
    """RePaint's resampling: repeats each group of `length` steps, with a jump back up before each repetition.

    Each pass harmonises the edited region with the kept one. The step to the end, and the steps above it that do not
    fill a group, are taken once. Raises ValueError for length or passes below 1, jumps in `times`, or too few times.

    Args:
        times: descending times, (steps + 1,).
        length: steps of a jump, j.
        passes: passes through each group, r; 1 means no jump.

    Source: Lugmayr et al., "RePaint", CVPR 2022, section 4.2 and appendix B.
    """
    if length < 1 or passes < 1:
        raise ValueError(f"resample=j,r needs j >= 1 steps, r >= 1 passes, got {length},{passes}; RePaint's is 10,10")
    if bool((times.diff() > 0).any()):
        raise ValueError("resample adds jumps, but this grid already has some; use another grid")
    steps = len(times) - 1
    if length >= steps:
        raise ValueError(
            f"resample={length},{passes} goes back {length} steps, but there are only {steps}; "
            f"use more steps, at least {length + 1}, or a smaller jump"
        )
    parts = [times[:1]]
    for start in range(0, steps - length, length):
        block = times[start + 1 : start + length + 1]
        parts += [torch.cat([block, times[start : start + 1]]).repeat(passes - 1), block]
    return torch.cat([*parts, times[(steps - 1) // length * length + 1 :]])


def start_time(t0: float | str, sde: SDE) -> float:
    """The time `t0`, or the one at which sigma / alpha = 1.2 for "sigma:1.2"; raises ValueError outside (0, 1]."""
    number = start_number(t0)
    if not is_noise_level(t0):
        return number
    time = float(sde.time_at_noise_level(torch.tensor(number, dtype=torch.float64)))
    if not 0 < time <= 1:
        low, high = sde.noise_level(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
        raise ValueError(f"this SDE has noise levels above {low:.4g} and up to {high:.4g}, got t0={t0}")
    return time


def start_number(t0: float | str) -> float:
    """The number in `t0`, a time in (0, 1] or a positive noise level ("sigma:1.2"); raises ValueError for any other."""
    try:
        number = float(t0.removeprefix("sigma:") if isinstance(t0, str) else t0)
    except ValueError:
        raise ValueError(f"t0 is a time in (0, 1] or a noise level such as sigma:1.2, got {t0!r}") from None
    if is_noise_level(t0):
        if not 0 < number < math.inf:
            raise ValueError(f"the noise level of t0 must be positive, got {t0}; sigma:1.2 is a usual one")
    elif not 0 < number <= 1:
        raise ValueError(f"t0 must lie in (0, 1], got {t0}; t0=1 samples from the prior")
    return number


def is_noise_level(t0: float | str) -> bool:
    return isinstance(t0, str) and t0.startswith("sigma:")


GRIDS: dict[str, type[Grid]] = {"uniform": Uniform, "log_snr": LogSNR, "karras": Karras, "restart": Restart}
