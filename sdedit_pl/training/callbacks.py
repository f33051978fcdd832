"""What happens beside the training steps: counting images, previews, and the checkpoint that editing uses."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from jaxtyping import Float
from lightning.pytorch.callbacks import Checkpoint, TQDMProgressBar
from torch import Tensor
from torchvision.utils import make_grid, save_image

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing import SDEdit
from sdedit_pl.grids import GRIDS
from sdedit_pl.noise import SeededNoise
from sdedit_pl.sampling import integrate
from sdedit_pl.solvers import SOLVERS
from sdedit_pl.training.average import ImageHalfLifeAveraging, images_seen
from sdedit_pl.training.module import ScoreModule


class RunProgress(TQDMProgressBar):
    """A progress bar over the batches of the whole run, with the time left, also after a resume.

    Args:
        refresh_rate: batches between two updates.
    """

    def __init__(self, refresh_rate: int = 10) -> None:
        super().__init__(refresh_rate=refresh_rate)

    def init_train_tqdm(self) -> Any:
        """The bar, from the batch that the run is at to its last."""
        bar = super().init_train_tqdm()
        bar.total = self.trainer.max_steps * self.trainer.accumulate_grad_batches
        bar.initial = bar.n = self.trainer.global_step * self.trainer.accumulate_grad_batches
        return bar


class ImagesSeen(lightning.Callback):
    """Logs the images seen since the very first step, and how many a second.

    Args:
        every_steps: optimiser steps between two entries; best the trainer's logging interval.

    Raises:
        ValueError: `every_steps` below 1.
    """

    def __init__(self, every_steps: int = 50) -> None:
        if every_steps < 1:
            raise ValueError(f"log entries need at least 1 step between them, got {every_steps}")
        self.every_steps = every_steps
        self._last: tuple[int, float] | None = None

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Tensor,
        batch_idx: int,
    ) -> None:
        between_steps = (batch_idx + 1) % trainer.accumulate_grad_batches
        if between_steps or trainer.global_step % self.every_steps:
            return
        images = images_seen(trainer)
        now = time.monotonic()
        if self._last is not None and images > self._last[0]:
            rate = (images - self._last[0]) / (now - self._last[1])
            pl_module.log("train/images_per_second", rate, prog_bar=True)
        pl_module.log("train/images", float(images))
        self._last = (images, now)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # Time spent validating is not the training's rate.
        self._last = None


class Previews(lightning.Callback):
    """Writes a sheet of edits and samples of the averaged model after every validation.

    Each guide stands above its edit, on the same noise every time, so that sheets of one run compare; unconditional
    samples follow. Sheets are PNG files in `folder` and images of any logger that takes them.

    Args:
        averaging: the callback that holds the averaged weights.
        folder: where the sheets go.
        guides: guides in [-1, 1], or None for samples alone.
        edit: the edit of the guides.
        image_shape: (C, H, W) of the samples.
        samples: how many samples.
    """

    def __init__(
        self,
        averaging: ImageHalfLifeAveraging,
        folder: Path,
        guides: Float[Tensor, "B C H W"] | None,
        edit: SDEdit,
        image_shape: tuple[int, int, int],
        samples: int = 8,
    ) -> None:
        self.averaging = averaging
        self.folder = folder
        self.guides = guides
        self.edit = edit
        self.image_shape = image_shape
        self.samples = samples

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero or not isinstance(pl_module, ScoreModule):
            return
        with trainer.precision_plugin.forward_context():
            rows = self.rows(self.averaging.averaged(pl_module), pl_module.device)
        if not rows:
            return
        columns = max(len(row) for row in rows)
        blank = [torch.ones(columns - len(row), *self.image_shape, device=row.device) for row in rows]
        sheet = make_grid(
            torch.cat([torch.cat(pair) for pair in zip(rows, blank, strict=True)]).clamp(-1, 1),
            nrow=columns,
            normalize=True,
            value_range=(-1, 1),
            pad_value=1.0,
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{trainer.global_step:08d}.png"
        save_image(sheet, path)
        for logger in trainer.loggers:
            log_image = getattr(logger, "log_image", None)
            if log_image is not None:
                log_image("preview", [str(path)], step=trainer.global_step)

    @torch.inference_mode()
    def rows(self, denoiser: Denoiser, device: torch.device) -> list[Float[Tensor, "_ C H W"]]:
        """The sheet's rows: guides, their edits, samples."""
        training = denoiser.training
        denoiser.eval()
        rows = []
        if self.guides is not None and len(self.guides):
            guides = self.guides.to(device)
            rows += [guides, self.edit(denoiser, guides, seeds=list(range(len(guides))))]
        if self.samples:
            rows.append(self.unconditional(denoiser, device))
        denoiser.train(training)
        return rows

    def unconditional(self, denoiser: Denoiser, device: torch.device) -> Float[Tensor, "N C H W"]:
        """Samples from the prior, with as many steps as an edit takes."""
        noise = SeededNoise(range(self.samples))
        prior = denoiser.sde.prior_sample(noise(0, 0, torch.empty(self.samples, *self.image_shape, device=device)))
        times = GRIDS["log_snr"]().times(denoiser.sde, 1.0, self.edit.steps)
        return integrate(denoiser, SOLVERS["ancestral"](), prior, times, noise=noise)


class EditingCheckpoint(lightning.Callback):
    """Writes the averaged model as the one file that editing takes, after every validation and at the end.

    Args:
        averaging: the callback that holds the averaged weights.
        save: writes a denoiser, given the facts of its training (steps, images seen).
    """

    def __init__(self, averaging: ImageHalfLifeAveraging, save: Callable[[Denoiser, dict[str, Any]], None]) -> None:
        self.averaging = averaging
        self.save = save

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._write(trainer, pl_module)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # Also where nothing was left to train: the process may have ended between the last step and this.
        self._write(trainer, pl_module)

    def _write(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not trainer.is_global_zero or not isinstance(pl_module, ScoreModule):
            return
        facts = {"steps": trainer.global_step, "images_seen": images_seen(trainer)}
        self.save(self.averaging.averaged(pl_module), facts)


class ResumableCheckpoint(Checkpoint):
    """Writes Lightning checkpoints to resume from, at intervals and after the last step, and keeps the newest.

    Which are there is read from the folder, so that it may be moved and the settings changed between two runs.

    Args:
        folder: where they go, as step=NNNNNNNN.ckpt.
        every_steps: optimiser steps between two of them.
        keep: how many are kept.

    Raises:
        ValueError: `every_steps` or `keep` below 1.
    """

    def __init__(self, folder: Path, every_steps: int, keep: int) -> None:
        if every_steps < 1 or keep < 1:
            raise ValueError(
                f"checkpoints need every_steps and keep of at least 1, got every_steps={every_steps}, keep={keep}"
            )
        self.folder = folder
        self.every_steps = every_steps
        self.keep = keep
        self._written_step = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._written_step = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Tensor,
        batch_idx: int,
    ) -> None:
        step = trainer.global_step
        if step == self._written_step or (step % self.every_steps and step != trainer.max_steps):
            return
        # Lightning writes to the system's temporary folder and moves the file, which is a copy between file systems;
        # under its own name, a checkpoint appears whole or not at all.
        unfinished = self.folder / "unfinished.tmp"
        trainer.save_checkpoint(unfinished, weights_only=False)
        self._written_step = step
        if trainer.is_global_zero:
            unfinished.replace(self.folder / f"step={step:08d}.ckpt")
            written = sorted(self.folder.glob("step=*.ckpt"))
            for old in written[: max(0, len(written) - self.keep)]:
                old.unlink()
