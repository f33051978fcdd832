"""The arguments of `sdedit edit`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sdedit_pl.configuration import Component, family, require_at_least
from sdedit_pl.editing.sdedit import DEFAULT_GRID, DEFAULT_SOLVER
from sdedit_pl.grids import GRIDS, Grid
from sdedit_pl.solvers import SOLVERS, Solver

AUTO = "auto"


@dataclass(kw_only=True)
class Arguments:
    """What to edit, and how.

    Args:
        ckpt: an editing checkpoint (.safetensors), a training checkpoint (.ckpt), the folder of a run, or a checkpoint
            of another program that can be told by itself (otherwise: sdedit import); or where one is published,
            wandb:entity/project/name:alias or https://host/file#sha256=... (fetched once).
        guide: an image, a folder of images, a glob, or a [mask, image] file (.pth) of SDEdit's reference runner.
        mask: the image whose white pixels may change, or a folder of such images named like their guides; it takes the
            place of a mask that comes with the guide.
        strength: in place of a mask, an image that says how far each pixel is noised (white from t0 on, black kept), or
            a folder of such images.
        paste: the picture of an object that is pasted on the guide; it and a border around it may change.
        paste_mask: a picture of its size, white where the object is; null takes what is not transparent.
        at: x,y of its upper left corner, in pixels of the guide's file.
        scale: the size at which it is pasted, 1 for its own.
        grow: how far around the object pixels may change, in pixels of the model.
        feather: over how many pixels further the strength falls to 0.
        out: folder of the results.
        t0: how far guides are noised, a time in (0, 1] or a noise level such as sigma:1.2, or a list of them; higher is
            more realistic, lower more faithful. auto takes the highest that changes a guide by no more than `l2`;
            null what sdedit calibrate has found for the checkpoint, or else 0.5.
        l2: with t0=auto, the squared difference allowed between a guide and its edit, summed over pixels in [0, 1].
        steps: solver steps from t0 to 0; null for as many as the variant needs.
        repeats: how often the edit is repeated on its own result (K).
        anneal: the t0 of a repeat relative to that of the one before, in (0, 1].
        resample: j,r takes each j steps r times, which harmonises kept and new pixels; with a mask or strength map.
        lowpass: N keeps what an image N times smaller shows of the guide; null for nothing.
        lowpass_range: the times, from,to, at which it does.
        samples: how many samples of each guide.
        seed: of the first sample; the next has the next seed.
        variant: exact, or paper or reference, which follow the published algorithms and code to the letter.
        windows: edit guides at their own size, in overlapping windows: true for windows of the model's size, or theirs
            in pixels.
        overlap: pixels that neighbouring windows share at the least; null for half a window.
        side: with windows, the shorter side that guides are resampled to; null for their own.
        trajectory: leave besides, for each guide, the x_0 estimates along the way as an animation and a strip.
        batch: samples made at once; null for as many as the memory holds. It changes nothing but speed and memory.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: of the network; the state is always float32.
        compile: compile the network, which pays for many samples.
        overwrite: replace the results in `out`.
    """

    ckpt: str
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
    samples: int = 4
    seed: int = 0
    variant: str = "exact"
    windows: bool | int = False
    overlap: int | None = None
    side: int | None = None
    trajectory: bool = False
    batch: int | None = None
    device: str = "auto"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    compile: bool = False
    overwrite: bool = False
    solver: Component[Solver] = family(SOLVERS, DEFAULT_SOLVER, supplied=("predictor",))  # an object, not plain data
    grid: Component[Grid] = family(GRIDS, DEFAULT_GRID)

    def __post_init__(self) -> None:
        require_at_least(self, samples=1, batch=1, seed=0)
        areas = [name for name in ("mask", "strength", "paste") if getattr(self, name) is not None]
        if len(areas) > 1:
            raise ValueError(f"{' and '.join(areas)} each say what may change; give one of them")
        if (self.paste is None) != (self.at is None):
            raise ValueError("paste and at go together: paste=IMAGE at=X,Y puts its upper left corner there")
        if self.paste is None and (self.paste_mask, self.scale, self.grow, self.feather) != (None, 1.0, 3, 0):
            raise ValueError("paste_mask, scale, grow and feather are for a paste; give paste=IMAGE at=X,Y")
        if not self.windows and (self.overlap is not None or self.side is not None):
            raise ValueError("overlap and side are for windows; give windows=true")
        if (self.t0 == AUTO) != (self.l2 is not None):
            raise ValueError("t0=auto and l2 go together: l2=NUMBER says how much a guide may change")
        if isinstance(self.t0, tuple):
            if len(set(self.t0)) != len(self.t0) or not self.t0:
                raise ValueError(f"t0 is a list of different values, got {list(self.t0)}")
            if self.trajectory:
                raise ValueError("trajectory shows one t0 at a time; give one")
