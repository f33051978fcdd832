"""The format of a domain's images: size, bands, and the type and range of their values.

Photographs are 8-bit RGB or grey, and 0..255 becomes [-1, 1]. A `PixelFormat` describes any other data, whose values
keep the type of the files until the device maps `range` to [-1, 1] in float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import ImageColor
from torch import Tensor
from torch.utils.data import get_worker_info

from sdedit_pl.typing import Images, Mask, Pixels

Fit: TypeAlias = Literal["crop", "resize", "pad"]
Size: TypeAlias = int | tuple[int, int]


@dataclass(frozen=True)
class PixelFormat:
    """Values of images that are not 8-bit photographs.

    Args:
        dtype: uint8, uint16 or float32: type of the values in files and results; float32 takes any number type.
        range: low,high: the values that become -1 and 1, beyond which values are clipped; null for 0,255 with uint8,
            and otherwise for percentiles of the training images, which the checkpoint keeps.
        percentile: percentile p of the values that is the low end, 100 - p being the high end; 0 takes the extremes.
        bands: name of each channel; [] numbers them.
        shown: one or three bands, numbered from 0, that pictures show; [] takes the first three, or the first.
        window: low,high: the values shown as black and white; null for a DICOM file's window, otherwise the range.
        alpha: the last band is opacity; the model sees colours multiplied by it.
        invalid: NaN and infinite values: refuse the image, or mask them, which excludes them from the loss.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    dtype: Literal["uint8", "uint16", "float32"] = "uint8"
    range: tuple[float, float] | None = None
    percentile: float = 0.1
    bands: tuple[str, ...] = ()
    shown: tuple[int, ...] = ()
    window: tuple[float, float] | None = field(default=None, compare=False)
    alpha: bool = False
    invalid: Literal["refuse", "mask"] = "refuse"

    def __post_init__(self) -> None:
        if self.range is not None and not -math.inf < self.range[0] < self.range[1] < math.inf:
            raise ValueError(f"range is low,high with low below high, got {list(self.range)}; null measures it")
        if not 0 <= self.percentile < 50:
            raise ValueError(f"percentile must lie in [0, 50), got {self.percentile}; 0 takes the extreme values")
        if len(self.shown) not in (0, 1, 3) or any(band < 0 for band in self.shown):
            raise ValueError(f"shown is one band or three, by number from 0, got {list(self.shown)}")
        if self.window is not None and (self.alpha or self.window[0] == self.window[1]):
            raise ValueError(f"window must be two different values, and needs alpha=false, got {list(self.window)}")
        if len(set(self.bands)) != len(self.bands):
            raise ValueError(f"bands need different names, got {list(self.bands)}")
        if self.alpha and self.dtype == "float32":
            raise ValueError("alpha needs whole numbers, dtype=uint8 or uint16, whose largest value is opaque")

    @property
    def limits(self) -> tuple[float, float]:
        """The values that become -1 and 1; raises ValueError if the range has not been measured."""
        if self.range is not None:
            return self.range
        if self.dtype == "uint8" or self.alpha:
            return 0.0, float(np.iinfo(self.dtype).max)
        raise ValueError(f"data.format.range is unknown; give the {self.dtype} values that become -1 and 1 as low,high")


