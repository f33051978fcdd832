"""The settings of a model, its solver and its arithmetic, which edits, samples and calibrations share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from sdedit_pl.checkpoints.fingerprint import fingerprint
from sdedit_pl.checkpoints.guidance_settings import GuidanceSettings, load_guided
from sdedit_pl.checkpoints.native import Description
from sdedit_pl.configuration import Component, family
from sdedit_pl.configuration.resolving import as_data
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing.batch_independence import prepare_for_batches
from sdedit_pl.editing.many_guides import default_batch
from sdedit_pl.editing.sdedit import DEFAULT_GRID, DEFAULT_SOLVER
from sdedit_pl.grids import GRIDS, Grid
from sdedit_pl.machine import AutoBool, InferencePrecision
from sdedit_pl.solvers import SOLVERS, Solver

Settings = TypeVar("Settings", bound="SamplerSettings")
FREE_SETTINGS = ("ckpt", "out", "device", "batch", "compile", "overwrite")
"""Settings that change results at most by rounding, and `ckpt`, for which the record has a hash."""


@dataclass(kw_only=True)
class SamplerSettings(GuidanceSettings):
    """A model, its solver and its arithmetic.

    Args:
        ckpt: a bundled model (portraits64 or photos64), a checkpoint (.safetensors or .ckpt), the folder of a run,
            hf:owner/name[/file][@revision], or a checkpoint of another program that can be recognised (otherwise use
            sdedit import); also wandb:entity/project/name:alias or https://host/file#sha256=... (downloaded once).
        batch: images per batch, null for as many as fit; affects only speed, memory and, except on a CPU, rounding.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: precision of the network; the state is always float32. tf32 is float32 with the factors of products
            rounded to 10 bits, which is faster on GPUs. auto is bfloat16 on GPUs with bf16, and float32 elsewhere.
        compile: compile the network (about a minute); auto compiles on GPUs with bf16 from 10,000 samples times steps.
    """

    ckpt: str
    batch: int | None = None
    device: str = "auto"
    precision: InferencePrecision = "auto"
    compile: AutoBool = "auto"
    solver: Component[Solver] = family(SOLVERS, DEFAULT_SOLVER, supplied=("predictor",))  # an object, not plain data
    grid: Component[Grid] = family(GRIDS, DEFAULT_GRID)

    def load(self) -> tuple[Denoiser, Description]:
        return load_guided(self.ckpt, self.device, self)

    def prepared(self: Settings, denoiser: Denoiser, images: int, pixels: int, steps: int) -> Settings:
        """Prepares the network for images of at most `pixels` pixels, and replaces `auto` in precision and compile."""
        batch = min(self.batch or default_batch(next(denoiser.parameters()).device, pixels), images)
        evaluations = images * steps * denoiser.evaluations
        found = prepare_for_batches(denoiser, batch, pixels, evaluations, self.precision, self.compile)
        return replace(self, precision=found.precision, compile=found.compile)

    def recorded(self, checkpoint: Path) -> dict[str, Any]:
        """All settings that results depend on, with the hash of the model in place of its file's name."""
        kept = {key: value for key, value in as_data(self).items() if key not in FREE_SETTINGS}
        return kept | {"checkpoint": fingerprint(checkpoint) + self.recipe(checkpoint)}
