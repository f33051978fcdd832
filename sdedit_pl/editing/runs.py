"""Editing many guides with many seeds, in batches of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing.files import Guide
from sdedit_pl.editing.sdedit import SDEdit


@dataclass(frozen=True)
class Edited:
    """A guide and what became of it.

    Args:
        guide: the guide.
        mask: True where pixels could change; None where all could.
        noised: the state that the first sample started from, (1, C, H, W).
        samples: (samples, C, H, W), one for each of `seeds`.
        seeds: the samples' seeds.
    """

    guide: Guide
    mask: Bool[Tensor, "1 1 H W"] | None
    noised: Float[Tensor, "1 C H W"]
    samples: Float[Tensor, "N C H W"]
    seeds: tuple[int, ...]


def edit_guides(
    denoiser: Denoiser,
    edit: SDEdit,
    guides: Sequence[Guide],
    masks: Sequence[Bool[Tensor, "1 1 H W"] | None],
    seeds: Sequence[int],
    *,
    batch: int = 16,
    on_step: Callable[[int], object] | None = None,
) -> Iterator[Edited]:
    """Edits each guide with each seed; a sample depends on its guide, mask and seed alone.

    Args:
        denoiser: the model, on the device that edits.
        edit: the edit.
        guides: the guides.
        masks: the mask of each guide, or None.
        seeds: the seeds, the same for every guide.
        batch: samples that are made at once.
        on_step: called with the number of samples after each solver step of a batch.

    Raises:
        ValueError: on a batch below 1, and what `SDEdit` raises.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    device = next(denoiser.parameters()).device
    for guide, mask in zip(guides, masks, strict=True):
        image = guide.image.to(device)
        samples = []
        for start in range(0, len(seeds), batch):
            chunk = list(seeds[start : start + batch])
            tick = None if on_step is None else _Tick(on_step, len(chunk))
            samples.append(edit(denoiser, image, edit_mask=mask, seeds=chunk, callback=tick).cpu())
        noised = edit.noised_guide(denoiser.sde, image, seeds=list(seeds[:1])).cpu()
        yield Edited(guide, mask, noised, torch.cat(samples), tuple(seeds))


@dataclass(frozen=True)
class _Tick:
    """A solver callback that reports how many samples took a step."""

    on_step: Callable[[int], object]
    samples: int

    def __call__(self, x: Tensor, t: float) -> None:
        self.on_step(self.samples)
