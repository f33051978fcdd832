"""Measures a model of the bundled portraits: realism and faithfulness of its edits, and how much of them is memory.

    python benchmarks/portraits64.py ckpt=checkpoints/portraits64.safetensors out=outputs/portraits64

Every validation image becomes a simulated stroke painting, and each painting is edited once, with the image's number as
seed. What is measured, and why so, is in benchmarks/README.md.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from PIL import Image, ImageDraw
from torch import Tensor
from tqdm import tqdm

import sdedit_pl
from sdedit_pl.checkpoints import describe
from sdedit_pl.cli.edit import Results, load_for_editing, sha256
from sdedit_pl.cli.explain import explain, wants_help
from sdedit_pl.config import Schema
from sdedit_pl.data import WebDatasetSource
from sdedit_pl.data.images import images_from_bytes
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing import SDEdit
from sdedit_pl.editing.sheets import grid, to_picture
from sdedit_pl.editing.strokes import stroke_painting
from sdedit_pl.metrics import (
    FEATURES,
    Estimate,
    FeatureExtractor,
    features_of,
    kernel_distance,
    nearest,
    nearest_by_angle,
    root_mean_square,
    squared_l2,
)
from sdedit_pl.typing import Images

USAGE = "python benchmarks/portraits64.py ckpt=FILE out=FOLDER [key=value ...]"
SHEET_IMAGES = 16
NEIGHBOUR_IMAGES = 6
SPLITS_IN_HALVES = 20
CELL, CAPTION = 144, 16


@dataclass
class Arguments:
    """A measurement.

    Args:
        ckpt: the model: a .safetensors or .ckpt file, or the folder of a run.
        out: folder of the results.
        t0: how far strokes are noised; a list, as in t0=[0.3,0.5,0.7], measures each.
        steps: solver steps.
        solver: the solver.
        grid: the time grid.
        batch: images edited at once; it does not change them.
        images: measure the first so many validation images only; null for all.
        data: folder of the shards, with the build.py that made them.
        features: what KID and angles are taken on.
        device: auto, cpu, cuda, mps.
        overwrite: replace earlier results.
    """

    ckpt: str
    out: str
    t0: float | str | list[float | str] = 0.5
    steps: int = 50
    solver: str = "ancestral"
    grid: str = "uniform"
    batch: int = 16
    images: int | None = None
    data: str = "data/portraits64"
    features: str = "efficientnet_lite0"
    device: str = "auto"
    overwrite: bool = False


SCHEMA = Schema(top=Arguments, settings={}, families={})


@dataclass(frozen=True)
class Portraits:
    """A set of images and what is known of them.

    Args:
        pixels: in [-1, 1], of 8 bits, (N, 3, S, S).
        designs: the person design of each, (N,): its skin tones and forms drawn almost alike share a number.
        names: of the images.
        extractor: gives their features.
    """

    pixels: Images
    designs: Int[Tensor, "N"]
    names: tuple[str, ...]
    extractor: FeatureExtractor

    @cached_property
    def features(self) -> Float[Tensor, "N D"]:
        """One vector for each image."""
        return features_of(self.extractor, self.pixels)

    def of(self, pixels: Images) -> Portraits:
        """The images that were made of these: of the same designs, in the same order; rounded to 8 bits."""
        return replace(self, pixels=((pixels.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1)

    def kid(self, other: Portraits) -> Estimate:
        """KID over pairs of different designs."""
        return kernel_distance(self.features, other.features, self.designs, other.designs)

    def usual_kid(self, other: Portraits) -> Estimate:
        """KID over all pairs."""
        return kernel_distance(self.features, other.features)

    def where(self, chosen: Tensor) -> Portraits:
        """Some of the images; their features are not computed again."""
        part = Portraits(self.pixels[chosen], self.designs[chosen], (), self.extractor)
        part.__dict__["features"] = self.features[chosen]
        return part


def read_portraits(config: Mapping[str, Any], size: int, extractor: FeatureExtractor) -> tuple[Portraits, Portraits]:
    """The training and the validation images."""
    source = WebDatasetSource(config["data"], size)
    design_of = read_design_of(Path(config["data"]) / "build.py")
    numbers: dict[str, int] = {}
    found = []
    for split, count in (("train", None), ("val", config["images"])):
        images = source.images(split)
        chosen = range(len(images))[:count]
        names = tuple(images.name(index).rpartition(":")[2] for index in chosen)
        designs = torch.tensor([numbers.setdefault(design_of(name), len(numbers)) for name in names])
        pixels = images_from_bytes(torch.stack([images.read(index) for index in chosen]))
        found.append(Portraits(pixels, designs, names, extractor))
    return found[0], found[1]


def read_design_of(script: Path) -> Callable[[str], str]:
    """The function that the shards' own script splits designs with."""
    if not script.is_file():
        raise ValueError(f"{script} is needed to tell designs apart; run in a checkout, or name its data folder")
    spec = importlib.util.spec_from_file_location("portraits64_build", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.design_of


def edited(denoiser: Denoiser, edit: SDEdit, guides: Images, batch: int, progress: tqdm) -> Images:
    """One edit of each guide; the seed is the guide's number."""
    device = next(denoiser.parameters()).device
    results = []
    for start in range(0, len(guides), batch):
        part = guides[start : start + batch]
        seeds = range(start, start + len(part))
        tick = len(part)
        results.append(
            edit(denoiser, part.to(device), seeds=seeds, callback=lambda x, t, tick=tick: progress.update(tick)).cpu()
        )
    return torch.cat(results)


def spread(count: int, chosen: int) -> list[int]:
    """`chosen` numbers below `count`, evenly spread: a choice that does not look at the results."""
    chosen = min(chosen, count)
    return [(2 * index + 1) * count // (2 * chosen) for index in range(chosen)]


def measured_set(images: Portraits, guides: Portraits, val: Portraits, train: Portraits) -> dict[str, Any]:
    """All numbers of one set of images that belong to the validation images in order."""
    numbers: dict[str, Any] = {"kid_to_train": images.kid(train)._asdict()}
    if images is not val:
        numbers["kid_to_val"] = images.kid(val)._asdict()
        numbers["kid_to_val_all_pairs"] = images.usual_kid(val)._asdict()
    numbers["kid_to_train_all_pairs"] = images.usual_kid(train)._asdict()
    for name, others in (("guide", guides), ("original", val)):
        numbers[f"squared_l2_to_{name}"] = squared_l2(images.pixels, others.pixels).mean().item()
        numbers[f"rms_to_{name}"] = root_mean_square(images.pixels, others.pixels).mean().item()
    return numbers


def halves(train: Portraits, *, by_design: bool) -> dict[str, float]:
    """KID between random halves of the training images: its mean over splits, and its deviation, the noise floor."""
    generator = torch.Generator().manual_seed(0)
    units = train.designs if by_design else torch.arange(len(train.designs))
    values = []
    for _ in range(SPLITS_IN_HALVES):
        shuffled = units.unique()[torch.randperm(len(units.unique()), generator=generator)]
        first = torch.isin(units, shuffled[: len(shuffled) // 2])
        pair = train.where(first), train.where(~first)
        values.append((pair[0].kid(pair[1]) if by_design else pair[0].usual_kid(pair[1])).value)
    spread_of = torch.tensor(values, dtype=torch.float64)
    return {"value": spread_of.mean().item(), "deviation": spread_of.std().item()}


@dataclass(frozen=True)
class Closeness:
    """The training image that is nearest to each of some images, mirrored ones included, as training mirrors them.

    Args:
        l2: its squared L2 distance.
        cosine: the largest cosine of features.
        by_pixels: the nearest training image by pixels.
        by_features: and by features.
    """

    l2: Float[Tensor, "N"]
    cosine: Float[Tensor, "N"]
    by_pixels: Images
    by_features: Images

    @classmethod
    def of(cls, images: Portraits, mirrored_train: Portraits) -> Closeness:
        """The closeness of `images` to the training images and their mirror images."""
        l2, index = nearest(images.pixels.flatten(1) / 2, mirrored_train.pixels.flatten(1) / 2)
        cosine, other = nearest_by_angle(images.features, mirrored_train.features)
        return cls(l2, cosine, mirrored_train.pixels[index], mirrored_train.pixels[other])

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


def captioned(image: Float[Tensor, "C H W"], text: str = "") -> Image.Image:
    """A picture with a line of text below."""
    picture = Image.new("RGB", (CELL, CELL), "white")
    side = CELL - CAPTION
    picture.paste(to_picture(image).resize((side, side), Image.Resampling.BICUBIC), (0, 0))
    ImageDraw.Draw(picture).text((2, side + 2), text, fill="black")
    return picture


def edit_sheet(val: Portraits, guides: Portraits, edits: Mapping[str, Portraits]) -> Image.Image:
    """Originals, their strokes and the edits at each t0."""
    sets = {"original": val, "strokes": guides, **{f"t0={t0}": images for t0, images in edits.items()}}
    rows = [
        [to_picture(images.pixels[index]) for images in sets.values()]
        for index in spread(len(val.pixels), SHEET_IMAGES)
    ]
    return grid(rows, list(sets), 128, columns=2)


def neighbour_sheet(
    val: Portraits, guides: Portraits, images: Portraits, closeness: Closeness, originals: Closeness
) -> Image.Image:
    """Six edits beside the training images that are nearest to them and to their originals."""
    rows = []
    for index in spread(len(val.pixels), NEIGHBOUR_IMAGES):
        own = squared_l2(images.pixels[index : index + 1], val.pixels[index : index + 1]).item()
        rows.append(
            [
                captioned(val.pixels[index]),
                captioned(guides.pixels[index]),
                captioned(images.pixels[index], f"L2 to original {own:.0f}"),
                captioned(closeness.by_pixels[index], f"L2 to edit {closeness.l2[index].item():.0f}"),
                captioned(closeness.by_features[index], f"cosine to edit {closeness.cosine[index].item():.3f}"),
                captioned(originals.by_pixels[index], f"L2 to original {originals.l2[index].item():.0f}"),
            ]
        )
    titles = ["original", "strokes", "edit", "nearest train, pixels", "nearest train, features", "nearest to original"]
    return grid(rows, titles, CELL)


def measure(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Edits, measures, writes the pictures into `folder` and returns the numbers."""
    started = time.perf_counter()
    levels = config["t0"] if isinstance(config["t0"], list) else [config["t0"]]
    edits_at = {
        str(t0): SDEdit(t0=t0, steps=config["steps"], solver=config["solver"], grid=config["grid"]) for t0 in levels
    }
    description = describe(config["ckpt"])
    denoiser = load_for_editing(config["ckpt"], config["device"])
    train, val = read_portraits(config, description.model["image"]["size"], FEATURES[config["features"]]())
    guides = val.of(stroke_painting(val.pixels))
    before_edits = time.perf_counter()
    with tqdm(total=len(levels) * len(val.names) * config["steps"], desc="editing", unit="step", disable=None) as bar:
        edits = {
            t0: val.of(edited(denoiser, edit, guides.pixels, config["batch"], bar)) for t0, edit in edits_at.items()
        }
    after_edits = time.perf_counter()
    mirrored = train.where(torch.arange(len(train.names)))
    mirrored = Portraits(torch.cat([train.pixels, train.pixels.flip(-1)]), train.designs.repeat(2), (), train.extractor)
    originals = Closeness.of(val, mirrored)
    sets = {"originals": val, "strokes": guides, **{f"edits t0={t0}": images for t0, images in edits.items()}}
    closeness = {name: Closeness.of(images, mirrored) for name, images in sets.items()}
    edit_sheet(val, guides, edits).save(folder / "edits.png")
    for t0, images in edits.items():
        sheet = neighbour_sheet(val, guides, images, closeness[f"edits t0={t0}"], originals)
        sheet.save(folder / f"neighbours_{t0.replace(':', '_')}.png")
    return {
        "checkpoint": {
            "file": str(description.path),
            "sha256": sha256(description.path),
            "parameters": description.parameters,
            **{key: value for key, value in description.training.items() if key != "config"},
        },
        "settings": {key: config[key] for key in ("t0", "steps", "solver", "grid", "batch", "data", "features")},
        "images": {"val": len(val.names), "train": len(train.names)},
        "sets": {name: measured_set(images, guides, val, train) for name, images in sets.items()},
        "train_halves": {"images": halves(train, by_design=False), "designs": halves(train, by_design=True)},
        "nearest_train": {name: found.summary(originals) for name, found in closeness.items()},
        "seconds": {
            "editing": round(after_edits - before_edits, 1),
            "all": round(time.perf_counter() - started, 1),
        },
        "versions": {"sdedit_pl": sdedit_pl.__version__, "torch": str(torch.__version__)},
    }


def report(numbers: Mapping[str, Any]) -> str:
    """The numbers as Markdown."""
    checkpoint, settings = numbers["checkpoint"], numbers["settings"]
    rows = []
    for name, found in numbers["sets"].items():
        kids = [estimate(found.get(key)) for key in ("kid_to_val", "kid_to_train", "kid_to_val_all_pairs")]
        pairs = [f"{found[f'squared_l2_to_{to}']:.1f} / {found[f'rms_to_{to}']:.3f}" for to in ("guide", "original")]
        rows.append([name, *kids, *pairs])
    floors = [
        [f"two halves of train, by {unit}", f"{found['value']:.3f} ± {found['deviation']:.3f}"]
        for unit, found in numbers["train_halves"].items()
    ]
    memory = [
        [
            name,
            f"{found['l2_median']:.0f} ({found['l2_least']:.0f})",
            f"{found['cosine_median']:.3f} ({found['cosine_largest']:.3f})",
            f"{found['share_nearer_than_own_original']:.0%}",
            f"{found['share_nearer_than_any_original']:.0%}",
        ]
        for name, found in numbers["nearest_train"].items()
    ]
    images = numbers["images"]
    lines = [
        "# Measurement of a portraits64 model",
        "",
        f"Checkpoint `{checkpoint['file']}`, step {checkpoint.get('steps', 'unknown')}, "
        f"{checkpoint.get('images_seen', 'unknown')} images seen, {checkpoint['parameters']} parameters, "
        f"sha256 `{checkpoint['sha256'][:16]}`. {images['val']} validation images, {images['train']} training images; "
        f"{settings['steps']} steps, solver {settings['solver']}, grid {settings['grid']}; {settings['features']}. "
        f"{numbers['seconds']['editing']:.0f} s of editing, {numbers['seconds']['all']:.0f} s in all.",
        "",
        *table(
            ["images", "KID to val", "KID to train", "KID to val, all pairs", "L2 / RMS to strokes", "... to original"],
            rows,
        ),
        "",
        *table([f"noise floor, {SPLITS_IN_HALVES} splits", "KID"], floors),
        "",
        *table(
            [
                "nearest training image",
                "L2, median (least)",
                "cosine, median (largest)",
                "nearer than its own original",
                "nearer than any original",
            ],
            memory,
        ),
    ]
    return "\n".join(lines) + "\n"


def estimate(found: Mapping[str, float] | None) -> str:
    """A value and its error, or a dash."""
    return "-" if found is None else f"{found['value']:.3f} ± {found['error']:.3f}"


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    return [f"| {' | '.join(row)} |" for row in (titles, ["---"] * len(titles), *rows)]


def main(arguments: list[str]) -> int:
    """Runs the measurement and returns the exit code."""
    if wants_help(arguments):
        print(explain(SCHEMA, USAGE))
        return 0
    try:
        config = SCHEMA.resolve(*SCHEMA.read_arguments(arguments))
        if config["features"] not in FEATURES:
            raise ValueError(f"features must be one of {', '.join(FEATURES)}, got {config['features']!r}")
        with Results(Path(config["out"]), config["overwrite"]) as folder:
            numbers = measure(config, folder)
            (folder / "metrics.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
            (folder / "report.md").write_text(report(numbers), encoding="utf-8")
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if os.environ.get("SDEDIT_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report(numbers))
    print(f"pictures and numbers: {config['out']}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
