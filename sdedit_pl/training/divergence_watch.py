"""Noticing a loss that is no number any more, without waiting for the device at every step.

Each step adds to a counter on the device: the steps in a row, since the last look, whose loss was finite. Only looking
at it waits for the device, which happens where a log entry is made and before anything is written, so that no
checkpoint ever holds weights that are not finite, and the step is still known exactly.
"""

from __future__ import annotations

import lightning
import torch
from jaxtyping import Float
from torch import Tensor, nn


class Diverged(ValueError):
    """Training that came to a loss or to weights that are not finite; its message names the step."""


class DivergenceWatch:
    """Counts the steps whose loss was finite, on the device, and says which was the first that was not."""

    def __init__(self) -> None:
        self._first_step = 0
        self._steps = 0
        self._finite: Tensor | None = None
        """Of the steps since the last look: how many had finite losses before the first that had not."""

    def observe(self, loss: Float[Tensor, ""], step: int) -> None:
        """Takes the loss of the optimiser step `step`, counted from 1, on its device."""
        if self._finite is None:
            self._first_step, self._steps = step, 0
            self._finite = torch.zeros_like(loss, dtype=torch.float32)
        # Once a step does not count, no later one does: the count lags behind the steps.
        self._finite = self._finite + (loss.isfinite() & (self._finite == self._steps))
        self._steps += 1

    def look(self, trainer: lightning.Trainer, network: nn.Module) -> None:
        """Waits for the device and looks at all losses since the last look, and at the weights.

        All devices call it after the same step; the first bad loss of any of them counts.

        Raises:
            Diverged: a loss was not finite, or a weight is not.
        """
        weights = [weight.detach() for weight in network.parameters()]
        norms = torch.stack(torch._foreach_norm(weights))  # pyright: ignore[reportPrivateImportUsage]
        missing = norms.new_zeros(()) if self._finite is None else self._steps - self._finite
        seen = torch.stack([missing, norms.isfinite().logical_not().any().to(missing.dtype)])
        missing, bad_weights = trainer.strategy.all_gather(seen).view(-1, 2).amax(0).tolist()
        self._finite = None
        if missing:
            step = self._first_step + self._steps - int(missing)
            raise Diverged(_message(f"the loss of step {step} is not finite"))
        if bad_weights:
            raise Diverged(_message(f"the weights after step {trainer.global_step} are not finite"))


def _message(what: str) -> str:
    return f"training diverged: {what}; lower optimizer.rate or trainer.gradient_clip_val, or take another precision"
