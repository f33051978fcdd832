"""Compares ways to train the same network on the same number of the same images, by the edits that come out of it.

    python benchmarks/recipes.py data=path/to/images out=outputs/recipes budgets=[50000,200000]

Trained are, for each budget of images: (a) the DDPM recipe against this project's default at several rates; with the
best of these rates (b) the default on the noise levels alone that edits visit, and (c) the default from the weights of
a trained model, at that rate and at a fifth of it. Rates are tried at the first budget, and the other budgets take
the one whose denoising error was least there. Each run's learning-rate schedule spans its own budget, and its last
weights are measured. Measured is the KID of edits of simulated strokes of the validation images against these images,
without the pairs of an edit and its own original, beside the same number for the strokes; and the error of denoising
validation images, at levels, with noise and with a weight that are the same for all. While models still leave noise in
their edits, that error orders them, and KID does not.

Started again, it goes on where it was: every run resumes by itself, and one that is measured is not trained again. Two
commands with different `recipes` or `budgets` may share `out` at the same time.
`out` then holds results.json, report.md, kid.png, error.png and the folder of each run.
"""

from __future__ import annotations

import csv
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from command import refuse_unknown, run_command
from filelock import FileLock
from jaxtyping import Float
from torch import Tensor

from sdedit_pl.build.training_run import build_data
from sdedit_pl.checkpoints import describe, load_denoiser
from sdedit_pl.configuration import require_at_least
from sdedit_pl.configuration.command_line import Command
from sdedit_pl.configuration.resolution import as_data, resolve
from sdedit_pl.configuration.training_config import TrainingConfig
from sdedit_pl.data.images import as_saved
from sdedit_pl.denoiser import in_precision
from sdedit_pl.editing import SDEdit
from sdedit_pl.files import write_whole
from sdedit_pl.fit import fit
from sdedit_pl.grids import start_time
from sdedit_pl.guides.strokes import stroke_painting
from sdedit_pl.metrics.distances import squared_l2
from sdedit_pl.metrics.feature_table import FEATURES
from sdedit_pl.metrics.features import features_of
from sdedit_pl.metrics.intervals import Estimate
from sdedit_pl.metrics.kid import kernel_distance
from sdedit_pl.plots import line_plot
from sdedit_pl.run_folder import HISTORY_FILE
from sdedit_pl.sde import VPSDE
from sdedit_pl.typing import Images

USAGE = (
    "python benchmarks/recipes.py data=FOLDER out=FOLDER [key=value ...]\n\nCompares training recipes by their edits."
)
RESULTS_FILE = "results.json"

Extract = Callable[[Images], Float[Tensor, "N D"]]


@dataclass
class Arguments:
    """A comparison.

    Args:
        data: folder of images, with sub-folders train and val or without, or of WebDataset shards.
        out: folder of the runs and the results.
        size: height and width of the images in pixels.
        budgets: images seen, of each run.
        rates: learning rates that the default recipe is tried with, at the first budget.
        recipes: which of ddpm, default, t_max and fine_tuned to run; the last two need default.
        init_from: the model that fine_tuned starts from; its network section is everybody's.
        patch: side of the patches that the network sees in place of that model's, for a cheaper network that fine_tuned
            cannot have; null for the same.
        t0: noise levels that edits start from; t_max trains up to the highest of them.
        steps: solver steps of an edit.
        batch: images of a training step.
        precision: of the network in training; with a 16-bit one its edits are made in bfloat16.
        compile: compile the network.
        images: edit the first so many validation images only; null for all.
        features: what KID is taken on.
        seed: of every run.
    """

    data: str
    out: str
    size: int = 64
    budgets: tuple[int, ...] = (50_000, 200_000)
    rates: tuple[float, ...] = (2e-4, 5e-4, 1e-3)
    recipes: tuple[str, ...] = ("ddpm", "default", "t_max", "fine_tuned")
    init_from: str = "checkpoints/portraits64.safetensors"
    patch: int | None = None
    t0: tuple[str, ...] = ("sigma:0.8", "sigma:1.6")
    steps: int = 20
    batch: int = 32
    precision: str = "bf16-mixed"
    compile: bool = False
    images: int | None = None
    features: str = "efficientnet_lite0"
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(self, size=1, steps=1, batch=1, images=3, seed=0, patch=1)
        if not self.budgets or min(self.budgets) < self.batch or not self.rates or not self.t0:
            raise ValueError(f"give budgets of at least one batch ({self.batch} images), rates and t0")
        if unknown := set(self.recipes) - set(RECIPES):
            raise ValueError(f"recipes are {', '.join(RECIPES)}, got {', '.join(sorted(unknown))}")
        if {"t_max", "fine_tuned"} & set(self.recipes) and "default" not in self.recipes:
            raise ValueError("t_max and fine_tuned take the best rate of default; add it to recipes")
        if self.patch is not None and "fine_tuned" in self.recipes:
            raise ValueError(f"fine_tuned needs the network of init_from, not patch={self.patch}; leave one out")
        refuse_unknown("features", (self.features,), tuple(name for name in FEATURES if name != "file"))


