"""SDEdit: noise a guide to t0, then run the reverse process from there.

The guide is an image with coarse changes (strokes, a pasted patch). Noise of level t0 hides its lack of realism and
keeps its layout; the reverse process, a sampler of the domain, fills realism in again. A high t0 is realistic, a low
one is faithful. With a mask, pixels outside it are kept. With K repeats, each starts from the result of the one before.

Source: Meng et al., "SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations", ICLR 2022,
Algorithms 2 to 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing.variants import VARIANTS
from sdedit_pl.grids import GRIDS, Grid, start_number, start_time
from sdedit_pl.noise import Noise, SeededNoise
from sdedit_pl.sampling import Callback, integrate
from sdedit_pl.sde import SDE
from sdedit_pl.solvers import SOLVERS, Solver
from sdedit_pl.typing import Images, Mask

_RANGE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class SDEdit:
    """An edit: how far a guide is noised and how it is brought back.

    Args:
        t0: the level that the guide is noised to: a time in (0, 1], or a noise level such as "sigma:1.2", which means
            the same for every SDE. The paper's lie in [0.3, 0.6].
        steps: the number of steps from t0 to 0, whatever t0 is.
        repeats: how often the edit is run, each time on its own result (K).
        solver: a solver, or a name in `sdedit_pl.solvers.SOLVERS`.
        grid: a time grid, or a name in `sdedit_pl.grids.GRIDS`.
        variant: a name in `sdedit_pl.editing.variants.VARIANTS`; "paper" and "reference" bring their own solver and
            grid, and are only run with the default ones here.

    Raises:
        ValueError: a value out of range, an unknown name, or a solver or grid that the variant is not defined for.
    """

    t0: float | str = 0.5
    steps: int = 100
    repeats: int = 1
    solver: str | Solver = "ancestral"
    grid: str | Grid = "uniform"
    variant: str = "exact"

    def __post_init__(self) -> None:
        start_number(self.t0)
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}; 100 is a good start")
        if self.repeats < 1:
            raise ValueError(f"repeats must be at least 1, got {self.repeats}; 1 runs the edit once")
        if self.variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {self.variant!r}")
        for family, table, value in (("solver", SOLVERS, self.solver), ("grid", GRIDS, self.grid)):
            if isinstance(value, str) and value not in table:
                raise ValueError(f"{family} must be one of {', '.join(table)}, got {value!r}")
        if VARIANTS[self.variant].solver is not None and (self.solver, self.grid) != ("ancestral", "uniform"):
            raise ValueError(
                f"variant={self.variant} brings its own solver and grid, got solver={self.solver!r} and "
                f"grid={self.grid!r}; leave both at their defaults or take variant=exact"
            )

    def __call__(
        self,
        denoiser: Denoiser,
        guide: Images,
        *,
        edit_mask: Mask | None = None,
        seeds: Sequence[int] | None = None,
        noise: Noise | None = None,
        callback: Callback | None = None,
    ) -> Float[Tensor, "samples C H W"]:
        """Edits.

        Args:
            denoiser: the model of the domain.
            guide: images in [-1, 1], (B, 3, H, W), on the device of the denoiser; one guide with several seeds gives
                a sample for each seed.
            edit_mask: True where pixels may change, (B, 1, H, W) or (1, 1, H, W); all may where None.
            seeds: one seed for each sample, 0, 1, ... where None. A sample depends on its guide, mask and seed, not on
                the batch that it is made in.
            noise: a source of noise in place of `seeds`.
            callback: called with the state and its time after each of the repeats * steps steps.

        Returns:
            The edited images, (samples, 3, H, W), on the range of the guide but not clamped to it. Kept pixels equal
            the guide's bit for bit (`variant="exact"`).

        Raises:
            ValueError: a guide, mask or number of seeds that does not fit, or a t0 that the SDE does not reach or the
                model was not trained on.
        """
        self.check(denoiser)
        guide, noise = _with_noise(guide, seeds, noise)
        if edit_mask is not None:
            edit_mask = _fitting(edit_mask, guide)
        variant, times = VARIANTS[self.variant], self.times(denoiser.sde)
        marginals = variant.marginals(denoiser.sde, times, guide)
        t0 = guide.new_full((len(guide),), times[0].item())
        image = result = guide
        with torch.no_grad():
            for first_step in range(0, self.repeats * len(times), len(times)):
                z = noise(first_step, 0, guide)
                result = integrate(
                    denoiser,
                    self._solver(),
                    marginals.perturb(image, t0, z),
                    times,
                    noise=noise,
                    first_step=first_step + 1,
                    last=variant.last,
                    constraint=edit_mask if edit_mask is None else variant.kept(guide, edit_mask, marginals, z),
                    callback=callback,
                )
                image = result if edit_mask is None else torch.where(edit_mask, result, guide)
        return image if variant.paste else result

    def noised_guide(
        self, sde: SDE, guide: Images, *, seeds: Sequence[int] | None = None, noise: Noise | None = None
    ) -> Float[Tensor, "samples C H W"]:
        """The states that the first repeat starts from, (samples, 3, H, W); arguments as in `__call__`."""
        guide, noise = _with_noise(guide, seeds, noise)
        times = self.times(sde)
        t0 = guide.new_full((len(guide),), times[0].item())
        return VARIANTS[self.variant].marginals(sde, times, guide).perturb(guide, t0, noise(0, 0, guide))

    def times(self, sde: SDE) -> Float[Tensor, "levels"]:
        """The times that each repeat visits, from t0 to 0, (steps + 1,), float64 on the CPU."""
        grid = GRIDS[self.grid]() if isinstance(self.grid, str) else self.grid
        return grid.times(sde, start_time(self.t0, sde), self.steps)

    def check(self, denoiser: Denoiser) -> None:
        """Raises ValueError if t0 is a time that the SDE does not reach, or one later than the model was trained on."""
        t0 = start_time(self.t0, denoiser.sde)
        if t0 > denoiser.t_max * (1 + 1e-6):
            levels = denoiser.sde.noise_level(torch.tensor([t0, denoiser.t_max], dtype=torch.float64)).tolist()
            raise ValueError(
                f"t0={self.t0} is time {t0:.3g} (noise level {levels[0]:.3g}), and this model was trained up to "
                f"{denoiser.t_max:.3g} only (noise level {levels[1]:.3g}); take a t0 of at most {denoiser.t_max:.3g}"
            )

    def _solver(self) -> Solver:
        own = VARIANTS[self.variant].solver
        if own is not None:
            return own
        return SOLVERS[self.solver]() if isinstance(self.solver, str) else self.solver


def _with_noise(
    guide: Images, seeds: Sequence[int] | None, noise: Noise | None
) -> tuple[Float[Tensor, "samples C H W"], Noise]:
    """The guide, one image for each sample, and the samples' noise."""
    if guide.ndim != 4 or not guide.is_floating_point():
        raise ValueError(f"a guide is a float tensor (B, C, H, W), got {guide.dtype} of shape {tuple(guide.shape)}")
    if not bool(guide.isfinite().all()):
        raise ValueError("the guide holds NaN or infinite values; expected images in [-1, 1]")
    low, high = guide.min().item(), guide.max().item()
    if low < -1 - _RANGE_TOLERANCE or high > 1 + _RANGE_TOLERANCE:
        raise ValueError(f"a guide's pixels lie in [-1, 1], got [{low:.4g}, {high:.4g}]; map 0..255 with x / 127.5 - 1")
    if noise is not None:
        if seeds is not None:
            raise ValueError("give seeds or noise, not both")
        return guide, noise
    seeds = range(len(guide)) if seeds is None else seeds
    if len(guide) == 1:
        guide = guide.expand(len(seeds), -1, -1, -1)
    if len(seeds) != len(guide):
        raise ValueError(f"{len(guide)} guides need {len(guide)} seeds, got {len(seeds)}; one guide takes any number")
    return guide, SeededNoise(seeds)


def _fitting(edit_mask: Mask, guide: Images) -> Mask:
    """The mask on the guide's device, if it fits the guide."""
    expected = f"(1 or {len(guide)}, 1, {guide.shape[2]}, {guide.shape[3]})"
    if edit_mask.dtype != torch.bool:
        raise ValueError(f"edit_mask is boolean, True where pixels may change, got {edit_mask.dtype}; compare with > 0")
    if edit_mask.ndim != 4 or edit_mask.shape[1:] != (1, *guide.shape[2:]) or len(edit_mask) not in (1, len(guide)):
        raise ValueError(f"edit_mask must have shape {expected} for this guide, got {tuple(edit_mask.shape)}")
    if not bool(edit_mask.flatten(1).any(1).all()):
        raise ValueError("edit_mask is False everywhere: nothing may change; True marks what may")
    return edit_mask.to(guide.device)
