"""One run of `sdedit augment`: edits the images in a tree of class folders into another one, with a manifest.

Source: Trabucco et al., "Effective Data Augmentation With Diffusion Models", ICLR 2024, for edits from several t0.
"""

from __future__ import annotations

import csv
import io
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from sdedit_pl.build.component import build_component, build_unless_default
from sdedit_pl.checkpoints import describe
from sdedit_pl.checkpoints.sampler_settings import SamplerSettings
from sdedit_pl.configuration import alike, require_at_least
from sdedit_pl.data.array_formats import stem_of
from sdedit_pl.data.folder_source import image_paths
from sdedit_pl.data.image_format import Fit, ImageShape
from sdedit_pl.data.value_decoding import result_file, result_suffix
from sdedit_pl.denoiser import Denoiser, in_precision
from sdedit_pl.editing import SDEdit
from sdedit_pl.editing.many_guides import in_batches
from sdedit_pl.files import claimed, require_outside, result_name, whole_file, write_whole
from sdedit_pl.grids import start_time
from sdedit_pl.guides.guide_files import Guide, image_size, read_guide
from sdedit_pl.result_folder import refuse_used
from sdedit_pl.sampling import Callback
from sdedit_pl.settings_record import SettingsRecord, require_same_settings

logger = logging.getLogger(__name__)

AUGMENT_RECORD, AUGMENT_MANIFEST = "augment.json", "manifest.csv"
_REMEDY = "resume it with its own settings, or give another out="


@dataclass(kw_only=True)
class AugmentSettings(SamplerSettings):
    """The class tree and the options of its edits, besides their model.

    Without `label`, a model with a label for every class folder edits each image with the label of its class.

    Args:
        data: folder with a folder of images for each class.
        n: number of edits of each class, spread evenly over its images.
        t0: lowest,highest t0, times or noise levels as for sdedit edit.
        n_of: n_of.CLASS=N replaces n for a class; null for none.
        t0_of: t0_of.CLASS=LOWEST,HIGHEST replaces t0 for a class; null for none.
        levels: number of different t0, evenly spaced in time; the edits of an image take them in turn.
        out: folder of the results.
        seed: seed of the first edit; the next ones count up from it.
        steps: solver steps from t0 to 0; null for the default of sdedit edit.
    """

    guidance: float | None = None
    data: str
    n: int = 100
    t0: tuple[float | str, float | str] = (0.2, 0.5)
    n_of: dict[str, int] | None = None
    t0_of: dict[str, tuple[float | str, float | str]] | None = None
    levels: int = 4
    out: str = "outputs/augment"
    seed: int = 0
    steps: int | None = None

    def __post_init__(self) -> None:
        require_at_least(self, n=1, levels=1, seed=0, batch=1)
        if min((self.n_of or {"": 0}).values()) < 0:
            raise ValueError(f"n_of must be at least 0 for each class, got {self.n_of}")


@dataclass(frozen=True)
class Variation:
    """An edit, a row of the manifest; `source` is relative to the class tree, `file` to the results."""

    file: str
    label: str
    source: str
    t0: float
    seed: int


def run_augmentation(settings: AugmentSettings) -> list[Variation]:
    """Writes the edits that `settings.out` lacks, and the manifest; raises ValueError if `out` holds anything else."""
    root, out = Path(settings.data), Path(settings.out)
    require_outside(out, root)
    solver, grid = build_unless_default(settings.solver), build_unless_default(settings.grid)
    edit = SDEdit(steps=settings.steps, solver=solver, grid=grid)
    classes = classes_of(root, describe(settings.ckpt).image)
    for label in {**(settings.n_of or {}), **(settings.t0_of or {})}:
        if label not in classes:
            raise ValueError(f"n_of and t0_of take the classes of data, got {label}{alike(label, classes)}")
    settings = replace(
        settings,
        n_of=settings.n_of and {label: settings.n_of.get(label, settings.n) for label in classes},
        t0_of=settings.t0_of and {label: settings.t0_of.get(label, settings.t0) for label in classes},
    )
    with claimed(out):
        record = SettingsRecord(out / AUGMENT_RECORD, "sdedit_pl augmentation, version 1", _REMEDY)
        before = record.read()
        if before is None:
            refuse_used(out, overwrite=False)
        by_class = settings.label is None and has_labels_for(settings.ckpt, classes)
        settings = replace(settings, label=next(iter(classes))) if by_class else settings
        settings = settings.for_edits(describe(settings.ckpt))
        denoiser, description = settings.load()
        times = {label: times_between(settings, label, edit, denoiser) for label in classes}
        variations = plan(settings, classes, times)
        shape, fit = description.image, description.fit
        settings = settings.prepared(denoiser, len(variations), shape.pixels, edit.step_count)
        now = {**settings.recorded(description.path), "classes": classes, **({"by_class": True} if by_class else {})}
        if before is None:
            record.write(now)
        else:
            require_same_settings(out, before, now, _REMEDY)
        missing = [variation for variation in variations if not (out / variation.file).is_file()]
        if not missing:
            logger.info("the edits were already there; give another out= to make more")
        with in_precision(denoiser, settings.precision):
            for variation, image in edits(settings, denoiser, edit, missing, shape, fit, by_class):
                source = root / variation.source
                shown = Guide(source, image[None], image_size(source), fit=fit).shown(image)
                with whole_file(out / variation.file) as unfinished:
                    unfinished.write_bytes(result_file(shown, shape, result_suffix(source), source, fit=fit))
        write_whole(out / AUGMENT_MANIFEST, manifest(variations))
    return variations


