"""Compares training recipes and trained models by their edits of simulated strokes, at equal distance to the strokes.

    python benchmarks/photographs.py data=photos/ out=outputs/photographs budget=60000 seeds=[0,1] \\
        models.base=config=finetune64 'models.nothing=config=finetune64 ckpt=null' models.bundled=ckpt=photos64

An entry of `models` holds words for `sdedit train`, or, if none of them is config=, for `sdedit evaluate`, which edits
from the noise levels `t0`. Results:

- KID of the edits over KID of the strokes at the squared L2 distances `l2` to the strokes, interpolated linearly
  between the strokes themselves and the edits from each t0, with 95 % intervals of a bootstrap over the images, the
  same for all models; pairs of an edit and its own original do not count;
- the denoising error by noise level;
- the edits' distance to the nearest training image divided by that of the validation images, below 0.5 if a model
  repeats its training images;
- a sheet of edits.

The same command resumes trainings and evaluations.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from benchmark_command import refuse_unknown, run_benchmark
from jaxtyping import Float
from PIL import Image
from speed_report import environment, table
from torch import Tensor
from torch.nn.functional import interpolate

from sdedit_pl.checkpoints import describe, load_denoiser
from sdedit_pl.checkpoints.fingerprint import fingerprint
from sdedit_pl.cli import train
from sdedit_pl.configuration import require_at_least
from sdedit_pl.configuration.bundled_configs import find_config
from sdedit_pl.configuration.schema import Command
from sdedit_pl.configuration.training_config import TrainingConfig
from sdedit_pl.configuration.yaml_reading import read_file
from sdedit_pl.data.chosen_images import ChosenImages
from sdedit_pl.data.folder_source import FolderSource
from sdedit_pl.data.image_format import ImageFormat
from sdedit_pl.denoiser import in_precision
from sdedit_pl.evaluation.image_store import IMAGES, digest_of
from sdedit_pl.evaluation.numbered_images import NumberedImages
from sdedit_pl.evaluation.report_document import METRICS_FILE
from sdedit_pl.losses import denoising_error
from sdedit_pl.metrics.extractor_table import FEATURES
from sdedit_pl.metrics.features import features_of
from sdedit_pl.metrics.features_from_file import FeaturesFile
from sdedit_pl.metrics.image_distances import nearest_by_distance, squared_l2
from sdedit_pl.metrics.intervals import percentile_interval
from sdedit_pl.metrics.kid import distance_and_draws
from sdedit_pl.picture_grid import picture_grid, to_picture
from sdedit_pl.training.memorisation_alarm import SIDE
from sdedit_pl.training_runs.run_folder import HISTORY_FILE
from sdedit_pl.typing import Images

USAGE = "python benchmarks/photographs.py data=FOLDER out=FOLDER models.NAME=WORDS [key=value ...]"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LEVELS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
SHOWN = 12
DRAWS = 2000
RATE_STEPS = 40

Ratios = dict[str, Float[Tensor, "draws"]]
"""Judge and L2 -> the ratio of KIDs, first for all images, then in each draw of the bootstrap."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """A comparison.

    Args:
        data: folder of images, with or without sub-folders train and val; trainings use it too.
        out: folder of the report and the sheet.
        runs: folder of the training runs and the edits.
        models: models.NAME=WORDS, config=FILE and words of `sdedit train`, or ckpt=FILE and words of `sdedit evaluate`.
        budget: number of images that each recipe trains on.
        seconds: seconds that each recipe trains on this machine, instead of `budget`, at a rate measured first.
        seeds: seeds of the trainings and of the edits.
        split: val, the images that training holds out, or all, for a folder that training has not seen.
        images: number of images to edit; null for all.
        t0: noise levels or times that edits start from, in ascending order.
        l2: squared L2 distances to the strokes at which KIDs are compared.
        steps: solver steps of an edit; words of a model may have their own steps=.
        judges: features of KID: a name, then names or TorchScript files that you trust (write_second_judge.py).
        precision: precision of edits.
        compile: compile the network for edits.
        threads: number of threads of torch; null for its default.
        overwrite: replace earlier results in `out`.
    """

    data: str
    out: str
    models: dict[str, str]
    runs: str = "runs/photographs"
    budget: int = 60_000
    seconds: float | None = None
    seeds: tuple[int, ...] = (0,)
    split: Literal["val", "all"] = "val"
    images: int | None = 128
    t0: tuple[float | str, ...] = ("sigma:0.4", "sigma:0.8", "sigma:1.6")
    l2: tuple[float, ...] = (40.0, 80.0)
    steps: int = 20
    judges: tuple[str, ...] = ("efficientnet_lite0",)
    precision: str = "bfloat16"
    compile: bool = True
    threads: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        require_at_least(self, budget=1, images=6, steps=1)
        names = tuple(judge for place, judge in enumerate(self.judges) if not (place and judge.endswith(".pt")))
        refuse_unknown("judges", names, tuple(name for name in FEATURES if name != "file"))
        if not (self.models and self.seeds and self.t0 and self.l2 and self.judges):
            raise ValueError("give at least one entry of models, seeds, t0, l2 and judges")


@dataclass(frozen=True)
class Edits:
    """The images of one evaluation: originals, their strokes, and the strokes' edits from each t0."""

    originals: Images
    strokes: Images
    levels: list[Images]


