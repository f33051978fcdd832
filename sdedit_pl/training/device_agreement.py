"""Lets the devices of a run agree on small numbers without making any of them wait for its accelerator.

Lightning's own broadcasts wait for the device at every step. Here the numbers travel in the background, on the CPU, and
arrive one step later.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed


class Agreement:
    """Lets every device know the largest of the numbers that each of them tells.

    With several devices, what is told comes back at the next call: nothing waits for a message on its way, and
    nothing for the accelerator. All devices call it equally often. As soon as one of the devices is gone, the others
    get an error here.
    """

    def __init__(self) -> None:
        self._group: Any = None
        self._told: tuple[Any, torch.Tensor] | None = None

    def begin(self, world_size: int) -> None:
        """Connects the devices, `world_size` of them; each calls it."""
        self._told = None
        self._group = torch.distributed.new_group(backend="gloo") if world_size > 1 else None

    def largest(self, *numbers: int) -> list[int]:
        """The largest that any device told, place by place: now on one device, and at the last call on several."""
        if self._group is None:
            return list(numbers)
        last = self._told
        if last is not None:
            last[0].wait()
        told = torch.tensor(numbers)
        work = torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX, group=self._group, async_op=True)
        self._told = (work, told)
        return [0] * len(numbers) if last is None else last[1].tolist()

    def gathered(self, thing: Any) -> list[Any]:
        """What each device gives, in their order. All wait for each other here."""
        if self._group is None:
            return [thing]
        things: list[Any] = [None] * torch.distributed.get_world_size(self._group)
        torch.distributed.all_gather_object(things, thing, group=self._group)
        return things