COMMAND = Command(USAGE, Arguments)


@dataclass(frozen=True)
class Run:
    """One training.

    Args:
        recipe: a name in `RECIPES`.
        rate: learning rate.
        budget: images seen.
    """

    recipe: str
    rate: float
    budget: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.recipe}-{self.budget}-{self.rate:g}"


DDPM_RATE = 1e-4


def ddpm(run: Run, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of diffusers' script for unconditional images: AdamW, 500 steps of warm-up, then a cosine.

    Its average has a rate of at most 0.9999 a step, approached as 1 - (1 + step)^(-3/4): for some thousand steps a
    half-life of about a tenth of them, as here. The network is told the noise level as in the other recipes: it is
    theirs, and its label's Fourier features make nothing of a table's index.
    """
    half_life = round(6931 * settings["batch"])
    return {
        "sde": {"name": "ddpm"},
        "parameterisation": {"name": "epsilon", "label": "log_noise_level", "label_scale": 0.25, "label_offset": 0.0},
        "weighting": {"name": "noise"},
        "times": {"name": "table", "steps": 1000},
        "optimizer": {"name": "adamw", "rate": run.rate, "betas": [0.95, 0.999], "weight_decay": 1e-6},
        "schedule": {"name": "cosine", "warmup_steps": min(500, steps_of(run, settings) // 4)},
        "average": {"half_life_images": half_life, "ramp": 0.1},
    }


def default(run: Run, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What `finetune64` trains with, under VP."""
    steps = steps_of(run, settings)
    return {
        "sde": {"name": "vp"},
        "parameterisation": {"name": "edm"},
        "weighting": {"name": "edm"},
        "times": {"name": "log_normal", "mean": -0.5, "deviation": 1.4},
        "optimizer": {"name": "adam", "rate": run.rate, "betas": [0.9, 0.99]},
        "schedule": {"name": "trapezoid", "warmup_steps": min(300, steps // 4), "decay_steps": steps // 3},
        "average": {"half_life_images": max(1, min(10_000, run.budget // 10)), "ramp": 0.05},
    }


def t_max(run: Run, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The default, on the noise levels that edits visit."""
    changed = default(run, settings)
    highest = max(start_time(t0, VPSDE()) for t0 in settings["t0"])
    changed["times"]["t_max"] = min(1.0, highest * 1.001)
    return changed


def fine_tuned(run: Run, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The default, from trained weights."""
    return {**default(run, settings), "init_from": settings["init_from"]}


RECIPES: dict[str, Callable[[Run, Mapping[str, Any]], dict[str, Any]]] = {
    "ddpm": ddpm,
    "default": default,
    "t_max": t_max,
    "fine_tuned": fine_tuned,
}


def steps_of(run: Run, settings: Mapping[str, Any]) -> int:
    """Optimiser steps of a run."""
    return run.budget // settings["batch"]


def training_config(run: Run, settings: Mapping[str, Any]) -> TrainingConfig:
    """The resolved configuration of a run."""
    steps = steps_of(run, settings)
    # A model that fits the network of `init_from`, whatever else it is told while it trains.
    network = dict(as_data(describe(settings["init_from"]).model.network))
    if settings["patch"] is not None:
        network["patch"] = settings["patch"]
    shards = any(Path(settings["data"]).glob("*.tar"))
    common = {
        "out": str(Path(settings["out"]) / "runs" / run.name),
        "seed": settings["seed"],
        "compile": settings["compile"],
        "data": {
            "name": "webdataset" if shards else "folder",
            "path": settings["data"],
            "size": settings["size"],
            "batch_size": settings["batch"],
            "flip": True,
        },
        "network": network,
        "trainer": {
            "max_steps": steps,
            "precision": settings["precision"],
            "val_check_interval": max(1, steps // 5),
            "log_every_n_steps": max(1, min(50, steps)),
            "enable_progress_bar": sys.stderr.isatty(),
        },
        "checkpoint": {"every_steps": max(1, min(500, steps)), "export": "last"},
        "preview": {"t0": settings["t0"][-1]},
        "validation": {"memory_images": 0},
    }
    return resolve(TrainingConfig, {**common, **RECIPES[run.recipe](run, settings)})


def measured(run: Run, settings: Mapping[str, Any], extract: Extract) -> dict[str, Any]:
    """Trains a run, or what is left of it, and measures the edits of its model."""
    config = training_config(run, settings)
    checkpoint = fit(config)
    originals = validation_images(config, settings["images"])
    denoiser = load_denoiser(checkpoint)
    denoiser.at_once = None
    if settings["compile"]:
        denoiser.network.compile()
    real, strokes = extract(originals), stroke_painting(originals)
    edits = {}
    for t0 in settings["t0"]:
        with in_precision(denoiser, "bfloat16" if "16" in settings["precision"] else "float32"):
            edited = edits_of(SDEdit(t0=t0, steps=settings["steps"]), denoiser, strokes)
        kid = distance(extract(edited), real)
        edits[t0] = {"kid": kid.value, "error": kid.error, "l2": squared_l2(edited, strokes).mean().item()}
    facts = {key: value for key, value in describe(checkpoint).training.items() if key != "config"}
    found = {"images_seen": facts["images_seen"], "errors": denoising_errors(Path(config.out)), "edits": edits}
    return {**asdict(run), **found}


def denoising_errors(folder: Path) -> dict[str, float]:
    """The last validation loss of a run for each range of noise levels: the same measure for every recipe."""
    with (folder / HISTORY_FILE).open(newline="", encoding="utf-8") as file:
        rows = [{key: value for key, value in row.items() if key.startswith(RANGE)} for row in csv.DictReader(file)]
    *_, last = (row for row in rows if any(row.values()))
    found = {key.removeprefix(RANGE): float(value) for key, value in last.items() if value}
    return {name: error for name, error in found.items() if name != "mean"}


def edits_of(edit: SDEdit, denoiser: Any, strokes: Images, batch: int = 32) -> Images:
    """One edit of each painting, rounded to 8 bits; the seed is its number."""
    parts = [edit(denoiser, strokes[part], seeds=part.tolist()) for part in torch.arange(len(strokes)).split(batch)]
    return as_saved(torch.cat(parts))


def distance(edits: Float[Tensor, "N D"], originals: Float[Tensor, "N D"]) -> Estimate:
    """KID without the pairs of an image and what was made of it."""
    numbers = torch.arange(len(originals))
    return kernel_distance(edits, originals, numbers, numbers)


def validation_images(config: TrainingConfig, count: int | None) -> Images:
    """The first validation images, or all."""
    data = build_data(config)
    data.setup()
    images = data.val_images(sys.maxsize if count is None else count)
    if len(images) < 3:
        raise ValueError(f"{config.data.values['path']} has {len(images)} validation images; KID needs at least 3")
    return images


class Comparison:
    """The results so far, in a file.

    Args:
        settings: the resolved arguments.
        extract: images to features.
    """

    def __init__(self, settings: Mapping[str, Any], extract: Extract) -> None:
        self.settings = settings
        self.extract = extract
        self.file = Path(settings["out"]) / RESULTS_FILE
        self.results: dict[str, Any] = {"settings": dict(settings), "runs": {}}
        if self.file.is_file():
            self.results = json.loads(self.file.read_text(encoding="utf-8"))
            was, now = ({key: value for key, value in found.items() if key not in FREE} for found in self.compared())
            if was != now:
                changed = ", ".join(key for key in now if was.get(key) != now[key])
                raise ValueError(f"{self.file} was measured with another {changed}; give another out=")

    def compared(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The settings that the file was made with, and the present ones, as JSON holds them."""
        return self.results["settings"], json.loads(json.dumps(dict(self.settings)))

    def run(self, run: Run) -> dict[str, Any]:
        """The result of a run, which is trained and measured if it is not there yet."""
        self.refresh()
        if run.name not in self.results["runs"]:
            print(f"{run.name}: {steps_of(run, self.settings)} steps", flush=True)
            self.results["runs"][run.name] = measured(run, self.settings, self.extract)
            self.write()
        return self.results["runs"][run.name]

    def strokes(self) -> None:
        """Measures the paintings themselves."""
        if "strokes" not in self.results:
            config = training_config(
                Run("default", self.settings["rates"][0], self.settings["budgets"][0]), self.settings
            )
            originals = validation_images(config, self.settings["images"])
            kid = distance(self.extract(stroke_painting(originals)), self.extract(originals))
            self.results["strokes"] = {"kid": kid.value, "error": kid.error, "images": len(originals)}
            self.write()

    def refresh(self) -> None:
        """Takes in what other commands have measured meanwhile."""
        if self.file.is_file():
            self.results["runs"] |= json.loads(self.file.read_text(encoding="utf-8"))["runs"]

    def write(self) -> None:
        """Writes the file, whole or not at all, with what other commands have measured meanwhile."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.file.with_suffix(".lock")):
            self.refresh()
            write_whole(self.file, json.dumps(self.results, indent=2) + "\n")


RANGE = "val/loss/sigma_"
"""What the validation losses of ranges of noise levels begin with in a run's log."""
FREE = ("out", "budgets", "rates", "recipes", "compile")
"""Settings that may change between two calls: they choose runs, or change nothing that is measured."""


def kid_of(result: Mapping[str, Any]) -> float:
    """The KID of a run's edits, averaged over the noise levels that they start from."""
    values = [edit["kid"] for edit in result["edits"].values()]
    return sum(values) / len(values)


def error_of(result: Mapping[str, Any], ranges: Sequence[str]) -> float:
    """The denoising error of a run, averaged over some ranges of noise levels."""
    return sum(result["errors"][name] for name in ranges) / len(ranges)


def compare(comparison: Comparison) -> None:
    """Trains and measures everything that is asked for."""
    settings = comparison.settings
    comparison.strokes()
    rates: dict[str, Sequence[float]] = {"ddpm": (DDPM_RATE,), "default": settings["rates"]}
    for budget in settings["budgets"]:
        for recipe in [name for name in RECIPES if name in settings["recipes"]]:
            tried = [comparison.run(Run(recipe, rate, budget)) for rate in rates[recipe]]
            best = min(tried, key=lambda run: error_of(run, list(run["errors"])))["rate"]
            rates[recipe] = (best,)
            if recipe == "default":
                rates = {"t_max": (best,), "fine_tuned": (best, best / 5), **rates}


def report(results: Mapping[str, Any]) -> str:
    """The table of all runs."""
    levels = results["settings"]["t0"]
    ranges = shared_ranges(results)
    titles = ["recipe", "rate", "images", *(f"error, sigma {name}" for name in ranges)]
    titles += [title for t0 in levels for title in (f"KID, {t0}", "L2 to strokes")]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for run in sorted(results["runs"].values(), key=lambda run: (run["budget"], run["recipe"], run["rate"])):
        cells = [run["recipe"], f"{run['rate']:g}", str(run["images_seen"])]
        cells += [f"{run['errors'][name]:.3f}" for name in ranges]
        for t0 in levels:
            edit = run["edits"][t0]
            cells += [f"{edit['kid']:.3f} ± {edit['error']:.3f}", f"{edit['l2']:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    strokes = results["strokes"]
    lines += [
        "",
        f"The strokes themselves: KID {strokes['kid']:.3f} ± {strokes['error']:.3f}, {strokes['images']} images.",
    ]
    return "\n".join(lines) + "\n"


def shared_ranges(results: Mapping[str, Any]) -> list[str]:
    """The ranges of noise levels that every run has an error in: those that t_max trains."""
    first, *others = (run["errors"] for run in results["runs"].values())
    return [name for name in first if all(name in errors for errors in others)]


def curves(
    results: Mapping[str, Any], number: Callable[[Mapping[str, Any]], float]
) -> dict[str, list[tuple[float, float]]]:
    """The least value of a number for each recipe at each budget."""
    best: dict[str, dict[int, float]] = {}
    for run in results["runs"].values():
        values = best.setdefault(run["recipe"], {})
        values[run["images_seen"]] = min(number(run), values.get(run["images_seen"], float("inf")))
    return {recipe: sorted((float(x), y) for x, y in values.items()) for recipe, values in best.items()}


def run(settings: dict[str, Any]) -> str:
    """Runs the comparison and returns its table."""
    extractor = FEATURES[settings["features"]]()
    comparison = Comparison(settings, lambda images: features_of(extractor, images))
    compare(comparison)
    out, results = Path(settings["out"]), comparison.results
    write_whole(out / "report.md", report(results))
    plot = line_plot(
        curves(results, kid_of),
        title="KID of edits of simulated strokes, best rate of each recipe",
        x_title="images seen",
        y_title="KID to validation images",
        levels={"the strokes themselves": results["strokes"]["kid"]},
        logarithmic=True,
    )
    plot.save(out / "kid.png")
    ranges = shared_ranges(results)
    plot = line_plot(
        curves(results, lambda run: error_of(run, ranges)),
        title=f"Denoising error on validation images, sigma {' and '.join(ranges)}",
        x_title="images seen",
        y_title="error, weighted as EDM weighs it",
        logarithmic=True,
    )
    plot.save(out / "error.png")
    return f"{report(results)}\nnumbers and plot: {out}"


def main(arguments: list[str]) -> int:
    """Runs the comparison and returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return run_command(arguments, COMMAND, lambda parsed: run(as_data(parsed)))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
