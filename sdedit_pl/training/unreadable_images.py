"""The count of unreadable images over all devices."""

from __future__ import annotations

from typing import Any

import lightning

from sdedit_pl.data.source import Broken, Source
from sdedit_pl.training.number_exchange import Agreement


class UnreadableImageCounts(lightning.Callback):
    """Shares the names of unreadable images, so that the source's limit applies to all devices together."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.agreement = Agreement()
        self._shared = 0  # number of names that all devices knew after the last exchange

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if stage == "fit":
            self.agreement.begin(trainer.world_size)
            self._shared = 0

    def on_train_batch_end(self, *_: Any) -> None:
        """Exchanges names if a device has found a new one; raises UnreadableImage above the limit."""
        (most,) = self.agreement.largest(len(self.source.broken))
        if most > self._shared:
            found = self.agreement.gathered(dict(self.source.broken))
            every = {name: reason for part in found for name, reason in part.items()}
            self._shared = len(every)
            self.source.record([Broken(name, reason) for name, reason in every.items()])
