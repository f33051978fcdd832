"""Measures `sdedit detect` on images with synthetic defects, against reconstructions by PCA and by an autoencoder.

    python benchmarks/detect.py ckpt.NAME=FILE data=FOLDER out=outputs/detect

Every second validation image gets a defect: `benchmarks/defects.py` has four kinds, in three sizes. The models and the
baselines know the training images only. All maps are absolute residuals, blurred alike; those of SDEdit also in
relation to the spread of its reconstructions. An image's score is the mean of the highest percent of its map.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import cycle, pairwise, product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from benchmark_command import Results, run_benchmark
from defects import SHAPES, SIZES, with_defect
from jaxtyping import Bool, Float
from safetensors.torch import load_file
from torch import Tensor, nn

from sdedit_pl.checkpoints import describe, load_denoiser
from sdedit_pl.checkpoints.fingerprint import fingerprint
from sdedit_pl.configuration import require_at_least
from sdedit_pl.configuration.schema import Command
from sdedit_pl.data.chosen_images import ChosenImages
from sdedit_pl.data.folder_source import FolderSource
from sdedit_pl.editing import SDEdit
from sdedit_pl.evaluation.anomaly_maps import AnomalyMaps, Detector, blurred, pixel_residual, stored_maps
from sdedit_pl.evaluation.detection_report import DETECTION_MEASURES, detection_measures
from sdedit_pl.evaluation.image_store import digest_of
from sdedit_pl.evaluation.report_document import Table, markdown_table
from sdedit_pl.typing import Images

USAGE = """python benchmarks/detect.py ckpt.NAME=FILE data=FOLDER [key=value ...]

Measures detection on images with synthetic defects, for SDEdit, PCA and an autoencoder."""
TOP = 0.01


@dataclass(frozen=True, kw_only=True)
class Arguments(Results):
    """The models, the images and the baselines.

    Args:
        ckpt: ckpt.NAME=FILE, a model of the training images; NAME is the title of its rows.
        data: folder with the folders train and val.
        images: number of validation images, half of which get a defect.
        t0: times or noise levels from which images are reconstructed.
        samples: reconstructions from each t0.
        steps: solver steps of a reconstruction.
        blur: standard deviation, in pixels, of the blur of all residuals.
        components: numbers of principal components, each a baseline.
        epochs: number of epochs of the autoencoder.
        seed: seed of the defects, the autoencoder and the reconstructions.
        maps: folder where the models' maps are kept for another run with the same settings.
    """

    ckpt: dict[str, str]
    data: str
    images: int = 240
    t0: tuple[float | str, ...] = ("sigma:0.1", "sigma:0.2", "sigma:0.4")
    samples: int = 2
    steps: int = 5
    blur: float = 2.0
    components: tuple[int, ...] = (32, 128, 512)
    epochs: int = 20
    seed: int = 1
    out: str = "outputs/detect"
    maps: str = "outputs/detect_maps"

    def __post_init__(self) -> None:
        require_at_least(self, images=24, samples=1, steps=1, epochs=1)


class Inspected(NamedTuple):
    """Images, their defects, and the (kind, size) of each, None for an image without one."""

    images: Images
    truth: Bool[Tensor, "N H W"]
    defects: list[tuple[str, int] | None]


class ImagesInMemory(ChosenImages):
    """Images in memory."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def image(self, number: int) -> Float[Tensor, "C H W"]:
        return self.images[number]


class Autoencoder(nn.Sequential):
    """Four convolutions down to 1/16 of the size and 16 channels, and four up."""

    def __init__(self) -> None:
        down, up = (3, 32, 64, 64, 16), (16, 64, 64, 32, 3)
        layers: list[nn.Module] = []
        for channels, following in pairwise(down):
            layers += [nn.Conv2d(channels, following, 4, 2, 1), nn.SiLU()]
        layers = layers[:-1]
        for channels, following in pairwise(up):
            layers += [nn.ConvTranspose2d(channels, following, 4, 2, 1), nn.SiLU()]
        super().__init__(*layers[:-1])


