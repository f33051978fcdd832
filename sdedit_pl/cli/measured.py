"""What the verbs calibrate and evaluate have in common: which images they edit, and what realism is measured on."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Literal

from sdedit_pl.build.components import build_component
from sdedit_pl.calibration.sweep import LEAST_IMAGES
from sdedit_pl.configuration import Component, ConfigError
from sdedit_pl.data import FolderSource, WebDatasetSource
from sdedit_pl.data.chosen_images import ChosenImages
from sdedit_pl.data.shard_manifest import MANIFEST_FILE
from sdedit_pl.data.splits import SPLITS
from sdedit_pl.downloads import is_remote
from sdedit_pl.metrics.features import FeatureExtractor


def chosen_images(
    data: str, shape: tuple[int, int], *, split: Literal["val", "all"], val_fraction: float, count: int | None
) -> ChosenImages:
    """The images that are edited.

    Args:
        data: a folder of images, or shards.
        shape: (channels, size) of the model's images.
        split: which images.
        val_fraction: share of the images held out where data has no val of its own.
        count: how many images, spread evenly; None for all.

    Raises:
        ConfigError: there is no such data, or too few images in it.
    """
    channels, size = shape
    place = Path(data)
    if not (place.exists() or is_remote(data) or glob.has_magic(data) or "{" in data):
        raise ConfigError(f"there is no data={data}; give a folder of images, or shards")
    in_shards = not place.is_dir() or (place / MANIFEST_FILE).is_file() or any(place.glob("*.tar"))
    kind = WebDatasetSource if in_shards else FolderSource
    source = kind(data, size, channels, val_fraction=val_fraction)
    chosen = ChosenImages(source, ("val",) if split == "val" else SPLITS, count)
    if len(chosen) < LEAST_IMAGES:
        raise ConfigError(
            f"a KID needs at least {LEAST_IMAGES} images, and data={data} has {len(chosen)} with "
            f"split={split} and val_fraction={val_fraction}; give a larger val_fraction, or split=all if "
            "training has seen none of them"
        )
    return chosen


def build_features(features: Component[FeatureExtractor]) -> FeatureExtractor:
    """What realism is measured on.

    Raises:
        ConfigError: its package is not installed.
        ValueError: its weights are not there, or are other ones.
    """
    try:
        return build_component(features)
    except ModuleNotFoundError as error:
        raise ConfigError(str(error)) from error
