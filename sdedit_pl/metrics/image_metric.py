"""Metrics that keep one entry per image, gathered from all processes and sorted by the images' numbers.

The result depends only on the set of images: it is bit-identical for any number of processes.
"""

from __future__ import annotations

import abc
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

_UNNUMBERED = -1
_ROUNDING = 1e-2
"""Largest difference between two entries of one image that counts as rounding, relative to the largest entry."""


def groups_of(numbers: Int[Tensor, "n"], groups: Int[Tensor, "N"]) -> Int[Tensor, "n"]:
    """The groups of the images of these numbers; raises ValueError for an image without a group."""
    if numbers.min() < 0 or numbers.max() >= len(groups):
        raise ValueError(
            f"groups are given for the images 0 to {len(groups) - 1}, got the numbers {numbers.min().item()} to "
            f"{numbers.max().item()} (-1: none was given); give update() the number of each image, and a group for it"
        )
    return groups.cpu()[numbers]


class ImageMetric(Metric, abc.ABC):
    """A metric over one entry per image, a number or a vector.

    `compute` gathers the entries of all processes, which may have seen different numbers of images, or none.

    Args:
        state: name of the entries. In a `MetricCollection`, metrics whose states have the same names and contents share
            one copy of them; the name must identify the contents.
        empty: an empty tensor with the dtype and the trailing shape of the entries.
    """

    full_state_update = False
    is_differentiable = False
    numbers: Any  # a list of tensors, or one tensor after they were gathered

    def __init__(self, state: str, empty: Float[Tensor, "0 *entry"], **options: Any) -> None:
        super().__init__(**options)
        self._state = state
        self._empty = {state: empty, "numbers": torch.empty(0, dtype=torch.int64)}
        for name in self._empty:
            self.add_state(name, [], dist_reduce_fx="cat")

    def append(self, entries: Float[Tensor, "B *entry"], numbers: Int[Tensor, "N"] | None) -> None:
        """Adds an entry for each image, with its number >= 0; without numbers, all images count as different."""
        if numbers is None:
            numbers = torch.full((len(entries),), _UNNUMBERED)
        elif len(numbers) != len(entries) or (numbers < 0).any():
            raise ValueError(f"expected a number >= 0 for each of {len(entries)} images, got {numbers.tolist()}")
        getattr(self, self._state).append(entries.detach())
        self.numbers.append(numbers.to(entries.device, torch.int64))

    def sync(self, *args: Any, **kwargs: Any) -> None:
        # A process without images would otherwise send a tensor of another dtype and shape than the others expect.
        for name, empty in self._empty.items():
            held = getattr(self, name)
            if isinstance(held, list) and not held:
                held.append(empty.to(self.device))
        super().sync(*args, **kwargs)

    def gathered(self) -> tuple[Float[Tensor, "N *entry"], Int[Tensor, "N"]]:
        """All entries, float64 on the CPU, and the numbers of their images (-1 for none), each number once.

        Raises ValueError if there are no images, or an image came twice with different entries.
        """
        numbers = dim_zero_cat(self.numbers).cpu() if len(self.numbers) else torch.empty(0)
        if not len(numbers):
            raise ValueError(f"{type(self).__name__} needs at least 1 image, got none; call update() before compute()")
        order = numbers.argsort(stable=True)
        entries, numbers = dim_zero_cat(getattr(self, self._state)).cpu().double()[order], numbers[order]
        first = torch.ones(len(numbers), dtype=torch.bool)
        first[1:] = (numbers[1:] != numbers[:-1]) | (numbers[1:] == _UNNUMBERED)
        kept = entries[first]
        # Samplers fill their last batch with images that were already seen.
        difference = (entries - kept[first.cumsum(0) - 1]).abs().reshape(len(entries), -1).amax(1)
        if (difference > _ROUNDING * kept.abs().max()).any():
            number = numbers[difference.argmax()].item()
            raise ValueError(f"image {number} was added twice with different values; reset() between two sets")
        return kept, numbers[first]
