"""LPIPS outside an edit: how much the kept pixels look different.

Pixels that may change are taken from the guide in both images, so that only the kept ones differ; without a mask the
distance is plain LPIPS. The mean is over the whole image, so that a smaller kept part gives a smaller distance. (The
paper does not say how its masked LPIPS fills the edited region. A constant fill adds an edge that neither image has.)

Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018, version 0.1
of the lpips package; Meng et al., "SDEdit", ICLR 2022, section 5, for the masked form.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.models import AlexNet_Weights, SqueezeNet1_1_Weights, VGG16_Weights, WeightsEnum

from sdedit_pl.data.image_format import shown_bands
from sdedit_pl.metrics.checked_weights import PublishedWeights
from sdedit_pl.metrics.faithfulness import ImageMean
from sdedit_pl.typing import Images, Mask

SMALLEST = 32
"""Height and width below which the last layer of the networks has no pixels."""


def _torchvision(weights: WeightsEnum) -> PublishedWeights:
    """The file of a torchvision model; its name ends in the first digits of its hash."""
    digits = re.search(r"-([0-9a-f]{8})\.pth$", weights.url)
    assert digits is not None
    return PublishedWeights(weights.url, digits[1], key="lpips_weights")


BACKBONES = {
    "alex": _torchvision(AlexNet_Weights.IMAGENET1K_V1),
    "vgg": _torchvision(VGG16_Weights.IMAGENET1K_V1),
    "squeeze": _torchvision(SqueezeNet1_1_Weights.IMAGENET1K_V1),
}


class MaskedLPIPS(ImageMean):
    """The mean LPIPS between edits and guides in the kept pixels; raises WeightsUnavailable.

    Its network is part of its state dict: as an attribute of a LightningModule it would enlarge every checkpoint.

    Args:
        network: alex, vgg or squeeze.
        weights: path of torchvision's file of that network's ImageNet weights; None takes it from the cache of
            torch.hub and downloads it if necessary. (The lpips package holds the weights of the last layer only.)
    """

    def __init__(
        self,
        network: str = "alex",
        weights: str | None = None,
        groups: Int[Tensor, "N"] | None = None,
        **options: Any,
    ) -> None:
        if network not in BACKBONES:
            raise ValueError(f"network must be one of {', '.join(BACKBONES)}, got {network!r}")
        super().__init__("masked_lpips", groups, **options)
        self.network = _lpips(network, BACKBONES[network], weights)

    def update(
        self,
        images: Images,
        others: Images,
        edit_mask: Mask | None = None,
        numbers: Int[Tensor, "B"] | None = None,
    ) -> None:
        """Adds edits and their guides in [-1, 1] of at least 32 px; of more than three bands, the first three count."""
        self.append(self._distances(images.float(), others.float(), edit_mask), numbers)

    def _distances(self, images: Images, others: Images, edit_mask: Mask | None) -> Float[Tensor, "B"]:
        kept = images if edit_mask is None else torch.where(edit_mask, others, images)
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            return self.network(*map(_three_bands, (kept, others))).flatten()


def lpips_map(network: str, weights: str | None) -> Callable[[Images, Images], Tensor]:
    """Maps two batches to their LPIPS at each pixel, (B, H, W); raises as `MaskedLPIPS` does."""
    made = MaskedLPIPS(network, weights).network
    setattr(made, "spatial", True)  # noqa: B010 - nn.Module declares tensors and modules only

    def distances(images: Images, others: Images) -> Float[Tensor, "B H W"]:
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            return made.to(images.device)(*map(_three_bands, (images, others)))[:, 0]

    return distances


def _three_bands(images: Images) -> Float[Tensor, "B 3 H W"]:
    """The first three bands, or three times the first one; raises ValueError for small images."""
    if min(images.shape[2:]) < SMALLEST:
        size = " x ".join(map(str, images.shape[2:]))
        raise ValueError(f"LPIPS needs images of at least {SMALLEST} x {SMALLEST} px, got {size}")
    return shown_bands(images.float()).expand(-1, 3, -1, -1)


def _lpips(network: str, published: PublishedWeights, weights: str | None) -> nn.Module:
    import lpips

    trunk = torch.load(published.file(weights), map_location="cpu", weights_only=True)
    # The package would download the weights unchecked, or draw random ones from the global generator.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        made = lpips.LPIPS(net=network, pnet_rand=True, verbose=False)
    names = {name: re.sub(r"^slice\d+", "features", name) for name in made.net.state_dict()}
    made.net.load_state_dict({name: trunk[published_name] for name, published_name in names.items()})
    return made.eval().requires_grad_(False)
