"""Measures a model of the bundled portraits: realism and faithfulness of its edits, and how much of them is memory.

    python benchmarks/portraits64.py ckpt=checkpoints/portraits64.safetensors out=outputs/portraits64

Every validation image becomes a simulated stroke painting, and each painting is edited once, with the image's number as
seed. What is measured, and why so, is in benchmarks/README.md.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from command import refuse_unknown, run_command
from jaxtyping import Float, Int
from portraits64_report import edit_sheet, neighbour_sheet, report
from torch import Tensor
from tqdm import tqdm

import sdedit_pl
from sdedit_pl.checkpoints.load_for_editing import load_for_editing
from sdedit_pl.configuration.command_line import Command
from sdedit_pl.configuration.resolution import as_data
from sdedit_pl.data import WebDatasetSource
from sdedit_pl.data.images import as_saved, images_from_bytes
from sdedit_pl.denoiser import Denoiser, in_precision
from sdedit_pl.editing import SDEdit
from sdedit_pl.editing.sdedit import DEFAULT_GRID, DEFAULT_SOLVER
from sdedit_pl.grids import GRIDS
from sdedit_pl.guides.strokes import stroke_painting
from sdedit_pl.metrics.distances import nearest_by_angle, nearest_by_distance, root_mean_square, squared_l2
from sdedit_pl.metrics.feature_table import FEATURES
from sdedit_pl.metrics.features import features_of
from sdedit_pl.metrics.intervals import Estimate
from sdedit_pl.metrics.kid import kernel_distance
from sdedit_pl.result_folder import ResultFolder, refuse_used
from sdedit_pl.solvers import SOLVERS
from sdedit_pl.typing import Images

USAGE = "python benchmarks/portraits64.py ckpt=FILE out=FOLDER [key=value ...]"
SPLITS_IN_HALVES = 20


@dataclass
class Arguments:
    """A measurement.

    Args:
        ckpt: the model: a .safetensors or .ckpt file, or the folder of a run.
        out: folder of the results.
        t0: how far strokes are noised; a list, as in t0=[0.3,0.5,0.7], measures each.
        steps: solver steps; null for as many as sdedit edit takes.
        solver: the solver.
        grid: the time grid.
        batch: images edited at once; it does not change them in float32.
        precision: of the network in edits; the state is always float32.
        compile: compile the network for them.
        images: measure the first so many validation images only; null for all.
        data: folder of the shards, with the build.py that made them.
        features: what KID and cosines are taken on.
        device: auto, cpu, cuda, mps.
        overwrite: replace earlier results.
    """

    ckpt: str
    out: str
    t0: float | str | list[float | str] = 0.5
    steps: int | None = None
    solver: str = DEFAULT_SOLVER
    grid: str = DEFAULT_GRID
    batch: int = 16
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    compile: bool = False
    images: int | None = None
    data: str = "data/portraits64"
    features: str = "efficientnet_lite0"
    device: str = "auto"
    overwrite: bool = False


COMMAND = Command(USAGE, Arguments)

Extract = Callable[[Images], Float[Tensor, "N D"]]


@dataclass(frozen=True)
class Portraits:
    """A set of images and what is known of them.

    Args:
        pixels: in [-1, 1], of 8 bits, (N, 3, S, S).
        features: one vector for each, (N, D).
        designs: the person design of each, (N,): its skin tones and forms drawn almost alike share a number.
    """

    pixels: Images
    features: Float[Tensor, "N D"]
    designs: Int[Tensor, "N"]

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, chosen: Tensor) -> Portraits:
        return Portraits(self.pixels[chosen], self.features[chosen], self.designs[chosen])

    def made_into(self, pixels: Images, extract: Extract) -> Portraits:
        """What was made of these images, one for each, as files of 8 bits hold it."""
        pixels = as_saved(pixels)
        return Portraits(pixels, extract(pixels), self.designs)

    def joined(self, other: Portraits) -> Portraits:
        """These images, then the other ones."""
        return Portraits(
            torch.cat([self.pixels, other.pixels]),
            torch.cat([self.features, other.features]),
            torch.cat([self.designs, other.designs]),
        )

    def kid(self, other: Portraits) -> Estimate:
        """KID over pairs of different designs."""
        return kernel_distance(self.features, other.features, self.designs, other.designs)

    def kid_of_all_pairs(self, other: Portraits) -> Estimate:
        """KID as usual, which takes the images for independent."""
        return kernel_distance(self.features, other.features)


@dataclass(frozen=True)
class Closeness:
    """How near some images are to the training images.

    Args:
        l2: squared L2 distance to the nearest one by pixels.
        cosine: cosine to the nearest one by features.
        by_pixels: that nearest one by pixels.
        by_features: and by features.
    """

    l2: Float[Tensor, "N"]
    cosine: Float[Tensor, "N"]
    by_pixels: Images
    by_features: Images

    @classmethod
    def of(cls, images: Portraits, train: Portraits) -> Closeness:
        """The closeness of `images` to `train`."""
        l2, index = nearest_by_distance(images.pixels.flatten(1) / 2, train.pixels.flatten(1) / 2)
        cosine, other = nearest_by_angle(images.features, train.features)
        return cls(l2, cosine, train.pixels[index], train.pixels[other])

    def summary(self, originals: Closeness) -> dict[str, float]:
        """Its medians and extremes, and how it compares with that of the validation images themselves."""
        return {
            "l2_median": self.l2.median().item(),
            "l2_least": self.l2.min().item(),
            "cosine_median": self.cosine.median().item(),
            "cosine_largest": self.cosine.max().item(),
            "share_nearer_than_own_original": (self.l2 < originals.l2).double().mean().item(),
            "share_nearer_than_any_original": (self.l2 < originals.l2.min()).double().mean().item(),
        }


def read_portraits(
    source: WebDatasetSource, design_of: Callable[[str], str], extract: Extract, count: int | None
) -> tuple[Portraits, Portraits]:
    """The training images, and the first `count` validation images or all."""
    numbers: dict[str, int] = {}
    found = []
    for split, wanted in (("train", None), ("val", count)):
        images = source.images(split)
        chosen = range(len(images))[:wanted]
        pixels = images_from_bytes(torch.stack([images.read(index) for index in chosen]))
        designs = [design_of(images.name(index).rpartition(":")[2]) for index in chosen]
        groups = torch.tensor([numbers.setdefault(design, len(numbers)) for design in designs])
        found.append(Portraits(pixels, extract(pixels), groups))
    return found[0], found[1]


def read_design_of(script: Path) -> Callable[[str], str]:
    """The function by which the shards' own script tells designs apart.

    Raises:
        ValueError: there is no such script.
    """
    if not script.is_file():
        raise ValueError(f"{script} is needed to tell designs apart; run in a checkout, or name its folder as data=")
    spec = importlib.util.spec_from_file_location("portraits64_build", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.design_of


def edited(denoiser: Denoiser, edit: SDEdit, guides: Images, batch: int, progress: tqdm) -> Images:
    """One edit of each guide; the seed is the guide's number."""
    device = next(denoiser.parameters()).device

    def advance(x: Images, t: float) -> None:
        progress.update(len(x))

    return torch.cat(
        [
            edit(denoiser, guides[part].to(device), seeds=part.tolist(), callback=advance).cpu()
            for part in torch.arange(len(guides)).split(batch)
        ]
    )


