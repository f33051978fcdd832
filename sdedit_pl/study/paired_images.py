"""Pairs files of several folders by name, and makes degraded copies for catch trials.

Images are re-encoded as PNG files of one size without metadata, so that files do not reveal the method.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from sdedit_pl.data.array_formats import ALL_SUFFIXES, stem_of
from sdedit_pl.data.image_decoding import decode_image, decode_whole
from sdedit_pl.data.image_format import ImageFormat, ImageShape
from sdedit_pl.data.value_decoding import with_window
from sdedit_pl.guides.guide_files import find_guides, image_size
from sdedit_pl.picture_grid import to_picture
from sdedit_pl.study.trial_design import StudyError

_SEED = re.compile(r"_seed\d+$")  # suffix that `sdedit edit` gives to a sample
_BLOCKS = 6
_NOISE = 50
_NAMED = 4


def pair_files(sources: Mapping[str, str]) -> dict[str, dict[str, Path]]:
    """Name -> key -> file, sorted by name, for the folders or glob patterns `sources` (key -> source).

    Extensions and suffixes like `_seed0` do not count. Raises StudyError for empty sources, missing or duplicate names.
    """
    found = {key: _files_by_name(key, source) for key, source in sources.items()}
    names = sorted(set().union(*found.values()))
    lacking = [
        f"{_listed(missing)} {'is' if len(missing) == 1 else 'are'} not in {key}={sources[key]}"
        for key, files in found.items()
        if (missing := [name for name in names if name not in files])
    ]
    if lacking:
        raise StudyError(
            f"files are paired by name, and some have no partner: {'; '.join(lacking)}. Complete the folders, or "
            "select files with a pattern, as in methods.ours='edits/*_seed0.png'"
        )
    return {name: {key: files[name] for key, files in found.items()} for name in names}


def image_files(key: str, source: str) -> list[Path]:
    try:
        return find_guides(source, ALL_SUFFIXES)
    except ValueError as error:
        raise StudyError(f"{key}={source}: {error}") from error


def common_shape(name: str, outputs: Mapping[str, Path]) -> tuple[int, int]:
    """(height, width) of all methods' outputs for one guide; raises StudyError if they differ."""
    sizes = {method: image_size(file) for method, file in outputs.items()}
    if len(set(sizes.values())) > 1:
        shown = ", ".join(f"{method} {width}x{height}" for method, (width, height) in sizes.items())
        raise StudyError(f"all methods' outputs for one guide must have the same size; for {name} they are {shown}")
    width, height = next(iter(sizes.values()))
    return height, width


def read_rgb(file: Path, shape: tuple[int, int], domain: ImageShape | None = None) -> Image.Image:
    """An image file as upright RGB of `shape` (height, width); raises UnreadableImage.

    A square `shape` crops it centrally, others stretch it. Data of a `domain` with a format look as in its previews.
    """
    image_format = ImageFormat(shape)
    if domain is not None and domain.format is not None:
        image_format = ImageFormat.of(replace(domain, size=shape))
    decode = decode_image if shape[0] == shape[1] else decode_whole
    image = image_format.images(decode(file, str(file), image_format)[None])[0]
    return to_picture(image, image_format.format and with_window(file, image_format.format)).convert("RGB")


def degraded_copy(picture: Image.Image, seed: int) -> Image.Image:
    """A copy that is clearly worse and further from the original: a few coarse blocks under strong noise."""
    blocks = picture.resize((_BLOCKS, _BLOCKS), Image.Resampling.BOX).resize(picture.size, Image.Resampling.NEAREST)
    noise = np.random.default_rng(seed).normal(0, _NOISE, (*picture.size[::-1], 3))
    return Image.fromarray((np.asarray(blocks) + noise).round().clip(0, 255).astype(np.uint8))


def _files_by_name(key: str, source: str) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for file in image_files(key, source):
        name = _SEED.sub("", stem_of(file))
        if name in files:
            raise StudyError(
                f"{key}={source} has two files for {name}, {files[name].name} and {file.name}; select one of them "
                f"with a pattern, as in {key}='{file.parent}/*_seed0.png'"
            )
        files[name] = file
    return files


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
