"""Trajectories of edits: the estimates of x_0 from t0 to 0, shown as an animation and as a strip.

At high noise levels an estimate averages all images that the state could come from: layout settles first, texture last.
If the estimates resemble the guide for long, t0 is too low to change it; if even the first one differs, t0 is too high.
Recording keeps estimates that the solver requests anyway, so that it changes no bit of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from sdedit_pl.data.image_format import PixelFormat, bytes_from_images, shown_bands
from sdedit_pl.denoiser import Denoiser, Estimates, Labels
from sdedit_pl.editing.many_guides import Edited, edit_guides
from sdedit_pl.editing.sdedit import SDEdit
from sdedit_pl.guides.guide_files import Guide
from sdedit_pl.guides.mask_files import Area
from sdedit_pl.picture_grid import cell_side, picture_grid, to_picture
from sdedit_pl.typing import Images, Times

FRAME_MILLISECONDS = 80
LAST_FRAME_MILLISECONDS = 2000
LARGEST_SIDE = 256
"""Largest side, in pixels, of recorded estimates."""
SHOWN_SAMPLES = 8
"""Maximum number of samples shown for a guide."""


@dataclass(frozen=True)
class Trajectory:
    """The estimates of x_0 of a run in order, evenly spaced over the evaluations.

    `noise_levels` are sigma / alpha at `times`; `images` are on the CPU, with sides of at most `LARGEST_SIDE`.
    """

    times: tuple[float, ...]
    noise_levels: tuple[float, ...]
    images: UInt8[Tensor, "frames B C H W"]

    def first(self, count: int) -> Trajectory:
        return Trajectory(self.times, self.noise_levels, self.images[:, :count])

    def thinned(self, frames: int) -> Trajectory:
        """At most `frames` (2 or more) frames, including the first and the last."""
        last = len(self.times) - 1
        chosen = sorted({round(last * index / (frames - 1)) for index in range(frames)})
        times, levels = ([values[index] for index in chosen] for values in (self.times, self.noise_levels))
        return Trajectory(tuple(times), tuple(levels), self.images[chosen])


class WatchedDenoiser(Denoiser):
    """Calls `watch` with the times and estimates of x_0 of each evaluation of a denoiser."""

    def __init__(self, denoiser: Denoiser, watch: Callable[[Tensor, Images], object]) -> None:
        shared = {name: getattr(denoiser, name) for name in ("t_max", "labels", "noise", "at_once")}
        super().__init__(denoiser.network, denoiser.parameterisation, denoiser.sde, **shared)
        self.train(denoiser.training)
        self.denoiser = denoiser
        self.watch = watch

    def labelled(self, labels: Labels) -> Denoiser:
        return self.changed(denoiser=self.denoiser.labelled(labels))

    def changed(self, **attributes: Any) -> Denoiser:
        inner = attributes.pop("denoiser", self.denoiser).changed(**attributes)
        return super().changed(denoiser=inner, **attributes)

    def forward(self, x_t: Images, t: Times) -> Images:
        x_0 = self.denoiser(x_t, t)
        self.watch(t, x_0)
        return x_0

    def score(self, x_t: Images, t: Times) -> Images:
        return self.estimates(x_t, t).score

    def estimates(self, x_t: Images, t: Times) -> Estimates:
        estimates = self.denoiser.estimates(x_t, t)
        self.watch(t, estimates.x_0)
        return estimates


class RecordingDenoiser(WatchedDenoiser):
    """Records at most `frames` (3 or more) of a denoiser's estimates of x_0 during one run.

    It keeps every n-th estimate and the last one. When `frames` estimates have been kept, every second one is dropped
    and n is doubled. Estimates have the bands that `format` shows. Nothing leaves the device before `trajectory`.
    """

    def __init__(self, denoiser: Denoiser, frames: int = 48, format: PixelFormat | None = None) -> None:
        super().__init__(denoiser, lambda t, x_0: self._keep(_Estimate(t, shown_bands(x_0, format))))
        self.frames = frames
        self._kept: list[_Estimate] = []
        self._latest: _Estimate | None = None
        self._seen = 0
        self._every = 1

    def trajectory(self) -> Trajectory:
        """The recorded estimates; raises ValueError before the first evaluation."""
        if self._latest is None:
            raise ValueError("the denoiser has recorded no trajectory yet; run an edit with it first")
        is_kept = (self._seen - 1) % self._every == 0
        estimates = self._kept if is_kept else [*self._kept, self._latest.small()]
        times = torch.stack([estimate.t.flatten()[0] for estimate in estimates]).cpu().double()
        images = torch.stack([estimate.x_0 for estimate in estimates]).cpu()
        return Trajectory(tuple(times.tolist()), tuple(self.sde.noise_level(times).tolist()), images)

    def _keep(self, estimate: _Estimate) -> None:
        if self._seen % self._every == 0:
            self._kept.append(estimate.small())
            if len(self._kept) == self.frames:
                self._kept, self._every = self._kept[::2], 2 * self._every
        self._latest = estimate
        self._seen += 1


@dataclass(frozen=True)
class _Estimate:
    """An estimate of x_0, on the device: floats in [-1, 1], or bytes."""

    t: Tensor
    x_0: Tensor

    def small(self) -> _Estimate:
        """The estimate in bytes, reduced to sides of at most `LARGEST_SIDE`."""
        x_0 = self.x_0.float()
        longer = max(x_0.shape[2:])
        if longer > LARGEST_SIDE:
            size = [max(1, side * LARGEST_SIDE // longer) for side in x_0.shape[2:]]
            x_0 = interpolate(x_0, size, mode="bilinear", antialias=True)
        return _Estimate(self.t, bytes_from_images(x_0))


def edit_with_trajectory(
    denoiser: Denoiser,
    edit: SDEdit,
    guide: Guide,
    area: Area | None,
    seeds: Sequence[int],
    *,
    batch: int | None = None,
    on_step: Callable[[int], object] | None = None,
) -> tuple[Edited, Trajectory]:
    """Edits a guide like `edit_guides` and records the trajectory of its first `SHOWN_SAMPLES` samples as one batch."""
    shown = min(batch or len(seeds), SHOWN_SAMPLES)
    recording = RecordingDenoiser(denoiser, format=guide.format)
    (edited,) = edit_guides(recording, edit, [guide], [area], seeds[:shown], batch=shown, on_step=on_step)
    rest = edit_guides(denoiser, edit, [guide], [area], seeds[shown:], batch=batch, on_step=on_step)
    samples = torch.cat([edited.samples, *(others.samples for others in rest)])
    trajectory = recording.trajectory()
    trajectory = replace(trajectory, images=guide.shown(trajectory.images))
    return replace(edited, samples=samples, seeds=tuple(seeds)), trajectory


def strip(
    trajectory: Trajectory, results: Float[Tensor, "B C H W"], seeds: Sequence[int], frames: int = 8
) -> Image.Image:
    """A row for each sample: estimates of x_0 with their times and noise levels, then the result.

    Shows the first `SHOWN_SAMPLES` of `results`, in [-1, 1]; `frames`, at least 2, limits the estimates in a row.
    """
    shown = trajectory.first(SHOWN_SAMPLES).thinned(frames)
    rows = [[*map(to_picture, images)] for images in shown.images.unbind(1)]
    for row, result in zip(rows, results[:SHOWN_SAMPLES], strict=True):
        row.append(to_picture(result))
    levels = zip(shown.times, shown.noise_levels, strict=True)
    titles = [*(f"t {t:.3g}, level {level:.3g}" for t, level in levels), "result"]
    return picture_grid(rows, titles, _side(rows[0][-1]), row_titles=[f"seed {seed}" for seed in seeds[:SHOWN_SAMPLES]])


def save_animation(file: Path, trajectory: Trajectory, results: Float[Tensor, "B C H W"], seeds: Sequence[int]) -> None:
    """Writes a looping animation of a trajectory, with at most `SHOWN_SAMPLES` samples side by side.

    Args:
        file: a WebP or GIF file, by its suffix; a GIF frame has only 256 colours.
        results: the samples, in [-1, 1]; they form the last frame, which is shown longer.
    """
    shown = trajectory.first(SHOWN_SAMPLES)
    first, *others = _animation_frames(shown, results[:SHOWN_SAMPLES], seeds[:SHOWN_SAMPLES])
    durations = [FRAME_MILLISECONDS] * len(others) + [LAST_FRAME_MILLISECONDS]
    first.save(file, save_all=True, append_images=others, duration=durations, loop=0, quality=90)


def _animation_frames(
    trajectory: Trajectory, results: Float[Tensor, "B C H W"], seeds: Sequence[int]
) -> Iterator[Image.Image]:
    captions = [*(f"t {t:.3g}" for t in trajectory.times), "result"]
    for caption, images in zip(captions, [*trajectory.images, results], strict=True):
        titles = [f"seed {seed}, {caption}" for seed in seeds]
        yield picture_grid([[*map(to_picture, images)]], titles, _side(to_picture(results[0])))


def _side(picture: Image.Image) -> int:
    return min(cell_side(picture), LARGEST_SIDE)
