"""Compares training recipes for one network by the edits of the trained models.

    python benchmarks/training_recipes.py data=path/to/images out=outputs/recipes budgets=[50000,200000]

For each budget of images: `ddpm`, the defaults of diffusers' script for unconditional images; `default`, the recipe of
`finetune64` under VP, at several rates; and, at the best of these rates (least denoising error at the first budget),
`t_max`, which trains only on the noise levels that edits visit, and `fine_tuned`, which starts from the weights of a
trained model (also at a fifth of the rate). Results are the KID of edits of simulated strokes of the validation images,
without the pairs of an edit and its own original, and the denoising error per range of noise levels. As long as models
leave noise in their edits, the error orders them correctly and KID does not. The same command resumes a comparison.
"""

from __future__ import annotations

import csv
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from command_line import refuse_unknown, run_benchmark
from speed_report import environment, table

from sdedit_pl.build.training_parts import build_data
from sdedit_pl.checkpoints import describe, load_denoiser
from sdedit_pl.configuration import require_at_least
from sdedit_pl.configuration.command_line import Command
from sdedit_pl.configuration.resolving import as_data, resolve
from sdedit_pl.configuration.training_config import TrainingConfig
from sdedit_pl.data.image_decoding import as_saved
from sdedit_pl.denoiser import in_precision
from sdedit_pl.editing import SDEdit
from sdedit_pl.grids import start_time
from sdedit_pl.guides.strokes import stroke_painting
from sdedit_pl.metrics.extractor_table import FEATURES
from sdedit_pl.metrics.features import features_of
from sdedit_pl.metrics.image_distances import squared_l2
from sdedit_pl.metrics.kid import kernel_distance
from sdedit_pl.sde import VPSDE
from sdedit_pl.training_runs.run_folder import HISTORY_FILE
from sdedit_pl.training_runs.training_run import fit
from sdedit_pl.typing import Images

USAGE = "python benchmarks/training_recipes.py data=FOLDER out=FOLDER [key=value ...]\n\nCompares training recipes."
RECIPES = ("ddpm", "default", "t_max", "fine_tuned")
RANGE = "val/loss/sigma_"
DDPM_RATE = 1e-4


@dataclass(frozen=True)
class Arguments:
    """A comparison.

    Args:
        data: folder of images, with or without sub-folders train and val, or of WebDataset shards.
        out: folder of the results.
        runs: folder of the training runs.
        size: height and width of the images in pixels.
        budgets: number of images seen by each run.
        rates: learning rates of the default recipe at the first budget.
        recipes: some of ddpm, default, t_max and fine_tuned; the last two need default.
        init_from: the model that fine_tuned starts from; all recipes use its network.
        t0: noise levels that edits start from; t_max trains up to the highest of them.
        steps: solver steps of an edit.
        batch: batch size of training.
        precision: precision of training; with a 16-bit one edits are made in bfloat16.
        compile: compile the network.
        images: number of validation images to edit; null for all.
        features: features of KID.
        seed: seed of every run.
        threads: number of threads of torch; null for its default.
        overwrite: replace earlier results in `out`.
    """

    data: str
    out: str
    runs: str = "runs/recipes"
    size: int = 64
    budgets: tuple[int, ...] = (50_000, 200_000)
    rates: tuple[float, ...] = (2e-4, 5e-4, 1e-3)
    recipes: tuple[str, ...] = RECIPES
    init_from: str = "checkpoints/portraits64.safetensors"
    t0: tuple[str, ...] = ("sigma:0.8", "sigma:1.6")
    steps: int = 20
    batch: int = 32
    precision: str = "bf16-mixed"
    compile: bool = False
    images: int | None = None
    features: str = "efficientnet_lite0"
    seed: int = 0
    threads: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        require_at_least(self, size=1, steps=1, batch=1, images=3, seed=0)
        refuse_unknown("recipes", self.recipes, RECIPES)
        refuse_unknown("features", (self.features,), tuple(name for name in FEATURES if name != "file"))
        if not self.budgets or min(self.budgets) < self.batch or not self.rates or not self.t0:
            raise ValueError(f"give budgets of at least one batch ({self.batch} images), rates and t0")
        if {"t_max", "fine_tuned"} & set(self.recipes) and "default" not in self.recipes:
            raise ValueError("t_max and fine_tuned use the best rate of default; add it to recipes")


