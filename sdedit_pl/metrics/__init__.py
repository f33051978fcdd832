"""What is measured of edits: faithfulness to the guide, realism of a set, and closeness to the training images."""

from __future__ import annotations

from sdedit_pl.metrics.faithfulness import RootMeanSquare, SquaredL2, root_mean_square, squared_l2
from sdedit_pl.metrics.feature_cache import cached_features
from sdedit_pl.metrics.feature_files import FeaturesError, FeaturesFile
from sdedit_pl.metrics.features import PIXELS, EfficientNetLite0, FeatureExtractor, features_of, stream_features
from sdedit_pl.metrics.gathered import TooFewImages
from sdedit_pl.metrics.inception import InceptionV3
from sdedit_pl.metrics.intervals import Estimate
from sdedit_pl.metrics.kid import kernel_distance
from sdedit_pl.metrics.neighbours import Neighbours, nearest, nearest_by_angle
from sdedit_pl.metrics.perceptual import MaskedLPIPS
from sdedit_pl.metrics.realism import DensityCoverage, FrechetDistance, KernelDistance, PrecisionRecall
from sdedit_pl.metrics.weights import WeightsUnavailable

FEATURES: dict[str, type[FeatureExtractor]] = {
    "inception": InceptionV3,
    "efficientnet_lite0": EfficientNetLite0,
    "file": FeaturesFile,
}

__all__ = [
    "FEATURES",
    "PIXELS",
    "DensityCoverage",
    "EfficientNetLite0",
    "Estimate",
    "FeatureExtractor",
    "FeaturesError",
    "FeaturesFile",
    "FrechetDistance",
    "InceptionV3",
    "KernelDistance",
    "MaskedLPIPS",
    "Neighbours",
    "PrecisionRecall",
    "RootMeanSquare",
    "SquaredL2",
    "TooFewImages",
    "WeightsUnavailable",
    "cached_features",
    "features_of",
    "kernel_distance",
    "nearest",
    "nearest_by_angle",
    "root_mean_square",
    "squared_l2",
    "stream_features",
]
