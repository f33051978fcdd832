"""The `[mask, image]` files (`.pth`) of SDEdit's reference runner, read without running code.

A file is a list of two tensors: the mask, 1 where pixels are kept, and the image, (C, H, W) in [0, 1].

Source: runners/image_editing.py of ermongroup/SDEdit, which edits where mask != 1 (its README has it the other way).
"""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sdedit_pl.data.image_format import ImageShape
from sdedit_pl.typing import described

RUNNER_SUFFIX = ".pth"


def read_mask_and_image(path: Path, shape: ImageShape) -> tuple[Bool[Tensor, "1 1 H W"], Float[Tensor, "1 C H W"]]:
    """The edit mask, True where pixels may change, and the image in [-1, 1]; raises ValueError for other contents."""
    pair = _loaded(path)
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(part, Tensor) for part in pair):
        raise ValueError(f"{path} must hold the two tensors [mask, image] of SDEdit's runner, got {described(pair)}")
    mask, image = pair
    if tuple(image.shape) != shape.tensor_shape or not image.is_floating_point():
        raise ValueError(
            f"the image in {path} must be floats of shape {shape.tensor_shape}, as the model takes it, got "
            f"{described(image)}; save another size as a PNG file, and the mask beside it, to have it resized"
        )
    if not bool(((image >= 0) & (image <= 1)).all()):
        raise ValueError(
            f"the image in {path} must lie in [0, 1], got [{image.min().item():.4g}, {image.max().item():.4g}]"
        )
    return _edit_mask(path, mask, image), (image.float() * 2 - 1)[None]


def _edit_mask(path: Path, mask: Tensor, image: Tensor) -> Bool[Tensor, "1 1 H W"]:
    """The mask with one channel, True where the runner's mask is not 1."""
    height, width = image.shape[-2:]
    if tuple(mask.shape) not in (tuple(image.shape), (1, height, width), (height, width)):
        expected = tuple(image.shape)
        raise ValueError(f"the mask in {path} must have its image's shape, {expected}, got {described(mask)}")
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(
            f"the mask in {path} must be 0 (may change) or 1 (is kept), got other numbers; the mask comes first in the "
            "file, [mask, image]"
        )
    editable = (mask != 1).reshape(-1, height, width)
    if not torch.equal(editable, editable[:1].expand_as(editable)):
        raise ValueError(f"the mask in {path} differs between the channels; here a pixel changes as a whole")
    if not bool(editable.any()):
        raise ValueError(f"the mask in {path} is 1 everywhere, so nothing may change; 0 marks what may")
    return editable[:1][None]


def _loaded(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's about foreign pickles, which raise an error below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds objects other than tensors, which could run code when loaded, or is damaged; it was not "
            "loaded. Save the image as a PNG file, and its mask as another, white where pixels may change"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged or not a [mask, image] file of SDEdit's runner; copy it again") from error