@dataclass(frozen=True)
class ImageShape:
    """Images of a domain.

    Args:
        size: height and width in pixels, one number for both or height,width.
        channels: number of bands: 3 for RGB, 1 for grey.
        format: type, range and names of the bands of data that are not 8-bit photographs; null for those.
    """

    size: Size
    channels: int
    format: PixelFormat | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        if min(height, width) < 1:
            raise ValueError(f"size must be at least 1 pixel, got {self.size}")
        object.__setattr__(self, "size", height if height == width else (height, width))
        if self.channels < 1:
            raise ValueError(f"channels must be at least 1, got {self.channels}")
        if self.format is not None:
            self._check_bands(self.format)

    def _check_bands(self, pixels: PixelFormat) -> None:
        if pixels.bands and len(pixels.bands) != self.channels:
            raise ValueError(
                f"format.bands names {len(pixels.bands)} bands ({', '.join(pixels.bands)}), and channels is "
                f"{self.channels}; make them equal"
            )
        if any(band >= self.channels for band in pixels.shown):
            raise ValueError(f"format.shown has bands from 0 to {self.channels - 1}, got {list(pixels.shown)}")
        if pixels.alpha and self.channels not in (2, 4):
            raise ValueError(f"format.alpha needs channels=4 (RGBA) or 2 (grey and alpha), got {self.channels}")

    @property
    def height(self) -> int:
        return self.size if isinstance(self.size, int) else self.size[0]

    @property
    def width(self) -> int:
        return self.size if isinstance(self.size, int) else self.size[1]

    @property
    def sides(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @property
    def tensor_shape(self) -> tuple[int, int, int]:
        return self.channels, *self.sides

    @property
    def pixels(self) -> int:
        return self.height * self.width

    @property
    def dtype(self) -> torch.dtype:
        return torch.uint8 if self.format is None else getattr(torch, self.format.dtype)

    def __str__(self) -> str:
        kind = "" if self.format is None else f", {self.format.dtype}"
        names = f" ({', '.join(self.format.bands)})" if self.format is not None and self.format.bands else ""
        size = self.size if isinstance(self.size, int) else f"{self.height} x {self.width}"
        return f"{self.channels} channel{'s' * (self.channels > 1)}{names}, {size} px{kind}"

    def images(self, values: Pixels) -> Images:
        """Maps decoded values (B, C, H, W) to float32 in [-1, 1] on their device; invalid ones become 0."""
        values = values[:, : self.channels]
        if self.format is None:
            return images_from_bytes(values)
        low, high = self.format.limits
        images = (values.to(torch.float32, memory_format=torch.contiguous_format) - low) * (2 / (high - low)) - 1
        return images.nan_to_num(0.0, 0.0, 0.0).clamp(-1, 1)

    def values(self, images: Float[Tensor, "*shape"]) -> Tensor:
        """The inverse of `images`: values in the type of the files."""
        if self.format is None:
            return bytes_from_images(images)
        low, high = self.format.limits
        values = (images.clamp(-1, 1).double() + 1) * ((high - low) / 2) + low
        return (values if self.dtype.is_floating_point else values.round()).to(self.dtype)


@dataclass(frozen=True)
class ImageFormat(ImageShape):
    """The shape that every image of a data set is brought to, and how.

    Args:
        background: Colour under transparent pixels, a name or #rrggbb.
        margin: Pixels by which images exceed `size` in height and width; training crops randomly, validation centrally.
        fit: How an image gets the proportions of `size`: "crop" takes its largest central part, "resize" changes its
            proportions, "pad" continues it by its mirror image.
        marked: Whether decoded images have a further channel, 0 in padding and 1 elsewhere.
    """

    channels: int = 3
    background: str = "white"
    margin: int = 0
    fit: Fit = "crop"
    marked: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.margin < 0:
            raise ValueError(f"random_crop is a margin in pixels, at least 0, got {self.margin}")
        if self.format is None and self.channels not in (1, 3):
            raise ValueError(
                f"channels must be 3 (RGB) or 1 (grey), got {self.channels}; describe other bands with format.dtype=..."
            )
        try:
            ImageColor.getrgb(self.background)
        except ValueError:
            raise ValueError(
                f"background must be a colour name or #rrggbb, got {self.background!r}; for example white or #808080"
            ) from None

    @classmethod
    def of(cls, shape: ImageShape, *, fit: Fit = "crop") -> ImageFormat:
        return cls(shape.size, shape.channels, fit=fit, format=shape.format)

    @property
    def decoded_sides(self) -> tuple[int, int]:
        """(height, width) of a decoded image, before a part is cut out."""
        return self.height + self.margin, self.width + self.margin

    @property
    def planes(self) -> int:
        return self.channels + self.marked

    def before_cutting(self) -> ImageFormat:
        return replace(self, size=self.decoded_sides, margin=0)

    def empty(self, count: int = 0) -> Pixels:
        """An uninitialised batch; in a worker it lies in shared memory, which saves a copy."""
        shape = (count, *self.sides, self.planes)
        if get_worker_info() is None:
            batch = torch.empty(shape, dtype=self.dtype)
        else:
            shared = torch.UntypedStorage._new_shared(math.prod(shape) * self.dtype.itemsize)
            batch = torch.empty(0, dtype=self.dtype).set_(shared).view(shape)
        return batch.permute(0, 3, 1, 2)

    def part(self, image: Tensor, corner: tuple[int, int] | None) -> Tensor:
        """The part of a decoded image that starts at row and column `corner`; None for the central part."""
        if not self.margin:
            return image
        top, left = (self.margin // 2, self.margin // 2) if corner is None else corner
        return image[:, top : top + self.height, left : left + self.width]

    def valid(self, values: Pixels) -> Mask | None:
        """Mask of the pixels that are neither padding nor invalid; None if the format has neither."""
        valid = values[:, self.channels :].to(torch.bool) if self.marked else None  # PyTorch cannot compare uint16
        if self.format is None or self.format.invalid == "refuse":
            return valid
        finite = values[:, : self.channels].isfinite().all(1, keepdim=True)
        return finite if valid is None else finite & valid


def images_from_bytes(images: Pixels) -> Images:
    """Maps uint8 0..255 to float32 [-1, 1] on their device."""
    return images.to(torch.float32, memory_format=torch.contiguous_format) / 127.5 - 1.0


def bytes_from_images(images: Float[Tensor, "*shape"]) -> Tensor:
    """Maps [-1, 1] to uint8 0..255, rounded and clamped, on their device."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def as_saved(images: Images) -> Images:
    """Clamps and rounds images in [-1, 1] to the precision of an 8-bit file."""
    return images_from_bytes(bytes_from_images(images))


def padded_box(shape: tuple[int, int], sides: tuple[int, int]) -> tuple[int, int, int, int]:
    """(left, top, width, height) of an image of `shape` (width, height) within padded `sides` (height, width)."""
    (width, height), (down, across) = shape, sides
    if width * down >= height * across:
        inner = across, max(1, round(height * across / width))
    else:
        inner = max(1, round(width * down / height)), down
    return (across - inner[0]) // 2, (down - inner[1]) // 2, *inner


def central_box(shape: tuple[int, int], sides: tuple[int, int]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the largest central part of `shape` (width, height) in the proportions `sides`."""
    (width, height), (down, across) = shape, sides
    if width * down >= height * across:
        part = max(1, round(height * across / down)), height
    else:
        part = width, max(1, round(width * down / across))
    left, top = (width - part[0]) // 2, (height - part[1]) // 2
    return left, top, left + part[0], top + part[1]


def taken_box(shape: tuple[int, int], sides: tuple[int, int], fit: Fit) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the part that is resampled to `sides`: all for "resize", or the `central_box`."""
    return (0, 0, *shape) if fit == "resize" else central_box(shape, sides)


def content_mask(shape: tuple[int, int], sides: tuple[int, int]) -> UInt8[Tensor, "H W"]:
    """1 where a padded image of `shape` (width, height) shows the file, 0 in its padding."""
    left, top, width, height = padded_box(shape, sides)
    marks = torch.zeros(sides, dtype=torch.uint8)
    marks[top : top + height, left : left + width] = 1
    return marks


def shown_band_numbers(channels: int, format: PixelFormat | None) -> tuple[int, ...]:
    if format is not None and format.shown:
        return format.shown
    colours = channels - 1 if format is not None and format.alpha else channels
    return tuple(range(3 if colours >= 3 else 1))


def shown_bands(images: Pixels, format: PixelFormat | None = None) -> Pixels:
    """The one or three bands of images in [-1, 1] that pictures show, windowed; opacity is composited over white."""
    if format is not None and format.window is not None:
        (low, high), (black, white) = format.limits, format.window
        values = (images + 1) * ((high - low) / 2) + low
        images = ((values - black) * (2 / (white - black)) - 1).clamp(-1, 1)
    channels = images.shape[-3]
    chosen = shown_band_numbers(channels, format)
    if chosen == tuple(range(channels)):
        return images
    bands = images[..., list(chosen), :, :]
    return bands + 1 - images[..., -1:, :, :] if format is not None and format.alpha else bands
