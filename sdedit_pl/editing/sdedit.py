"""SDEdit: noise a guide to t0, then run the reverse process from there.

Noise of level t0 hides the unrealistic details of the guide and keeps its layout; the reverse process adds realistic
details. With a mask, pixels outside it are kept; with a strength map, each pixel has its own t0.

Source: Meng et al., "SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations", ICLR 2022,
Algorithms 2 to 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sdedit_pl.denoiser import Denoiser, Labels
from sdedit_pl.editing.colour_matching import with_colours_of
from sdedit_pl.editing.constraints import Constraints, GradedRegion, LowFrequencies, Marginals, energy_weight
from sdedit_pl.editing.published import VARIANTS, Variant
from sdedit_pl.grids import GRIDS, Grid, Uniform, start_number, start_time, with_jumps_back
from sdedit_pl.guides.tensor_checks import fitting_mask, fitting_strength, guide_and_noise
from sdedit_pl.noise import Noise
from sdedit_pl.sampling import Callback, Constraint, integrate
from sdedit_pl.sde import SDE
from sdedit_pl.solvers import SOLVERS, Solver
from sdedit_pl.typing import Images, Mask, Strength, over_images

DEFAULT_SOLVER = "sde_dpm_solver_2m"
DEFAULT_GRID = "uniform"


@dataclass(frozen=True)
class SDEdit:
    """The settings of an edit; calling it with a denoiser and a guide edits.

    Args:
        t0: how far the guide is noised: a time in (0, 1], or a noise level such as "sigma:1.2", which means the same
            for every SDE. Higher is more realistic, lower more faithful; the paper recommends [0.3, 0.6].
        steps: number of steps from t0 to 0, independent of t0; None for the variant's default.
        repeats: number of runs, each on the result of the one before (K).
        solver: None for `DEFAULT_SOLVER`, or the variant's own.
        grid: None for `DEFAULT_GRID`, or the variant's own.
        variant: a name in `sdedit_pl.editing.published.VARIANTS`, of which all but "exact" prescribe solver and grid.
        anneal: start time of a repeat relative to that of the one before, in (0, 1].
        resample: (j, r) takes each group of j steps r times, to harmonise kept and new pixels; needs a mask or map.
        lowpass: keeps the guide's low frequencies, those of an image smaller by this factor; None keeps none.
        lowpass_range: the lowest and the highest time at which `lowpass` applies.
        lowpass_energy: weight of `lowpass` as an energy that fades with the noise (EGSDE); None imposes it fully.
        match_colours: gives the changed region of each repeat the mean and covariance of the guide's colours.

    Raises:
        ValueError: a value is out of range, a name is unknown, or the variant does not allow a solver, grid or option.
    """

    t0: float | str = 0.5
    steps: int | None = None
    repeats: int = 1
    solver: Solver | None = None
    grid: Grid | None = None
    variant: str = "exact"
    anneal: float = 1.0
    resample: tuple[int, int] | None = None
    lowpass: int | None = None
    lowpass_range: tuple[float, float] = (0.0, 1.0)
    lowpass_energy: float | None = None
    match_colours: bool = False

    def __post_init__(self) -> None:
        start_number(self.t0)
        if self.repeats < 1:
            raise ValueError(f"repeats must be at least 1, got {self.repeats}; 1 runs the edit once")
        if self.variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {self.variant!r}")
        if self.step_count < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}; the default is {self._variant.steps}")
        self._check_options()

    @property
    def step_count(self) -> int:
        """Number of steps from t0 to 0, not counting resampled ones."""
        return self._variant.steps if self.steps is None else self.steps

    def __call__(
        self,
        denoiser: Denoiser,
        guide: Images,
        *,
        edit_mask: Mask | None = None,
        strength: Strength | None = None,
        labels: Labels | None = None,
        seeds: Sequence[int] | None = None,
        noise: Noise | None = None,
        callback: Callback | None = None,
    ) -> Float[Tensor, "samples C H W"]:
        """Edits guides; returns images not clamped to [-1, 1]; with "exact", kept pixels equal the guide's bit for bit.

        Args:
            guide: images in [-1, 1] on the denoiser's device; a single guide gives one sample per seed.
            edit_mask: True where pixels may change, (B, 1, H, W) or (1, 1, H, W); None for everywhere.
            strength: instead of a mask, the t0 of each pixel as a fraction of the time t0, in [0, 1], with the shape of
                a mask; pixels of strength 0 are kept.
            labels: see `Denoiser.labelled`; None for those that the denoiser has already.
            seeds: one seed per sample, 0, 1, ... if None. A sample does not depend on its batch.
            noise: a source of noise instead of `seeds`.
            callback: called with the state and its time after each of the `total_steps` steps.

        Raises:
            ValueError: guide, mask, strength map and seeds do not fit each other, an option requires a mask, or t0
                exceeds the range of the SDE or of the model's training.
        """
        self.check(denoiser)
        denoiser = denoiser if labels is None else denoiser.labelled(labels)
        guide, noise = guide_and_noise(guide, seeds, noise, denoiser.noise)
        self._check_area(edit_mask, strength, guide)
        edit_mask = None if edit_mask is None else fitting_mask(edit_mask, guide)
        strength = None if strength is None else fitting_strength(strength, guide)
        image = result = guide
        first_step = 0
        with torch.no_grad():
            for times in self.schedule(denoiser.sde):
                marginals = self._variant.marginals(denoiser.sde, times, guide)
                z = noise(first_step, 0, guide)
                t0, lowest = (guide.new_full((len(guide),), times[index].item()) for index in (0, -2))
                own_time = None if strength is None else strength * over_images(t0)
                result = integrate(
                    denoiser,
                    self._solver(),
                    marginals.perturb(image, t0, z),
                    times,
                    noise=noise,
                    first_step=first_step + 1,
                    last=self._variant.last,
                    constraint=self._constraint(denoiser.sde, guide, image, edit_mask, own_time, marginals, z),
                    callback=callback,
                )
                if self.match_colours:
                    result = with_colours_of(guide, result, edit_mask if strength is None else strength)
                changed = edit_mask if own_time is None else own_time >= over_images(lowest)
                image = result if changed is None else torch.where(changed, result, image)
                first_step += len(times)
        return image if self._variant.paste else result

    def noised_guide(
        self, denoiser: Denoiser, guide: Images, *, seeds: Sequence[int] | None = None, noise: Noise | None = None
    ) -> Float[Tensor, "samples C H W"]:
        """The initial states of the first repeat; arguments as in `__call__`."""
        guide, noise = guide_and_noise(guide, seeds, noise, denoiser.noise)
        times = self.times(denoiser.sde)
        t0 = guide.new_full((len(guide),), times[0].item())
        return self._variant.marginals(denoiser.sde, times, guide).perturb(guide, t0, noise(0, 0, guide))

    def times(self, sde: SDE, repeat: int = 0) -> Float[Tensor, "levels"]:
        """The times of a repeat from its t0 to 0, float64 on the CPU, (steps + 1,) or longer with jumps back."""
        times = self._grid().times(sde, start_time(self.t0, sde) * self.anneal**repeat, self.step_count)
        return times if self.resample is None else with_jumps_back(times, *self.resample)

    def schedule(self, sde: SDE) -> list[Float[Tensor, "levels"]]:
        return [self.times(sde, repeat) for repeat in range(self.repeats)]

    def total_steps(self, sde: SDE) -> int:
        """Number of solver steps over all repeats, including resampled ones."""
        return sum(int((times.diff() < 0).sum()) for times in self.schedule(sde))

    def evaluations(self, denoiser: Denoiser) -> int:
        """Evaluations of networks for an image, or for each of its windows; guided steps count twice."""
        step = self._solver().evaluations_per_step
        last = 1 if self._variant.last == "denoised" else step
        starts = (times[:-1][times.diff() < 0] for times in self.schedule(denoiser.sde))
        counts = [[*map(denoiser.evaluations_at, times)] for times in starts]
        return sum(step * sum(count[:-1]) + last * count[-1] for count in counts)

    def check(self, denoiser: Denoiser) -> None:
        """Raises ValueError if t0 exceeds the range of the SDE or of the model's training."""
        t0 = start_time(self.t0, denoiser.sde)
        if t0 > denoiser.t_max * (1 + 1e-6):
            levels = denoiser.sde.noise_level(torch.tensor([t0, denoiser.t_max], dtype=torch.float64)).tolist()
            raise ValueError(
                f"t0={self.t0} is time {t0:.3g} (noise level {levels[0]:.3g}), and this model was trained only "
                f"up to {denoiser.t_max:.3g} (noise level {levels[1]:.3g}); use a t0 of at most {denoiser.t_max:.3g}"
            )

    @property
    def _variant(self) -> Variant:
        return VARIANTS[self.variant]

    def _solver(self) -> Solver:
        return self._variant.solver or self.solver or SOLVERS[DEFAULT_SOLVER]()

    def _grid(self) -> Grid:
        return Uniform() if self._variant.solver is not None else self.grid or GRIDS[DEFAULT_GRID]()

    def _constraint(
        self,
        sde: SDE,
        guide: Images,
        image: Images,
        edit_mask: Mask | None,
        own_time: Strength | None,
        marginals: Marginals,
        z: Images,
    ) -> Constraint | None:
        """The constraint of a repeat that starts from `image`, noised with `z`."""
        parts: list[Constraint] = []
        if self.lowpass is not None:
            frequencies = LowFrequencies(guide, marginals, self.lowpass, *self.lowpass_range)
            energy = self.lowpass_energy
            parts.append(frequencies if energy is None else replace(frequencies, weight=energy_weight(sde, energy)))
        if edit_mask is not None:
            parts.append(self._variant.kept(image, edit_mask, marginals, z))
        if own_time is not None:
            parts.append(GradedRegion(image, own_time, marginals))
        return None if not parts else parts[0] if len(parts) == 1 else Constraints(parts)

    def _check_options(self) -> None:
        if not 0 < self.anneal <= 1:
            raise ValueError(f"anneal must lie in (0, 1], got {self.anneal}; 1 starts every repeat from t0")
        if self.anneal != 1 and self.repeats == 1:
            raise ValueError(f"anneal={self.anneal} requires several repeats, got repeats=1; give repeats=2 or more")
        if self.lowpass is not None and self.lowpass < 2:
            raise ValueError(f"lowpass must be at least 2, got {self.lowpass}; 4 keeps coarse colours, 16 the tone")
        low, high = self.lowpass_range
        if not 0 <= low < high <= 1:
            raise ValueError(f"lowpass_range is a range of times within [0, 1], got {low} to {high}; 0,1 is all")
        if self.lowpass is None and (low, high) != (0, 1):
            raise ValueError(f"lowpass_range={low},{high} requires lowpass; try lowpass=8")
        if self.lowpass_energy is not None and (self.lowpass is None or not self.lowpass_energy > 0):
            raise ValueError(
                f"lowpass_energy must exceed 0 and requires lowpass, got {self.lowpass_energy}; try lowpass=8 "
                "lowpass_energy=0.5"
            )
        if self._variant.solver is None:
            return
        if self.solver is not None or self.grid is not None:
            given = self.grid if self.solver is None else self.solver
            raise ValueError(
                f"variant={self.variant} brings its own solver and grid, got {given!r}; omit both or take variant=exact"
            )
        if (self.anneal, self.resample, self.lowpass, self.match_colours) != (1, None, None, False):
            raise ValueError(
                f"variant={self.variant} has no anneal, resample, lowpass or match_colours, as published; use "
                "variant=exact for these"
            )

    def _check_area(self, edit_mask: Mask | None, strength: Strength | None, guide: Images) -> None:
        if edit_mask is not None and strength is not None:
            raise ValueError("give edit_mask or strength, not both; a strength of 0 keeps a pixel")
        if strength is not None and self._variant.solver is not None:
            raise ValueError(f"variant={self.variant} takes no strength map, only masks; use variant=exact")
        if self.resample is not None and edit_mask is None and strength is None:
            raise ValueError("resample harmonises kept and new pixels; none are kept here: give a mask")
        if self.lowpass is not None and self.lowpass > min(guide.shape[2:]):
            raise ValueError(
                f"lowpass={self.lowpass} exceeds the {min(guide.shape[2:])} pixels of an image; give a smaller one"
            )
