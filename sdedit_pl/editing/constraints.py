"""Constraints, which rewrite pixels after each step of any solver, at the step's noise level and with its noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch

from sdedit_pl.editing.low_pass_filter import low_frequencies
from sdedit_pl.noise import StepNoise
from sdedit_pl.sampling import Constraint
from sdedit_pl.sde import SDE
from sdedit_pl.typing import Images, Mask, Strength, Times, over_images


@runtime_checkable
class Marginals(Protocol):
    """The distribution of x_t given x_0: an SDE, or a discrete chain in its place."""

    def perturb(self, x_0: Images, t: Times, noise: Images) -> Images:
        """A sample of x_t given x_0, from standard normal `noise`."""
        ...


@dataclass(frozen=True)
class KeptRegion:
    """Keeps an image outside a mask: after each step those pixels are overwritten with the noised image.

    A step from t to s leaves the edited pixels at level s, and the kept ones are written at the same level
    (`level="reached"`) with the same z. SDEdit's algorithms write them at level t (`level="left"`).

    Args:
        image: in [-1, 1].
        edit_mask: True where pixels may change, (B, 1, H, W) with B or 1 entries.
        noise: the noise of all writes, as in SDEdit's reference code; None for the noise of each step.

    Source: Meng et al., "SDEdit", ICLR 2022, Algorithms 3 and 5.
    """

    image: Images
    edit_mask: Mask
    marginals: Marginals
    level: Literal["reached", "left"] = "reached"
    noise: Images | None = None

    def start(self, x: Images, t: Times, noise: StepNoise) -> Images:
        return self._kept_at(x, t, noise)

    def after_step(self, x: Images, t: Times, s: Times, noise: StepNoise) -> Images:
        return self._kept_at(x, s if self.level == "reached" else t, noise)

    def _kept_at(self, x: Images, time: Times, noise: StepNoise) -> Images:
        z = noise.shared if self.noise is None else self.noise
        return torch.where(self.edit_mask, x, self.marginals.perturb(self.image, time, z))


@dataclass(frozen=True)
class GradedRegion:
    """Keeps each pixel of an image until the run has reached the pixel's own time.

    A pixel is released at the first step that starts at or below its own time; until then, the noised image overwrites
    it each step. It is edited from its own t0, rounded down to the grid. After a jump up, the new time decides.

    Args:
        image: in [-1, 1].
        own_time: release time of each pixel, (B, 1, H, W) with B or 1 entries; pixels at 0 are never released.

    Source: the change maps of Levin and Fried, "Differential Diffusion: Giving Each Pixel Its Strength", 2023.
    """

    image: Images
    own_time: Strength
    marginals: Marginals

    def start(self, x: Images, t: Times, noise: StepNoise) -> Images:
        return self._kept_at(x, t, t, noise)

    def after_step(self, x: Images, t: Times, s: Times, noise: StepNoise) -> Images:
        return self._kept_at(x, s, torch.maximum(t, s), noise)

    def _kept_at(self, x: Images, time: Times, highest: Times, noise: StepNoise) -> Images:
        released = self.own_time >= over_images(highest)
        return torch.where(released, x, self.marginals.perturb(self.image, time, noise.shared))


@dataclass(frozen=True)
class LowFrequencies:
    """Imposes an image's low frequencies: coarse colours and layout stay those of the image.

        x <- x + w (L(y) - L(x)),       y the image noised to the level of x, L a low-pass filter

    Args:
        image: in [-1, 1].
        marginals: noises the image.
        factor: reduction of the filter, see `low_frequencies`; 1 would keep all frequencies.
        lowest: lowest time, in [0, 1], at which the state is rewritten.
        highest: highest such time.
        weight: w of the step from t to s.

    Source: Choi et al., "ILVR", ICCV 2021, Algorithm 1, which has w = 1.
    """

    image: Images
    marginals: Marginals
    factor: int
    lowest: float = 0.0
    highest: float = 1.0
    weight: Callable[[Times, Times], Times] = lambda t, s: torch.ones_like(s)

    def start(self, x: Images, t: Times, noise: StepNoise) -> Images:
        return x

    def after_step(self, x: Images, t: Times, s: Times, noise: StepNoise) -> Images:
        difference = self.marginals.perturb(self.image, s, noise.shared) - x
        weight = ((s >= self.lowest) & (s <= self.highest)) * self.weight(t, s)
        return x + over_images(weight) * low_frequencies(difference, self.factor)


def energy_weight(sde: SDE, energy: float) -> Callable[[Times, Times], Times]:
    """The weight of `LowFrequencies` that makes it EGSDE's energy guidance by the domain-independent expert.

    EGSDE adds the gradient of `energy` |L(x) - L(y)|^2 to the score. If L is a projection, its part of a step has the
    closed form w = 1 - exp(-2 energy G), with the variance G that the step removes: guidance fades with the noise.

    Source: Zhao et al., "EGSDE", NeurIPS 2022, section 3.
    """
    return lambda t, s: -torch.expm1(-2 * energy * sde.transition(t, s).deviation.square())


@dataclass(frozen=True)
class Constraints:
    parts: Sequence[Constraint]

    def start(self, x: Images, t: Times, noise: StepNoise) -> Images:
        for part in self.parts:
            x = part.start(x, t, noise)
        return x

    def after_step(self, x: Images, t: Times, s: Times, noise: StepNoise) -> Images:
        for part in self.parts:
            x = part.after_step(x, t, s, noise)
        return x
