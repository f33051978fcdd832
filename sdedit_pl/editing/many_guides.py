"""Edits of many guides with many seeds, in batches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing.sdedit import SDEdit
from sdedit_pl.guides.guide_files import Guide
from sdedit_pl.guides.mask_files import Area
from sdedit_pl.sampling import Callback

logger = logging.getLogger(__name__)

T = TypeVar("T")

HOST_BATCH = 16
"""Default batch size on a CPU, where larger ones are not faster."""
DEVICE_PIXELS = 2**20
"""Pixels of a default batch on a GPU: 256 images of 64 px or 16 of 256 px; halved when memory runs out.

Measured on an H200: 16 images of 256 px take 2.8 GiB with the DDPM network of 113.7 M parameters in bfloat16.
"""


@dataclass(frozen=True)
class Edited:
    """A guide with its samples, one for each of `seeds`, cut to the guide's own shape if it was padded.

    `area` is the editable part of the guide, None for all of it; `noised` the initial state of the first sample.
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
    seeds: Sequence[int] | Sequence[Sequence[int]],
    *,
    batch: int | None = None,
    on_step: Callable[[int], object] | None = None,
) -> Iterator[Edited]:
    """Edits each guide with each of its seeds and yields a guide once its samples are complete.

    A sample depends on its guide, area and seed, not on its batch. Raises ValueError if the batch is too large for the
    device, or `SDEdit` refuses its input.

    Args:
        areas: edit mask or strength map of each guide, or None; masks and maps cannot be combined.
        seeds: those of all guides, or a sequence for each guide.
        batch: samples per batch, of one or more guides of one size; None for as many as the device's memory holds.
        on_step: called after each solver step with the number of samples in the batch, and with a negative number when
            a batch is repeated because memory ran out.
    """
    shared = not seeds or isinstance(seeds[0], int)
    own = cast(Sequence[Sequence[int]], [seeds] * len(guides) if shared else seeds)
    todo = [(index, seed) for index, its_seeds in enumerate(own) for seed in its_seeds]
    pixels = max((guide.image[0, 0].numel() for guide in guides), default=1)
    samples: list[list[Tensor]] = [[] for _ in guides]

    def edit_chunk(chunk: Sequence[tuple[int, int]], tick: Callback | None) -> Float[Tensor, "samples C H W"]:
        chunk = _of_one_size(chunk, guides)
        images = torch.cat([guides[index].image for index, _ in chunk]).to(next(denoiser.parameters()).device)
        area = _joined([areas[index] for index, _ in chunk], images)
        mask, strength = (None, area) if area is not None and area.is_floating_point() else (area, None)
        seeds = [seed for _, seed in chunk]
        return edit(denoiser, images, edit_mask=mask, strength=strength, seeds=seeds, callback=tick).cpu()

    for (index, _), sample in in_batches(denoiser, edit_chunk, todo, pixels, batch=batch, on_step=on_step):
        samples[index].append(sample)
        if len(samples[index]) == len(own[index]):
            guide = guides[index]
            edits = guide.shown(torch.stack(samples[index]))
            yield edited(denoiser, edit, guide, areas[index], edits, own[index])
            samples[index] = []


def edited(
    denoiser: Denoiser,
    edit: SDEdit,
    guide: Guide,
    area: Area | None,
    samples: Float[Tensor, "N C H W"],
    seeds: Sequence[int],
) -> Edited:
    noised = edit.noised_guide(denoiser, guide.image[:1], seeds=seeds[:1])
    fit = "resize" if guide.fit == "pad" else guide.fit  # without padding, the whole file
    shown = guide._replace(image=guide.shown(guide.image), fit=fit)
    return Edited(shown, None if area is None else guide.shown(area), guide.shown(noised), samples, tuple(seeds))


def in_batches(
    denoiser: Denoiser,
    make: Callable[[Sequence[T], Callback | None], Float[Tensor, "samples C H W"]],
    todo: Sequence[T],
    pixels: int,
    *,
    batch: int | None = None,
    on_step: Callable[[int], object] | None = None,
) -> Iterator[tuple[T, Float[Tensor, "C H W"]]]:
    """Yields each item of `todo` with its image of at most `pixels` pixels; `batch` and `on_step` as in `edit_guides`.

    `make` returns the images of a batch, or of its first items alone, after which it gets the others again; its second
    argument is a solver's callback.
    """
    device = next(denoiser.parameters()).device
    size, start = batch or default_batch(device, pixels), 0
    while start < len(todo):
        chunk = todo[start : start + size]
        tick = None if on_step is None else _Tick(on_step)
        try:
            images = make(chunk, tick)
        except torch.OutOfMemoryError:
            size = _smaller(len(chunk), batch, device)
            denoiser.at_once = denoiser.at_once and min(denoiser.at_once, size)
            if tick is not None:
                tick.take_back()
            continue
        start += len(images)
        yield from zip(chunk, images)  # noqa: B905


def _of_one_size(chunk: Sequence[tuple[int, int]], guides: Sequence[Guide]) -> list[tuple[int, int]]:
    """The leading (guide, seed) pairs whose guides have the size of the first one."""
    return list(takewhile(lambda pair: guides[pair[0]].image.shape == guides[chunk[0][0]].image.shape, chunk))


def default_batch(device: torch.device, pixels: int) -> int:
    return HOST_BATCH if device.type == "cpu" else max(1, DEVICE_PIXELS // pixels)


def _smaller(size: int, batch: int | None, device: torch.device) -> int:
    """Half the batch size; raises ValueError if the user chose it or a single sample is too large."""
    if size == 1:
        raise ValueError(f"{device} has too little memory for a single sample; use a smaller image or another device")
    if batch is not None:
        raise ValueError(f"{device} has too little memory for a batch of {size} samples; give a smaller batch")
    logger.info("%s has too little memory for a batch of %d samples; continuing with %d", device, size, size // 2)
    return size // 2


def _joined(areas: Sequence[Area | None], images: Float[Tensor, "B C H W"]) -> Tensor | None:
    """The masks or maps of a batch, (B, 1, H, W), or None if no image has one."""
    kinds = {area.dtype for area in areas if area is not None}
    if not kinds:
        return None
    everywhere = torch.ones(1, 1, *images.shape[2:], dtype=kinds.pop())
    return torch.cat([everywhere if area is None else area for area in areas]).to(images.device)


@dataclass
class _Tick:
    on_step: Callable[[int], object]
    reported: int = field(default=0, init=False)

    def __call__(self, x: Tensor, t: float) -> None:
        self.reported += len(x)
        self.on_step(len(x))

    def take_back(self) -> None:
        self.on_step(-self.reported)