def sdedit(*words: str) -> None:
    """Runs a command of the package in a process of its own, so that none inherits compiled code or memory."""
    logging.info("sdedit %s", shlex.join(words))
    if subprocess.run([sys.executable, "-m", "sdedit_pl", *words], check=False).returncode:
        raise ValueError(f"this command failed: sdedit {shlex.join(words)}")


def trained(name: str, words: Sequence[str], seed: int, arguments: Arguments) -> tuple[Path, dict[str, float]]:
    """Trains a recipe or resumes its training; returns the run's folder, and its images and seconds of training."""
    given = [*words, f"data.path={arguments.data}", f"seed={seed}"]
    config = parsed(given)
    batch = config.data.values["batch_size"] * config.trainer.accumulate_grad_batches
    budget = arguments.budget
    if arguments.seconds is not None:
        trial = Path(arguments.runs) / f"{name}-rate"
        if not (trial / HISTORY_FILE).is_file():
            sdedit("train", *given, f"out={trial}", f"trainer.max_steps={RATE_STEPS}", "trainer.log_every_n_steps=10")
        budget = round(arguments.seconds * images_per_second(trial))
    out = Path(arguments.runs) / f"{name}-{budget}-seed{seed}"
    steps = max(1, budget // batch)
    sdedit("train", *given, f"out={out}", f"trainer.max_steps={steps}")
    return out, {"images": steps * batch, "seconds": round(steps * batch / images_per_second(out), 1)}


def parsed(words: Sequence[str]) -> TrainingConfig:
    return train.COMMAND.parse(list(words), read=lambda file: read_file(find_config(file)))


def images_per_second(run: Path) -> float:
    """The median rate in a run's log; nan if the run was too short to log one."""
    with (run / HISTORY_FILE).open(newline="", encoding="utf-8") as file:
        rates = [row.get("train/images_per_second") for row in csv.DictReader(file)]
    return statistics.median([float(rate) for rate in rates if rate] or [math.nan])


def edited(words: Sequence[str], seed: int, arguments: Arguments) -> Edits:
    """Edits the strokes, or finds the edits of an earlier command with the same words and weights."""
    given = [
        *words, f"data={arguments.data}", f"split={arguments.split}", f"images={arguments.images or 'null'}",
        "tasks=[stroke_synthesis]", "baselines=[]", "lpips=none", "ablations=[t0]",
        f"ablation.t0=[{','.join(map(str, arguments.t0))}]", f"t0={arguments.t0[0]}",
        *([] if any(word.startswith("steps=") for word in words) else [f"steps={arguments.steps}"]),
        f"seed={seed}", f"features={arguments.judges[0]}", f"precision={arguments.precision}",
        f"compile={arguments.compile}".lower(),
    ]  # fmt: skip
    description = describe(checkpoint_of(words))
    out = Path(arguments.runs) / "edits" / digest_of([*given, fingerprint(description.path)])
    if not (out / METRICS_FILE).is_file():
        sdedit("evaluate", *given, f"out={out}")
    found = json.loads((out / METRICS_FILE).read_text(encoding="utf-8"))
    count = found["images"]["count"]

    def read(folder: str) -> Images:
        images = NumberedImages(out / IMAGES / folder, count, ImageFormat.of(description.image))
        return images.read(range(count)).to(DEVICE)

    levels = [read(variant["images"]) for variant in found["ablations"]["t0"]]
    return Edits(read("original"), read("stroke_synthesis/guide"), levels)


def checkpoint_of(words: Sequence[str]) -> str:
    return next(word.removeprefix("ckpt=") for word in words if word.startswith("ckpt="))


def kid_ratios(edits: Edits, arguments: Arguments) -> tuple[Ratios, dict[str, list[float]]]:
    """The ratios of KIDs, and KID and L2 of the strokes and of each t0 as (KIDs, L2s) for each judge.

    Each ratio has its value first, then those of the bootstrap's draws.
    """
    groups = torch.arange(len(edits.originals))
    ratios: Ratios = {}
    facts: dict[str, list[float]] = {}
    for judge in arguments.judges:
        extractor = FeaturesFile(judge, trusted=True) if judge.endswith(".pt") else FEATURES[judge]()  # pyright: ignore[reportCallIssue]
        extractor.to(edits.originals.device)
        originals = features_of(extractor, edits.originals).cpu()
        kids, distances = [], []
        for images in (edits.strokes, *edits.levels):
            features = features_of(extractor, images).cpu()
            found, drawn = distance_and_draws(features, originals, groups, groups, DRAWS)
            kids.append(torch.cat([drawn.new_tensor([found.value]), drawn]))
            # The same in every draw: otherwise some draws would not reach an L2 near the largest.
            distances.append(squared_l2(images, edits.strokes).double().cpu().mean().expand(DRAWS + 1))
        facts[judge] = [kid[0].item() for kid in kids]
        facts["l2"] = [distance[0].item() for distance in distances]
        ratios |= {f"{judge}, {l2:g}": at_distance(l2, distances, kids) / kids[0] for l2 in arguments.l2}
    return ratios, facts


def at_distance(l2: float, distances: Sequence[Tensor], kids: Sequence[Tensor]) -> Float[Tensor, "draws"]:
    """KID at a distance, interpolated linearly between neighbouring t0; nan where no edit is as far away."""
    found = torch.full_like(kids[0], torch.nan)
    for (near, far), (first, second) in zip(pairwise(distances), pairwise(kids), strict=True):
        here = (near <= l2) & (l2 <= far) & found.isnan()
        found = torch.where(here, first + (second - first) * (l2 - near) / (far - near), found)
    return found


def nearest_ratio(edits: Edits, arguments: Arguments) -> list[float]:
    """For each t0, the median distance of edits to the nearest training image, relative to that of the originals."""
    channels, size = edits.originals.shape[1], edits.originals.shape[2]
    chosen = ChosenImages(FolderSource(arguments.data, size, channels), ("train",))
    seen = torch.cat([small(chosen.batch(start, 64)) for start in range(0, len(chosen), 64)])
    seen = torch.cat([seen, seen.flip(-1)]).flatten(1)
    medians = [
        nearest_by_distance(small(images.cpu()).flatten(1), seen).squared_distance.median().item()
        for images in (edits.originals, *edits.levels)
    ]
    return [median / max(medians[0], 1e-6) for median in medians[1:]]


def small(images: Images) -> Images:
    side = min(SIDE, images.shape[-1])
    return interpolate(images, size=(side, side), mode="area")


def errors(checkpoint: str, images: Images, precision: str) -> dict[str, float]:
    """The denoising error at each level that the model was trained on."""
    denoiser = load_denoiser(checkpoint, images.device)
    denoiser.at_once = None
    highest = denoiser.sde.noise_level(torch.tensor(denoiser.t_max, dtype=torch.float64)).item()
    with torch.no_grad(), in_precision(denoiser, precision):
        return {f"{level:g}": denoising_error(denoiser, images, level) for level in LEVELS if level <= highest}


def measure(arguments: Arguments) -> dict[str, Any]:
    found: dict[str, Any] = {}
    first: Ratios = {}
    sheet: dict[str, Images] = {}
    for name, text in arguments.models.items():
        words, runs, drawn = shlex.split(text), [], []
        for seed in arguments.seeds:
            training: dict[str, float] = {}
            evaluated = words
            if any(word.startswith("config=") for word in words):
                folder, training = trained(name, words, seed, arguments)
                evaluated = [f"ckpt={folder}"]
            edits = edited(evaluated, seed, arguments)
            ratios, facts = kid_ratios(edits, arguments)
            drawn.append(ratios)
            run = {"seed": seed, **training, **facts, "ratios": {key: value[0].item() for key, value in ratios.items()}}
            run["errors"] = errors(checkpoint_of(evaluated), edits.originals, arguments.precision)
            run["nearest"] = nearest_ratio(edits, arguments) if arguments.split == "val" else []
            runs.append(run)
            sheet |= {} if name in sheet else {"originals": edits.originals, "strokes": edits.strokes}
            sheet.setdefault(name, edits.levels[len(edits.levels) // 2])
        means = {key: torch.stack([ratios[key] for ratios in drawn]).mean(0) for key in drawn[0]}
        first = first or means
        differences = {key: mean - first[key] for key, mean in means.items()}
        found[name] = {
            "words": text,
            "runs": runs,
            "ratios": {key: with_interval(mean) for key, mean in means.items()},
            "differences": {key: with_interval(difference) for key, difference in differences.items()},
        }
    return {"models": found, "pictures": {"sheet": sheet_of(sheet)}}


def with_interval(drawn: Float[Tensor, "draws"]) -> list[float]:
    return [drawn[0].item(), *percentile_interval(drawn[1:])]


def sheet_of(rows: Mapping[str, Images]) -> Image.Image:
    pictures = [[to_picture(image) for image in images[:SHOWN]] for images in rows.values()]
    return picture_grid(pictures, [""] * len(pictures[0]), 128, row_titles=list(rows))


def report(numbers: Mapping[str, Any]) -> str:
    settings, models = numbers["settings"], numbers["models"]
    judges, keys = settings["judges"], list(next(iter(models.values()))["ratios"])
    ratios, differences, error_rows, levels = [], [], [], []
    for name, model in models.items():
        runs = model["runs"]
        cost = [str(runs[0].get(key, "")) for key in ("images", "seconds")]
        each = [", ".join(f"{run['ratios'][key]:.3f}" for run in runs) for key in keys]
        ratios.append([name, *cost, *("{:.3f} [{:.3f}, {:.3f}]".format(*model["ratios"][key]) for key in keys), *each])
        differences.append([name, *("{:+.3f} [{:+.3f}, {:+.3f}]".format(*model["differences"][key]) for key in keys)])
        found = [[run["errors"].get(f"{level:g}") for run in runs] for level in LEVELS]
        error_rows.append([name, *("" if None in of_runs else f"{statistics.mean(of_runs):.4f}" for of_runs in found)])
        for run in runs:
            for place, t0 in enumerate(("strokes", *settings["t0"])):
                kids = [f"{run[judge][place]:.3f}" for judge in judges]
                nearest = f"{run['nearest'][place - 1]:.2f}" if place and run["nearest"] else ""
                levels.append([f"{name}, seed {run['seed']}, {t0}", f"{run['l2'][place]:.1f}", *kids, nearest])
    blocks = [
        "# Photographs",
        environment(numbers),
        "\n".join(f"- {name}: `{model['words']}`" for name, model in models.items()),
        "KID of the edits divided by KID of the strokes, by judge and L2 to the strokes: mean with its 95 % interval, "
        f"then each seed ({settings['seeds']}); nan where no edit is that far from the strokes.",
        table(["", "images", "seconds", *keys, *(f"{key}, each seed" for key in keys)], ratios),
        f"Differences of these ratios from those of {next(iter(models))}, on the same bootstrap draws.",
        table(["", *keys], differences[1:]),
        "Denoising error on the same images in units of the noise level squared, by noise level.",
        table(["", *(f"{level:g}" for level in LEVELS)], error_rows),
        "By t0; nearest is the distance to the nearest training image relative to that of the originals.",
        table(["", "L2 to strokes", *(f"KID, {judge}" for judge in judges), "nearest"], levels),
        "![sheet](sheet.png)",
    ]
    return "\n\n".join(blocks) + "\n"


def main(words: list[str]) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return run_benchmark(words, Command(USAGE, Arguments), measure, report)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
