"""Editing many guides with many seeds, in batches of any size."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product, takewhile
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing.sdedit import SDEdit
from sdedit_pl.guides.guide_files import Guide

logger = logging.getLogger(__name__)

Area: TypeAlias = Bool[Tensor, "1 1 H W"] | Float[Tensor, "1 1 H W"]
"""What may change of a guide: an edit mask (bool), or a strength map (float in [0, 1])."""

HOST_BATCH = 16
DEVICE_BATCH = 256
"""Samples made at once where nothing else is said: on a CPU, where more are not faster, and on a GPU at the most."""


@dataclass(frozen=True)
class Edited:
    """A guide and what became of it.

    Args:
        guide: the guide.
        area: what of it could change; None where all could.
        noised: the state that the first sample started from, (1, C, H, W).
        samples: (samples, C, H, W), one for each of `seeds`.
        seeds: the samples' seeds.
    """

    guide: Guide
    area: Area | None
    noised: Float[Tensor, "1 C H W"]
    samples: Float[Tensor, "N C H W"]
    seeds: tuple[int, ...]


def edit_guides(
    denoiser: Denoiser,
    edit: SDEdit,
    guides: Sequence[Guide],
    areas: Sequence[Area | None],
    seeds: Sequence[int],
    *,
    batch: int | None = None,
    on_step: Callable[[int], object] | None = None,
) -> Iterator[Edited]:
    """Edits each guide with each seed, and yields a guide when all its samples are there.

    A sample depends on its guide, area and seed, not on the batch that it is made in.

    Args:
        denoiser: the model, on the device that edits.
        edit: the edit.
        guides: the guides; only those of one size are edited at once.
        areas: the edit mask or the strength map of each guide, or None; not masks and maps together.
        seeds: the seeds, the same for every guide.
        batch: samples that are made at once, of one guide or several; None for as many as the device's memory holds.
        on_step: called with the number of samples after each solver step of a batch, with a negative number when a
            batch has to be made anew.

    Raises:
        ValueError: on a batch below 1 or too large for the device, another number of areas than of guides, masks and
            maps together, and what `SDEdit` raises.
    """
    if batch is not None and batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    if len(areas) != len(guides):
        raise ValueError(f"{len(guides)} guides need {len(guides)} masks, None where all may change, got {len(areas)}")
    if len({area.dtype for area in areas if area is not None}) > 1:
        raise ValueError("masks and strength maps cannot be given together; give a map, 0 or 1, in place of a mask")
    device = next(denoiser.parameters()).device
    todo = list(product(range(len(guides)), seeds))
    size = batch or (HOST_BATCH if device.type == "cpu" else DEVICE_BATCH)
    samples: list[list[Tensor]] = [[] for _ in guides]
    start = 0
    while start < len(todo):
        chunk = _of_one_size(todo[start : start + size], guides)
        tick = None if on_step is None else _Tick(on_step, len(chunk))
        try:
            edited = _edited(denoiser, edit, guides, areas, chunk, tick)
        except torch.OutOfMemoryError:
            size = _smaller(len(chunk), batch, device)
            if tick is not None:
                tick.take_back()
            continue
        start += len(chunk)
        for (index, _), sample in zip(chunk, edited, strict=True):
            samples[index].append(sample)
            if len(samples[index]) == len(seeds):
                guide = guides[index]
                noised = edit.noised_guide(denoiser.sde, guide.image, seeds=seeds[:1])
                yield Edited(guide, areas[index], noised, torch.stack(samples[index]), tuple(seeds))
                samples[index] = []


def _edited(
    denoiser: Denoiser,
    edit: SDEdit,
    guides: Sequence[Guide],
    areas: Sequence[Area | None],
    chunk: Sequence[tuple[int, int]],
    tick: _Tick | None,
) -> Float[Tensor, "samples C H W"]:
    """The samples of pairs (guide, seed), on the CPU."""
    device = next(denoiser.parameters()).device
    images = torch.cat([guides[index].image for index, _ in chunk]).to(device)
    area = _joined([areas[index] for index, _ in chunk], images)
    is_map = area is not None and area.is_floating_point()
    return edit(
        denoiser,
        images,
        edit_mask=None if is_map else area,
        strength=area if is_map else None,
        seeds=[seed for _, seed in chunk],
        callback=tick,
    ).cpu()


def _of_one_size(chunk: list[tuple[int, int]], guides: Sequence[Guide]) -> list[tuple[int, int]]:
    """The first pairs (guide, seed) whose guides are as large as the first one's."""
    return list(takewhile(lambda pair: guides[pair[0]].image.shape == guides[chunk[0][0]].image.shape, chunk))


def _smaller(size: int, batch: int | None, device: torch.device) -> int:
    """A batch that may fit where one of `size` did not.

    Raises:
        ValueError: the size was asked for, or a single sample is too large.
    """
    if size == 1:
        raise ValueError(f"{device} has too little memory for a single sample; edit a smaller image, or elsewhere")
    if batch is not None:
        raise ValueError(f"{device} has too little memory for {size} samples at once; give a smaller batch than {size}")
    logger.info("%s has too little memory for %d samples at once; going on with %d", device, size, size // 2)
    return size // 2


def _joined(areas: Sequence[Area | None], images: Float[Tensor, "B C H W"]) -> Tensor | None:
    """The masks or maps of a batch, (B, 1, H, W), or None where none of its images has one."""
    kinds = {area.dtype for area in areas if area is not None}
    if not kinds:
        return None
    everywhere = torch.ones(1, 1, *images.shape[2:], dtype=kinds.pop())
    return torch.cat([everywhere if area is None else area for area in areas]).to(images.device)


@dataclass
class _Tick:
    """A solver callback that reports how many samples took a step."""

    on_step: Callable[[int], object]
    samples: int
    reported: int = field(default=0, init=False)

    def __call__(self, x: Tensor, t: float) -> None:
        self.reported += self.samples
        self.on_step(self.samples)

    def take_back(self) -> None:
        """Reports the steps of a batch that has failed as not taken."""
        self.on_step(-self.reported)
