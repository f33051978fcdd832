"""Search for the t0 of each guide, given the largest allowed distance between a guide and its edits.

The distance of an edit to its guide grows with t0 on average but not strictly, so the bisection makes no claim about
times that it has not tried. The edit from the t0 that it returns has been made and measured, and the same seeds make it
again.

Source: Meng et al., "SDEdit", ICLR 2022 (binary search for t0).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from sdedit_pl.data.image_decoding import as_saved
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing.many_guides import edit_guides
from sdedit_pl.editing.sdedit import SDEdit
from sdedit_pl.guides.guide_files import Guide
from sdedit_pl.guides.mask_files import Area
from sdedit_pl.metrics.image_distances import squared_l2
from sdedit_pl.typing import Images

LOWEST_T0 = 0.02
BISECTIONS = 6


class FoundT0(NamedTuple):
    """The t0 of a guide.

    Args:
        t0: a time.
        distance: the largest distance between the guide and its samples from t0.
    """

    t0: float
    distance: float


def t0_for_l2(
    denoiser: Denoiser,
    edit: SDEdit,
    guides: Sequence[Guide],
    areas: Sequence[Area | None],
    seeds: Sequence[int],
    allowed: float,
    *,
    measure: Callable[[Images, Images], Float[Tensor, "B"]] = squared_l2,
    lowest: float = LOWEST_T0,
    bisections: int = BISECTIONS,
    batch: int | None = None,
    on_step: Callable[[int], object] | None = None,
) -> list[FoundT0]:
    """Finds the t0 of each guide by bisection between `lowest` and the model's largest time.

    The cost is `bisections` edits of each guide and seed, plus one if none of them stayed within `allowed`.

    Args:
        denoiser: the model, on the device to use.
        edit: the edit; its t0 is ignored.
        guides: the guides.
        areas: edit mask or strength map of each guide, or None.
        seeds: seeds of the samples, the same for every guide.
        allowed: largest allowed distance between a sample and its guide.
        measure: maps images and guides to distances: `squared_l2` (the paper's, summed over the image) or
            `root_mean_square` (per pixel).
        lowest: the lowest t0, a time.
        bisections: number of halvings of the range.
        batch: samples per batch, see `edit_guides`.
        on_step: see `edit_guides`.

    Returns:
        For each guide, the largest t0 tried at which all samples, rounded to 8 bits, are within `allowed`. Edits from
        this t0 with the same seeds are within it too, except for the rounding on devices where it depends on the batch.

    Raises:
        ValueError: even the edits from `lowest` exceed `allowed`, an argument is out of range, or `edit_guides` refuses
            its input.
    """
    if not allowed > 0:
        raise ValueError(f"the allowed distance must be positive, got {allowed}; only the guide itself has distance 0")
    if not 0 < lowest < denoiser.t_max:
        raise ValueError(f"the lowest t0 must lie in the times of this model, (0, {denoiser.t_max:.3g}), got {lowest}")
    if bisections < 1:
        raise ValueError(f"bisections must be at least 1, got {bisections}; the default is {BISECTIONS}")

    def distances(t0: float, chosen: Sequence[int]) -> list[float]:
        """The largest distance of the samples of each chosen guide."""
        edits = edit_guides(
            denoiser,
            replace(edit, t0=t0),
            [guides[number] for number in chosen],
            [areas[number] for number in chosen],
            seeds,
            batch=batch,
            on_step=on_step,
        )
        return [
            measure(as_saved(edited.samples), edited.guide.image.expand_as(edited.samples)).max().item()
            for edited in edits
        ]

    low, high = [lowest] * len(guides), [denoiser.t_max] * len(guides)
    best: list[FoundT0 | None] = [None] * len(guides)
    for _ in range(bisections):
        tried = [(below + above) / 2 for below, above in zip(low, high, strict=True)]
        for t0 in sorted(set(tried)):  # guides with the same t0 share batches
            chosen = [number for number, time in enumerate(tried) if time == t0]
            for number, distance in zip(chosen, distances(t0, chosen), strict=True):
                if distance <= allowed:
                    low[number], best[number] = t0, FoundT0(t0, distance)
                else:
                    high[number] = t0
    left = [number for number, found in enumerate(best) if found is None]
    for number, distance in zip(left, distances(lowest, left), strict=True):
        if distance > allowed:
            raise ValueError(
                f"edits of {guides[number].path} differ from it by {distance:.4g} even from t0={lowest:g}, more than "
                f"the allowed {allowed:.4g}; allow more, or give a t0"
            )
        best[number] = FoundT0(lowest, distance)
    return [found for found in best if found is not None]
