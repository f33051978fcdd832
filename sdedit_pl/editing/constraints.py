"""Constraints on an edit: what rewrites the state between the solver's steps.

A constraint is any object with the two methods of `sdedit_pl.sampling.Constraint`; the time loop calls it and knows
nothing else of it. All of them write what belongs at the level that the state has reached, made of the step's own
noise, so that they go with any solver.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch.nn.functional import interpolate

from sdedit_pl.noise import StepNoise
from sdedit_pl.sampling import Constraint
from sdedit_pl.typing import Images, Mask, Strength, Times, over_images


@runtime_checkable
class Marginals(Protocol):
    """What noises a clean image to a time: an SDE, or a discrete chain that stands for it."""

    def perturb(self, x_0: Images, t: Times, noise: Images) -> Images:
        """A sample of x_t given x_0, made of standard normal `noise`."""
        ...


@dataclass(frozen=True)
class KeptRegion:
    """Keeps an image outside a mask: after each step those pixels are written anew, noised like the rest.

    A step from t to s leaves the edited pixels at level s, so the kept ones belong there too (`level="reached"`), made
    of the same z. SDEdit's algorithms write them at level t (`level="left"`), and its reference code makes them of the
    noise that noised the guide (`noise`).

    Args:
        image: what is kept, (B, 3, H, W) in [-1, 1].
        edit_mask: True where pixels may change, (B, 1, H, W) with B or 1 entries.
        marginals: what noises the kept pixels.
        level: "reached" or "left".
        noise: the noise of all writes; that of each step where None.

    Source: Meng et al., "SDEdit", ICLR 2022, Algorithms 3 and 5.
    """

    image: Images
    edit_mask: Mask
    marginals: Marginals
    level: Literal["reached", "left"] = "reached"
    noise: Images | None = None

    def start(self, x: Images, t: Times, noise: StepNoise) -> Images:
        """See `sdedit_pl.sampling.Constraint`."""
        return self._kept_at(x, t, noise)

    def after_step(self, x: Images, t: Times, s: Times, noise: StepNoise) -> Images:
        """See `sdedit_pl.sampling.Constraint`."""
        return self._kept_at(x, s if self.level == "reached" else t, noise)

    def _kept_at(self, x: Images, time: Times, noise: StepNoise) -> Images:
        z = noise.shared if self.noise is None else self.noise
        return torch.where(self.edit_mask, x, self.marginals.perturb(self.image, time, z))


@dataclass(frozen=True)
class GradedRegion:
    """Keeps each pixel of an image until the run has come down to the pixel's own time.

    A pixel is released at the first step that leaves from its own time or a lower one; before, it is written anew after
    each step, noised like the rest. So it is edited from its own t0, rounded down to a time of the grid. After a jump
    up, the same holds for the time that the jump led to.

    Args:
        image: what is kept, (B, C, H, W) in [-1, 1].
        own_time: the time of each pixel's release, (B, 1, H, W) with B or 1 entries; 0 never releases it.
        marginals: what noises the kept pixels.

    Source: the change maps of Levin and Fried, "Differential Diffusion: Giving Each Pixel Its Strength", 2023.
    """

    image: Images
    own_time: Strength
    marginals: Marginals

    def start(self, x: Images, t: Times, noise: StepNoise) -> Images:
        """See `sdedit_pl.sampling.Constraint`."""
        return self._kept_at(x, t, t, noise)

    def after_step(self, x: Images, t: Times, s: Times, noise: StepNoise) -> Images:
        """See `sdedit_pl.sampling.Constraint`."""
        return self._kept_at(x, s, torch.maximum(t, s), noise)

    def _kept_at(self, x: Images, time: Times, highest: Times, noise: StepNoise) -> Images:
        released = self.own_time >= over_images(highest)
        return torch.where(released, x, self.marginals.perturb(self.image, time, noise.shared))


@dataclass(frozen=True)
class LowFrequencies:
    """Gives the state an image's low frequencies: coarse colours and layout are the image's, details the domain's.

        x <- x + L(y) - L(x),       y the image noised to the level of x, L a low-pass filter

    Args:
        image: whose low frequencies, (B, C, H, W) in [-1, 1].
        marginals: what noises the image.
        factor: how much smaller an image is that still holds the low frequencies; 1 would be all of them.
        lowest: the time under which nothing is rewritten, in [0, 1].
        highest: the time above which nothing is rewritten.

    Source: Choi et al., "ILVR: Conditioning Method for Denoising Diffusion Probabilistic Models", ICCV 2021,
    Algorithm 1.
    """

    image: Images
    marginals: Marginals
    factor: int
    lowest: float = 0.0
    highest: float = 1.0

    def start(self, x: Images, t: Times, noise: StepNoise) -> Images:
        """See `sdedit_pl.sampling.Constraint`."""
        return x

    def after_step(self, x: Images, t: Times, s: Times, noise: StepNoise) -> Images:
        """See `sdedit_pl.sampling.Constraint`."""
        difference = self.marginals.perturb(self.image, s, noise.shared) - x
        in_range = ((s >= self.lowest) & (s <= self.highest)).to(x.dtype)
        return x + over_images(in_range) * low_frequencies(difference, self.factor)


def low_frequencies(images: Images, factor: int) -> Images:
    """Images without what an image `factor` times smaller cannot hold: made smaller and large again, bicubic."""
    height, width = images.shape[2:]
    small = interpolate(images, (max(1, height // factor), max(1, width // factor)), mode="bicubic", antialias=True)
    return interpolate(small, (height, width), mode="bicubic")


@dataclass(frozen=True)
class Constraints:
    """Several constraints, each on what the one before it has made.

    Args:
        parts: the constraints.
    """

    parts: Sequence[Constraint]

    def start(self, x: Images, t: Times, noise: StepNoise) -> Images:
        """See `sdedit_pl.sampling.Constraint`."""
        for part in self.parts:
            x = part.start(x, t, noise)
        return x

    def after_step(self, x: Images, t: Times, s: Times, noise: StepNoise) -> Images:
        """See `sdedit_pl.sampling.Constraint`."""
        for part in self.parts:
            x = part.after_step(x, t, s, noise)
        return x
