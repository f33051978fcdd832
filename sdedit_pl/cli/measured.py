"""What the verbs calibrate and evaluate have in common: which images they edit, and what realism is measured on."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdedit_pl.build import build_component
from sdedit_pl.calibration.sweep import LEAST_IMAGES
from sdedit_pl.cli.edit import FAMILIES as EDIT_FAMILIES
from sdedit_pl.config import ConfigError, Family
from sdedit_pl.data import FolderSource, WebDatasetSource
from sdedit_pl.data.chosen_images import ChosenImages
from sdedit_pl.data.shard_manifest import MANIFEST_FILE
from sdedit_pl.data.splits import SPLITS
from sdedit_pl.downloads import is_remote
from sdedit_pl.metrics.feature_table import FEATURES
from sdedit_pl.metrics.features import FeatureExtractor

FAMILIES = {**EDIT_FAMILIES, "features": Family(FEATURES, "efficientnet_lite0")}


def chosen_images(config: Mapping[str, Any], shape: tuple[int, int]) -> ChosenImages:
    """The images that are edited.

    Raises:
        ConfigError: there is no such data, or too few images in it.
    """
    data, fraction, (channels, size) = config["data"], config["val_fraction"], shape
    place = Path(data)
    if not (place.exists() or is_remote(data) or glob.has_magic(data) or "{" in data):
        raise ConfigError(f"there is no data={data}; give a folder of images, or shards")
    in_shards = not place.is_dir() or (place / MANIFEST_FILE).is_file() or any(place.glob("*.tar"))
    kind = WebDatasetSource if in_shards else FolderSource
    source = kind(data, size, channels, val_fraction=fraction)
    chosen = ChosenImages(source, ("val",) if config["split"] == "val" else SPLITS, config["images"])
    if len(chosen) < LEAST_IMAGES:
        raise ConfigError(
            f"a KID needs at least {LEAST_IMAGES} images, and data={data} has {len(chosen)} with "
            f"split={config['split']} and val_fraction={fraction}; give a larger val_fraction, or split=all if "
            "training has seen none of them"
        )
    return chosen


def build_features(config: Mapping[str, Any]) -> FeatureExtractor:
    """What realism is measured on.

    Raises:
        ConfigError: its package is not installed.
        ValueError: its weights are not there, or are other ones.
    """
    try:
        return build_component(config, "features", FAMILIES["features"])
    except ModuleNotFoundError as error:
        raise ConfigError(str(error)) from error
