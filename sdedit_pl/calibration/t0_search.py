"""Search for the t0 of each guide, given the largest allowed distance between a guide and its edits.

The distance of an edit to its guide grows with t0 on average but not strictly, so the bisection makes no claim about
times that it has not tried. The edit from the returned t0 has been measured, and the same seeds make it again.

Source: Meng et al., "SDEdit", ICLR 2022 (binary search for t0).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from sdedit_pl.data.image_format import as_saved
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing.many_guides import edit_guides
from sdedit_pl.editing.sdedit import SDEdit
from sdedit_pl.guides.guide_files import Guide
from sdedit_pl.guides.mask_files import Area
from sdedit_pl.metrics.image_distances import squared_l2

LOWEST_T0 = 0.02
BISECTIONS = 6


class FoundT0(NamedTuple):
    """The t0 of a guide, and the largest distance between the guide and its samples from there."""

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
    batch: int | None = None,
    on_step: Callable[[int], object] | None = None,
) -> list[FoundT0]:
    """Finds the t0 of each guide by bisection between `LOWEST_T0` and the model's largest time.

    It is the largest t0 tried at which all samples are within `allowed`. Edits from this t0 with the same seeds have
    the same distances, up to rounding on devices where that depends on the batch. The cost is `BISECTIONS` edits of
    each guide and seed, plus one if none stayed within `allowed`. See `edit_guides` for other arguments.

    Args:
        edit: the edit; its t0 is ignored.
        allowed: largest allowed squared L2 distance between a sample, rounded to 8 bits, and its guide; raises
            ValueError unless it is positive and holds at some t0 tried.
    """
    if not allowed > 0:
        raise ValueError(f"the allowed distance must be positive, got {allowed}; only the guide itself has distance 0")

    def distances(t0: float, chosen: Sequence[int]) -> list[float]:
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
            squared_l2(as_saved(edited.samples), edited.guide.image.expand_as(edited.samples)).max().item()
            for edited in edits
        ]

    low, high = [LOWEST_T0] * len(guides), [denoiser.t_max] * len(guides)
    best: list[FoundT0 | None] = [None] * len(guides)
    for _ in range(BISECTIONS):
        tried = [(below + above) / 2 for below, above in zip(low, high, strict=True)]
        for t0 in sorted(set(tried)):  # guides with the same t0 share batches
            chosen = [number for number, time in enumerate(tried) if time == t0]
            for number, distance in zip(chosen, distances(t0, chosen), strict=True):
                if distance <= allowed:
                    low[number], best[number] = t0, FoundT0(t0, distance)
                else:
                    high[number] = t0
    left = [number for number, found in enumerate(best) if found is None]
    for number, distance in zip(left, distances(LOWEST_T0, left), strict=True):
        if distance > allowed:
            raise ValueError(
                f"edits of {guides[number].path} differ from it by {distance:.4g} even from t0={LOWEST_T0:g}, more "
                f"than the allowed {allowed:.4g}; allow more, or give a t0"
            )
        best[number] = FoundT0(LOWEST_T0, distance)
    return [found for found in best if found is not None]
