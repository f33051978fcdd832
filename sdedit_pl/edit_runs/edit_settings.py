"""The settings of `sdedit edit`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from sdedit_pl.checkpoints.sampler_settings import SamplerSettings
from sdedit_pl.configuration import require_at_least
from sdedit_pl.data.image_format import Fit, ImageShape, Size
from sdedit_pl.guides.composite import Paste

AUTO_T0 = "auto"
"""Value of t0 that requests a search for it."""
Reduction: TypeAlias = Literal["mean", "std"]


@dataclass(kw_only=True)
class EditSettings(SamplerSettings):
    """The guides and options of an edit, besides its model.

    Args:
        guide: an image, a folder, a glob, local or remote WebDataset shards (KEY.png with KEY.mask.png), a CSV or
            Parquet table with columns guide, mask, t0 and seed, or a [mask, image] .pth of SDEdit's reference runner.
        mask: an image whose white pixels may change, or a folder of them named like the guides; replaces a guide's own.
        strength: instead of a mask, an image (or a folder of images) that says how far to noise each pixel: white to
            t0, black not at all.
        paste: picture of an object to paste on the guide, or, if the model has a data.format, a file of that format;
            the object and a border around it may change.
        paste_mask: picture of the size of `paste`, white inside the object; null uses opaque pixels.
        at: x,y of the object's upper left corner, in pixels of the guide's file.
        scale: factor by which the object is resized.
        grow: width of the editable border around the object, in pixels of the model.
        feather: width beyond `grow` over which the strength falls to 0, in pixels of the model.
        out: folder of the results.
        t0: how far guides are noised, a time in (0, 1] or a noise level such as sigma:1.2, or a list of them; higher is
            more realistic, lower more faithful. auto finds the highest one that changes a guide by at most `l2`; null
            uses the result of sdedit calibrate for the checkpoint, or else 0.5.
        l2: with t0=auto, the largest squared difference of guide and edit, summed over pixel values scaled to [0, 1].
        steps: solver steps from t0 to 0; null for the variant's default.
        repeats: number of runs of the edit, each on the result of the one before (K).
        anneal: t0 of a repeat relative to that of the one before, in (0, 1].
        resample: j,r takes groups of j steps r times, to harmonise kept and new pixels; needs a mask or strength map.
        lowpass: N keeps the guide's low frequencies, those of an image N times smaller; null keeps none.
        lowpass_range: from,to, the lowest and the highest time at which lowpass applies.
        lowpass_energy: weight of lowpass as an energy added to the score (EGSDE), such as 0.5; null imposes it fully.
        match_colours: give the changed area the guide's mean and covariance of colours, against drift over repeats.
        samples: number of samples of each guide.
        reduce: also write the mean of the samples (mean), their standard deviation (std), or both (mean,std); empty for
            neither. The deviation is in the units of the guide's file, and high where the model is unsure.
        seed: seed of the first sample; the next ones count up from it.
        variant: exact, or paper or reference, which follow the paper's algorithms and its code, respectively.
        fit: how guides get the model's proportions: crop to their largest central part, resize, which changes their
            proportions, or pad, which continues them by their mirror image and cuts the results back to their shape.
        windows: edit guides at their own size, in overlapping windows of the model's size (true) or a size in pixels.
        overlap: minimum overlap of neighbouring windows in pixels; null for half a window.
        side: with windows, length to which the shorter side of guides is resampled; null for their own.
        focus: true edits only the part of a large picture around each mask region, at the model's size, and puts it
            back at full resolution; x,y,width,height, in file pixels, edits that box. All else is kept bit for bit.
        trajectory: also write, for each guide, the x_0 estimates along the way as an animation and a strip.
        devices: number of processes that share the guides on this machine, each with a GPU if there are any; auto takes
            all GPUs. On several machines, start the command with torchrun, srun or as a SLURM array instead.
        shards: write WebDataset shards with the samples of this many guides each; null for a file for each sample.
        strict: end with an error at the first unreadable guide; otherwise unreadable guides are listed at the end.
        overwrite: replace the results in `out`.
    """

    guidance: float | None = None
    guide: str
    mask: str | None = None
    strength: str | None = None
    paste: str | None = None
    paste_mask: str | None = None
    at: tuple[int, int] | None = None
    scale: float = 1.0
    grow: int = 3
    feather: int = 0
    out: str = "outputs/edit"
    t0: float | str | tuple[float | str, ...] | None = None
    l2: float | None = None
    steps: int | None = None
    repeats: int = 1
    anneal: float = 1.0
    resample: tuple[int, int] | None = None
    lowpass: int | None = None
    lowpass_range: tuple[float, float] = (0.0, 1.0)
    lowpass_energy: float | None = None
    match_colours: bool = False
    samples: int = 4
    reduce: Reduction | tuple[Reduction, ...] = ()
    seed: int = 0
    variant: str = "exact"
    fit: Fit = "crop"
    windows: bool | int = False
    overlap: int | None = None
    side: int | None = None
    focus: bool | tuple[int, int, int, int] = False
    trajectory: bool = False
    devices: int | Literal["auto"] = 1
    shards: int | None = None
    strict: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        require_at_least(self, samples=1, batch=1, seed=0, shards=1)
        if self.devices != "auto":
            require_at_least(self, devices=1)
        if self.strength is not None and re.fullmatch(r"[\d.]+", self.strength):
            raise ValueError(f"strength takes an image, got {self.strength}; for a number, t0={self.strength}")
        if self.reductions and self.samples < 2:
            raise ValueError(f"reduce needs at least 2 samples, got samples={self.samples}")
        areas = [name for name in ("mask", "strength", "paste") if getattr(self, name) is not None]
        if len(areas) > 1:
            raise ValueError(f"{' and '.join(areas)} each say what may change; give one of them")
        if (self.paste is None) != (self.at is None):
            raise ValueError("paste and at go together: paste=IMAGE at=X,Y puts its upper left corner there")
        if self.paste is None and (self.paste_mask, self.scale, self.grow, self.feather) != (None, 1.0, 3, 0):
            raise ValueError("paste_mask, scale, grow and feather need an object to paste; give paste=IMAGE at=X,Y")
        if (self.windows or self.focus) and self.fit != "crop":
            raise ValueError("windows and focus keep the proportions of guides; omit fit")
        if not self.windows and (self.overlap is not None or self.side is not None):
            raise ValueError("overlap and side need windows; give windows=true")
        if self.focus and (self.windows or self.paste is not None):
            raise ValueError("focus goes with a mask, a strength map or a box, not with windows or paste; omit these")
        if (self.t0 == AUTO_T0) != (self.l2 is not None):
            raise ValueError("t0=auto and l2 go together: l2=NUMBER says how much a guide may change")
        if isinstance(self.t0, tuple):
            if len(set(self.t0)) != len(self.t0) or not self.t0:
                raise ValueError(f"t0 takes one or more different values, got {list(self.t0)}")
            if self.trajectory:
                raise ValueError("trajectory shows one t0 at a time; give one")

    @property
    def seeds(self) -> range:
        return range(self.seed, self.seed + self.samples)

    @property
    def reductions(self) -> tuple[Reduction, ...]:
        return (self.reduce,) if isinstance(self.reduce, str) else self.reduce

    @property
    def pasted_object(self) -> Paste | None:
        if self.paste is None or self.at is None:
            return None
        mask = None if self.paste_mask is None else Path(self.paste_mask)
        return Paste(Path(self.paste), self.at, self.scale, mask, self.grow, self.feather)

    def window_size(self, shape: ImageShape) -> Size | None:
        return shape.size if self.windows is True else self.windows or None
