"""What is measured of edits: faithfulness to the guide, realism of a set, and closeness to the training images."""

from __future__ import annotations

from collections.abc import Callable

from sdedit_pl.metrics.faithfulness import root_mean_square, squared_l2
from sdedit_pl.metrics.features import EfficientNetLite0, FeatureExtractor, features_of
from sdedit_pl.metrics.kid import Estimate, kernel_distance
from sdedit_pl.metrics.neighbours import Neighbours, nearest, nearest_by_angle

FEATURES: dict[str, Callable[[], FeatureExtractor]] = {"efficientnet_lite0": EfficientNetLite0}

__all__ = [
    "FEATURES",
    "EfficientNetLite0",
    "Estimate",
    "FeatureExtractor",
    "Neighbours",
    "features_of",
    "kernel_distance",
    "nearest",
    "nearest_by_angle",
    "root_mean_square",
    "squared_l2",
]
