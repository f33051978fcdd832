"""Calibration of t0: what realism costs in faithfulness, and where it gets expensive.

Simulated stroke paintings of images that the model has not seen are edited from several t0. With t0, the distance of
the edits to the images (KID, without the pairs of an edit and its own original) falls, and the squared L2 distance of
the edits to their paintings rises. t0 = 0 is the painting itself, t0 = 1 keeps nothing of it.

The knee of this curve is the level furthest below the line from the paintings themselves (L2 0, and their KID) to
unrelated images of the domain (their L2 to the paintings, and KID 0), each axis in units of that line's ends: where the
share of the L2 that is paid and the share of the KID that is left have the least sum. Of a perfect model these are the
ends of the curve, and they are known without one. So the knee does not depend on where a sweep ends; it is known to the
spacing of the levels.

Source: Meng et al., "SDEdit", ICLR 2022, section 5 and figure 3 (KID against L2); Satopaa et al., "Finding a 'Kneedle'
in a Haystack", ICDCS workshops 2011 (the knee as the point furthest from a line; there, that between the ends of the
curve, which a sweep further up would move).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdedit_pl.data.images import as_saved
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing.sdedit import SDEdit
from sdedit_pl.guides.strokes import stroke_painting
from sdedit_pl.metrics.distances import squared_l2
from sdedit_pl.metrics.intervals import Estimate, percentile_interval
from sdedit_pl.metrics.kid import kernel_distance
from sdedit_pl.metrics.paired_bootstrap import GroupSums, PairedBootstrap
from sdedit_pl.sampling import Callback
from sdedit_pl.sde import VPSDE
from sdedit_pl.typing import Images

PAPER_RANGE = (0.3, 0.6)
"""The times that SDEdit recommends for t0, of its VP SDE."""
USUAL_TIMES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
"""A sweep, as times of the VP SDE: from where strokes stay strokes to where nothing of them is left."""
LEAST_IMAGES = 3
"""Images that a KID and its interval need."""
_BELOW = 1e-6

Extract: TypeAlias = Callable[[Images], Float[Tensor, "N D"]]


@dataclass(frozen=True)
class Sweep:
    """What is measured of some images, level by level: first of their paintings, then of the edits from each t0.

    Args:
        originals: features of the images, (N, D).
        edits: features of the paintings and their edits, (N, levels, D).
        squared_l2: their squared L2 distance to the paintings, (N, levels).
        energies: of each painting and its original, on [-1, 1]: their squared norms, added, and that of their
            difference, (N, 2), float64.
        sums: the sums of all paintings and of all originals, (2, C, H, W), float64.
        shown: the painting and the edits of the first image, (levels, C, H, W).
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
        """This sweep with further images."""
        return Sweep(
            torch.cat([self.originals, other.originals]),
            torch.cat([self.edits, other.edits]),
            torch.cat([self.squared_l2, other.squared_l2]),
            torch.cat([self.energies, other.energies]),
            self.sums + other.sums,
            self.shown,
        )

    def unrelated_l2(self) -> float:
        """The mean squared L2 distance between paintings and the originals of others."""
        count = len(self)
        norms, own = self.energies.sum(0)
        paintings, originals = self.sums
        of_all_pairs = count * norms - 2 * (paintings * originals).sum()
        return (of_all_pairs - own).item() / (4 * count * (count - 1))


@dataclass(frozen=True)
class TradeOff:
    """Realism and faithfulness of each level of a sweep.

    Args:
        kid: KID of the level's images to the originals.
        l2: mean squared L2 distance to the paintings.
        unrelated_l2: that of unrelated images of the domain.
        knee: the number of the knee, if there is one.
        knee_shares: in which share of the resamplings of the images each level is the knee; what is missing to 1 has
            none.
    """

    kid: list[Estimate]
    l2: list[Estimate]
    unrelated_l2: float
    knee: int | None
    knee_shares: list[float]


