"""The settings of `sdedit calibrate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sdedit_pl.checkpoints.sampler_settings import SamplerSettings
from sdedit_pl.configuration import Component, family, require_at_least
from sdedit_pl.metrics.extractor_table import FEATURES
from sdedit_pl.metrics.features import FeatureExtractor
from sdedit_pl.metrics.kid import LEAST_IMAGES


@dataclass(kw_only=True)
class CalibrationSettings(SamplerSettings):
    """A calibration's images, sweep and measurement, in addition to the keys of its model.

    Args:
        data: images of the domain: a folder, or shards (a folder, file, pattern or URL).
        out: folder of the results; null for the checkpoint's folder, the only one that sdedit edit reads them from.
        t0: two or more t0 to measure, times or noise levels; the knee is one of them. null uses the noise levels that
            the VP SDE has at 0.2, 0.3, 0.4, 0.5, 0.6, 0.8 and 1, up to the model's largest.
        images: number of images, spread evenly over the data; null for all.
        split: val, the images that training holds out of data, or all, for data that training has not seen.
        val_fraction: share of the images held out if data has no val split; null for that of the model's training.
        steps: solver steps of an edit; null for the default of sdedit edit.
        seed: seed of the first image's edits; the next ones count up from it.
        batch: images per batch.
        overwrite: replace earlier results.
    """

    guidance: float | None = None
    data: str
    out: str | None = None
    t0: tuple[float | str, ...] | None = None
    images: int | None = 100
    split: Literal["val", "all"] = "val"
    val_fraction: float | None = None
    steps: int | None = None
    seed: int = 0
    batch: int = 16
    overwrite: bool = False
    features: Component[FeatureExtractor] = family(FEATURES, "efficientnet_lite0")

    def __post_init__(self) -> None:
        require_at_least(self, images=LEAST_IMAGES, seed=0, batch=1)
        if self.t0 is not None and len(self.t0) < 2:
            raise ValueError(f"a sweep needs at least two t0, got {list(self.t0)}; try t0=[0.3,0.4,0.5]")
