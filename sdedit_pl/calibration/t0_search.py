"""The t0 of an image by how far its edit may go from it: a bisection, as the paper finds t0 on an image.

The distance of an edit to its guide grows with t0 on the whole but not strictly: another t0 is another noise level and
another way down. So nothing is said of times that were not tried; what is found has been edited and measured, and the
same seeds give that edit again.

Source: Meng et al., "SDEdit", ICLR 2022 (t0 by binary search).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from sdedit_pl.data.images import as_saved
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing.many_guides import edit_guides
from sdedit_pl.editing.sdedit import SDEdit
from sdedit_pl.guides.guide_files import Guide
from sdedit_pl.guides.mask_files import Area
from sdedit_pl.metrics.distances import squared_l2
from sdedit_pl.typing import Images

LOWEST_T0 = 0.02
BISECTIONS = 6


class FoundT0(NamedTuple):
    """What was found for a guide.

    Args:
        t0: a time.
        distance: the largest distance to the guide among its samples from there.
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
    """The t0 of each guide, found by bisection of the times from `lowest` to the largest that the model knows.

    It costs `bisections` edits of each guide and seed, and one more where none of them stayed within what is allowed.

    Args:
        denoiser: the model, on the device that edits.
        edit: the edit, but for its t0.
        guides: the guides.
        areas: the edit mask or the strength map of each guide, or None.
        seeds: of the samples, the same for every guide.
        allowed: the largest distance to its guide that a sample may have.
        measure: images and guides to a distance each: `squared_l2`, the paper's, summed over the pixels of the whole
            image, or `root_mean_square`, a pixel's.
        lowest: the lowest t0, a time.
        bisections: how often the range is halved; the time found is known to its 2^-bisections-th part.
        batch: samples made at once; see `edit_guides`.
        on_step: called with the number of samples after each solver step of a batch.

    Returns:
        For each guide the largest t0 tried at which all its samples, as files of 8 bits hold them, are within
        `allowed`. Editing from there with the same seeds stays within it too, up to the rounding of devices on which
        that depends on the batch.

    Raises:
        ValueError: not even the edits from `lowest` stay within what is allowed, an argument is out of range, or what
            `edit_guides` raises.
    """
    if not allowed > 0:
        raise ValueError(f"the distance that is allowed must be positive, got {allowed}; 0 would be the guide itself")
    if not 0 < lowest < denoiser.t_max:
        raise ValueError(f"the lowest t0 must lie in (0, {denoiser.t_max:.3g}), the times of this model, got {lowest}")
    if bisections < 1:
        raise ValueError(f"bisections must be at least 1, got {bisections}; {BISECTIONS} are usual")

    def distances(t0: float, chosen: Sequence[int]) -> list[float]:
        """The largest distance of the samples of each chosen guide."""
        its_guides, its_areas = [guides[number] for number in chosen], [areas[number] for number in chosen]
        way = replace(edit, t0=t0)
        edits = edit_guides(denoiser, way, its_guides, its_areas, seeds, batch=batch, on_step=on_step)
        return [
            measure(as_saved(edited.samples), edited.guide.image.expand_as(edited.samples)).max().item()
            for edited in edits
        ]

    low, high = [lowest] * len(guides), [denoiser.t_max] * len(guides)
    best: list[FoundT0 | None] = [None] * len(guides)
    for _ in range(bisections):
        tried = [(below + above) / 2 for below, above in zip(low, high, strict=True)]
        for t0 in sorted(set(tried)):  # guides whose ranges have not parted yet share their batches
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
                f"edits of {guides[number].path} differ from it by {distance:.4g} even from t0={lowest:g}, and "
                f"{allowed:.4g} is allowed; allow more, or give a t0"
            )
        best[number] = FoundT0(lowest, distance)
    return [found for found in best if found is not None]
