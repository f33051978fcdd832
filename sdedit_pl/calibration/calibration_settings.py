"""The settings of `sdedit calibrate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sdedit_pl.calibration.sweep import LEAST_IMAGES
from sdedit_pl.checkpoints.guidance import GuidanceSettings
from sdedit_pl.configuration import Component, family, require_at_least
from sdedit_pl.editing.sdedit import DEFAULT_GRID, DEFAULT_SOLVER
from sdedit_pl.grids import GRIDS, Grid
from sdedit_pl.machine import AutoBool, InferencePrecision
from sdedit_pl.metrics.extractor_table import FEATURES
from sdedit_pl.metrics.features import FeatureExtractor
from sdedit_pl.solvers import SOLVERS, Solver


@dataclass(kw_only=True)
class CalibrationSettings(GuidanceSettings):
    """The model, images, sweep and measurement of a calibration.

    Args:
        ckpt: the checkpoint; see sdedit edit.
        data: images of the domain: a folder, or shards (a folder, file, pattern or URL).
        out: folder of the results; null for the checkpoint's folder, the only one that sdedit edit reads them from.
        t0: at least two times or noise levels to start from; the knee is one of them. null uses the times with the
            noise levels of 0.2, 0.3, 0.4, 0.5, 0.6, 0.8 and 1 of the VP SDE, up to the largest that the model was
            trained on.
        images: number of images, spread evenly over the data; null for all.
        split: val, the images that training holds out of data, or all, for data that training has not seen.
        val_fraction: share of the images held out if data has no val split of its own; as in training.
        steps: solver steps of an edit; null for the default of sdedit edit.
        seed: seed of the first image's edits; the next ones count up from it.
        batch: images per batch.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: of the network; the state is always float32. float32 is IEEE's, tf32 its faster variant on GPUs; auto
            is bfloat16 on GPUs with bf16, and float32 elsewhere.
        compile: compile the network; auto does on GPUs with bf16 for 10,000 or more evaluations of the network.
        overwrite: replace earlier results.
    """

    ckpt: str
    data: str
    out: str | None = None
    t0: tuple[float | str, ...] | None = None
    images: int | None = 100
    split: Literal["val", "all"] = "val"
    val_fraction: float = 0.05
    steps: int | None = None
    seed: int = 0
    batch: int = 16
    device: str = "auto"
    precision: InferencePrecision = "auto"
    compile: AutoBool = "auto"
    overwrite: bool = False
    solver: Component[Solver] = family(SOLVERS, DEFAULT_SOLVER, supplied=("predictor",))
    grid: Component[Grid] = family(GRIDS, DEFAULT_GRID)
    features: Component[FeatureExtractor] = family(FEATURES, "efficientnet_lite0")

    def __post_init__(self) -> None:
        require_at_least(self, images=LEAST_IMAGES, seed=0, batch=1)
        if self.t0 is not None and len(self.t0) < 2:
            raise ValueError(f"a sweep has at least two t0, got {list(self.t0)}; t0=[0.3,0.4,0.5] has three")
