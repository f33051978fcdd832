"""Anomaly maps: where images differ from their reconstructions by a model of normal images.

An image is noised to t0 and denoised. Where noise hides the image, the model paints normal structure, so defects do not
come back. A low t0 finds small and faint defects, a high t0 large ones; a map averages several t0 and seeds.

Source: Wyatt et al., "AnoDDPM", CVPR Workshops 2022.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from safetensors.torch import save
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur
from tqdm import tqdm

from sdedit_pl.data.chosen_images import ChosenImages
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing import SDEdit
from sdedit_pl.editing.many_guides import in_batches
from sdedit_pl.files import whole_file
from sdedit_pl.sampling import Callback
from sdedit_pl.typing import Images

FLOOR = 0.02
"""Added to residual and spread in `AnomalyMaps.relative`: residuals well below it, five of 256 levels, count little."""
WHITE = 65535

Residual: TypeAlias = Callable[[Images, Images], Float[Tensor, "B H W"]]
"""The difference of images and reconstructions in [-1, 1], at each pixel, at least 0."""


class AnomalyMaps(NamedTuple):
    """The maps of an image, at each t0.

    Args:
        residuals: the mean residual between the image and its reconstructions.
        spreads: the mean residual between the reconstructions and their mean.
        reconstruction: the mean of all reconstructions.
    """

    residuals: Float[Tensor, "T H W"]
    spreads: Float[Tensor, "T H W"]
    reconstruction: Float[Tensor, "C H W"]

    @property
    def relative(self) -> Float[Tensor, "T H W"]:
        """Residuals r as r / (r + spread + `FLOOR`), in [0, 1): low where reconstructions vary."""
        return self.residuals / (self.residuals + self.spreads + FLOOR)


def pixel_residual(images: Images, others: Images) -> Float[Tensor, "B H W"]:
    """The absolute difference on [0, 1], averaged over channels."""
    return ((images - others) / 2).abs().mean(1)


def blurred(maps: Float[Tensor, "B H W"], width: float) -> Float[Tensor, "B H W"]:
    """Maps after a Gaussian with a standard deviation of `width` pixels."""
    side = 2 * max(1, round(3 * width)) + 1
    return gaussian_blur(maps[:, None], [side, side], [width, width])[:, 0] if width else maps


@dataclass(frozen=True)
class Detector:
    """Anomaly maps from `samples` reconstructions by each edit; `blur` applies to residuals and spreads."""

    edits: Sequence[SDEdit]
    samples: int
    residual: Residual = pixel_residual
    blur: float = 0.0
    seed: int = 0

    def steps(self, denoiser: Denoiser) -> int:
        """Solver steps for an image; raises ValueError if the model was not trained up to a t0."""
        for edit in self.edits:
            edit.check(denoiser)
        return self.samples * sum(edit.total_steps(denoiser.sde) for edit in self.edits)

    def maps(
        self,
        denoiser: Denoiser,
        images: ChosenImages,
        batch: int | None = None,
        numbers: Sequence[int] | None = None,
    ) -> Iterator[AnomalyMaps]:
        """Yields the maps of each image, or of those with `numbers`, `batch` at a time."""
        steps, levels = self.steps(denoiser), len(self.edits)
        numbers = range(len(images)) if numbers is None else numbers

        def make(numbers: Sequence[int], tick: Callback | None) -> Float[Tensor, "samples maps H W"]:
            return self._stacked(denoiser, torch.stack([images.image(number) for number in numbers]), numbers, tick)

        with tqdm(total=steps * len(numbers), unit="step", desc="reconstructing", disable=None) as progress:
            pixels = images.image(0)[0].numel()
            for _, found in in_batches(denoiser, make, numbers, pixels, batch=batch, on_step=progress.update):
                yield AnomalyMaps(found[:levels], found[levels : 2 * levels], found[2 * levels :])

    def _stacked(
        self, denoiser: Denoiser, images: Images, numbers: Sequence[int], tick: Callback | None
    ) -> Float[Tensor, "samples maps H W"]:
        """The fields of `AnomalyMaps` of a batch, stacked as channels, on the CPU."""
        images = images.to(next(denoiser.parameters()).device)
        residuals, spreads, means = [], [], []
        for edit in self.edits:
            made = []
            for sample in range(self.samples):
                seeds = [self.seed + number * self.samples + sample for number in numbers]
                made.append(edit(denoiser, images, seeds=seeds, callback=tick).clamp(-1, 1))
            means.append(torch.stack(made).mean(0))
            for found, centre in ((residuals, images), (spreads, means[-1])):
                distances = torch.stack([self.residual(centre, image) for image in made])
                found.append(blurred(distances.mean(0), self.blur))
        return torch.cat([torch.stack(residuals + spreads, 1), torch.stack(means).mean(0)], 1).cpu()


def image_score(anomaly: Float[Tensor, "H W"], share: float) -> float:
    """The mean of a map's highest pixels, which cover `share` of its area."""
    return anomaly.flatten().topk(max(1, round(share * anomaly.numel()))).values.mean().item()


def stored_maps(
    folder: Path, images: ChosenImages, make: Callable[[Sequence[int]], Iterator[AnomalyMaps]]
) -> list[Path]:
    """Files of all maps in `folder`, made if missing; names contain image hashes, so a changed image gets new maps."""
    files = [
        folder / f"{number:06d}-{hashlib.sha256(images.image(number).numpy().tobytes()).hexdigest()[:16]}.safetensors"
        for number in range(len(images))
    ]
    missing = [number for number, file in enumerate(files) if not file.is_file()]
    for number, maps in zip(missing, make(missing) if missing else (), strict=True):
        with whole_file(files[number]) as unfinished:
            unfinished.write_bytes(save({name: values.contiguous() for name, values in maps._asdict().items()}))
    return files


def write_map(file: Path, values: Float[Tensor, "H W"]) -> None:
    """Writes a 16-bit grey PNG file, in which white is 1."""
    file.parent.mkdir(parents=True, exist_ok=True)
    levels = (values.clamp(0, 1) * WHITE).round().numpy().astype(np.uint16)
    Image.fromarray(levels).save(file)
