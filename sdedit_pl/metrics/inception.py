"""InceptionV3 of 2015 with TensorFlow's weights, the features of published KIDs and FIDs.

The network is torch-fidelity's, which follows the original graph in its pooling and its resampling to 299 px.

Source: Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016; Heusel et al., NeurIPS 2017, for FID.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from sdedit_pl.metrics.checked_weights import PublishedWeights
from sdedit_pl.metrics.features import FeatureExtractor, not_installed

WEIGHTS = PublishedWeights(
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    ("pt_inception-2015-12-05-6726825d.pth",),
)


class InceptionV3(FeatureExtractor):
    """The 2048 pooled features of InceptionV3, for images of any size.

    Args:
        weights: path of weights-inception-2015-12-05-6726825d.pth (pytorch-fid's pt_inception-... is the same file);
            null takes it from the cache of torch.hub and downloads it if necessary.
    """

    def __init__(self, weights: str | None = None) -> None:
        super().__init__("uint8", f"inception 2048 {WEIGHTS.sha256}")
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ModuleNotFoundError as error:
            raise not_installed(error) from error
        file = WEIGHTS.file(weights)
        with torch.random.fork_rng(devices=[]):  # it starts from random weights
            self.network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(file))
        self.network.eval().requires_grad_(False)

    def vectors(self, prepared: UInt8[Tensor, "B 3 h w"]) -> Float[Tensor, "B 2048"]:
        return self.network(prepared)[0]
