"""One run of `sdedit sample`: from its settings to the files of its samples."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from sdedit_pl.build.component import build_component
from sdedit_pl.checkpoints.sampler_settings import SamplerSettings
from sdedit_pl.configuration import Component, family, require_at_least
from sdedit_pl.data.value_decoding import result_file, sample_suffix
from sdedit_pl.denoiser import in_precision
from sdedit_pl.edit_runs.edit_results import SHEET_FILE, earlier_results, finished_samples, hashes, write_record
from sdedit_pl.editing.many_guides import in_batches
from sdedit_pl.grids import GRIDS, Grid
from sdedit_pl.picture_grid import cell_side, picture_grid, to_picture
from sdedit_pl.result_folder import ALREADY_THERE, hashes_of, refuse_others, result_folder
from sdedit_pl.sampling import Callback, sample
from sdedit_pl.solvers import SOLVERS, Solver

logger = logging.getLogger(__name__)

SAMPLE_RECORD = "sample.yaml"
SHEET_COLUMNS, SHEET_SAMPLES = 8, 64


@dataclass(kw_only=True)
class SampleSettings(SamplerSettings):
    """The options of `sdedit sample`, besides the model.

    Args:
        n: number of samples.
        out: folder of the results.
        seed: seed of the first sample; the next ones count up from it.
        steps: solver steps from t = 1 to 0.
        overwrite: replace the results in `out`.
    """

    n: int = 64
    out: str = "outputs/sample"
    seed: int = 0
    steps: int = 50
    overwrite: bool = False
    solver: Component[Solver] = family(SOLVERS, "ancestral", supplied=("predictor",))
    grid: Component[Grid] = family(GRIDS, "log_snr")

    def __post_init__(self) -> None:
        require_at_least(self, n=1, seed=0, steps=1, batch=1)


def run_sampling(settings: SampleSettings) -> None:
    solver, grid = build_component(settings.solver), build_component(settings.grid)
    folder, earlier = Path(settings.out), set[str]()
    with result_folder(folder, replaced=earlier) as unpublished:
        if finished_samples(settings, folder / SAMPLE_RECORD, settings.overwrite) is not None:
            logger.info(ALREADY_THERE)
            return
        earlier |= earlier_results(folder, settings.overwrite, SAMPLE_RECORD)
        denoiser, description = settings.load()
        shape = description.image
        settings = settings.prepared(denoiser, settings.n, shape.pixels, settings.steps)
        suffix = sample_suffix(shape)
        files = {seed: f"sample_seed{seed}{suffix}" for seed in range(settings.seed, settings.seed + settings.n)}
        refuse_others(folder, {SAMPLE_RECORD, SHEET_FILE, *files.values()} - earlier)
        pictures = []
        with in_precision(denoiser, settings.precision):
            steps = int((grid.times(denoiser.sde, 1.0, settings.steps).diff() < 0).sum())  # without jumps

            sides = shape.tensor_shape

            def draw(seeds: Sequence[int], callback: Callback | None) -> Float[Tensor, "samples C H W"]:
                return sample(denoiser, sides, seeds, steps=settings.steps, solver=solver, grid=grid, callback=callback)

            with tqdm(total=steps * settings.n, unit="step", desc="sampling", disable=None) as progress:
                step = progress.update
                for seed, image in in_batches(
                    denoiser, draw, [*files], shape.pixels, batch=settings.batch, on_step=step
                ):
                    picture = to_picture(image, shape.format)
                    (unpublished / files[seed]).write_bytes(result_file(image, shape, suffix, None))
                    pictures += [picture] * (len(pictures) < SHEET_SAMPLES)
        sample_sheet(pictures, settings.seed).save(unpublished / SHEET_FILE)
        drawn = {file: {"seed": seed} for seed, file in files.items()}
        model_files, results = hashes(settings.model_files(description.path)), hashes_of(unpublished)
        write_record(unpublished / SAMPLE_RECORD, settings, model_files, drawn, results)


def sample_sheet(pictures: Sequence[Image.Image], seed: int) -> Image.Image:
    starts = range(0, len(pictures), SHEET_COLUMNS)
    rows = [pictures[start : start + SHEET_COLUMNS] for start in starts]
    titles = [f"seed {seed + start}" for start in starts]
    return picture_grid(rows, [""] * len(rows[0]), cell_side(pictures[0]), row_titles=titles)