def inspected(images: ChosenImages, seed: int) -> Inspected:
    originals = images.batch(0, len(images))
    truth = torch.zeros(len(images), *originals.shape[2:], dtype=torch.bool)
    found, kinds = originals.clone(), cycle(product(SIZES, SHAPES))
    defects: list[tuple[str, int] | None] = [None] * len(images)
    for number in range(1, len(images), 2):
        size, kind = next(kinds)
        other = originals[(number + len(images) // 2) % len(images)]
        found[number], truth[number] = with_defect(originals[number], other, kind, size, seed * len(images) + number)
        defects[number] = (kind, size)
    return Inspected(found, truth, defects)


def maps_of(ckpt: str, images: ChosenImages, arguments: Arguments) -> list[AnomalyMaps]:
    """A model's maps of all images, made or found in `arguments.maps`."""
    detector = Detector([SDEdit(t0, arguments.steps) for t0 in arguments.t0], arguments.samples, blur=arguments.blur)
    settings = [arguments.t0, arguments.samples, arguments.steps, arguments.blur]
    folder = Path(arguments.maps) / digest_of([*map(str, settings), fingerprint(describe(ckpt).path)])
    folder.mkdir(parents=True, exist_ok=True)
    denoiser = load_denoiser(ckpt)
    files = stored_maps(folder, images, lambda numbers: detector.maps(denoiser, images, numbers=numbers))
    return [AnomalyMaps(**load_file(file)) for file in files]


def by_pca(training: Images, images: Images, components: int, seed: int) -> Images:
    """Projections of images on the principal components of the training images."""
    flat, mean = training.flatten(1), training.flatten(1).mean(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _, _, axes = torch.pca_lowrank(flat, components)
    return ((images.flatten(1) - mean) @ axes @ axes.T + mean).view(images.shape)


def by_autoencoder(training: Images, images: Images, epochs: int, seed: int) -> Images:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Autoencoder()
        optimizer = torch.optim.Adam(network.parameters(), 1e-3)
        for _ in range(epochs):
            for batch in training[torch.randperm(len(training))].split(64):
                optimizer.zero_grad()
                (network(batch) - batch).abs().mean().backward()
                optimizer.step()
    with torch.no_grad():
        return torch.cat([network(batch) for batch in images.split(64)])


def measure(arguments: Arguments) -> dict[str, Any]:
    seed, shape = arguments.seed, describe(next(iter(arguments.ckpt.values()))).image
    source = FolderSource(arguments.data, shape.size)
    given = inspected(ChosenImages(source, ("val",), arguments.images), seed)
    chosen = ChosenImages(source, ("train",))
    training = chosen.batch(0, len(chosen))
    maps = {}
    for name, ckpt in arguments.ckpt.items():
        found = maps_of(ckpt, ImagesInMemory(given.images), arguments)
        maps[f"{name}, relative"] = torch.stack([item.relative for item in found])
        maps[name] = torch.stack([item.residuals for item in found])
    others = {f"PCA, {count}": by_pca(training, given.images, count, seed) for count in arguments.components}
    others["autoencoder"] = by_autoencoder(training, given.images, arguments.epochs, seed)
    for name, images in others.items():
        maps[name] = blurred(pixel_residual(given.images, images), arguments.blur)[:, None]
    rows = {}
    for name, values in maps.items():
        t0s = arguments.t0 if values.shape[1] > 1 else ("",)
        measured = detection_measures(values, t0s, TOP, given.truth)
        whole = measured.pop("whole images")
        for level, row in measured.items():
            rows[f"{name}, {level}" if len(measured) > 1 else name] = row
        rows[f"{name}, all t0" if len(t0s) > 1 else name]["images"] = whole["auroc"]
    parts = {name: values.mean(1) for name, values in maps.items()}
    return {
        "training_images": len(training),
        "measures": rows,
        "pro_by_defect": {name: by_defect(values, given) for name, values in parts.items()},
    }


def by_defect(values: Float[Tensor, "N H W"], given: Inspected) -> dict[str, float]:
    """PRO on the images with defects of each kind, and of each size, beside all images without."""
    found = {}
    for wanted in (*SHAPES, *SIZES):
        rows = [number for number, defect in enumerate(given.defects) if defect is None or wanted in defect]
        measured = detection_measures(values[rows][:, None], ("",), TOP, given.truth[rows])
        found[str(wanted)] = measured["all t0"]["pro"][0]
    return found


def report(numbers: dict[str, Any]) -> str:
    settings = numbers["settings"]
    models = ", ".join(f"{name} ({ckpt})" for name, ckpt in settings["ckpt"].items())
    titles = {**DETECTION_MEASURES, "images": "AUROC of images"}
    rows = [
        [name, *("{:.3f} [{:.3f}, {:.3f}]".format(*row[key]) if key in row else "" for key in titles)]
        for name, row in numbers["measures"].items()
    ]
    kinds = [str(name) for name in (*SHAPES, *SIZES)]
    pro = [[name, *(f"{row[kind]:.3f}" for kind in kinds)] for name, row in numbers["pro_by_defect"].items()]
    sizes = [f"{kind} px" if kind.isdigit() else kind for kind in kinds]
    return f"""# Detection of synthetic defects

{settings["images"]} validation images of {settings["data"]}, every second one with a defect (`benchmarks/defects.py`);
{numbers["training_images"]} training images for the baselines. {models}: {settings["samples"]} reconstructions
from each t0 in {settings["steps"]} steps. All residuals are blurred by {settings["blur"]:g} px. Brackets are 95 %
intervals of a bootstrap over images.

{markdown_table(Table(["map", *titles.values()], rows))}

PRO by kind and size of the defect:

{markdown_table(Table(["map", *sizes], pro))}
"""


if __name__ == "__main__":
    sys.exit(run_benchmark(sys.argv[1:], Command(USAGE, Arguments), measure, report))
