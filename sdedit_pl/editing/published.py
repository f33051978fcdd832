"""Variants of SDEdit: this package's own and the two published ones.

- exact, the default: any solver on any grid; kept pixels are written at the level of the edited ones, and the result
  has the original's kept pixels bit for bit.
- paper: Algorithms 2 and 3 (VE) and 4 and 5 (VP) to the letter: kept pixels are written at the level before the step,
  every step adds noise, the guide is noised by the product of the chain's steps, and kept pixels are not restored at
  the end. Sub-VP and beta tables, for which the paper has no algorithm, use their exact transitions.
- reference: the paper's code: small variance, one noise for all kept pixels of a repeat, no restoring at the end.

Source: Meng et al., "SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations", ICLR 2022.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sdedit_pl.editing.constraints import KeptRegion, Marginals
from sdedit_pl.sampling import LastStep
from sdedit_pl.sde import SDE
from sdedit_pl.solvers import Ancestral, Solver
from sdedit_pl.solvers.published_chains import paper_step
from sdedit_pl.typing import Images, Mask, Times, over_images


@dataclass(frozen=True)
class Variant:
    """The differences between the variants of SDEdit.

    Args:
        solver: the prescribed solver, on the uniform grid; None allows any solver on any grid.
        one_noise: whether the noise of the guide also noises the kept pixels of all steps of a repeat.
        paste: whether the original's pixels are restored outside the mask at the end.
        chain_marginals: whether images are noised by the product of the chain's steps instead of the closed form.
    """

    steps: int
    solver: Solver | None = None
    last: LastStep = "denoised"
    kept_level: Literal["reached", "left"] = "reached"
    one_noise: bool = False
    paste: bool = True
    chain_marginals: bool = False

    def marginals(self, sde: SDE, times: Float[Tensor, "levels"], like: Images) -> Marginals:
        return ChainMarginals.of(sde, times, like) if self.chain_marginals else sde

    def kept(self, image: Images, edit_mask: Mask, marginals: Marginals, noise: Images) -> KeptRegion:
        """The constraint that keeps `image` outside `edit_mask` in a repeat that started from `noise`."""
        return KeptRegion(image, edit_mask, marginals, self.kept_level, noise if self.one_noise else None)


@dataclass(frozen=True)
class ChainMarginals:
    """The marginals alpha x_0 + sigma z of a chain at ascending `times`; alpha is the product of the steps' scales."""

    times: Float[Tensor, "levels"]
    alpha: Float[Tensor, "levels"]
    sigma: Float[Tensor, "levels"]

    @classmethod
    def of(cls, sde: SDE, times: Float[Tensor, "levels"], like: Images) -> ChainMarginals:
        """The chain of SDEdit's algorithms over the descending `times`, with the device and dtype of `like`."""
        ascending = times.flip(0)
        steps = paper_step(sde, ascending[1:], ascending[:-1])
        alpha = torch.nn.functional.pad(steps.scale.cumprod(0), (1, 0), value=1.0) * sde.alpha(ascending[:1])
        gained = torch.nn.functional.pad((steps.deviation / alpha[1:]).square().cumsum(0), (1, 0))
        sigma = alpha * (gained + sde.noise_level(ascending[:1]).square()).sqrt()
        return cls(*(table.to(like) for table in (ascending, alpha, sigma)))

    def perturb(self, x_0: Images, t: Times, noise: Images) -> Images:
        """A sample of x_t; `t` is rounded to the nearest time of the chain."""
        level = (self.times - (t[:, None] if t.dim() else t)).abs().argmin(-1)
        return over_images(self.alpha[level]) * x_0 + over_images(self.sigma[level]) * noise


VARIANTS: dict[str, Variant] = {
    "exact": Variant(steps=20),
    "paper": Variant(
        steps=500,
        solver=Ancestral(variance="large", chain="paper"),
        last="sample",
        kept_level="left",
        paste=False,
        chain_marginals=True,
    ),
    "reference": Variant(
        steps=500, solver=Ancestral(variance="small"), last="mean", kept_level="left", one_noise=True, paste=False
    ),
}
