"""The range of values that a model maps to [-1, 1]: stated, or percentiles of its training images."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from sdedit_pl.data.image_files import UnreadableImage
from sdedit_pl.data.image_format import PixelFormat
from sdedit_pl.data.source import Source
from sdedit_pl.data.value_decoding import with_window

logger = logging.getLogger(__name__)

_IMAGES, _VALUES = 2000, 10_000
"""Maximum number of images that are measured, spread evenly over the set, and of values from each."""


def with_range(source: Source) -> PixelFormat | None:
    """The format of a source's images with its range; warns if more than 1 % of their values are clipped.

    Raises ValueError if the range is not stated and cannot be measured.
    """
    pixels = source.format.format
    if pixels is None or source.streams:
        return pixels
    images = source.images("train")
    if pixels.window is None and len(images) and Path(images.name(0)).is_file():
        pixels = with_window(Path(images.name(0)), pixels)
    values = measured_values(source)
    if pixels.range is None and (pixels.dtype == "uint8" or pixels.alpha):
        pixels = replace(pixels, range=pixels.limits)
    if pixels.range is None:
        low, high = np.percentile(values, (pixels.percentile, 100 - pixels.percentile)).tolist()
        if low == high:
            raise ValueError(f"all values of the training images are {low:g}; state data.format.range=low,high")
        pixels = replace(pixels, range=(low, high))
        logger.info(
            "data.format.range: %g to %g, percentiles %g and %g", low, high, pixels.percentile, 100 - pixels.percentile
        )
    low, high = pixels.limits
    clipped = float(((values < low) | (values > high)).mean())
    if clipped > 0.01:
        logger.warning(
            "%.1f %% of the training images' values, from %g to %g, lie outside of data.format.range, %g to %g, "
            "and are clipped",
            *(100 * clipped, values.min(), values.max(), low, high),
        )
    return pixels


def measured_values(source: Source) -> np.ndarray:
    """Some finite values of the training images; raises ValueError if no image can be read."""
    images = source.images("train")
    found, reason = [], "there are none"
    for number in np.unique(np.linspace(0, len(images) - 1, min(len(images), _IMAGES)).astype(int)).tolist():
        try:
            values = images.read(number)[: source.format.channels].numpy().ravel()
        except UnreadableImage as error:
            reason = str(error)
            continue
        if len(values) > _VALUES:  # at random, because a stride can stay in a few columns
            values = values[np.random.default_rng(number).integers(len(values), size=_VALUES)]
        found.append(values[np.isfinite(values)].astype(np.float64))
    if not found or not sum(map(len, found)):
        raise ValueError(f"no training image can be read; the last: {reason}")
    return np.concatenate(found)