def measure_batch(
    denoiser: Denoiser,
    edits: Sequence[SDEdit],
    originals: Images,
    seeds: Sequence[int],
    extract: Extract,
    callback: Callback | None = None,
) -> Sweep:
    """A sweep over one batch of images.

    Args:
        denoiser: the model.
        edits: the edit of each level, in the order of their noise levels.
        originals: images of the model's domain, on its device, (B, C, H, W) in [-1, 1].
        seeds: a seed for each, the same at every level, so that levels differ by t0 alone.
        extract: images on the CPU to features.
        callback: called with the state and its time after each solver step.

    Returns:
        The sweep, on the CPU. Everything is measured of images as files of 8 bits hold them.
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


def trade_off(sweep: Sweep, draws: int = 2000) -> TradeOff:
    """KID, L2 and knee of a sweep, with their intervals over `draws` bootstrap draws of its images.

    Raises:
        ValueError: fewer than three images.
    """
    if len(sweep) < LEAST_IMAGES:
        raise ValueError(f"a KID and its interval need at least {LEAST_IMAGES} images, got {len(sweep)}")
    groups = torch.arange(len(sweep))
    bootstrap = PairedBootstrap.of(groups, draws)
    kid, l2, kid_draws, l2_draws = [], [], [], []
    for edits, distances in zip(sweep.edits.unbind(1), sweep.squared_l2.unbind(1), strict=True):
        sums = GroupSums.of(edits, sweep.originals, distances, groups)
        kid_draws.append(bootstrap.kid(sums.discrepancy))
        l2_draws.append(bootstrap.l2(sums.l2))
        found = kernel_distance(edits, sweep.originals, groups, groups)
        kid.append(Estimate(found.value, found.error, *percentile_interval(kid_draws[-1])))
        low, high = percentile_interval(l2_draws[-1])
        l2.append(Estimate(distances.mean().item(), low=low, high=high))
    unrelated = sweep.unrelated_l2()
    knee = int(knees(_values(l2), _values(kid), unrelated))
    drawn = knees(torch.stack(l2_draws, 1), torch.stack(kid_draws, 1), unrelated)
    shares = [(drawn == level).double().mean().item() for level in range(len(kid))]
    return TradeOff(kid, l2, unrelated, None if knee < 0 else knee, shares)


def knees(
    l2: Float[Tensor, "*curves levels"], kid: Float[Tensor, "*curves levels"], unrelated_l2: float
) -> Int[Tensor, "*curves"]:
    """The number of the knee of each curve, whose level 0 are the paintings; -1 where there is none.

    That is where no level lies below the line, or the paintings are as real as the originals.
    """
    paintings = kid[..., :1]
    height, level = (l2 / unrelated_l2 + kid / paintings).min(-1)
    return torch.where((paintings[..., 0] > 0) & (height < 1 - _BELOW), level, -1)


def usual_times(denoiser: Denoiser) -> list[float]:
    """Times of the denoiser's SDE for a sweep: about at the noise levels of `USUAL_TIMES`, as far as it was trained."""
    highest = denoiser.sde.noise_level(torch.tensor(denoiser.t_max, dtype=torch.float64))
    levels = VPSDE().noise_level(torch.tensor(USUAL_TIMES, dtype=torch.float64)).clamp(max=highest)
    times = denoiser.sde.time_at_noise_level(levels).tolist()
    return sorted({min(max(round(time, 2), 0.01), denoiser.t_max) for time in times})


def paper_noise_levels() -> tuple[float, float]:
    """The noise levels sigma / alpha of `PAPER_RANGE`."""
    low, high = VPSDE().noise_level(torch.tensor(PAPER_RANGE, dtype=torch.float64)).tolist()
    return low, high


def _values(levels: Sequence[Estimate]) -> Float[Tensor, "levels"]:
    return torch.tensor([level.value for level in levels], dtype=torch.float64)
