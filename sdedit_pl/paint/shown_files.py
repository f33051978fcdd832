"""Files of a model's own format on a page that paints 8-bit pictures.

The page shows the bands and the window that previews show. A pixel that differs from the shown picture was painted:

    value = black + colour / 255 (white - black)

in the shown bands, where black and white are the ends of the window. Other bands and pixels keep the file's values.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sdedit_pl.data.array_formats import suffixes_of
from sdedit_pl.data.image_files import file_content, is_image_name
from sdedit_pl.data.image_format import ImageShape, shown_band_numbers
from sdedit_pl.data.value_decoding import read_values, result_file, result_suffix, rewritten, rounded, with_window
from sdedit_pl.files import whole_file
from sdedit_pl.guides.guide_files import read_whole
from sdedit_pl.picture_grid import to_picture

LARGEST_PICTURE = 20_000_000
"""Maximum number of pixels of a guide."""


class OpenedFiles:
    """Files that the page has opened, each in a folder named by its hash."""

    def __init__(self, folder: Path, image: ImageShape) -> None:
        self.folder, self.image = folder, image

    def store(self, name: str, content: bytes) -> Path:
        """Stores a file of the model's format; raises ValueError if it is unreadable or too large."""
        name, suffixes = name.replace("\\", "/").rpartition("/")[2], suffixes_of(self.image)
        if not is_image_name(name, suffixes):
            raise ValueError(f"{name} is not an image file; its name must end in one of {', '.join(suffixes)}")
        height, width = read_values(content, name).values.shape[:2]
        check_pixels(name, width, height)
        file = self.folder / hashlib.sha256(content).hexdigest()[:16] / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as unfinished:
            unfinished.write_bytes(content)
        try:
            shown_picture(file, self.image)
        except ValueError as error:
            file.unlink()
            raise ValueError(str(error).replace(str(file), name)) from None
        return file

    def blank(self) -> Path:
        """The file from which a new canvas starts, for a model with a data.format."""
        return self.store("blank.tif", blank_file(self.image))

    def address(self, file: Path) -> str:
        return file.relative_to(self.folder).as_posix()

    def find(self, address: str) -> Path | None:
        return {self.address(file): file for file in self.folder.glob("*/*")}.get(address)


def check_pixels(name: str, width: int, height: int) -> None:
    if width * height > LARGEST_PICTURE:
        raise ValueError(
            f"{name} has {width}x{height} pixels, more than {LARGEST_PICTURE // 10**6} million; make it smaller first"
        )


def shown_picture(file: Path, shape: ImageShape) -> Image.Image:
    """A file of a model's images as a picture; raises UnreadableImage."""
    return to_picture(read_whole(file, shape), shape.format and with_window(file, shape.format))


def painted_file(file: Path, picture: Image.Image, shape: ImageShape) -> bytes:
    """The file with the values painted on a picture of it, in the format of `result_suffix`; raises ValueError."""
    assert shape.format is not None
    shown, bands = shown_picture(file, shape), list(shown_band_numbers(shape.channels, shape.format))
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
    """A TIFF file of the model's size: the middle of the range in all bands, or opaque white if one band is opacity."""
    assert shape.format is not None
    return result_file(torch.full(shape.tensor_shape, float(shape.format.alpha)), shape, ".tif", None)


def painting_rule(shape: ImageShape) -> str:
    """How colours become values, in a sentence."""
    pixels = shape.format
    if pixels is None:
        return ""
    bands = shown_band_numbers(shape.channels, pixels)
    names = " and ".join(pixels.bands[band] if pixels.bands else str(band) for band in bands)
    own = "" if len(bands) + pixels.alpha == shape.channels else "; the other bands keep the guide's values"
    opaque = "; painted pixels become opaque" if pixels.alpha else ""
    bands_set = f"Paint sets band{'s' * (len(bands) > 1)} {names}"
    return f"{bands_set}; black and white are the ends of the shown range{own}{opaque}."
