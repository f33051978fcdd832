"""Detects a loss that is not finite without waiting for the accelerator at every step.

The accelerator counts the consecutive steps with a finite loss since the last check. Checks happen at log entries and
before anything is written, so that no checkpoint holds weights that are not finite; the error names the exact step.
"""

from __future__ import annotations

import lightning
import torch
from jaxtyping import Float
from torch import Tensor, nn


class Diverged(ValueError):
    """The loss or the weights are not finite; the message names the step."""


class DivergenceWatch:
    def __init__(self) -> None:
        self._first_step = 0
        self._steps = 0
        self._finite: Tensor | None = None
        """Number of steps with a finite loss since the last check, up to the first step without one."""

    def observe(self, loss: Float[Tensor, ""], step: int) -> None:
        """Records the loss of optimiser step `step`, counted from 1, without a transfer from its device."""
        if self._finite is None:
            self._first_step, self._steps = step, 0
            self._finite = torch.zeros_like(loss, dtype=torch.float32)
        # After one step that does not count, the counter lags behind and no later step counts.
        self._finite = self._finite + (loss.isfinite() & (self._finite == self._steps))
        self._steps += 1

    def check(self, trainer: lightning.Trainer, network: nn.Module) -> None:
        """Raises Diverged if a weight or recent loss is not finite; all devices call it after the same step."""
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
    return f"training diverged: {what}; lower optimizer.rate or trainer.gradient_clip_val, or use another precision"
