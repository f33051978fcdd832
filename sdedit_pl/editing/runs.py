"""Editing many guides with many seeds, in batches of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

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
    """Edits each guide with each seed, and yields a guide when all its samples are there.

    A sample depends on its guide, mask and seed, not on the batch that it is made in.

    Args:
        denoiser: the model, on the device that edits.
        edit: the edit.
        guides: the guides.
        masks: the mask of each guide, or None.
        seeds: the seeds, the same for every guide.
        batch: samples that are made at once, of one guide or several.
        on_step: called with the number of samples after each solver step of a batch.

    Raises:
        ValueError: on a batch below 1, another number of masks than of guides, and what `SDEdit` raises.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    if len(masks) != len(guides):
        raise ValueError(f"{len(guides)} guides need {len(guides)} masks, None where all may change, got {len(masks)}")
    device = next(denoiser.parameters()).device
    todo = list(product(range(len(guides)), seeds))
    samples: list[list[Tensor]] = [[] for _ in guides]
    for start in range(0, len(todo), batch):
        chunk = todo[start : start + batch]
        images = torch.cat([guides[index].image for index, _ in chunk]).to(device)
        tick = None if on_step is None else _Tick(on_step, len(chunk))
        mask = _joined([masks[index] for index, _ in chunk], images)
        edited = edit(denoiser, images, edit_mask=mask, seeds=[seed for _, seed in chunk], callback=tick).cpu()
        for (index, _), sample in zip(chunk, edited, strict=True):
            samples[index].append(sample)
            if len(samples[index]) == len(seeds):
                guide = guides[index]
                noised = edit.noised_guide(denoiser.sde, guide.image, seeds=seeds[:1])
                yield Edited(guide, masks[index], noised, torch.stack(samples[index]), tuple(seeds))
                samples[index] = []


def _joined(
    masks: Sequence[Bool[Tensor, "1 1 H W"] | None], images: Float[Tensor, "B C H W"]
) -> Bool[Tensor, "B 1 H W"] | None:
    """The masks of a batch, or None where none of its images has one."""
    if all(mask is None for mask in masks):
        return None
    everywhere = torch.ones(1, 1, *images.shape[2:], dtype=torch.bool)
    return torch.cat([everywhere if mask is None else mask for mask in masks]).to(images.device)


@dataclass(frozen=True)
class _Tick:
    """A solver callback that reports how many samples took a step."""

    on_step: Callable[[int], object]
    samples: int

    def __call__(self, x: Tensor, t: float) -> None:
        self.on_step(self.samples)