def recipe_settings(recipe: str, rate: float, steps: int, arguments: Arguments) -> dict[str, Any]:
    """The keys in which recipes differ.

    DDPM's average approaches a decay of 0.9999 per step as 1 - (1 + step)^(-3/4), which for some thousand steps is a
    half-life of about a tenth of them. Its network gets the noise level as in the other recipes.
    """
    if recipe == "ddpm":
        return {
            "sde": {"name": "ddpm"},
            "parameterisation": {
                "name": "epsilon", "label": "log_noise_level", "label_scale": 0.25, "label_offset": 0.0
            },
            "weighting": {"name": "noise"},
            "times": {"name": "table", "steps": 1000},
            "optimizer": {"name": "adamw", "rate": rate, "betas": [0.95, 0.999], "weight_decay": 1e-6},
            "schedule": {"name": "cosine", "warmup_steps": min(500, steps // 4)},
            "average": {"half_life_images": round(6931 * arguments.batch), "ramp": 0.1},
        }  # fmt: skip
    settings: dict[str, Any] = {
        "sde": {"name": "vp"},
        "parameterisation": {"name": "edm"},
        "weighting": {"name": "edm"},
        "times": {"name": "log_normal", "mean": -0.5, "deviation": 1.4},
        "optimizer": {"name": "adam", "rate": rate, "betas": [0.9, 0.99]},
        "schedule": {"name": "trapezoid", "warmup_steps": min(300, steps // 4), "decay_steps": steps // 3},
        "average": {"half_life_images": max(1, min(10_000, steps * arguments.batch // 10)), "ramp": 0.05},
    }
    if recipe == "t_max":
        settings["times"]["t_max"] = min(1.0, 1.001 * max(start_time(t0, VPSDE()) for t0 in arguments.t0))
    return settings | ({"init_from": arguments.init_from} if recipe == "fine_tuned" else {})


def training_config(recipe: str, rate: float, budget: int, arguments: Arguments) -> TrainingConfig:
    steps = budget // arguments.batch
    shards = any(Path(arguments.data).glob("*.tar"))
    data = {"name": "webdataset" if shards else "folder", "path": arguments.data, "size": arguments.size}
    common = {
        "out": str(Path(arguments.runs) / f"{recipe}-{budget}-{rate:g}"),
        "seed": arguments.seed,
        "compile": arguments.compile,
        "data": {**data, "batch_size": arguments.batch, "flip": True},
        "network": as_data(describe(arguments.init_from).model.network),
        "trainer": {
            "max_steps": steps,
            "precision": arguments.precision,
            "val_check_interval": max(1, steps // 5),
            "log_every_n_steps": max(1, min(50, steps)),
        },
        "checkpoint": {"every_steps": max(1, min(500, steps)), "export": "last"},
        "preview": {"t0": arguments.t0[-1]},
        "validation": {"memory_images": 0},
    }
    return resolve(TrainingConfig, {**common, **recipe_settings(recipe, rate, steps, arguments)})


def run_recipe(recipe: str, rate: float, budget: int, arguments: Arguments) -> dict[str, Any]:
    """Trains a model, or resumes its training, and measures its edits."""
    config = training_config(recipe, rate, budget, arguments)
    denoiser = load_denoiser(fit(config))
    denoiser.at_once = None
    if arguments.compile:
        denoiser.network.compile()
    originals = validation_images(config, arguments.images)
    strokes, edits = stroke_painting(originals), {}
    for t0 in arguments.t0:
        edit = SDEdit(t0=t0, steps=arguments.steps)
        with in_precision(denoiser, "bfloat16" if "16" in arguments.precision else "float32"):
            parts = torch.arange(len(strokes)).split(32)
            edited = as_saved(torch.cat([edit(denoiser, strokes[part], seeds=part.tolist()) for part in parts]))
        edits[t0] = {**kid(edited, originals, arguments), "l2": squared_l2(edited, strokes).mean().item()}
    with (Path(config.out) / HISTORY_FILE).open(newline="", encoding="utf-8") as file:
        validations = [row for row in csv.DictReader(file) if row.get(f"{RANGE}mean")]
    errors = {
        name.removeprefix(RANGE): float(value)
        for name, value in validations[-1].items()
        if name.startswith(RANGE) and name != f"{RANGE}mean" and value
    }
    return {"recipe": recipe, "rate": rate, "budget": budget, "errors": errors, "edits": edits}


def kid(images: Images, originals: Images, arguments: Arguments) -> dict[str, float]:
    """KID and its error, without the pairs of an image and its own original."""
    extractor, numbers = FEATURES[arguments.features](), torch.arange(len(originals))
    found = kernel_distance(features_of(extractor, images), features_of(extractor, originals), numbers, numbers)
    return {"kid": found.value, "error": found.error}


def validation_images(config: TrainingConfig, count: int | None) -> Images:
    """The first `count` validation images, or all."""
    data = build_data(config)
    data.setup()
    images = data.val_images(sys.maxsize if count is None else count)
    if len(images) < 3:
        raise ValueError(f"{config.data.values['path']} has {len(images)} validation images; KID needs at least 3")
    return images


def measure(arguments: Arguments) -> dict[str, Any]:
    """Trains and measures all runs, and measures the strokes themselves."""
    found: list[dict[str, Any]] = []
    rates: dict[str, tuple[float, ...]] = {"ddpm": (DDPM_RATE,), "default": arguments.rates}
    for budget in arguments.budgets:
        for recipe in [name for name in RECIPES if name in arguments.recipes]:
            tried = [run_recipe(recipe, rate, budget, arguments) for rate in rates[recipe]]
            found += tried
            best = min(tried, key=lambda run: sum(run["errors"].values()))["rate"]
            rates[recipe] = (best,)
            if recipe == "default":
                rates = {"t_max": (best,), "fine_tuned": (best, best / 5), **rates}
    first = training_config("default", arguments.rates[0], arguments.budgets[0], arguments)
    originals = validation_images(first, arguments.images)
    strokes = {**kid(stroke_painting(originals), originals, arguments), "images": len(originals)}
    return {"runs": found, "strokes": strokes}


def report(numbers: Mapping[str, Any]) -> str:
    runs, levels, strokes = numbers["runs"], numbers["settings"]["t0"], numbers["strokes"]
    ranges = [name for name in runs[0]["errors"] if all(name in run["errors"] for run in runs)]
    head = ["recipe, rate, images", *(f"error, sigma {name}" for name in ranges)]
    head += [title for t0 in levels for title in (f"KID, {t0}", "L2 to strokes")]
    rows = []
    for run in runs:
        row = [f"{run['recipe']}, {run['rate']:g}, {run['budget']}", *(f"{run['errors'][name]:.3f}" for name in ranges)]
        for edit in (run["edits"][t0] for t0 in levels):
            row += [f"{edit['kid']:.3f} ± {edit['error']:.3f}", f"{edit['l2']:.0f}"]
        rows.append(row)
    own = f"The strokes themselves: KID {strokes['kid']:.3f} ± {strokes['error']:.3f}, {strokes['images']} images."
    return "\n\n".join(["# Training recipes", environment(numbers), table(head, rows), own]) + "\n"


def main(words: list[str]) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return run_benchmark(words, Command(USAGE, Arguments), measure, report)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
