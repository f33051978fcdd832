"""A sweep of t0: measurements of edits of simulated stroke paintings at each t0.

As t0 rises, the edits get closer to the images (KID) and farther from their paintings (squared L2). The painting itself
corresponds to t0 = 0; at t0 = 1 nothing of it is left.

Source: Meng et al., "SDEdit", ICLR 2022, section 5 and figure 3 (KID against L2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from sdedit_pl.data.image_format import as_saved
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing.sdedit import SDEdit
from sdedit_pl.guides.strokes import stroke_painting
from sdedit_pl.metrics.image_distances import squared_l2
from sdedit_pl.sampling import Callback
from sdedit_pl.sde import VPSDE
from sdedit_pl.typing import Images

DEFAULT_TIMES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
"""Default levels, as times of the VP SDE: from barely changed strokes to edits unrelated to them."""

Extract: TypeAlias = Callable[[Images], Float[Tensor, "N D"]]


@dataclass(frozen=True)
class Sweep:
    """Measurements of N images. Level 0 holds the stroke paintings, the others their edits in the order of t0.

    Args:
        originals: features of the images.
        edits: features of the paintings and edits.
        squared_l2: distances of paintings and edits to the paintings.
        energies: for each image |painting|^2 + |original|^2, and |painting - original|^2, unrounded, float64.
        sums: sums of all paintings and of all originals, unrounded, float64.
        shown: painting and edits of the first image.
    """

    originals: Float[Tensor, "N D"]
    edits: Float[Tensor, "N levels D"]
    squared_l2: Float[Tensor, "N levels"]
    energies: Float[Tensor, "N 2"]
    sums: Float[Tensor, "2 C H W"]
    shown: Float[Tensor, "levels C H W"]

    def __len__(self) -> int:
        return len(self.originals)

    def joined(self, other: Sweep) -> Sweep:
        return Sweep(
            torch.cat([self.originals, other.originals]),
            torch.cat([self.edits, other.edits]),
            torch.cat([self.squared_l2, other.squared_l2]),
            torch.cat([self.energies, other.energies]),
            self.sums + other.sums,
            self.shown,
        )

    def unrelated_l2(self) -> float:
        """Mean squared L2 distance between paintings and originals of other images."""
        count = len(self)
        norms, own = self.energies.sum(0)
        paintings, originals = self.sums
        of_all_pairs = count * norms - 2 * (paintings * originals).sum()
        return (of_all_pairs - own).item() / (4 * count * (count - 1))


def measure_batch(
    denoiser: Denoiser,
    edits: Sequence[SDEdit],
    originals: Images,
    seeds: Sequence[int],
    extract: Extract,
    callback: Callback | None = None,
) -> Sweep:
    """Measures one batch; paintings and edits are rounded to 8 bits, as in files. Returns the sweep on the CPU.

    Args:
        edits: the edit of each level, in ascending order of noise levels.
        originals: images of the model's domain, on its device, in [-1, 1].
        seeds: one seed per image, used at every level, so that levels differ only by t0.
        extract: maps images on the CPU to features.
    """
    paintings = stroke_painting(originals)
    pair = torch.stack([paintings, originals]).cpu().double()
    edited = (edit(denoiser, paintings, seeds=seeds, callback=callback) for edit in edits)
    levels = [as_saved(images).cpu() for images in (paintings, *edited)]
    return Sweep(
        extract(originals.cpu()),
        torch.stack([extract(images) for images in levels], 1),
        torch.stack([squared_l2(images, levels[0]) for images in levels], 1),
        torch.stack([pair.square().sum((0, 2, 3, 4)), (pair[0] - pair[1]).square().sum((1, 2, 3))], 1),
        pair.sum(1),
        torch.stack([images[0] for images in levels]),
    )


def default_times(denoiser: Denoiser) -> list[float]:
    """Times of the denoiser's SDE at about the noise levels of `DEFAULT_TIMES`, up to its `t_max`."""
    levels = (
        VPSDE().noise_level(torch.tensor(DEFAULT_TIMES, dtype=torch.float64)).clamp(max=denoiser.highest_noise_level)
    )
    times = denoiser.sde.time_at_noise_level(levels).tolist()
    return sorted({min(max(round(time, 2), 0.01), denoiser.t_max) for time in times})