def with_error(estimate: Estimate) -> dict[str, float]:
    """A distance as results hold it."""
    return {"value": estimate.value, "error": estimate.error}


def compared(images: Portraits, guides: Portraits, val: Portraits, train: Portraits) -> dict[str, Any]:
    """The numbers of a set of images, one for each validation image."""
    numbers: dict[str, Any] = {}
    for name, others in (("val", val), ("train", train)):
        if images is not others:
            numbers[f"kid_to_{name}"] = with_error(images.kid(others))
            numbers[f"kid_to_{name}_all_pairs"] = with_error(images.kid_of_all_pairs(others))
    for name, others in (("guide", guides), ("original", val)):
        numbers[f"squared_l2_to_{name}"] = squared_l2(images.pixels, others.pixels).mean().item()
        numbers[f"rms_to_{name}"] = root_mean_square(images.pixels, others.pixels).mean().item()
    return numbers


def halves(
    images: Portraits, units: Int[Tensor, "N"], distance: Callable[[Portraits, Portraits], Estimate]
) -> dict[str, float]:
    """Mean and deviation of the distance between halves of `images`, over random splits that keep equal units together.

    Args:
        images: the images.
        units: the unit of each.
        distance: between two halves, by features.
    """
    generator = torch.Generator().manual_seed(0)
    kinds = units.unique()
    light = replace(images, pixels=images.pixels[..., :0, :0])
    values = []
    for _ in range(SPLITS_IN_HALVES):
        first = torch.isin(units, kinds[torch.randperm(len(kinds), generator=generator)[: len(kinds) // 2]])
        values.append(distance(light[first], light[~first]).value)
    found = torch.tensor(values, dtype=torch.float64)
    return {"mean": found.mean().item(), "deviation": found.std().item(), "splits": SPLITS_IN_HALVES}


def measure(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Edits, measures, writes the pictures into `folder` and returns the numbers.

    Raises:
        ValueError: an argument out of range, or a file that is not what it should be.
    """
    started = time.perf_counter()
    levels = config["t0"] if isinstance(config["t0"], list) else [config["t0"]]
    ways = {
        str(t0): SDEdit(t0, config["steps"], solver=SOLVERS[config["solver"]](), grid=GRIDS[config["grid"]]())
        for t0 in levels
    }
    denoiser, description = load_for_editing(config["ckpt"], config["device"])
    refuse_unknown("features", (config["features"],), tuple(name for name in FEATURES if name != "file"))
    extractor = FEATURES[config["features"]]()

    def extract(pixels: Images) -> Float[Tensor, "N D"]:
        return features_of(extractor, pixels)

    source = WebDatasetSource(config["data"], description.model.image.size)
    train, val = read_portraits(source, read_design_of(Path(config["data"]) / "build.py"), extract, config["images"])
    guides = val.made_into(stroke_painting(val.pixels), extract)
    before = time.perf_counter()
    if config["compile"]:
        denoiser.network.compile()
    if config["compile"] or config["precision"] != "float32":
        denoiser.at_once = None
    steps = len(val) * sum(way.step_count for way in ways.values())
    with (
        tqdm(total=steps, desc="editing", unit="step", disable=None) as bar,
        in_precision(denoiser, config["precision"]),
    ):
        pixels = {t0: edited(denoiser, way, guides.pixels, config["batch"], bar) for t0, way in ways.items()}
    editing = time.perf_counter() - before
    edits = {t0: val.made_into(images, extract) for t0, images in pixels.items()}

    sets = {"originals": val, "strokes": guides, **{f"edits t0={t0}": images for t0, images in edits.items()}}
    # Training mirrors images, so that a mirror image can be remembered as well.
    seen = train.joined(train.made_into(train.pixels.flip(-1), extract))
    closeness = {name: Closeness.of(images, seen) for name, images in sets.items()}
    edit_sheet(val.pixels, guides.pixels, {t0: images.pixels for t0, images in edits.items()}, folder)
    for t0, images in edits.items():
        near = closeness[f"edits t0={t0}"], closeness["originals"]
        neighbour_sheet(val.pixels, guides.pixels, images.pixels, *near, folder / f"neighbours_t0_{t0}.png")
    return {
        "checkpoint": {
            "file": str(description.path),
            "sha256": hashlib.sha256(description.path.read_bytes()).hexdigest(),
            "parameters": description.parameters,
            **{key: value for key, value in description.training.items() if key != "config"},
        },
        "settings": {
            **{key: config[key] for key in ("t0", "solver", "grid", "precision", "compile", "data", "features")},
            "steps": next(iter(ways.values())).step_count,
        },
        "images": {"val": len(val), "train": len(train)},
        "sets": {name: compared(images, guides, val, train) for name, images in sets.items()},
        "train_halves": {
            "by image, all pairs": halves(train, torch.arange(len(train)), Portraits.kid_of_all_pairs),
            "by design": halves(train, train.designs, Portraits.kid),
        },
        "nearest_train": {name: found.summary(closeness["originals"]) for name, found in closeness.items()},
        "seconds": {"editing": round(editing, 1), "all": round(time.perf_counter() - started, 1)},
        "versions": {"sdedit_pl": sdedit_pl.__version__, "torch": str(torch.__version__)},
    }


def run(config: dict[str, Any]) -> str:
    """Runs the measurement and returns its report."""
    out = Path(config["out"])
    refuse_used(out, config["overwrite"])
    with ResultFolder(out, sorted(out.glob("neighbours_t0_*.png"))) as folder:
        numbers = measure(config, folder)
        (folder / "metrics.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
        (folder / "report.md").write_text(report(numbers), encoding="utf-8")
    return f"{report(numbers)}\npictures and numbers: {out}"


def main(arguments: list[str]) -> int:
    """Runs the measurement and returns the exit code."""
    return run_command(arguments, COMMAND, lambda parsed: run(as_data(parsed)))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
