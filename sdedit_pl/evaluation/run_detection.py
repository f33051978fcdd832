"""One run of `sdedit detect`: from its settings to anomaly maps, scores and their report."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool
from safetensors.torch import load_file
from torch import Tensor

from sdedit_pl.build.component import build_unless_default
from sdedit_pl.checkpoints.fingerprint import fingerprint
from sdedit_pl.checkpoints.sampler_settings import SamplerSettings
from sdedit_pl.configuration import require_at_least
from sdedit_pl.data.array_formats import ALL_SUFFIXES, stem_of
from sdedit_pl.data.chosen_images import choose_images
from sdedit_pl.data.image_decoding import decode_image
from sdedit_pl.data.image_files import list_images
from sdedit_pl.data.image_format import Fit, ImageFormat, Size
from sdedit_pl.denoiser import in_precision
from sdedit_pl.editing import SDEdit
from sdedit_pl.evaluation.anomaly_maps import AnomalyMaps, Detector, image_score, pixel_residual, stored_maps, write_map
from sdedit_pl.evaluation.detection_report import anomaly_sheet, detection_measures, detection_report, write_scores
from sdedit_pl.evaluation.report_sections import chosen_rows
from sdedit_pl.evaluation.unfinished_report import unfinished_report
from sdedit_pl.files import in_both_unicode_forms
from sdedit_pl.metrics.masked_lpips import lpips_map
from sdedit_pl.result_folder import WORK

logger = logging.getLogger(__name__)

SCORES_FILE = "scores.csv"
MAPS, SPREADS = "maps", "spreads"


@dataclass(kw_only=True)
class DetectionSettings(SamplerSettings):
    """The images to inspect and their reconstruction by the model, which was trained on images without anomalies.

    Args:
        data: images to inspect: a folder, or shards (a folder, file, pattern or URL).
        truth: folder of masks, white in defects, named like the images (or with _mask at the end); an image without a
            mask has no defect. null writes maps and scores only.
        out: folder of the results.
        split: all images of `data`, or val, the ones that training holds out of it.
        val_fraction: share of the images held out if data has no val split; null for that of the model's training.
        images: how many images, spread evenly over those available; null for all.
        t0: times or noise levels to reconstruct images from; the best depends on the defect, so the map is their mean.
        samples: number of reconstructions from each t0.
        steps: solver steps of a reconstruction.
        residual: pixel (mean absolute difference of channels on [0, 1]), or an LPIPS network: alex, vgg or squeeze.
        lpips_weights: torchvision's file of the LPIPS network; null takes it from torch's cache or downloads it.
        blur: standard deviation, in pixels, of a Gaussian over the residuals; 0 for none.
        relative: weigh residuals against the spread of the reconstructions, which is high on edges and textures that
            the model cannot know; false maps the residuals alone.
        top: share of a map's pixels, the highest ones, whose mean is the score of the image.
        seed: seed of the first reconstruction; the next ones count up from it.
        overwrite: replace the results in `out`.
    """

    data: str
    truth: str | None = None
    out: str = "outputs/detect"
    split: Literal["all", "val"] = "all"
    val_fraction: float | None = None
    images: int | None = None
    t0: tuple[float | str, ...] = ("sigma:0.1", "sigma:0.2")
    samples: int = 4
    steps: int = 5
    residual: Literal["pixel", "alex", "vgg", "squeeze"] = "pixel"
    lpips_weights: str | None = None
    blur: float = 2.0
    relative: bool = True
    top: float = 0.01
    seed: int = 0
    overwrite: bool = False

    def __post_init__(self) -> None:
        require_at_least(self, images=1, samples=1, seed=0, batch=1)
        if not self.t0 or len(set(self.t0)) < len(self.t0):
            raise ValueError(f"t0 takes one or more different values, got {list(self.t0)}")
        if not self.blur >= 0 or not 0 < self.top <= 1:
            raise ValueError(f"blur is at least 0 and top lies in (0, 1], got blur={self.blur} and top={self.top}")


def run_detection(settings: DetectionSettings) -> dict[str, Any]:
    """Writes maps, scores and report, or nothing; returns the contents of metrics.json. An interrupted run resumes."""
    detector = build_detector(settings)
    with unfinished_report(Path(settings.out), settings.overwrite) as unfinished:
        denoiser, description = settings.load()
        val_fraction = description.val_fraction(settings.val_fraction)
        settings = replace(settings, val_fraction=val_fraction)
        shape, results = description.image, unfinished.results
        images = choose_images(
            settings.data,
            shape,
            split=settings.split,
            val_fraction=val_fraction,
            count=settings.images,
            fit=description.fit,
            out=Path(settings.out),
        )
        names = names_of(images.names, settings.data)
        truth = None
        if settings.truth is not None:
            truth = read_truth(Path(settings.truth), names, shape.size, description.fit)
        settings = settings.prepared(denoiser, len(images), shape.pixels, detector.steps(denoiser))
        recorded = settings.recorded(description.path)
        inputs = {"sha256": images.digest(b"" if truth is None else truth.numpy().tobytes())}
        finished = unfinished.begin(recorded, inputs)
        if finished is not None:
            return finished
        with in_precision(denoiser, settings.precision):
            files = stored_maps(
                results / WORK, images, lambda numbers: detector.maps(denoiser, images, settings.batch, numbers)
            )
        rows, anomalies, scores, shown = chosen_rows(len(images)), [], [], {}
        for number, (file, name) in enumerate(zip(files, names, strict=True)):
            maps = AnomalyMaps(**load_file(file))
            found = maps.relative if settings.relative else maps.residuals
            anomalies += [found] if truth is not None else []
            scores.append(image_score(found.mean(0), settings.top))
            write_map(results / MAPS / f"{name}.png", found.mean(0))
            write_map(results / SPREADS / f"{name}.png", maps.spreads.mean(0))
            shown |= {number: (maps, found.mean(0))} if number in rows else {}
        write_scores(results / SCORES_FILE, names, scores, truth)
        numbers: dict[str, Any] = {
            "model": {"file": description.path.name, "sha256": fingerprint(description.path)},
            "settings": recorded | inputs,
            "images": len(images),
            "with_defects": None if truth is None else int(truth.flatten(1).any(1).sum()),
            "measures": {}
            if truth is None
            else detection_measures(torch.stack(anomalies), settings.t0, settings.top, truth),
        }
        detection_report(numbers, anomaly_sheet(shown, images, truth, shape.format)).write(results, numbers)
    return numbers


def build_detector(settings: DetectionSettings) -> Detector:
    solver, grid = build_unless_default(settings.solver), build_unless_default(settings.grid)
    edits = [SDEdit(t0, settings.steps, solver=solver, grid=grid) for t0 in settings.t0]
    residual = pixel_residual
    if settings.residual != "pixel":
        residual = lpips_map(settings.residual, settings.lpips_weights)
    return Detector(edits, settings.samples, residual, settings.blur, settings.seed)


def names_of(names: Sequence[str], data: str) -> list[str]:
    """File names of images: their paths below `data` without suffix, or numbers if these are not unique."""
    paths = [Path(name.rpartition(":")[2]) for name in names]
    inside = [path.relative_to(data) if path.is_relative_to(data) else Path(path.name) for path in paths]
    found = [path.with_name(stem_of(path)).as_posix() for path in inside if ".." not in path.parts]
    return found if len(set(found)) == len(names) else [f"{number:06d}" for number in range(len(names))]


def read_truth(folder: Path, names: Sequence[str], size: Size, fit: Fit = "crop") -> Bool[Tensor, "N H W"]:
    """The defects of each image, resampled like the images; an image without a mask has none.

    Raises ValueError if there is no folder, no mask named like an image, or no white pixel.
    """
    if not folder.is_dir():
        raise ValueError(f"truth={folder} is not a folder; give one of masks named like the images, white in defects")
    listed = map(Path, list_images(folder, True, ALL_SUFFIXES))
    masks = in_both_unicode_forms(
        {file.with_name(stem_of(file)).as_posix().removesuffix("_mask"): file for file in listed}
    )
    truth = torch.zeros(len(names), *ImageFormat(size).sides, dtype=torch.bool)
    for number, name in enumerate(names):
        if name in masks:
            path = folder / masks[name]
            levels = decode_image(path, str(path), ImageFormat(size, 1, "black", fit=fit))[0]
            truth[number] = levels >= (128 if bool((levels > 1).any()) else 1)  # a label image holds only 0 and 1
    missing = sum(name not in masks for name in names)
    if missing == len(names):
        raise ValueError(
            f"no mask in truth={folder} is named like an image; name the mask of the first image {names[0]}.png"
        )
    if not bool(truth.any()):
        raise ValueError(f"no mask in truth={folder} has a white pixel; white marks defects")
    if missing:
        logger.info("no mask for %d of %d images, which count as free of defects", missing, len(names))
    return truth
