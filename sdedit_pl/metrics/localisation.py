"""The quality of anomaly maps: AUROC, AUPRC, best Dice and PRO, with bootstrap intervals over images.

At most `THRESHOLDS` scores serve as thresholds: half of them are quantiles of all pixels, half those of the pixels
of defects, which are rare. Each draw of the bootstrap weights the images' counts of pixels at each level.

Source: Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021, for PRO (per-region overlap, averaged up to a
false-positive rate of 0.3); intervals as in `sdedit_pl.metrics.intervals`.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sdedit_pl.metrics.intervals import Estimate, bootstrap_weights, percentile_interval

THRESHOLDS = 2000
PRO_LIMIT = 0.3
"""The false-positive rate up to which PRO is averaged."""


def localisation(
    scores: Float[Tensor, "N H W"], truth: Bool[Tensor, "N H W"], draws: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """AUROC, AUPRC, best Dice and PRO over all pixels; high scores should mark defects, where `truth` is True.

    Scores of whole images are maps of one pixel. Raises ValueError if all pixels are defects, or none is.
    """
    if bool(truth.all()) or not bool(truth.any()):
        raise ValueError("measuring detection needs pixels with and without defects, but all are of one kind")
    levels, images = _levels(scores, truth), torch.arange(len(scores))[:, None, None].expand(truth.shape)
    regions, image_of = _regions(truth)
    weights = torch.cat([torch.ones(len(scores), 1).double(), bootstrap_weights(len(scores), draws, seed)], dim=1)
    hits, alarms = (_cumulative(levels, images, kind, len(scores)).T @ weights for kind in (truth, ~truth))
    overlap = _cumulative(levels, regions, truth, len(image_of))
    overlap = (overlap / overlap[:, -1:]).T @ weights[image_of] / weights[image_of].sum(0)
    recall, false_rate, precision = hits / hits[-1], alarms / alarms[-1], hits / (hits + alarms)
    measures = {
        "auroc": _area(recall, false_rate),
        "auprc": (precision * _steps(recall)).sum(0),
        "dice": (2 * hits / (hits + alarms + hits[-1])).amax(0),
        "pro": _area(overlap, false_rate, PRO_LIMIT),
    }
    return {
        name: Estimate(found[0].item(), torch.nan, *percentile_interval(found[1:])) for name, found in measures.items()
    }


def _levels(scores: Float[Tensor, "N H W"], truth: Bool[Tensor, "N H W"]) -> Int[Tensor, "N H W"]:
    """The level of each score; level 0 has the highest scores."""
    chosen = []
    for values in (scores.flatten(), scores[truth]):
        places = torch.linspace(0, len(values) - 1, min(THRESHOLDS // 2, len(values)), dtype=torch.float64)
        chosen.append(values.sort().values[places.round().long()])
    thresholds = torch.cat(chosen).unique()
    return len(thresholds) - torch.searchsorted(thresholds, scores.contiguous(), right=True, out_int32=True)


def _regions(truth: Bool[Tensor, "N H W"]) -> tuple[Int[Tensor, "N H W"], Int[Tensor, "R"]]:
    """The number of the connected region around each defect pixel, and the image of each region."""
    from scipy.ndimage import label

    regions, image_of = torch.zeros(truth.shape, dtype=torch.int64), []
    for number, mask in enumerate(truth):
        found = label(mask.numpy(), [[1, 1, 1]] * 3)[0]  # pyright: ignore[reportGeneralTypeIssues, reportIndexIssue]
        regions[number] = torch.from_numpy(found) + (len(image_of) - 1)
        image_of += [number] * int(found.max())
    return regions, torch.tensor(image_of)


def _cumulative(
    levels: Int[Tensor, "N H W"], owners: Int[Tensor, "N H W"], chosen: Bool[Tensor, "N H W"], count: int
) -> Float[Tensor, "count LEVELS"]:
    """The number of chosen pixels down to each level, for each of `count` owners (images or regions)."""
    places = owners[chosen] * THRESHOLDS + levels[chosen]
    return places.bincount(minlength=count * THRESHOLDS).view(count, THRESHOLDS).cumsum(1).double()


def _steps(curve: Float[Tensor, "LEVELS draws"]) -> Float[Tensor, "LEVELS draws"]:
    return curve.diff(dim=0, prepend=torch.zeros_like(curve[:1]))


def _area(
    y: Float[Tensor, "LEVELS draws"], x: Float[Tensor, "LEVELS draws"], limit: float = 1.0
) -> Float[Tensor, "draws"]:
    """The mean of y for x in [0, limit], with linear interpolation, of a curve that starts at (0, 0)."""
    rise, run = _steps(y), _steps(x)
    covered = x.clamp(max=limit) - (x - run).clamp(max=limit)
    share = covered / run.clamp(min=1e-12)
    return ((y - rise + rise * share / 2) * covered).sum(0) / limit
