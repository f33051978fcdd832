"""The feature extractors that a configuration can name."""

from __future__ import annotations

from sdedit_pl.metrics.features import EfficientNetLite0, FeatureExtractor
from sdedit_pl.metrics.features_from_file import FeaturesFile
from sdedit_pl.metrics.inception import InceptionV3

FEATURES: dict[str, type[FeatureExtractor]] = {
    "inception": InceptionV3,
    "efficientnet_lite0": EfficientNetLite0,
    "file": FeaturesFile,
}
