"""Writes preview images of edits and samples during training."""

from __future__ import annotations

import logging
from pathlib import Path

import lightning
import torch
from jaxtyping import Float
from torch import Tensor

from sdedit_pl.data.image_format import PixelFormat
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing import SDEdit
from sdedit_pl.files import whole_file
from sdedit_pl.picture_grid import cell_side, picture_grid, to_picture
from sdedit_pl.sampling import sample
from sdedit_pl.training.module import ScoreModule
from sdedit_pl.training.weight_averaging import ImageHalfLifeAveraging

logger = logging.getLogger(__name__)

SHOWN_LABELS = 4


class Previews(lightning.Callback):
    """Writes a sheet of edits and samples of the averaged model after every validation.

    A PNG file in `folder`, headed by step and t0, shows guides (in [-1, 1]) above their edits, then samples of shape
    (C, H, W). A model of labels has a row for each of the first `SHOWN_LABELS`, and one without a label unless it needs
    one. Loggers that accept images get it too. The noise is always the same, so that a run's sheets are comparable.
    """

    def __init__(
        self,
        averaging: ImageHalfLifeAveraging,
        folder: Path,
        guides: Float[Tensor, "B C H W"] | None,
        edit: SDEdit,
        image_shape: tuple[int, int, int],
        samples: int = 8,
        format: PixelFormat | None = None,
    ) -> None:
        self.averaging = averaging
        self.folder = folder
        self.guides = guides
        self.edit = edit
        self.image_shape = image_shape
        self.samples = samples
        self.format = format

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: ScoreModule) -> None:
        if not trainer.is_global_zero:
            return
        with self.averaging.evaluated(trainer, pl_module) as denoiser:
            rows = self.rows(denoiser, pl_module.device)
        if not rows:
            return
        pictures = [[to_picture(image.nan_to_num(), self.format) for image in row] for row in rows.values()]
        sheet = picture_grid(
            pictures,
            [""] * max(map(len, pictures)),
            cell_side(pictures[0][0]),
            row_titles=list(rows),
            heading=f"step {trainer.global_step:,}, t0 = {self.edit.t0}, {self.edit.step_count} solver steps",
        )
        path = self.folder / f"step-{trainer.global_step:08d}.png"
        try:
            with whole_file(path) as unfinished:
                sheet.save(unfinished, format="PNG")
        except OSError as error:  # raised on one device only; the others would wait for it
            logger.warning("%s cannot be written: %s", path, error.strerror)
            return
        logger.info("step %d: preview %s", trainer.global_step, path)
        for destination in trainer.loggers:
            log_image = getattr(destination, "log_image", None)
            if log_image is not None:
                log_image("preview", [str(path)], step=trainer.global_step)

    def rows(self, denoiser: Denoiser, device: torch.device) -> dict[str, Float[Tensor, "_ C H W"]]:
        rows: dict[str, Tensor] = {}
        known = denoiser.labels
        models = {} if known.required else {"": denoiser}
        models |= {f", {label}": denoiser.labelled(label) for label in known.examples[:SHOWN_LABELS]}
        if self.guides is not None and len(self.guides):
            rows["guide"] = guides = self.guides.to(device)
            for mark, model in models.items():
                rows[f"edit{mark}"] = self.edit(model, guides, seeds=list(range(len(guides))))
        if self.samples:
            seeds, steps = range(self.samples), self.edit.step_count
            for mark, model in models.items():
                rows[f"sample{mark}"] = sample(model, self.image_shape, seeds, steps=steps, device=device)
        return rows
