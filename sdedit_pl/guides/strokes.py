"""Stroke paintings simulated from photographs: a median filter, then a small palette. The result is deterministic.

Source: Meng et al., "SDEdit", ICLR 2022, section 4.1 and appendix D.2: kernel 23 and 6 colours at 256 px.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageFilter

from sdedit_pl.data.image_format import bytes_from_images, images_from_bytes
from sdedit_pl.typing import Images

_PUBLISHED_KERNEL = 23
_PUBLISHED_SIDE = 256


def stroke_painting(images: Images, colours: int = 6) -> Images:
    """Paintings of images, clamped to [-1, 1], in `colours` (2 to 256); bands other than RGB are painted as grey."""
    channels = images.shape[1]
    if channels not in (1, 3):
        return torch.cat([stroke_painting(band, colours) for band in images.split(1, dim=1)], dim=1)
    if not 2 <= colours <= 256:
        raise ValueError(f"a stroke painting has 2 to 256 colours, got {colours}; the paper's have 6")
    kernel = scaled_kernel(min(images.shape[2:]))
    colour = images.detach().cpu().expand(-1, 3, -1, -1)
    pixels = bytes_from_images(colour).permute(0, 2, 3, 1).numpy()
    paintings = np.stack([_painted(Image.fromarray(image), colours, kernel) for image in pixels])
    painted = torch.from_numpy(paintings).permute(0, 3, 1, 2)[:, :channels]
    return images_from_bytes(painted).to(images.device)


def scaled_kernel(side: int) -> int:
    """The published kernel scaled to images of `side` pixels: the nearest odd number, at least 3."""
    return max(3, 2 * round((side * _PUBLISHED_KERNEL / _PUBLISHED_SIDE - 1) / 2) + 1)


def _painted(image: Image.Image, colours: int, kernel: int) -> np.ndarray:
    smooth = image.filter(ImageFilter.MedianFilter(kernel))
    flat = smooth.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    return np.asarray(flat.convert("RGB"))
