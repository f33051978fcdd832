"""The images of a study: files of several folders paired up by name, and the degraded copies of catch trials.

All images of an item are brought to one form, a PNG of the size of the methods' outputs without any metadata, so that
neither kind, size nor headers of a file tell whose it is.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from sdedit_pl.data.images import ImageFormat, decode_image, decode_whole
from sdedit_pl.guides.guide_files import find_guides, image_size
from sdedit_pl.study.design import StudyError

_SEED = re.compile(r"_seed\d+$")  # how `sdedit edit` ends the name of a sample
_BLOCKS = 6
_NOISE = 50
_NAMED = 4


def pair_up(sources: Mapping[str, str]) -> dict[str, dict[str, Path]]:
    """The files of several folders by their common names.

    Args:
        sources: for each key of the command line, a folder of images or a glob. A name is the file's without its
            ending and without the `_seed0` that an edit's samples have.

    Returns:
        For each name, in their order, the file of each key.

    Raises:
        StudyError: if a source has two files of one name, or lacks a name that another has.
        ValueError: if a source has no images.
    """
    found = {key: _by_name(key, source) for key, source in sources.items()}
    names = sorted(set().union(*found.values()))
    lacking = [
        f"{_listed(missing)} {'is' if len(missing) == 1 else 'are'} not in {key}={sources[key]}"
        for key, files in found.items()
        if (missing := [name for name in names if name not in files])
    ]
    if lacking:
        raise StudyError(
            f"files pair up by name, and these do not: {'; '.join(lacking)}. Complete the folders, or choose among "
            "their files with a pattern, as in methods.ours='edits/*_seed0.png'"
        )
    return {name: {key: files[name] for key, files in found.items()} for name in names}


def common_shape(name: str, outputs: Mapping[str, Path]) -> tuple[int, int]:
    """Height and width in pixels that all methods' outputs for one guide have.

    Raises:
        StudyError: if they are of several sizes.
        UnreadableImage: if a file is not an image.
    """
    sizes = {method: image_size(file) for method, file in outputs.items()}
    if len(set(sizes.values())) > 1:
        shown = ", ".join(f"{method} {width}x{height}" for method, (width, height) in sizes.items())
        raise StudyError(f"all methods' outputs for one guide must be of one size, for {name} they are {shown}")
    width, height = next(iter(sizes.values()))
    return height, width


def read_picture(file: Path, shape: tuple[int, int]) -> Image.Image:
    """An image file as RGB, upright, resampled to (height, width) where it is of another size.

    As in editing, the central part is taken for a square, and the whole image otherwise.

    Raises:
        UnreadableImage: if the file is not a whole image.
    """
    height, width = shape
    content, name = file.read_bytes(), str(file)
    square = height == width
    pixels = decode_image(content, name, ImageFormat(height)) if square else decode_whole(content, name, shape)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def degraded(picture: Image.Image, seed: int) -> Image.Image:
    """A copy that anyone sees to be worse and further from its original: a few coarse blocks under strong noise."""
    blocks = picture.resize((_BLOCKS, _BLOCKS), Image.Resampling.BOX).resize(picture.size, Image.Resampling.NEAREST)
    noise = np.random.default_rng(seed).normal(0, _NOISE, (*picture.size[::-1], 3))
    return Image.fromarray((np.asarray(blocks) + noise).round().clip(0, 255).astype(np.uint8))


def png_bytes(picture: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file that holds its pixels and nothing else."""
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def _by_name(key: str, source: str) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for file in find_guides(source):
        name = _SEED.sub("", file.stem)
        if name in files:
            raise StudyError(
                f"{key}={source} has two files for {name}, {files[name].name} and {file.name}; choose one of them "
                f"with a pattern, as in {key}='{file.parent}/*_seed0.png'"
            )
        files[name] = file
    return files


def _listed(names: list[str]) -> str:
    """The names, or the first ones and how many more."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
