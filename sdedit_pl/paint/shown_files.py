"""Files of a model's own format on a page that paints 8-bit pictures.

The page shows the bands and the window that previews show. A pixel that differs from the shown picture was painted:

    value = black + colour / 255 (white - black)

in the shown bands, where black and white are the ends of the window. Its other bands, and all other pixels, keep the
values of the file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sdedit_pl.data.image_files import file_content
from sdedit_pl.data.image_format import ImageShape, numbers_of_shown
from sdedit_pl.data.value_decoding import read_values, result_file, result_suffix, rewritten, rounded, with_window
from sdedit_pl.guides.guide_files import read_whole
from sdedit_pl.picture_grid import to_picture


def shown_picture(file: Path, shape: ImageShape) -> Image.Image:
    """A file of a model's images as a picture; raises UnreadableImage."""
    return to_picture(read_whole(file, shape), shape.format and with_window(file, shape.format))


def painted_file(file: Path, picture: Image.Image, shape: ImageShape) -> bytes:
    """The file with the values of a painted picture of it, in the format of `result_suffix`.

    Raises:
        ValueError: the file cannot be read, or the picture has another size.
    """
    assert shape.format is not None
    shown, bands = shown_picture(file, shape), list(numbers_of_shown(shape.channels, shape.format))
    if picture.size != shown.size:
        raise ValueError(f"the painting must have the size of its file, {shown.size}, got {picture.size}")
    before, after = (np.asarray(each).reshape(*shown.size[::-1], -1) for each in (shown, picture.convert(shown.mode)))
    painted, suffix = (before != after).any(-1), result_suffix(file)
    if not painted.any() and file.name.lower().endswith(suffix):
        return file_content(file)
    pixels = with_window(file, shape.format)
    black, white = pixels.window or pixels.limits
    values = read_values(file, str(file)).values
    values = values.astype(pixels.dtype) if values.dtype.kind == "b" else values.copy()
    chosen = values[painted].astype(np.float64)
    chosen[:, bands] = (black + after[painted] * ((white - black) / 255)).clip(*pixels.limits)
    if pixels.alpha:
        chosen[:, -1] = np.iinfo(pixels.dtype).max
    values[painted] = rounded(chosen, values.dtype)
    return rewritten(file, values)


def blank_file(shape: ImageShape) -> bytes:
    """A TIFF file of the model's size: the middle of the range in all bands, or opaque white with opacity."""
    assert shape.format is not None
    return result_file(torch.full(shape.tensor_shape, float(shape.format.alpha)), shape, ".tif", None)


def painting_rule(shape: ImageShape) -> str:
    """How colours become values, in a sentence."""
    pixels = shape.format
    if pixels is None:
        return ""
    bands = numbers_of_shown(shape.channels, pixels)
    names = " and ".join(pixels.bands[band] if pixels.bands else str(band) for band in bands)
    own = "" if len(bands) + pixels.alpha == shape.channels else "; the other bands keep the guide's values"
    opaque = "; painted pixels become opaque" if pixels.alpha else ""
    return f"Paint sets band{'s' * (len(bands) > 1)} {names}, from black to white of the shown range{own}{opaque}."
