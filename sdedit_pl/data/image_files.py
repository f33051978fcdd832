"""Image files: which names count as images, how folders are listed, and the one function that opens a file.

A name counts by its suffix; images with other suffixes are counted in a warning. Hidden files (`.DS_Store`, `._a.png`)
and everything in hidden folders or in `__MACOSX` are ignored, in folders and archives alike.
"""

from __future__ import annotations

import io
import logging
import os
import stat
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp"),
    *(".avif", ".bmp", ".gif", ".tif", ".tiff"),
)
UNREAD_SUFFIXES = (
    *(".heic", ".heif", ".ppm", ".pgm", ".tga"),
    *(".jp2", ".jxl", ".psd", ".exr", ".dng", ".cr2", ".cr3", ".nef", ".arw"),
)
"""Suffixes of image files that are not read."""

# Pillow's decoders that may run. A file's content decides, not its suffix: a .png may hold a GIF.
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "PPM", "TIFF", "AVIF")

# Raised by Pillow's decoders on damaged data, besides OSError (a base class of UnidentifiedImageError).
DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    OverflowError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(ValueError):
    """An image that is truncated, empty, damaged or not an image; the message names it and gives the reason."""


def is_image_name(name: str, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> bool:
    """Whether a relative path with "/" separators names an image that is not hidden."""
    return name.lower().endswith(suffixes) and not any(map(_is_hidden, name.split("/")))


def list_images(folder: Path, recursive: bool = False, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[str]:
    """Sorted relative paths of a folder's images, with "/" separators; links are followed."""
    if not recursive:
        files = [entry.name for entry in os.scandir(folder) if os.path.isfile(entry)]
        warn_of_unread_images(folder, files)
        return sorted(name for name in files if is_image_name(name, suffixes))
    found: list[str] = []
    visited = set()
    for current, subfolders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(current)
        if real in visited:  # reached by a link before
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(name for name in subfolders if not _is_hidden(name))
        relative = Path(current).relative_to(folder)
        found += [(relative / file).as_posix() for file in files]
    warn_of_unread_images(folder, found)
    return sorted(name for name in found if is_image_name(name, suffixes))


def is_unread_image(name: str) -> bool:
    return name.lower().endswith(UNREAD_SUFFIXES) and not any(map(_is_hidden, name.split("/")))


def warn_of_unread_images(place: str | Path, names: Iterable[str]) -> None:
    counts = Counter(os.path.splitext(name)[1].lower() for name in names if is_unread_image(name))
    if counts:
        _warn_once(str(place), ", ".join(f"{count} {suffix}" for suffix, count in sorted(counts.items())))


@cache
def _warn_once(place: str, found: str) -> None:
    text = "%s holds %s, which are left out: convert them to one of %s to use them"
    logger.warning(text, place, found, ", ".join(IMAGE_SUFFIXES))


@contextmanager
def open_image(file: bytes | Path, name: str) -> Iterator[Image.Image]:
    """Opens an image for a `with` block, in which its pixels are decoded.

    Raises UnreadableImage, also for Pillow's errors in the block, and for more than `max_pixels()`.
    """
    Image.MAX_IMAGE_PIXELS = max_pixels() // 2  # Pillow refuses images of more than twice this
    try:
        content = file if isinstance(file, bytes) else file_content(file)
        image = picture_of_array(content, name)
        with image or Image.open(io.BytesIO(content), formats=PICTURE_FORMATS) as image:
            if image.format in ("GIF", "AVIF", "WEBP", "TIFF") and getattr(image, "is_animated", False):
                _note_first_frame(name)
            yield image
    except UnreadableImage:
        raise
    except Image.UnidentifiedImageError:
        picture_of_array(content, name, tiff=True)  # says what is in a TIFF file that Pillow cannot read
        reason = "it is not an image" if content else "it is empty"
        raise UnreadableImage(f"cannot read image {name}: {reason}") from None
    except Image.DecompressionBombError:
        reason = f"it has more than {max_pixels():,} pixels; raise max_pixels=, or save a smaller copy"
        raise UnreadableImage(f"cannot read image {name}: {reason}") from None
    except DECODING_ERRORS as error:
        raise UnreadableImage(f"cannot read image {name}: {getattr(error, 'strerror', None) or error}") from None


@lru_cache(maxsize=1000)
def _note_first_frame(name: str) -> None:
    logger.warning("%s holds several frames; the first one is used", name)


def max_pixels() -> int:
    """Largest number of pixels of an image file: SDEDIT_MAX_PIXELS, by default 178,956,970."""
    return int(os.environ.get("SDEDIT_MAX_PIXELS", 2 * 89_478_485))


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) if there is none or the EXIF data is damaged."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except DECODING_ERRORS:
        return 1
    return found if found in _TURNS else 1


def upright(image: Image.Image) -> Image.Image:
    turn = _TURNS.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def file_content(file: Path) -> bytes:
    """Reads a regular file; raises OSError for any other."""
    if not stat.S_ISREG(os.stat(file).st_mode):  # a pipe would block, and a device may have no end
        raise OSError("it is not a regular file")
    with open(file, "rb", buffering=0) as opened:
        return opened.read()


def _is_hidden(part: str) -> bool:
    return (part.startswith(".") and part not in (".", "..")) or part == "__MACOSX"


def picture_of_array(content: bytes, name: str, *, tiff: bool = False) -> Image.Image | None:
    """The picture in a file of values: 8 bits, one band of 16 bits, or one band in [0, 1].

    None for other files and, without `tiff`, for TIFF, most of which Pillow reads. Raises UnreadableImage if the
    file is damaged or has values of another kind.
    """
    from sdedit_pl.data.array_formats import Tiff, format_of, read_array  # not at the top: it imports this module

    found = format_of(content)
    if found is None or (isinstance(found, Tiff) and not tiff):
        return None
    values = read_array(content, name, found).values
    bands = values.shape[-1]
    if values.dtype == np.uint8 and bands in (1, 3, 4):
        return Image.fromarray(values[..., 0] if bands == 1 else values)
    if values.dtype == np.uint16 and bands == 1:
        return Image.fromarray(values[..., 0])
    if bands == 1 and ((values >= 0) & (values <= 1)).all():  # in [0, 1], as in masks
        return Image.fromarray((values[..., 0].astype(np.float64) * 255).round().astype(np.uint8))
    raise UnreadableImage(
        f"cannot read image {name}: it has {bands} bands of {values.dtype} and is not an 8-bit picture; save it as "
        "one, or use a model of such data (ckpt=, trained with data.format.dtype)"
    )
