"""Unreadable images, counted over all devices."""

from __future__ import annotations

from typing import Any

import lightning

from sdedit_pl.data.source import Broken, Source
from sdedit_pl.training.device_agreement import Agreement


class UnreadableImageCounts(lightning.Callback):
    """Lets every device know the unreadable images that any of them has met.

    Each device reads its own share of the images. Only together do they know whether the source's limit is exceeded,
    which then ends all of them, and the first device, which speaks for all, names what the others have met.

    Args:
        source: Counts and names what could not be read in this process.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.agreement = Agreement()
        self._shared = 0  # that every device knew at the last exchange

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if stage == "fit":
            self.agreement.begin(trainer.world_size)
            self._shared = 0

    def on_train_batch_end(self, *_: Any) -> None:
        """Exchanges the names, when a device has met something new.

        Raises:
            UnreadableImage: all devices together have met more than the source accepts.
        """
        (most,) = self.agreement.largest(len(self.source.broken))
        if most > self._shared:
            found = self.agreement.gathered(dict(self.source.broken))
            every = {name: reason for part in found for name, reason in part.items()}
            self._shared = len(every)
            self.source.record([Broken(name, reason) for name, reason in every.items()])