def classes_of(root: Path, shape: ImageShape) -> dict[str, list[str]]:
    """Class -> its images' paths relative to `root`; raises ValueError if one is in no class or unreadable."""
    classes: dict[str, list[str]] = defaultdict(list)
    for path in image_paths(root, shape):
        label, _, rest = path.partition("/")
        if not rest:
            raise ValueError(f"{root / path} is in no class; data needs a folder of images for each class")
        image_size(root / path)
        classes[label].append(path)
    return classes


def has_labels_for(ckpt: str, classes: Iterable[str]) -> bool:
    return set(classes) <= set(build_component(describe(ckpt).model.condition).examples)


def times_between(settings: AugmentSettings, label: str, edit: SDEdit, denoiser: Denoiser) -> list[float]:
    """The t0 of all levels of a class, as times; raises ValueError if they descend or exceed the model's t_max."""
    ends = (settings.t0_of or {}).get(label, settings.t0)
    low, high = (start_time(t0, denoiser.sde) for t0 in ends)
    if low > high:
        raise ValueError(f"t0 is lowest,highest, got {ends[0]},{ends[1]}")
    replace(edit, t0=ends[1]).check(denoiser)
    return [round(t0, 6) for t0 in torch.linspace(low, high, settings.levels, dtype=torch.float64).tolist()]


def plan(
    settings: AugmentSettings, classes: dict[str, list[str]], times: Mapping[str, Sequence[float]]
) -> list[Variation]:
    """All edits: the images of a class take turns until it has `n` edits, each time from the next t0."""
    variations = []
    for label, sources in classes.items():
        for number in range((settings.n_of or {}).get(label, settings.n)):
            turn, index = divmod(number, len(sources))
            seed, source = settings.seed + len(variations), PurePosixPath(sources[index])
            name = result_name(stem_of(source), f"_seed{seed}{result_suffix(Path(source))}")
            file, t0 = source.with_name(name).as_posix(), times[label][(turn + index) % settings.levels]
            variations.append(Variation(file, label, str(source), t0, seed))
    return variations


def edits(
    settings: AugmentSettings,
    denoiser: Denoiser,
    edit: SDEdit,
    todo: Sequence[Variation],
    shape: ImageShape,
    fit: Fit,
    by_class: bool,
) -> Iterator[tuple[Variation, Float[Tensor, "C H W"]]]:
    device = next(denoiser.parameters()).device

    def edited(chosen: SDEdit, chunk: Sequence[Variation], tick: Callback | None) -> Float[Tensor, "samples C H W"]:
        guides = [read_guide(Path(settings.data) / variation.source, shape, fit).image for variation in chunk]
        seeds = [variation.seed for variation in chunk]
        labels = [variation.label for variation in chunk] if by_class else None
        return chosen(denoiser, torch.cat(guides).to(device), labels=labels, seeds=seeds, callback=tick).cpu()

    with tqdm(total=len(todo) * edit.total_steps(denoiser.sde), unit="step", desc="editing", disable=None) as progress:
        for t0 in sorted({variation.t0 for variation in todo}):
            make = partial(edited, replace(edit, t0=t0))
            level = [variation for variation in todo if variation.t0 == t0]
            yield from in_batches(denoiser, make, level, shape.pixels, batch=settings.batch, on_step=progress.update)


def manifest(variations: Sequence[Variation]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "class", "source", "t0", "seed"))
    writer.writerows(asdict(variation).values() for variation in variations)
    return text.getvalue()
