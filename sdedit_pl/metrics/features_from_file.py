"""Features of any network, from a file that does not need the code that defined it: TorchScript or torch.export.

Both kinds hold a program, not only weights. TorchScript can call torch's operators, some of which can write any file
that the user can; a torch.export file is unpickled and can run any code. Either is opened only with `trusted=True`.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from sdedit_pl.files import sha256_of
from sdedit_pl.metrics.features import PIXELS, FeatureExtractor
from sdedit_pl.typing import Images

_FAILURES = (AssertionError, AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""Errors of torch for a program that it cannot read, or that fails."""


class FeaturesError(ValueError):
    """A file that cannot be used as a feature extractor."""


class FeaturesFile(FeatureExtractor):
    """The network in a TorchScript or torch.export file, as a feature extractor.

    It is called with a batch of images, (B, 3, H, W), and must return one floating-point vector for each, (B, D). Trace
    or export the network for any batch size, and on the CPU, since it may keep the device that it was made on.

    Args:
        path: the file.
        pixels: the pixel range it expects: "signed" is [-1, 1], "unit" is [0, 1], both float32; "uint8" is integers
            from 0 to 255. Other normalisations, such as ImageNet's, belong in the file.
        size: height and width that images are resampled to, bicubic and with antialiasing; null keeps their size.
        trusted: whether you trust the file as you would a script, because it can run code.
    """

    def __init__(self, path: str, pixels: str = "signed", size: int | None = None, trusted: bool = False) -> None:
        if pixels not in PIXELS:
            raise ValueError(f"pixels must be one of {', '.join(PIXELS)}, got {pixels!r}")
        if size is not None and size < 1:
            raise ValueError(f"size must be at least 1, got {size}; null leaves images at their size")
        network = _network(Path(path), trusted)
        super().__init__(pixels, f"file {sha256_of(Path(path))} pixels={pixels} size={size}")
        self.path = path
        self.size = size
        self.network = network

    def prepare(self, images: Images) -> Shaped[Tensor, "B C h w"]:
        if self.size is not None:
            images = nn.functional.interpolate(images, size=self.size, mode="bicubic", antialias=True).clamp(-1, 1)
        return super().prepare(images)

    def vectors(self, prepared: Shaped[Tensor, "B C h w"]) -> Float[Tensor, "B D"]:
        """Raises FeaturesError if the file refuses the batch, or does not return one finite vector for each image."""
        try:
            found = self.network(prepared)
        except torch.OutOfMemoryError:
            raise
        except _FAILURES as error:
            raise FeaturesError(
                f"{self.path} refuses {_described(prepared)}: {_gist(error)}; it must take batches of any size, with "
                "images of this size (size= resamples them) and kind (pixels=)"
            ) from error
        if (
            not isinstance(found, Tensor)
            or found.ndim != 2
            or len(found) != len(prepared)
            or not found.is_floating_point()
        ):
            raise FeaturesError(
                f"{self.path} must return one vector for each image, floating point of shape ({len(prepared)}, D), got "
                f"{_described(found)}; let it end in pooling and flatten(1)"
            )
        if not found.isfinite().all():
            raise FeaturesError(
                f"{self.path} returns features that are infinite or nan; check the pixel range that it expects, now "
                f"pixels={self.pixels}"
            )
        return found


def _network(path: Path, trusted: bool) -> nn.Module:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except OSError as error:
        raise FeaturesError(f"features file {path} cannot be read: {error.strerror}") from error
    except (zipfile.BadZipFile, *_FAILURES):
        names = []
    if any(name.endswith("/constants.pkl") for name in names):
        load = _script
    elif any(re.search(r"(^|/)models/[^/]+\.json$", name) for name in names):
        load = _exported
    else:
        raise FeaturesError(
            f"{path} is neither a TorchScript nor a torch.export file; make one with torch.jit.trace(network, images)"
            ".save(path), or torch.export.save"
        )
    if not trusted:
        raise FeaturesError(
            f"{path} holds a program, which can run code and overwrite files; give trusted=true if you trust its "
            "source as you would a script's"
        )
    try:
        return load(path)
    except _FAILURES as error:
        raise FeaturesError(
            f"{path} cannot be opened: {_gist(error)}; is it damaged, or from another version of torch?"
        ) from error


def _script(path: Path) -> nn.Module:
    with warnings.catch_warnings():  # it announces torch.export as its successor
        warnings.filterwarnings("ignore", message=".*torch.jit.load", category=FutureWarning)
        return torch.jit.load(str(path), map_location="cpu").eval()


def _exported(path: Path) -> nn.Module:
    with path.open("rb") as file:  # torch.export.load would require a path that ends in .pt2
        return torch.export.load(file).module()


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def _gist(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
