"""Decodes files of a `PixelFormat` in their own precision, and writes results in the format of a file.

Each band is cropped and resampled as photographs are, in float32; an image of the right size keeps its values exactly.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from sdedit_pl.data.array_formats import (
    ARRAY_FORMATS,
    ARRAY_SUFFIXES,
    ArrayFormat,
    Placement,
    StoredValues,
    format_of,
    read_array,
)
from sdedit_pl.data.image_files import UnreadableImage, file_content, open_image
from sdedit_pl.data.image_format import Fit, ImageFormat, ImageShape, PixelFormat, content_mask, padded_box, taken_box
from sdedit_pl.typing import Pixels

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}


def read_values(file: bytes | Path, name: str) -> StoredValues:
    """The values (H, W, C) of a file of any format, picture or not; raises UnreadableImage."""
    try:
        content = file if isinstance(file, bytes) else file_content(file)
    except OSError as error:
        raise UnreadableImage(f"cannot read image {name}: {error.strerror or error}") from None
    found = format_of(content)
    if found is not None:
        return read_array(content, name, found)
    with open_image(content, name) as image:
        if content.startswith(_PNG) and content[24] == 16 and image.mode != "I;16":
            from torchvision.io import ImageReadMode, decode_png

            pixels = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            return StoredValues(decode_png(pixels, ImageReadMode.UNCHANGED).permute(1, 2, 0).numpy())
        image.load()
        values = np.asarray(
            image.convert("RGBA" if "transparency" in image.info else "RGB") if image.mode == "P" else image
        )
    values = values.astype(np.uint16) if values.dtype == np.int32 else values  # Pillow's mode I, of some 16-bit files
    return StoredValues(values[..., None] if values.ndim == 2 else values)


def with_window(file: Path, pixels: PixelFormat) -> PixelFormat:
    """The format with the window that a file states, if it is readable and states one."""
    content = file_content(file)
    found = format_of(content)
    window = None if found is None else found.window(content)
    return replace(pixels, window=window or pixels.window)


def decode_values(file: bytes | Path, name: str, image_format: ImageFormat) -> Pixels:
    """Decodes a file to `decoded_sides`; raises UnreadableImage for damage, and where `checked_values` does."""
    pixels = image_format.format
    assert pixels is not None
    values = checked_values(read_values(file, name).values, name, image_format)
    if pixels.alpha:
        values = premultiplied(values)
    shape = values.shape[1], values.shape[0]
    values = fitted_values(values, image_format)
    decoded = torch.from_numpy(np.ascontiguousarray(values)).permute(2, 0, 1)
    marks = content_mask(shape, image_format.decoded_sides)[None]
    return torch.cat([decoded, marks.to(decoded.dtype)]) if image_format.marked else decoded


def checked_values(values: np.ndarray, name: str, shape: ImageShape) -> np.ndarray:
    """Converts values to the format's type; raises UnreadableImage for other bands or types, or non-finite values."""
    pixels = shape.format
    assert pixels is not None
    if values.shape[-1] != shape.channels:
        names = f" ({', '.join(pixels.bands)})" if pixels.bands else ""
        bands = f"{values.shape[-1]} band{'s' * (values.shape[-1] > 1)}"
        raise UnreadableImage(f"{name} has {bands}, expected {shape.channels}{names}")
    invalid = ~np.isfinite(values)
    if invalid.any() and (pixels.invalid == "refuse" or pixels.dtype != "float32"):
        count = int(invalid.any(-1).sum())
        raise UnreadableImage(
            f"{name} has {count:,} pixel{'s' * (count > 1)} with NaN, infinite or missing values; repair them, or mask "
            "them with format.dtype=float32 format.invalid=mask"
        )
    if pixels.dtype == "float32":
        return values.astype(np.float32)
    limits, kind = np.iinfo(pixels.dtype), values.dtype.kind
    signed = kind == "i" and limits.min <= values.min() and values.max() <= limits.max
    if values.dtype != pixels.dtype and kind != "b" and not signed:
        raise UnreadableImage(f"{name} has {values.dtype} values, expected {pixels.dtype} (data.format); convert it")
    return values.astype(pixels.dtype)


def premultiplied(values: np.ndarray) -> np.ndarray:
    """Colours multiplied by the opacity in the last band, rounded."""
    colours = values[..., :-1] * (values[..., -1:] / np.iinfo(values.dtype).max)
    return np.concatenate([rounded(colours, values.dtype), values[..., -1:]], axis=-1)


def unmultiplied(values: np.ndarray) -> np.ndarray:
    """The inverse of `premultiplied`; transparent pixels are black."""
    alpha = values[..., -1:]
    colours = np.where(alpha > 0, values[..., :-1] / (np.maximum(alpha, 1) / np.iinfo(values.dtype).max), 0)
    return np.concatenate([rounded(colours, values.dtype), alpha], axis=-1)


def clipped_share(values: Pixels, pixels: PixelFormat) -> float:
    low, high = pixels.limits
    return ((values.float() < low) | (values.float() > high)).float().mean().item()


def result_suffix(guide: Path) -> str:
    return next((suffix for suffix in reversed(ARRAY_SUFFIXES) if guide.name.lower().endswith(suffix)), ".png")


