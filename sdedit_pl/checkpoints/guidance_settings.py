"""The settings of labels, guidance and noise that edits, samples, evaluations and calibrations share."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from sdedit_pl.checkpoints.fingerprint import fingerprint
from sdedit_pl.checkpoints.loading import load_described, load_for_editing
from sdedit_pl.checkpoints.locating import early_average, files_of, find_checkpoint
from sdedit_pl.checkpoints.native import Description
from sdedit_pl.checkpoints.safe_reading import CheckpointError
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing.guidance import guided
from sdedit_pl.noise import NOISES

logger = logging.getLogger(__name__)

_Settings = TypeVar("_Settings", bound="GuidanceSettings")


@dataclass(kw_only=True)
class GuidanceSettings:
    """Labels, guidance and noise.

    Args:
        label: label of all images, for a model trained with labels (data.labels); null for none.
        guidance: weight w of guidance by a weaker model, D + (w - 1)(D - D_weak); images become crisper and less varied
            as it grows. 1 is none; any other value doubles the network evaluations. null takes checkpoint.guidance and
            checkpoint.guidance_range of the model's training for edits without a label, and is otherwise 1.
        guide_ckpt: the weaker model; previous is the early average beside `ckpt`, which training writes with
            checkpoint.early (autoguidance). null is previous or, with a label, the model without it (classifier-free).
        guidance_range: lowest,highest noise level at which guidance applies; null for all.
        noise: gaussian or simplex; null for the noise that the model was trained on.
    """

    label: str | None = None
    guidance: float | None = 1.0
    guide_ckpt: str | None = None
    guidance_range: tuple[float, float] | None = None
    noise: str | None = None

    def for_edits(self: _Settings, description: Description) -> _Settings:
        """The settings, with null as guidance replaced by that of the model's training, or by 1."""
        if self.guidance is not None:
            return self
        weight, levels = description.guidance
        if weight == 1 or (self.label, self.guide_ckpt, self.guidance_range) != (None, None, None):
            return replace(self, guidance=1.0)
        early = early_average(description.path)
        if not early.is_file():
            logger.warning("edits are not guided: there is no %s, the weaker model for guidance=%g", early, weight)
            return replace(self, guidance=1.0)
        return replace(self, guidance=weight, guidance_range=levels)

    def guiding_checkpoint(self, checkpoint: Path) -> Path | None:
        """The file of the weaker model; None without guidance, or with classifier-free guidance, which needs no other.

        `checkpoint` is from `find_checkpoint`. Raises CheckpointError if there is no file, ValueError if keys conflict.
        """
        if self.guidance in (None, 1):
            if self.guide_ckpt is not None or self.guidance_range is not None:
                raise ValueError("guide_ckpt and guidance_range need guidance=W, and 1 means none; try guidance=1.5")
            return None
        if self.guide_ckpt is not None and self.guide_ckpt != "previous":
            return find_checkpoint(self.guide_ckpt)
        if self.guide_ckpt is None and self.label is not None:
            return None
        early = early_average(checkpoint)
        if not early.is_file():
            raise CheckpointError(
                f"guidance={self.guidance:g} needs a weaker model, and there is no {early}, which training writes with "
                "checkpoint.early=0.07; give one as guide_ckpt="
            )
        return early

    def model_files(self, checkpoint: Path) -> list[Path]:
        guide = self.guiding_checkpoint(checkpoint)
        return [*files_of(checkpoint), *(() if guide is None else files_of(guide))]

    def recipe(self, checkpoint: Path) -> str:
        """The settings of labels, guidance and noise, for records; empty if all are at their defaults."""
        label = "" if self.label is None else f", label={self.label}"
        label += "" if self.noise is None else f", noise={self.noise}"
        guide = self.guiding_checkpoint(checkpoint)
        if self.guidance in (None, 1):
            return label
        weaker = "itself" if guide is None else fingerprint(guide)
        levels = "" if self.guidance_range is None else ", levels {:g} to {:g}".format(*self.guidance_range)
        return f"{label}, guidance={self.guidance:g} by {weaker}{levels}"


def load_guided(ckpt: str, device: str, settings: GuidanceSettings) -> tuple[Denoiser, Description]:
    denoiser, description = load_for_editing(ckpt, device)
    return with_guidance(denoiser, description, settings), description


def with_guidance(denoiser: Denoiser, description: Description, settings: GuidanceSettings) -> Denoiser:
    """Applies the settings to a checkpoint's denoiser; raises ValueError if they do not fit the model."""
    guide = settings.guiding_checkpoint(description.path)
    denoiser, weak = labelled(denoiser, settings.label), None
    if guide is not None:
        weak, other = load_described(guide, next(denoiser.parameters()).device)
        if other.image != description.image:
            raise ValueError(
                f"the guiding model {guide} is for images of {other.image}, the model for {description.image}"
            )
    guidance = 1.0 if settings.guidance is None else settings.guidance
    denoiser = guided(denoiser, weak, guidance, settings.guidance_range)
    return noised(denoiser, settings.noise)


def noised(denoiser: Denoiser, name: str | None) -> Denoiser:
    """The denoiser with a noise of `NOISES`, or with its own for None; warns if it was trained on another."""
    if name is not None and name not in NOISES:
        raise ValueError(f"noise is one of {', '.join(NOISES)}, got {name}; null is that of the model's training")
    if name is None or isinstance(denoiser.noise, NOISES[name]):
        return denoiser
    own = next(known for known, cls in NOISES.items() if isinstance(denoiser.noise, cls))
    logger.warning("noise=%s: the model was trained on %s noise, so its estimates are less accurate", name, own)
    return denoiser.changed(noise=NOISES[name]())


def labelled(denoiser: Denoiser, label: str | None) -> Denoiser:
    """The denoiser for images with `label`, or without one; raises ValueError for an unknown or a missing label."""
    if label is not None:
        return denoiser.labelled(label)
    if denoiser.labels.required and denoiser.condition is None:
        raise ValueError(f"this model was never trained without labels; give label=, one of {denoiser.labels.known}")
    return denoiser
