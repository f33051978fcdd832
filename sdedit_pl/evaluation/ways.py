"""Ways to make an image of a task's inputs: SDEdit, and what it is compared with.

A way is a frozen dataclass of settings, whose text (`repr`) says all that its images depend on besides the inputs, the
model and the seeds. Every image has a seed of its own, so that it is the same in any batch and on any device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing import SDEdit
from sdedit_pl.evaluation.baselines import laplacian_blend, load_opencv, poisson_blend, round_trip
from sdedit_pl.evaluation.tasks import Inputs, Task
from sdedit_pl.grids import GRIDS, start_time
from sdedit_pl.noise import mixed
from sdedit_pl.sampling import Callback, sample
from sdedit_pl.typing import Images, Mask

_SAMPLING = 1
"""Sets the seeds of unconditional samples apart from those of edits."""


@runtime_checkable
class Way(Protocol):
    """A way to make images."""

    def check(self, denoiser: Denoiser) -> None:
        """Raises ValueError if this cannot be done with the model, or on this machine."""
        ...

    def total_steps(self, denoiser: Denoiser) -> int:
        """How many solver steps an image takes."""
        ...

    def __call__(self, denoiser: Denoiser, inputs: Inputs, seeds: Sequence[int], callback: Callback) -> Images:
        """Makes an image of each input, on its device; `callback` is called after each step."""
        ...


@dataclass(frozen=True)
class Edit:
    """SDEdit.

    Args:
        edit: its settings.
    """

    edit: SDEdit

    def check(self, denoiser: Denoiser) -> None:
        """See `Way`."""
        self.edit.check(denoiser)
        self.edit.schedule(denoiser.sde)

    def total_steps(self, denoiser: Denoiser) -> int:
        """See `Way`."""
        return self.edit.total_steps(denoiser.sde)

    def __call__(self, denoiser: Denoiser, inputs: Inputs, seeds: Sequence[int], callback: Callback) -> Images:
        """See `Way`."""
        return self.edit(denoiser, inputs.guide, edit_mask=inputs.mask, seeds=seeds, callback=callback)


@dataclass(frozen=True)
class RoundTrip:
    """DDIM encoding of the guide up to t0 and decoding from there; what the mask keeps is put back.

    Args:
        t0: a time or noise level, as of `SDEdit`.
        steps: steps of each way.
    """

    t0: float | str
    steps: int

    def check(self, denoiser: Denoiser) -> None:
        """See `Way`."""
        SDEdit(t0=self.t0, steps=self.steps).check(denoiser)
        if self.steps < 2:
            raise ValueError(f"DDIM encoding needs at least 2 steps, got {self.steps}; more, or baselines without ddim")

    def total_steps(self, denoiser: Denoiser) -> int:
        """See `Way`."""
        return 2 * self.steps - 1

    def __call__(self, denoiser: Denoiser, inputs: Inputs, seeds: Sequence[int], callback: Callback) -> Images:
        """See `Way`."""
        times = GRIDS["log_snr"]().times(denoiser.sde, start_time(self.t0, denoiser.sde), self.steps)
        decoded = round_trip(denoiser, inputs.guide, times, callback)
        return decoded if inputs.mask is None else torch.where(inputs.mask, decoded, inputs.guide)


@dataclass(frozen=True)
class Blend:
    """A blending of the pasted image with the original, which takes no model.

    Args:
        kind: "poisson" or "laplacian".
    """

    kind: str

    def check(self, denoiser: Denoiser) -> None:
        """See `Way`."""
        load_opencv()

    def total_steps(self, denoiser: Denoiser) -> int:
        """See `Way`."""
        return 0

    def __call__(self, denoiser: Denoiser, inputs: Inputs, seeds: Sequence[int], callback: Callback) -> Images:
        """See `Way`."""
        assert inputs.pasted is not None and inputs.mask is not None
        return _BLENDS[self.kind](inputs.original, inputs.pasted, inputs.mask)


@dataclass(frozen=True)
class Sample:
    """An unconditional sample, which takes nothing of the inputs but their shape.

    Args:
        steps: solver steps.
    """

    steps: int

    def check(self, denoiser: Denoiser) -> None:
        """See `Way`."""
        if denoiser.t_max < 1:
            raise ValueError(
                f"a model of the times up to {denoiser.t_max:g} cannot start from noise, so that it has no "
                "unconditional samples; leave nearest_sample out of baselines="
            )

    def total_steps(self, denoiser: Denoiser) -> int:
        """See `Way`."""
        return self.steps

    def __call__(self, denoiser: Denoiser, inputs: Inputs, seeds: Sequence[int], callback: Callback) -> Images:
        """See `Way`."""
        channels, height, width = inputs.guide.shape[1:]
        own = [mixed(seed, _SAMPLING) for seed in seeds]
        return sample(denoiser, (channels, height, width), own, steps=self.steps, callback=callback)


@dataclass(frozen=True)
class Baseline:
    """What SDEdit is compared with under a name.

    Args:
        way: the way, from t0 and steps.
        fits: which tasks it is for.
        nearest: whether it makes a set of images, of which each guide is given the nearest.
    """

    way: Callable[[float | str, int], Way]
    fits: Callable[[Task], bool] = lambda task: True
    nearest: bool = False


_BLENDS: dict[str, Callable[[Images, Images, Mask], Images]] = {
    "poisson": poisson_blend,
    "laplacian": laplacian_blend,
}
BASELINES: dict[str, Baseline] = {
    "ddim": Baseline(RoundTrip),
    "poisson": Baseline(lambda t0, steps: Blend("poisson"), lambda task: task.pastes),
    "laplacian": Baseline(lambda t0, steps: Blend("laplacian"), lambda task: task.pastes),
    "nearest_sample": Baseline(lambda t0, steps: Sample(steps), nearest=True),
}
"""What SDEdit can be compared with, besides the guide itself and other systems' outputs."""
