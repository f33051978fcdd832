"""The methods that an evaluation compares, each making an image from a task's inputs: SDEdit and its baselines.

Blending does not use the model. DDIM follows the probability-flow ODE from the guide up to t0 (encoding) and back
down (decoding), which preserves the guide, including its lack of realism. An unconditional sample is as realistic as
the model allows and ignores the guide; the sample nearest to a guide shows the effect of selection alone.

The `repr` of a method covers everything that its images depend on besides the inputs, the model and the seeds.

Source: Song, Meng and Ermon, "Denoising Diffusion Implicit Models", ICLR 2021, section 4.3, for DDIM encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing import SDEdit
from sdedit_pl.editing.translation import ddim_round_trip
from sdedit_pl.evaluation.blending import laplacian_blend, load_opencv, poisson_blend
from sdedit_pl.evaluation.editing_tasks import EditingTask, TaskInputs
from sdedit_pl.grids import GRIDS, start_time
from sdedit_pl.noise import hash64
from sdedit_pl.sampling import Callback, sample
from sdedit_pl.typing import Images

_SAMPLING = 1
"""Separates the seeds of unconditional samples from those of edits."""


@runtime_checkable
class Method(Protocol):
    def check(self, denoiser: Denoiser) -> None:
        """Raises ValueError if the model or this machine does not allow this method."""
        ...

    def total_steps(self, denoiser: Denoiser) -> int: ...

    def __call__(
        self, denoiser: Denoiser, inputs: TaskInputs, seeds: Sequence[int], callback: Callback | None
    ) -> Images:
        """Makes an image from each input, on its device; `callback` is called after each step."""
        ...


@dataclass(frozen=True)
class SDEditMethod:
    edit: SDEdit

    def check(self, denoiser: Denoiser) -> None:
        self.edit.check(denoiser)
        self.edit.schedule(denoiser.sde)

    def total_steps(self, denoiser: Denoiser) -> int:
        return self.edit.total_steps(denoiser.sde)

    def __call__(
        self, denoiser: Denoiser, inputs: TaskInputs, seeds: Sequence[int], callback: Callback | None
    ) -> Images:
        return self.edit(denoiser, inputs.guide, edit_mask=inputs.mask, seeds=seeds, callback=callback)


@dataclass(frozen=True)
class DDIMRoundTrip:
    """DDIM encoding of the guide up to t0 and decoding, `steps` each; kept pixels are restored afterwards."""

    t0: float | str
    steps: int

    def check(self, denoiser: Denoiser) -> None:
        SDEdit(t0=self.t0, steps=self.steps).check(denoiser)
        if self.steps < 2:
            raise ValueError(
                f"DDIM encoding needs at least 2 steps, got {self.steps}; use more, or leave ddim out of baselines="
            )

    def total_steps(self, denoiser: Denoiser) -> int:
        return 2 * self.steps - 1

    def __call__(
        self, denoiser: Denoiser, inputs: TaskInputs, seeds: Sequence[int], callback: Callback | None
    ) -> Images:
        times = GRIDS["log_snr"]().times(denoiser.sde, start_time(self.t0, denoiser.sde), self.steps)
        decoded = ddim_round_trip(denoiser, inputs.guide, times, callback)
        return decoded if inputs.mask is None else torch.where(inputs.mask, decoded, inputs.guide)


@dataclass(frozen=True)
class Blend:
    """`kind` is "poisson" or "laplacian"."""

    kind: str

    def check(self, denoiser: Denoiser) -> None:
        load_opencv()

    def total_steps(self, denoiser: Denoiser) -> int:
        return 0

    def __call__(
        self, denoiser: Denoiser, inputs: TaskInputs, seeds: Sequence[int], callback: Callback | None
    ) -> Images:
        assert inputs.pasted is not None and inputs.mask is not None
        blend = poisson_blend if self.kind == "poisson" else laplacian_blend
        return blend(inputs.original, inputs.pasted, inputs.mask)


@dataclass(frozen=True)
class UnconditionalSample:
    """Only the shape of the inputs is used."""

    steps: int

    def check(self, denoiser: Denoiser) -> None:
        if denoiser.t_max < 1:
            raise ValueError(
                f"a model trained on the times up to {denoiser.t_max:g} cannot start from noise and has no "
                "unconditional samples; leave nearest_sample out of baselines="
            )

    def total_steps(self, denoiser: Denoiser) -> int:
        return self.steps

    def __call__(
        self, denoiser: Denoiser, inputs: TaskInputs, seeds: Sequence[int], callback: Callback | None
    ) -> Images:
        channels, height, width = inputs.guide.shape[1:]
        own = [hash64(seed, _SAMPLING) for seed in seeds]
        return sample(denoiser, (channels, height, width), own, steps=self.steps, callback=callback)


@dataclass(frozen=True)
class Baseline:
    """A method that SDEdit is compared with.

    Args:
        method: makes it from t0 and the number of steps.
        fits: whether it applies to a task.
        nearest: its images are made without a guide; each guide gets the nearest of them.
    """

    method: Callable[[float | str, int], Method]
    fits: Callable[[EditingTask], bool] = lambda task: True
    nearest: bool = False


BASELINES: dict[str, Baseline] = {
    "ddim": Baseline(DDIMRoundTrip),
    "poisson": Baseline(lambda t0, steps: Blend("poisson"), lambda task: task.pastes),
    "laplacian": Baseline(lambda t0, steps: Blend("laplacian"), lambda task: task.pastes),
    "nearest_sample": Baseline(lambda t0, steps: UnconditionalSample(steps), nearest=True),
}
"""The baselines, besides the guide itself and other systems' outputs."""
