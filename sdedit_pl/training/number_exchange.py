"""Exchanges numbers and small objects between a run's processes; Lightning's broadcasts wait for the accelerator."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed


class Agreement:
    """Computes maxima over all devices.

    With several devices a call returns the maxima of the previous call, whose messages have passed in the meantime. All
    devices must call equally often. If one of them has died, the calls of the others raise RuntimeError.
    """

    def __init__(self) -> None:
        self._group: Any = None
        self._pending: tuple[Any, torch.Tensor] | None = None

    def begin(self, world_size: int) -> None:
        """Connects the devices; each of them must call it."""
        self._pending = None
        self._group = torch.distributed.new_group(backend="gloo") if world_size > 1 else None

    def largest(self, *numbers: int) -> list[int]:
        if self._group is None:
            return list(numbers)
        last = self._pending
        if last is not None:
            last[0].wait()
        maxima = torch.tensor(numbers)
        work = torch.distributed.all_reduce(maxima, torch.distributed.ReduceOp.MAX, group=self._group, async_op=True)
        self._pending = (work, maxima)
        return [0] * len(numbers) if last is None else last[1].tolist()

    def gathered(self, thing: Any) -> list[Any]:
        """An object of each device, in order of rank; the devices wait for each other."""
        if self._group is None:
            return [thing]
        things: list[Any] = [None] * torch.distributed.get_world_size(self._group)
        torch.distributed.all_gather_object(things, thing, group=self._group)
        return things