def result_file(
    image: Float[Tensor, "C H W"],
    shape: ImageShape,
    suffix: str,
    guide: Path | None,
    kept: Tensor | None = None,
    *,
    own_type: bool = False,
    fit: Fit = "crop",
) -> bytes:
    """The file of a result in the type, range and format of its guide, if any, whose metadata it keeps.

    Args:
        image: in [-1, 1]; raises ValueError if a value is not finite.
        kept: pixels, (H, W), that take the guide's own values if the sizes agree.
        own_type: write values in the type of `shape`, whatever that of the guide.
        fit: how the guide was brought to the proportions of the model; a padded one is shown without padding.
    """
    if not image.isfinite().all():
        raise ValueError("an image has values that are not finite; try precision=float32, or another checkpoint")
    values = shape.values(image).permute(1, 2, 0).cpu().numpy()
    if shape.format is not None and shape.format.alpha:
        values = unmultiplied(values)
    stored = None if guide is None else _template(guide, suffix)
    if stored is not None and shape.format is None:
        # Only Pillow translates other colours, such as grey, CMYK and Lab, to those of a photograph.
        usual = (stored.metadata or {}).get("photometric", 2) in (1, 2)
        stored = stored if usual and stored.values.shape[-1] >= values.shape[-1] else None
    if stored is None:
        return png_file(values) if suffix == ".png" else _writer(suffix, None).write(values, None)
    if shape.format is not None and stored.values.dtype.kind in "iuf" and not own_type:
        values = rounded(values, stored.values.dtype)
    comparable = shape.format is not None or stored.values.dtype == values.dtype
    if kept is not None and comparable and stored.values.shape == values.shape:
        values = np.where(kept.cpu().numpy()[..., None], stored.values, values)
    if suffix == ".png":
        return png_file(values)
    writer, (rows, columns), (height, width) = _writer(suffix, stored), values.shape[:2], stored.values.shape[:2]
    if (rows, columns) == (height, width):
        return writer.write(values, stored.metadata)
    left, top, right, bottom = taken_box((width, height), (rows, columns), "crop" if fit == "crop" else "resize")
    box = Placement(float(left), float(top), (right - left) / columns, (bottom - top) / rows)
    return writer.write(values, writer.metadata_of_part(stored.metadata, box))


def rewritten(file: Path, values: np.ndarray) -> bytes:
    """The bytes of a file with other values of the same size and type, in the format of `result_suffix`."""
    suffix = result_suffix(file)
    stored = _template(file, suffix)
    return png_file(values) if suffix == ".png" else _writer(suffix, stored).write(values, stored and stored.metadata)


def sample_suffix(shape: ImageShape) -> str:
    return ".png" if shape.format is None else ".tif"


def png_file(values: np.ndarray) -> bytes:
    """A PNG file of (H, W, C) values of 8 or 16 bits; C = 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGBA)."""
    height, width, bands = values.shape
    if bands not in _PNG_COLOURS or values.dtype.kind != "u":
        raise ValueError(f"a PNG file cannot hold {bands} bands of {values.dtype}; give guides as .tif")
    if values.dtype == np.uint8 or bands == 1:
        file = io.BytesIO()
        Image.fromarray(values[..., 0] if bands == 1 else values).save(file, "PNG")
        return file.getvalue()
    rows = values.astype(">u2").reshape(height, -1).view(np.uint8)  # Pillow cannot write 16-bit colours
    filtered = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 16, _PNG_COLOURS[bands], 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(filtered)), (b"IEND", b"")]
    return _PNG + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _template(guide: Path, suffix: str) -> StoredValues | None:
    """The guide's file, if it has the format of the result or is a picture."""
    try:
        content = file_content(guide)
        found = format_of(content)
        return read_values(content, str(guide)) if suffix in (".png", *(found.suffixes if found else ())) else None
    except (UnreadableImage, OSError):
        return None


def _writer(suffix: str, stored: StoredValues | None) -> ArrayFormat:
    """The format of a suffix; of several, the one that has read the guide."""
    found = [format for format in ARRAY_FORMATS if suffix in format.suffixes]
    return found[0] if len(found) == 1 or (stored is not None and "profile" in (stored.metadata or {})) else found[-1]


def fitted_values(values: np.ndarray, image_format: ImageFormat) -> np.ndarray:
    """Brings values (H, W, C) to `decoded_sides` by the format's `fit`."""
    sides, shape = image_format.decoded_sides, (values.shape[1], values.shape[0])
    if values.shape[:2] == sides:
        return values
    invalid = np.asarray(~np.isfinite(values).all(-1))
    if invalid.any():
        mean = values[~invalid].mean(0) if not invalid.all() else 0
        values = np.where(invalid[..., None], mean, values)
    bands = [_resampled(values[..., band], shape, sides, image_format.fit) for band in range(values.shape[-1])]
    result = np.stack(bands, axis=-1)
    if invalid.any():
        result[np.abs(_resampled(invalid, shape, sides, image_format.fit)) > 0.01] = np.nan
    return rounded(result, values.dtype)


def rounded(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "f":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return values.round().clip(limits.min, limits.max).astype(dtype)


def _resampled(band: np.ndarray, shape: tuple[int, int], sides: tuple[int, int], fit: Fit) -> np.ndarray:
    image = Image.fromarray(band.astype(np.float32))
    if fit != "pad":
        size = sides[1], sides[0]
        return np.asarray(image.resize(size, Image.Resampling.LANCZOS, box=taken_box(shape, sides, fit)))
    left, top, width, height = padded_box(shape, sides)
    scaled = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
    return np.pad(scaled, ((top, sides[0] - height - top), (left, sides[1] - width - left)), mode="symmetric")
