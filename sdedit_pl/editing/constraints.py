"""Constraints on an edit: what rewrites the state between the solver's steps.

A constraint is any object with the two methods of `sdedit_pl.sampling.Constraint`; the time loop calls it and knows
nothing else of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch

from sdedit_pl.noise import StepNoise
from sdedit_pl.typing import Images, Mask, Times


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
